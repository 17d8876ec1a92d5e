//! Text of an image–caption pair.

use serde::Deserialize;

use super::config::CaptionFormat;
use crate::text::clean::clean_answer;
use crate::text::prompt::{END_OF_CHUNK_TOKEN, IMAGE_TOKEN, Piece};

/// The fields of a caption's JSON that are read; `image_*` only where the image is no file of its own.
#[derive(Debug, Default, Deserialize)]
pub(super) struct CaptionJson {
    pub(super) caption: Option<String>,
    pub(super) image_base64: Option<String>,
    pub(super) image_name: Option<String>,
}

/// The pieces of a caption with its image; `None` if nothing is left of the caption.
pub(super) fn caption_pieces(caption: &str, format: CaptionFormat) -> Option<Vec<Piece>> {
    let caption = clean_answer(caption, true);
    if caption.is_empty() {
        return None;
    }
    let mut pieces = vec![Piece::Special(IMAGE_TOKEN)];
    if format == CaptionFormat::Llama2Inst {
        pieces.push(Piece::Words("[INST]please describe this image.[/INST]"));
    }
    pieces.push(Piece::Data(caption));
    pieces.push(Piece::Special(END_OF_CHUNK_TOKEN));
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::prompt::pieces_text;

    #[test]
    fn formats() {
        let text = |caption, format| caption_pieces(caption, format).map(|pieces| pieces_text(&pieces));
        assert_eq!(
            text(" A red cup.\n", CaptionFormat::Plain).as_deref(),
            Some("<image>A red cup.<|endofchunk|>")
        );
        assert_eq!(
            text("A red cup.", CaptionFormat::Llama2Inst).as_deref(),
            Some("<image>[INST]please describe this image.[/INST]A red cup.<|endofchunk|>")
        );
        assert_eq!(text(" \n", CaptionFormat::Plain), None);
    }
}
