//! Do the structural tokens come out of the tokenizer whole, where prompts have them?
//!
//! Ids are looked up, but prompts are encoded as texts, and there a token can be lost: `single_word` and `normalized`
//! make a tokenizer pass over it beside other text, `lstrip` and `rstrip` make it take spaces along, and another added
//! token may begin earlier. Whatever the reason, the text that comes out is looked at, not the settings.

use std::collections::HashSet;
use std::ops::Range;

use tokenizers::Encoding;

use crate::error::{DataError, Result};
use crate::text::prompt::{
    ANSWER_TOKEN, END_OF_CHUNK_TOKEN, END_OF_UTTERANCE_TOKEN, FAKE_TOKEN, IMAGE_TOKEN, InstructionFormat,
    Piece, Placeholder, turn_pieces,
};
use crate::text::tokenizer::TextTokenizer;

/// What stands beside a structural token: words of the templates, the ends of answers, white space.
const NEIGHBORS: [&str; 8] = ["User:", " GPT:", "word", "7", ".", "[/INST]", " ", "\n"];

/// A structural token that does not come out of the tokenizer as itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenToken {
    /// Its text.
    pub token: String,
    /// The id that it should come out as.
    pub id: u32,
    /// The text in which it was seen, and what became of it there.
    pub problem: String,
    /// The settings of the added token that do this; none where something else does.
    pub settings: Vec<&'static str>,
}

impl TextTokenizer {
    /// The structural tokens that encoding a prompt loses, each with the first text that shows it; none when all is well.
    ///
    /// # Errors
    /// When the tokenizer refuses a text.
    pub fn broken_tokens(&self) -> Result<Vec<BrokenToken>> {
        let marks = self.marks();
        let mut broken: Vec<BrokenToken> = Vec::new();
        let mut add = |found: Option<BrokenToken>| {
            if let Some(found) = found.filter(|found| broken.iter().all(|known| known.token != found.token)) {
                broken.push(found);
            }
        };
        for probe in probes(&marks) {
            let text: String = probe.iter().map(String::as_str).collect();
            let encoding = self.encoding(&text)?;
            let mut at = 0;
            for part in probe {
                let place = at..at + part.len();
                at = place.end;
                if let Some((_, id)) = marks.iter().find(|(mark, _)| *mark == part) {
                    add(self.check(&part, *id, &text, place, &encoding));
                }
            }
        }
        // These are put in by their ids and stand in no template, so that only their own text is looked at.
        let special = self.special();
        let ends = special.bos.into_iter().chain(special.eos).chain([special.pad]);
        for (id, text) in ends.filter_map(|id| Some((id, self.id_to_token(id)?))) {
            add(self.check(&text, id, &text, 0..text.len(), &self.encoding(&text)?));
        }
        Ok(broken)
    }

    /// Texts and ids of the tokens that templates have.
    fn marks(&self) -> Vec<(&'static str, u32)> {
        let special = self.special();
        let added = |text: &'static str| {
            let id = self.token_to_id(text)?;
            self.added_token(id).map(|_| (text, id))
        };
        let ends = [END_OF_CHUNK_TOKEN, END_OF_UTTERANCE_TOKEN, FAKE_TOKEN].into_iter().filter_map(added);
        [(IMAGE_TOKEN, special.image), (ANSWER_TOKEN, special.answer)].into_iter().chain(ends).collect()
    }

    fn encoding(&self, text: &str) -> Result<Encoding> {
        let encoding = self.with_special().encode(text, false);
        encoding.map_err(|error| DataError::Tokenizer(error.to_string()))
    }

    /// What is wrong with the token that stands at `place` of `text`.
    fn check(
        &self,
        token: &str,
        id: u32,
        text: &str,
        place: Range<usize>,
        encoding: &Encoding,
    ) -> Option<BrokenToken> {
        let offsets = encoding.get_offsets().iter();
        let pieces: Vec<usize> = offsets
            .enumerate()
            .filter(|(_, (start, end))| *start < place.end && place.start < *end)
            .map(|(piece, _)| piece)
            .collect();
        let texts = || -> Vec<String> {
            pieces.iter().map(|&piece| format!("`{}`", encoding.get_tokens()[piece].escape_debug())).collect()
        };
        let (problem, suspects): (String, &[&'static str]) = match pieces[..] {
            [piece] if encoding.get_ids()[piece] == id => match encoding.get_offsets()[piece] {
                offsets if offsets == (place.start, place.end) => return None,
                (start, _) if start < place.start => {
                    ("takes the text before it along".to_owned(), &["lstrip"])
                }
                _ => ("takes the text behind it along".to_owned(), &["rstrip"]),
            },
            [piece] => {
                let other = encoding.get_ids()[piece];
                (format!("is read as {} with the id {other}", texts().join("")), &[])
            }
            [] => ("is lost".to_owned(), &["single_word", "normalized"]),
            _ => {
                let pieces = texts().join(" ");
                (
                    format!("is split into the pieces {pieces} and is not one token"),
                    &["single_word", "normalized"],
                )
            }
        };
        let settings = self.added_token(id).map_or(Vec::new(), |added| {
            let on = |setting: &&'static str| match *setting {
                "lstrip" => added.lstrip,
                "rstrip" => added.rstrip,
                "single_word" => added.single_word,
                _ => added.normalized,
            };
            suspects.iter().copied().filter(on).collect()
        });
        let problem = format!("`{token}` (id {id}) {problem}, in `{}`", text.escape_debug());
        Some(BrokenToken { token: token.to_owned(), id, problem, settings })
    }
}

/// Texts in parts, of which those that are marks must come out whole: turns of every format whose tokens there are, and
/// each mark beside words, spaces and every other mark.
fn probes(marks: &[(&'static str, u32)]) -> Vec<Vec<String>> {
    let known: HashSet<&str> = marks.iter().map(|(mark, _)| *mark).collect();
    let formats = [InstructionFormat::Simple, InstructionFormat::Llama2, InstructionFormat::Idefics];
    let mut probes: Vec<Vec<String>> = Vec::new();
    for format in formats {
        if format.special_tokens().iter().all(|token| known.contains(token)) {
            let turn = |images, question: &str, answer: &str| {
                turn_pieces(format, Placeholder::Images(images), question.to_owned(), answer.to_owned())
            };
            let turns = [turn(2, "What is it?", "A red cup"), turn(1, "and how many", "7.")].concat();
            probes.push(turns.iter().map(Piece::text).map(str::to_owned).collect());
        }
    }
    for (mark, _) in marks {
        probes.extend(NEIGHBORS.map(|beside| [beside, mark, beside].map(str::to_owned).to_vec()));
        probes.extend(marks.iter().map(|(other, _)| [*mark, *other].map(str::to_owned).to_vec()));
    }
    probes
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::{Map, Value, json};
    use tokenizers::normalizers::{Lowercase, Prepend};
    use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

    use super::*;
    use crate::text::tokenizer::SpecialTokens;

    const MARKS: [&str; 4] = [IMAGE_TOKEN, ANSWER_TOKEN, END_OF_CHUNK_TOKEN, "<PAD>"];

    /// Bytes as tokens; marks with the given settings behind them.
    fn tokenizer(
        normalizer: Option<NormalizerWrapper>,
        more: &[AddedToken],
        settings: impl Fn(AddedToken) -> AddedToken,
    ) -> TextTokenizer {
        let characters = (' '..='~').chain(['\n', '▁']).map(String::from);
        let vocabulary: Map<String, Value> = characters.zip((0..).map(|id: u32| json!(id))).collect();
        let model = json!({ "type": "BPE", "vocab": vocabulary, "merges": [] });
        let json = json!({ "version": "1.0", "added_tokens": [], "model": model });
        let mut tokenizer = Tokenizer::from_bytes(json.to_string()).unwrap();
        tokenizer.with_normalizer(normalizer).unwrap();
        tokenizer.add_tokens(more.to_vec()).unwrap();
        tokenizer.add_tokens(MARKS.map(|mark| settings(AddedToken::from(mark, true)))).unwrap();
        let id = |text: &str| tokenizer.token_to_id(text).unwrap();
        let [image, answer, endofchunk, pad] = MARKS.map(id);
        let special = SpecialTokens { bos: None, eos: Some(endofchunk), pad, endofchunk, image, answer };
        TextTokenizer::new(tokenizer, special)
    }

    fn prepend() -> Option<NormalizerWrapper> {
        Some(Prepend::new("▁".to_owned()).into())
    }

    #[test]
    fn whole_tokens_are_not_reported() {
        let fold = || Some(Lowercase.into());
        for (normalizer, normalized) in [(None, false), (None, true), (prepend(), false), (fold(), false)] {
            let tokenizer = tokenizer(normalizer, &[], |token| token.normalized(normalized));
            assert_eq!(tokenizer.broken_tokens().unwrap(), []);
        }
        // Lower case leaves these as they are, but `<PAD>` must match its normalized form, which it does.
        assert_eq!(tokenizer(fold(), &[], |token| token.normalized(true)).broken_tokens().unwrap(), []);
    }

    #[test]
    fn every_way_to_lose_a_token_is_named() {
        type Settings = fn(AddedToken) -> AddedToken;
        let cases: [(Option<NormalizerWrapper>, Settings, &str, &[&str]); 4] = [
            (None, |token| token.single_word(true), "split into the pieces `<` `i`", &["single_word"]),
            (prepend(), |token| token.normalized(true), "not one token", &["normalized"]),
            (None, |token| token.lstrip(true), "before it", &["lstrip"]),
            (None, |token| token.rstrip(true), "behind it", &["rstrip"]),
        ];
        for (normalizer, settings, problem, named) in cases {
            let broken = tokenizer(normalizer, &[], settings).broken_tokens().unwrap();
            let tokens: Vec<&str> = broken.iter().map(|broken| broken.token.as_str()).collect();
            assert!(MARKS[..3].iter().all(|mark| tokens.contains(mark)), "{tokens:?}");
            assert!(broken[0].problem.contains(problem), "{}", broken[0].problem);
            assert_eq!(broken[0].settings, named);
        }
    }

    #[test]
    fn a_token_in_the_way_is_named() {
        let longer = [AddedToken::from("GPT:<answer>", true)];
        let broken = tokenizer(None, &longer, |token| token).broken_tokens().unwrap();
        assert_eq!(broken.len(), 1);
        assert!(broken[0].problem.contains("read as `GPT:<answer>`"), "{}", broken[0].problem);
        assert!(broken[0].settings.is_empty());
    }
}
