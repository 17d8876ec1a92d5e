//! `tokenizer.model` of sentencepiece, read with a small bounded protobuf reader and turned into the
//! equivalent `tokenizers` pipeline.
//!
//! The pipeline reproduces the legacy LLaMA tokenizer: text between two special tokens is a segment of its
//! own, each segment gets a word-boundary mark in front, spaces become marks, characters that are not in the
//! vocabulary become their UTF-8 bytes. With `legacy: false` only the first segment of a text gets a mark.

use crate::error::{FormatError, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Stands for a space inside pieces.
const MARK: &str = "\u{2581}";
/// Published models are half a megabyte.
const LONGEST_MODEL: usize = 16 << 20;
/// Sentencepiece itself never makes pieces longer than 16 characters unless told to.
const LONGEST_PIECE: usize = 256;
const MOST_PIECES: usize = 1 << 20;

/// What a piece is for; numbers as in the format.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    Byte,
}

#[derive(Debug, Clone, PartialEq)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// How text is segmented.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Algorithm {
    Unigram,
    Bpe,
}

/// A parsed model.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePiece {
    pieces: Vec<Piece>,
    algorithm: Algorithm,
    byte_fallback: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespace: bool,
    begin: Option<usize>,
    end: Option<usize>,
}

impl SentencePiece {
    /// Parses the bytes of a `tokenizer.model`.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        if bytes.len() > LONGEST_MODEL {
            let length = bytes.len();
            return Err(FormatError::damaged(
                path,
                format!("{length} bytes; a sentencepiece model has at most {LONGEST_MODEL}"),
            ));
        }
        Self::parse_message(bytes).map_err(|problem| FormatError::damaged(path, problem))
    }

    fn parse_message(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            byte_fallback: false,
            add_dummy_prefix: true,
            remove_extra_whitespace: true,
            begin: Some(1),
            end: Some(2),
        };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(message)) => {
                    if model.pieces.len() == MOST_PIECES {
                        return Err(format!("more than {MOST_PIECES} pieces"));
                    }
                    let number = model.pieces.len();
                    let piece =
                        Piece::parse(message).map_err(|problem| format!("piece {number}: {problem}"))?;
                    model.pieces.push(piece);
                }
                (2, Field::Bytes(message)) => model.read_trainer(message)?,
                (3, Field::Bytes(message)) => model.read_normalizer(message)?,
                _ => {}
            }
        }
        model.check()?;
        Ok(model)
    }

    fn read_trainer(&mut self, message: &[u8]) -> std::result::Result<(), String> {
        // An id of -1 means "none".
        let id = |number: u64| usize::try_from(number as i64).ok();
        for field in Fields(message) {
            match field? {
                (3, Field::Number(1)) => self.algorithm = Algorithm::Unigram,
                (3, Field::Number(2)) => self.algorithm = Algorithm::Bpe,
                (3, Field::Number(other)) => {
                    return Err(format!("model type {other}; supported: unigram (1) and BPE (2)"));
                }
                (24, Field::Number(1)) => {
                    return Err("word-boundary marks as suffixes are not supported".to_owned());
                }
                (35, Field::Number(number)) => self.byte_fallback = number != 0,
                (41, Field::Number(number)) => self.begin = id(number),
                (42, Field::Number(number)) => self.end = id(number),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, message: &[u8]) -> std::result::Result<(), String> {
        for field in Fields(message) {
            match field? {
                (2, Field::Bytes(rules)) if !rules.is_empty() => {
                    return Err("character normalization rules are not supported (LLaMA has none); \
                                use the tokenizer.json of this model"
                        .to_owned());
                }
                (3, Field::Number(number)) => self.add_dummy_prefix = number != 0,
                (4, Field::Number(number)) => self.remove_extra_whitespace = number != 0,
                (5, Field::Number(0)) => return Err("unescaped spaces are not supported".to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&mut self) -> std::result::Result<(), String> {
        if self.pieces.is_empty() {
            return Err("no pieces; this is not a sentencepiece model".to_owned());
        }
        let mut seen = HashMap::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if let Some(other) = seen.insert(piece.text.as_str(), id) {
                return Err(format!("pieces {other} and {id} are the same: `{}`", piece.text.escape_debug()));
            }
        }
        let count = self.pieces.len();
        self.begin = self.begin.filter(|&id| id < count && self.pieces[id].kind == Kind::Control);
        self.end = self.end.filter(|&id| id < count && self.pieces[id].kind == Kind::Control);
        let unknown = self.pieces.iter().filter(|piece| piece.kind == Kind::Unknown).count();
        if unknown == 1 { Ok(()) } else { Err(format!("{unknown} unknown pieces; expected exactly one")) }
    }

    /// Whether there are no pieces.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Text of the begin-of-sequence piece.
    pub fn begin(&self) -> Option<&str> {
        self.begin.map(|id| self.pieces[id].text.as_str())
    }

    /// Text of the end-of-sequence piece.
    pub fn end(&self) -> Option<&str> {
        self.end.map(|id| self.pieces[id].text.as_str())
    }

    /// Pairs of pieces that join to a piece, best first. A piece that several pairs make comes in the order
    /// of the ids of its parts.
    fn merges(&self) -> Vec<(&str, &str)> {
        let normal = |id: &usize| self.pieces[*id].kind == Kind::Normal;
        let ids: HashMap<&str, usize> =
            (0..self.pieces.len()).filter(normal).map(|id| (self.pieces[id].text.as_str(), id)).collect();
        let mut merges = Vec::new();
        for whole in (0..self.pieces.len()).filter(normal).map(|id| &self.pieces[id]) {
            let mut parts: Vec<(usize, usize)> = whole
                .text
                .char_indices()
                .skip(1)
                .filter_map(|(at, _)| Some((*ids.get(&whole.text[..at])?, *ids.get(&whole.text[at..])?)))
                .collect();
            parts.sort_unstable();
            merges.extend(parts.into_iter().map(|(left, right)| (whole.score, left, right)));
        }
        merges.sort_by(|left, right| right.0.total_cmp(&left.0));
        merges.iter().map(|&(_, left, right)| (&*self.pieces[left].text, &*self.pieces[right].text)).collect()
    }

    fn model_json(&self) -> Value {
        let unknown = self.pieces.iter().position(|piece| piece.kind == Kind::Unknown).unwrap_or(0);
        match self.algorithm {
            Algorithm::Bpe => {
                let vocabulary: serde_json::Map<String, Value> = self
                    .pieces
                    .iter()
                    .enumerate()
                    .map(|(id, piece)| (piece.text.clone(), json!(id)))
                    .collect();
                json!({
                    "type": "BPE",
                    "unk_token": self.pieces[unknown].text,
                    "fuse_unk": true,
                    "byte_fallback": self.byte_fallback,
                    "vocab": vocabulary,
                    "merges": self.merges(),
                })
            }
            Algorithm::Unigram => {
                let vocabulary: Vec<(&str, f64)> =
                    self.pieces.iter().map(|piece| (piece.text.as_str(), f64::from(piece.score))).collect();
                json!({
                    "type": "Unigram",
                    "unk_id": unknown,
                    "byte_fallback": self.byte_fallback,
                    "vocab": vocabulary,
                })
            }
        }
    }

    /// The same tokenizer in the form of `tokenizer.json`.
    pub fn to_tokenizer_json(&self, legacy: bool) -> Value {
        let mut normalizers = Vec::new();
        if self.remove_extra_whitespace {
            for (pattern, content) in [("^ +", ""), (" +$", ""), (" {2,}", " ")] {
                normalizers
                    .push(json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": content }));
            }
        }
        let mut pre_tokenizer = Value::Null;
        if legacy {
            if self.add_dummy_prefix {
                normalizers.push(json!({ "type": "Prepend", "prepend": MARK }));
            }
            normalizers.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": MARK }));
        } else {
            let scheme = if self.add_dummy_prefix { "first" } else { "never" };
            pre_tokenizer =
                json!({ "type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": false });
        }
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": MARK }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.add_dummy_prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let special = |kind: Kind| kind == Kind::Unknown || kind == Kind::Control;
        let added: Vec<Value> = self
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| special(piece.kind))
            .map(|(id, piece)| {
                json!({
                    "id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                })
            })
            .collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor_json(),
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": self.model_json(),
        })
    }

    /// Puts the begin piece in front, as the original's tokenizer does when special tokens are asked for.
    fn post_processor_json(&self) -> Value {
        let (Some(id), Some(begin)) = (self.begin, self.begin()) else { return Value::Null };
        let token = |type_id: u32| json!({ "SpecialToken": { "id": begin, "type_id": type_id } });
        let text = |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
        json!({
            "type": "TemplateProcessing",
            "single": [token(0), text("A", 0)],
            "pair": [token(0), text("A", 0), token(1), text("B", 1)],
            "special_tokens": { begin: { "id": begin, "ids": [id], "tokens": [begin] } },
        })
    }
}

impl Piece {
    fn parse(message: &[u8]) -> std::result::Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: Kind::Normal };
        for field in Fields(message) {
            match field? {
                (1, Field::Bytes(text)) => {
                    if text.len() > LONGEST_PIECE {
                        return Err(format!("{} bytes; at most {LONGEST_PIECE} are accepted", text.len()));
                    }
                    let text = std::str::from_utf8(text).map_err(|_| "the text is not UTF-8")?;
                    piece.text = text.to_owned();
                }
                (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Number(number)) => {
                    piece.kind = match number {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        6 => Kind::Byte,
                        4 | 5 => {
                            return Err("user-defined and unused pieces are not supported; \
                                        use the tokenizer.json of this model"
                                .to_owned());
                        }
                        other => return Err(format!("unknown piece type {other}")),
                    }
                }
                _ => {}
            }
        }
        if piece.text.is_empty() {
            return Err("a piece without text".to_owned());
        }
        if !piece.score.is_finite() {
            return Err(format!("score {}", piece.score));
        }
        Ok(piece)
    }
}

/// A protobuf value.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Field<'a> {
    Number(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a protobuf message: number and value.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for place in 0..10 {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(*self.take(4)?.first_chunk()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = std::result::Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "not a sentencepiece model, or truncated".to_owned()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let mut message = vec![0x0a, text.len() as u8];
        message.extend_from_slice(text.as_bytes());
        message.push(0x15);
        message.extend_from_slice(&score.to_le_bytes());
        message.extend_from_slice(&[0x18, kind]);
        let mut field = vec![0x0a, message.len() as u8];
        field.extend(message);
        field
    }

    fn model(pieces: &[(&str, f32, u8)], algorithm: u8, normalizer: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            pieces.iter().flat_map(|&(text, score, kind)| piece(text, score, kind)).collect();
        bytes.extend_from_slice(&[0x12, 2, 0x18, algorithm, 0x1a, normalizer.len() as u8]);
        bytes.extend_from_slice(normalizer);
        bytes
    }

    fn tokenizer(bytes: &[u8]) -> tokenizers::Tokenizer {
        let model = SentencePiece::parse_message(bytes).unwrap();
        tokenizers::Tokenizer::from_bytes(model.to_tokenizer_json(true).to_string()).unwrap()
    }

    const PIECES: [(&str, f32, u8); 9] = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("ab", -1.0, 1),
        ("\u{2581}ab", -2.0, 1),
        ("\u{2581}", -3.0, 1),
        ("a", -4.0, 1),
        ("b", -5.0, 1),
        ("abb", -6.0, 1),
    ];

    #[test]
    fn merges_are_ordered_by_score_and_ids() {
        let parsed = SentencePiece::parse_message(&model(&PIECES, 2, &[])).unwrap();
        assert_eq!(parsed.merges(), [("a", "b"), ("\u{2581}", "ab"), ("ab", "b")]);
    }

    #[test]
    fn both_algorithms_segment() {
        for (algorithm, expected) in [(2, vec![1, 4, 7, 5, 7]), (1, vec![1, 4, 7, 5, 7])] {
            let tokenizer = tokenizer(&model(&PIECES, algorithm, &[0x20, 0]));
            let ids = tokenizer.encode("abb b", true).unwrap();
            assert_eq!(ids.get_ids(), expected, "{algorithm}");
        }
    }

    #[test]
    fn spaces_follow_the_normalizer() {
        let keep = tokenizer(&model(&PIECES, 2, &[0x20, 0]));
        let remove = tokenizer(&model(&PIECES, 2, &[]));
        let bare = tokenizer(&model(&PIECES, 2, &[0x18, 0, 0x20, 0]));
        let ids = |tokenizer: &tokenizers::Tokenizer, text| {
            tokenizer.encode(text, false).unwrap().get_ids().to_vec()
        };
        assert_eq!(ids(&keep, "  b"), [5, 5, 5, 7]);
        assert_eq!(ids(&remove, "  b  b "), [5, 7, 5, 7]);
        assert_eq!(ids(&bare, "b b"), [7, 5, 7]);
        // Each segment between special tokens begins a word.
        assert_eq!(ids(&keep, "ab</s>ab"), [4, 2, 4]);
    }

    #[test]
    fn unsupported_models_say_so() {
        let parse = |bytes: &[u8]| SentencePiece::parse_message(bytes).unwrap_err();
        assert!(parse(&model(&PIECES, 3, &[])).contains("model type 3"));
        assert!(parse(&model(&PIECES, 2, &[0x12, 1, 0])).contains("normalization rules"));
        assert!(parse(&model(&[("a", 0.0, 4)], 2, &[])).contains("user-defined"));
        assert!(parse(&model(&[("a", 0.0, 1), ("a", 0.0, 1)], 2, &[])).contains("the same"));
        assert!(parse(&model(&[("a", 0.0, 1)], 2, &[])).contains("0 unknown pieces"));
        assert!(parse(&model(&[("a", f32::NAN, 1)], 2, &[])).contains("score"));
        assert!(parse(b"").contains("no pieces"));
        assert!(parse(b"\x0a\xff\xff\xff\xff\x7f").contains("truncated"));
    }
}
