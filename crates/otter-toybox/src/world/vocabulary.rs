//! The vocabulary of the toybox and its tokenizer files in the Hugging Face form.
//!
//! The model is WordPiece: every word of the language is one piece, a made-up word is two (`wug`,
//! `##pim`), and single letters and digits spell whatever else a person types. The special tokens
//! have the places of the original's LLaMA tokenizer: `<unk>`, `<s>`, `</s>` first, the tokens that
//! Otter adds behind the rest.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::ToyboxError;
use super::language::{
    COLOR_NAMES, FIRST_SYLLABLES, FUNCTION_WORDS, NUMBER_NAMES, PUNCTUATION, SECOND_SYLLABLES, SHAPE_NAMES,
    SHAPE_PLURALS, SIZE_NAMES, YES_NO,
};

/// Special tokens in front of the vocabulary; their ids are 0, 1, 2.
pub const LEADING_SPECIAL_TOKENS: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// Special tokens behind the vocabulary, in the order of their ids.
pub const TRAILING_SPECIAL_TOKENS: [&str; 4] = ["<|endofchunk|>", "<image>", "<answer>", "<PAD>"];

/// The longest word that is looked up piece by piece; longer ones become `<unk>`.
const LONGEST_WORD: usize = 64;

/// The pieces of the tokenizer; the id of a piece is its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    pieces: Vec<String>,
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self::new()
    }
}

impl Vocabulary {
    /// The vocabulary of the toybox language.
    pub fn new() -> Self {
        let characters: Vec<char> = ('a'..='z').chain('0'..='9').collect();
        let singles = LEADING_SPECIAL_TOKENS
            .iter()
            .chain(PUNCTUATION)
            .chain(FUNCTION_WORDS)
            .chain(&COLOR_NAMES)
            .chain(&SHAPE_NAMES)
            .chain(&SHAPE_PLURALS)
            .chain(&SIZE_NAMES)
            .chain(&NUMBER_NAMES)
            .chain(&YES_NO)
            .chain(&FIRST_SYLLABLES)
            .map(|piece| (*piece).to_string());
        let continuations = SECOND_SYLLABLES.iter().map(|syllable| format!("##{syllable}"));
        let letters = characters
            .iter()
            .map(char::to_string)
            .chain(characters.iter().map(|letter| format!("##{letter}")));
        let mut pieces: Vec<String> = Vec::new();
        for piece in singles.chain(continuations).chain(letters) {
            // A word may stand in two tables ("a" is also a letter).
            if !pieces.contains(&piece) {
                pieces.push(piece);
            }
        }
        pieces.extend(TRAILING_SPECIAL_TOKENS.map(String::from));
        Self { pieces }
    }

    /// All pieces in the order of their ids, special tokens included.
    pub fn pieces(&self) -> &[String] {
        &self.pieces
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Never: the special tokens are always there.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Id of a piece.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.iter().position(|known| known == piece).map(|place| place as u32)
    }

    /// Whether the piece is a special token.
    pub fn is_special(piece: &str) -> bool {
        LEADING_SPECIAL_TOKENS.contains(&piece) || TRAILING_SPECIAL_TOKENS.contains(&piece)
    }

    /// Content of `tokenizer.json`.
    pub fn tokenizer_json(&self) -> Value {
        let model_pieces = self.len() - TRAILING_SPECIAL_TOKENS.len();
        let vocabulary: Map<String, Value> =
            self.pieces[..model_pieces].iter().enumerate().map(|(id, p)| (p.clone(), json!(id))).collect();
        let added: Vec<Value> = self
            .special_ids()
            .map(|(id, content)| {
                let mut token = token_json(content);
                token["id"] = json!(id);
                token["special"] = json!(true);
                token
            })
            .collect();
        let begin = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let sequence = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "WhitespaceSplit"},
                    {"type": "Punctuation", "behavior": "Isolated"}
                ]
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [begin, sequence("A", 0)],
                "pair": [begin, sequence("A", 0), sequence("B", 1)],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [self.id("<s>")], "tokens": ["<s>"]}}
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {
                "type": "WordPiece",
                "unk_token": "<unk>",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": LONGEST_WORD,
                "vocab": vocabulary
            }
        })
    }

    /// Content of `tokenizer_config.json`.
    pub fn tokenizer_config_json(&self) -> Value {
        let decoder: Map<String, Value> = self
            .special_ids()
            .map(|(id, content)| {
                let mut token = token_json(content);
                token["special"] = json!(true);
                (id.to_string(), token)
            })
            .collect();
        json!({
            "added_tokens_decoder": decoder,
            "additional_special_tokens": &TRAILING_SPECIAL_TOKENS[..3],
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": true,
            "eos_token": "</s>",
            "model_max_length": 1e30,
            "pad_token": "<PAD>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>"
        })
    }

    /// Content of `special_tokens_map.json`.
    pub fn special_tokens_map_json(&self) -> Value {
        json!({
            "additional_special_tokens": TRAILING_SPECIAL_TOKENS[..3].iter().map(|t| token_json(t)).collect::<Vec<_>>(),
            "bos_token": token_json("<s>"),
            "eos_token": token_json("</s>"),
            "pad_token": token_json("<PAD>"),
            "unk_token": token_json("<unk>")
        })
    }

    /// Content of `added_tokens.json`.
    pub fn added_tokens_json(&self) -> Value {
        let tokens: Map<String, Value> = TRAILING_SPECIAL_TOKENS
            .iter()
            .map(|token| ((*token).to_string(), json!(self.id(token))))
            .collect();
        Value::Object(tokens)
    }

    /// Writes the four tokenizer files into an existing folder.
    pub fn write(&self, folder: &Path) -> Result<(), ToyboxError> {
        for (name, content) in [
            ("tokenizer.json", self.tokenizer_json()),
            ("tokenizer_config.json", self.tokenizer_config_json()),
            ("special_tokens_map.json", self.special_tokens_map_json()),
            ("added_tokens.json", self.added_tokens_json()),
        ] {
            let path = folder.join(name);
            otter_io::write_whole(&path, format!("{content:#}\n").as_bytes())
                .map_err(ToyboxError::write(&path))?;
        }
        Ok(())
    }

    fn special_ids(&self) -> impl Iterator<Item = (usize, &str)> {
        let special = |(_, piece): &(usize, &String)| Self::is_special(piece);
        self.pieces.iter().enumerate().filter(special).map(|(id, piece)| (id, piece.as_str()))
    }
}

fn token_json(content: &str) -> Value {
    json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false})
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::world::language::KINDS;
    use crate::world::{MadeUpWord, make_example, random_stream};
    use tokenizers::Tokenizer;

    fn tokenizer() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        Vocabulary::new().write(folder.path()).unwrap();
        Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap()
    }

    fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        tokenizer.encode(text, false).unwrap().get_tokens().to_vec()
    }

    #[test]
    fn ids_are_places_and_special_tokens_have_theirs() {
        let (vocabulary, tokenizer) = (Vocabulary::new(), tokenizer());
        assert_eq!(tokenizer.get_vocab_size(true), vocabulary.len());
        for (id, piece) in vocabulary.pieces().iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(piece), Some(id as u32), "{piece}");
            assert_eq!(vocabulary.id(piece), Some(id as u32));
        }
        let ids = ["<unk>", "<s>", "</s>"].map(|token| vocabulary.id(token));
        assert_eq!(ids, [Some(0), Some(1), Some(2)]);
        assert_eq!(vocabulary.id("<PAD>"), Some(vocabulary.len() as u32 - 1));
    }

    #[test]
    fn no_syllable_is_a_word() {
        let vocabulary = Vocabulary::new();
        for syllable in FIRST_SYLLABLES {
            assert_eq!(vocabulary.pieces().iter().filter(|piece| *piece == syllable).count(), 1);
            assert!(!FUNCTION_WORDS.contains(&syllable) && !COLOR_NAMES.contains(&syllable));
            assert!(!SHAPE_NAMES.contains(&syllable) && !SECOND_SYLLABLES.contains(&syllable));
        }
        for syllable in SECOND_SYLLABLES {
            assert_eq!(vocabulary.id(syllable), None, "{syllable}");
        }
        for word in MadeUpWord::all() {
            assert_eq!(vocabulary.id(&word.text()), None);
        }
    }

    #[test]
    fn every_made_up_word_is_its_two_syllables() {
        let tokenizer = tokenizer();
        for word in MadeUpWord::all() {
            let expected = [word.first().to_string(), format!("##{}", word.second())];
            assert_eq!(tokens(&tokenizer, &word.text()), expected);
            let ids = tokenizer.encode(word.text(), false).unwrap().get_ids().to_vec();
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), word.text());
        }
    }

    #[test]
    fn every_question_and_answer_is_whole_words_and_survives_the_round_trip() {
        let tokenizer = tokenizer();
        for table in KINDS {
            for rank in 0..150 {
                let made = make_example(table.kind, rank, &mut random_stream(4, "tokens", rank as u64));
                for text in [&made.question, &made.answer, &made.description] {
                    let encoded = tokenizer.encode(text.as_str(), false).unwrap();
                    let spelled = |token: &String| {
                        token == "<unk>"
                            || token.trim_start_matches("##").len() == 1 && token.starts_with("##")
                    };
                    assert!(!encoded.get_tokens().iter().any(spelled), "{text}: {:?}", encoded.get_tokens());
                    let words = text.split(' ').count()
                        + usize::from(made.concepts.len() == 1 && *text == made.answer);
                    assert_eq!(encoded.get_ids().len(), words, "{text}");
                    let decoded = tokenizer.decode(encoded.get_ids(), true).unwrap();
                    let again = tokenizer.encode(decoded.as_str(), false).unwrap();
                    assert_eq!(again.get_ids(), encoded.get_ids(), "{decoded}");
                    let without_spaces = |text: &str| text.replace(' ', "");
                    assert_eq!(without_spaces(&decoded), without_spaces(text));
                }
            }
        }
    }

    #[test]
    fn a_prompt_is_cut_at_its_special_tokens() {
        let prompt = "<image>User:What is this? GPT:<answer>wugpim<|endofchunk|>";
        let expected = "<image> user : what is this ? gpt : <answer> wug ##pim <|endofchunk|>";
        assert_eq!(tokens(&tokenizer(), prompt).join(" "), expected);
        let with_begin = tokenizer().encode("a", true).unwrap();
        assert_eq!(with_begin.get_tokens(), ["<s>", "a"]);
    }

    #[test]
    fn unknown_words_are_spelled() {
        assert_eq!(tokens(&tokenizer(), "Zebra7").len(), 6);
        assert_eq!(tokens(&tokenizer(), "é"), ["<unk>"]);
    }

    #[test]
    fn the_side_files_name_the_same_ids() {
        let vocabulary = Vocabulary::new();
        let config = vocabulary.tokenizer_config_json();
        for (token, id) in vocabulary.added_tokens_json().as_object().unwrap() {
            assert_eq!(config["added_tokens_decoder"][id.to_string()]["content"], json!(token));
        }
        assert_eq!(config["model_max_length"].as_f64(), Some(1e30));
        assert_eq!(vocabulary.special_tokens_map_json()["pad_token"]["content"], json!("<PAD>"));
    }
}
