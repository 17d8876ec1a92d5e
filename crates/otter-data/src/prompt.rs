//! Prompt templates (`spec/data.md` 2.3).

use serde::{Deserialize, Serialize};

/// Text of the image placeholder token.
pub const IMAGE_TOKEN: &str = "<image>";
/// Text of the token before an answer.
pub const ANSWER_TOKEN: &str = "<answer>";
/// Text of the token after an answer.
pub const END_OF_CHUNK_TOKEN: &str = "<|endofchunk|>";

/// The shape of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstructionFormat {
    /// `<image>User:{q} GPT:<answer>{a}<|endofchunk|>`
    #[default]
    Simple,
    /// `[INST]<image>\n{q}[/INST]<answer>{a}<|endofchunk|>`
    Llama2,
}

/// A piece of a prompt: the template's own words and tokens, or text from the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Ordinary words of the template.
    Words(&'static str),
    /// A special token of the template.
    Special(&'static str),
    /// Text of the user, the answer or a task description.
    Data(String),
}

impl Piece {
    /// The characters of this piece.
    pub fn text(&self) -> &str {
        match self {
            Self::Words(text) | Self::Special(text) => text,
            Self::Data(text) => text,
        }
    }
}

/// Whether and how a turn starts with image placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// The turn has no image.
    Absent,
    /// The turn has this many images. Zero is the first turn of a text-only sample, which keeps
    /// the shape of a turn with image.
    Images(usize),
}

/// The pieces of one turn, from cleaned question and answer.
pub fn turn_pieces(
    format: InstructionFormat,
    placeholder: Placeholder,
    question: String,
    answer: String,
) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(8);
    let images = match placeholder {
        Placeholder::Absent => 0,
        Placeholder::Images(count) => count,
    };
    if format == InstructionFormat::Llama2 {
        pieces.push(Piece::Words("[INST]"));
    }
    pieces.extend((0..images).map(|_| Piece::Special(IMAGE_TOKEN)));
    match format {
        InstructionFormat::Simple => pieces.push(Piece::Words("User:")),
        InstructionFormat::Llama2 if placeholder != Placeholder::Absent => pieces.push(Piece::Words("\n")),
        InstructionFormat::Llama2 => {}
    }
    pieces.push(Piece::Data(question));
    pieces.push(Piece::Words(match format {
        InstructionFormat::Simple => " GPT:",
        InstructionFormat::Llama2 => "[/INST]",
    }));
    pieces.push(Piece::Special(ANSWER_TOKEN));
    pieces.push(Piece::Data(answer));
    pieces.push(Piece::Special(END_OF_CHUNK_TOKEN));
    pieces
}

/// The pieces as one string.
pub fn pieces_text(pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::text).collect()
}

/// A prompt for generation: like a turn, ending with the answer token.
pub fn inference_prompt(format: InstructionFormat, images: usize, question: &str) -> String {
    let mut pieces = turn_pieces(format, Placeholder::Images(images), question.to_owned(), String::new());
    pieces.truncate(pieces.len() - 2);
    pieces_text(&pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inference_prompt_stops_at_the_answer_token() {
        assert_eq!(inference_prompt(InstructionFormat::Simple, 1, "q"), "<image>User:q GPT:<answer>");
        assert_eq!(inference_prompt(InstructionFormat::Llama2, 1, "q"), "[INST]<image>\nq[/INST]<answer>");
    }
}
