//! `tokenizer.json` from elsewhere, through the `tokenizers` crate.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokenizers::Tokenizer;

/// Parses the content of a `tokenizer.json`.
///
/// `tokenizers` 0.23 panics on some damaged files, among them every one whose `decoder` is cut short. So that a file
/// cannot end the program, the text is checked first, and what still panics becomes an error.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(json: &[u8]) -> Result<Tokenizer, String> {
    serde_json::from_slice::<IgnoredAny>(json).map_err(|error| error.to_string())?;
    let tried = || {
        let tokenizer = Tokenizer::from_bytes(json)?;
        // A template that names a token it does not define is accepted, and panics when it is used.
        let _ = tokenizer.encode("a", true);
        Ok::<_, tokenizers::Error>(tokenizer)
    };
    match catch_unwind(AssertUnwindSafe(tried)) {
        Ok(Ok(tokenizer)) => Ok(tokenizer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the parser of the `tokenizers` library gave up on it; make the file anew with \
                       `tokenizer.save_pretrained` of a current transformers"
            .to_owned()),
    }
}

/// Texts and ids of the added tokens as the text of a `tokenizer.json` lists them. Reading it may give them others.
pub fn added_tokens(json: &[u8]) -> Vec<(String, u32)> {
    #[derive(Deserialize)]
    struct Listed {
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let listed: Option<Listed> = serde_json::from_slice(json).ok();
    listed.into_iter().flat_map(|listed| listed.added_tokens).map(|added| (added.content, added.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Sequence","decoders":[{"type":"Fuse"}]},
        "model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;

    #[test]
    fn damage_at_any_place_is_an_error() {
        assert!(parse(GOOD.as_bytes()).is_ok());
        for end in 0..GOOD.len() {
            assert!(parse(&GOOD.as_bytes()[..end]).is_err(), "{end}");
            // A mark in place of a character: valid in few places, never a panic.
            let mut marked = GOOD.as_bytes().to_vec();
            for mark in *b"\"{]:0" {
                marked[end] = mark;
                let _ = parse(&marked);
            }
        }
    }

    #[test]
    fn a_template_of_unknown_tokens_is_an_error() {
        let template = r#""post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<x>","type_id":0}},
            {"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{DEFINED}}"#;
        let text =
            |defined: &str| GOOD.replace(r#""post_processor":null"#, &template.replace("DEFINED", defined));
        assert!(parse(text(r#""<x>":{"id":"<x>","ids":[0],"tokens":["a"]}"#).as_bytes()).is_ok());
        assert!(parse(text("").as_bytes()).is_err());
    }

    #[test]
    fn a_decoder_of_another_kind_is_an_error() {
        for decoder in [r#"{"type":"Unknown"}"#, r#"{"type":7}"#, "[]", "7", r#"{"decoders":7}"#] {
            let text = GOOD.replace(r#"{"type":"Sequence","decoders":[{"type":"Fuse"}]}"#, decoder);
            assert!(parse(text.as_bytes()).is_err(), "{decoder}");
        }
    }
}
