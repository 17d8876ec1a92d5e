//! The tokenizer in the metadata of a llama.cpp file as a `tokenizer.json`: sentencepiece BPE (`llama`) or byte-level
//! BPE (`gpt2`).

use super::header::{Header, List, Meta};
use crate::tokenizer::SentencePiece;
use serde_json::{Map, Value, json};
use std::path::Path;

/// How LLaMA 3 cuts a text before its merges.
const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Numbers of `tokenizer.ggml.token_type`.
mod kind {
    pub const NORMAL: u64 = 1;
    pub const CONTROL: u64 = 3;
    pub const USER_DEFINED: u64 = 4;
    pub const UNUSED: u64 = 5;
}

struct Token<'a> {
    text: &'a str,
    score: f64,
    kind: u64,
}

/// What the metadata says of a tokenizer.
struct Vocabulary<'h, 'a> {
    header: &'h Header<'a>,
    tokens: Vec<Token<'a>>,
}

/// The tokenizer of a file.
///
/// # Errors
/// When there is none, or it is of a kind that this project does not know.
pub fn tokenizer_json(path: &Path, header: &Header<'_>) -> Result<Value, String> {
    let vocabulary = Vocabulary::read(header)?;
    match header.get("tokenizer.ggml.model") {
        Some(Meta::Text("llama")) => vocabulary.sentencepiece(path),
        Some(Meta::Text("gpt2")) => vocabulary.byte_level(),
        Some(Meta::Text(other)) => {
            Err(format!("tokenizer.ggml.model is `{}`; supported are llama and gpt2", other.escape_debug()))
        }
        _ => Err("`tokenizer.ggml.model` is missing from the metadata".to_owned()),
    }
}

fn list<'a>(header: &Header<'a>, name: &str) -> Result<Option<List<'a>>, String> {
    match header.get(&format!("tokenizer.ggml.{name}")) {
        None => Ok(None),
        Some(Meta::List(list)) => Ok(Some(list)),
        Some(_) => Err(format!("`tokenizer.ggml.{name}` is not a list")),
    }
}

fn flag(header: &Header<'_>, name: &str) -> Option<bool> {
    match header.get(&format!("tokenizer.ggml.{name}")) {
        Some(Meta::Bool(value)) => Some(value),
        _ => None,
    }
}

impl<'h, 'a> Vocabulary<'h, 'a> {
    fn read(header: &'h Header<'a>) -> Result<Self, String> {
        let texts = list(header, "tokens")?.ok_or("`tokenizer.ggml.tokens` is missing from the metadata")?;
        let mut tokens = Vec::new();
        for text in texts.items() {
            let Meta::Text(text) = text? else { return Err("a token is not a text".to_owned()) };
            tokens.push(Token { text, score: 0.0, kind: kind::NORMAL });
        }
        let same_length = |name: &str| -> Result<Option<List<'a>>, String> {
            match list(header, name)? {
                Some(list) if list.len() != tokens.len() => Err(format!(
                    "`tokenizer.ggml.{name}` has {} items for {} tokens",
                    list.len(),
                    tokens.len()
                )),
                found => Ok(found),
            }
        };
        let (scores, kinds) = (same_length("scores")?, same_length("token_type")?);
        for (token, score) in tokens.iter_mut().zip(scores.into_iter().flat_map(List::items)) {
            match score? {
                Meta::Float(score) => token.score = score,
                _ => return Err("a score is not a number".to_owned()),
            }
        }
        for (token, kind) in tokens.iter_mut().zip(kinds.into_iter().flat_map(List::items)) {
            match kind? {
                Meta::Int(kind) if (1..=6).contains(&kind) => token.kind = kind as u64,
                other => return Err(format!("token type {other:?}; expected 1 to 6")),
            }
        }
        // Files are filled up to the rows of the table.
        while tokens.last().is_some_and(|token| token.kind == kind::UNUSED) {
            tokens.pop();
        }
        Ok(Self { header, tokens })
    }

    fn id(&self, name: &str) -> Option<usize> {
        match self.header.get(&format!("tokenizer.ggml.{name}_token_id")) {
            Some(Meta::Int(id)) => usize::try_from(id).ok().filter(|&id| id < self.tokens.len()),
            _ => None,
        }
    }

    /// Through the bytes of a `tokenizer.model`, so that one piece of code knows sentencepiece.
    fn sentencepiece(&self, path: &Path) -> Result<Value, String> {
        let added =
            |token: &&Token<'_>| matches!(token.kind, kind::CONTROL | kind::USER_DEFINED | kind::UNUSED);
        let base = self.tokens.len() - self.tokens.iter().rev().take_while(added).count();
        let mut model = Vec::new();
        for token in &self.tokens[..base] {
            let mut piece = Vec::new();
            put_bytes(&mut piece, 1, token.text.as_bytes());
            put_varint(&mut piece, 2 << 3 | 5);
            piece.extend((token.score as f32).to_le_bytes());
            put_number(&mut piece, 3, token.kind);
            put_bytes(&mut model, 1, &piece);
        }
        let mut trainer = Vec::new();
        put_number(&mut trainer, 3, 2);
        put_number(&mut trainer, 35, 1);
        for (field, name, default) in [(41, "bos", 1), (42, "eos", 2)] {
            put_number(&mut trainer, field, self.id(name).unwrap_or(default) as u64);
        }
        put_bytes(&mut model, 2, &trainer);
        let mut normalizer = Vec::new();
        put_number(&mut normalizer, 3, flag(self.header, "add_space_prefix").unwrap_or(true).into());
        put_number(&mut normalizer, 4, flag(self.header, "remove_extra_whitespaces").unwrap_or(false).into());
        put_bytes(&mut model, 3, &normalizer);
        let model = SentencePiece::parse(path, &model).map_err(|error| error.to_string())?;
        let mut json = model.to_tokenizer_json(true);
        if let Some(list) = json["added_tokens"].as_array_mut() {
            list.extend((base..self.tokens.len()).map(|id| self.added_token(id)));
        }
        if flag(self.header, "add_bos_token") == Some(false) {
            json["post_processor"] = Value::Null;
        }
        Ok(json)
    }

    fn added_token(&self, id: usize) -> Value {
        let Token { text, kind, .. } = self.tokens[id];
        json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": kind == kind::CONTROL,
        })
    }

    fn byte_level(&self) -> Result<Value, String> {
        let mut vocabulary = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(other) = vocabulary.insert(token.text.to_owned(), json!(id)) {
                return Err(format!("tokens {other} and {id} are the same: `{}`", token.text.escape_debug()));
            }
        }
        let merges = list(self.header, "merges")?.ok_or("`tokenizer.ggml.merges` is missing")?;
        let merges: Vec<Value> = merges
            .items()
            .map(|merge| match merge? {
                Meta::Text(merge) => match merge.split_once(' ') {
                    Some((left, right)) => Ok(json!([left, right])),
                    None => Err(format!("the merge `{}` is not a pair", merge.escape_debug())),
                },
                _ => Err("a merge is not a text".to_owned()),
            })
            .collect::<Result<_, String>>()?;
        let added: Vec<Value> = (0..self.tokens.len())
            .filter(|&id| matches!(self.tokens[id].kind, kind::CONTROL | kind::USER_DEFINED))
            .map(|id| self.added_token(id))
            .collect();
        let (pre_tokenizer, ignore_merges) = self.pre_tokenizer()?;
        let neox = matches!(self.header.get("general.architecture"), Some(Meta::Text("gptneox" | "mpt")));
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            // These two use the tokenizer of GPT-NeoX-20B, which composes characters first.
            "normalizer": if neox { json!({ "type": "NFC" }) } else { Value::Null },
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.begin_in_front().unwrap_or_else(|| byte_level(true)),
            "decoder": byte_level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges,
            },
        }))
    }

    /// How a text is cut before merging, and whether a piece that is a token is taken whole.
    fn pre_tokenizer(&self) -> Result<(Value, bool), String> {
        let architecture = self.header.get("general.architecture");
        let name = match self.header.get("tokenizer.ggml.pre") {
            Some(Meta::Text("default")) | None => match architecture {
                Some(Meta::Text("falcon")) => "falcon",
                _ => "gpt-2",
            },
            Some(Meta::Text(name)) => name,
            Some(_) => return Err("`tokenizer.ggml.pre` is not a text".to_owned()),
        };
        let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        match name {
            "gpt-2" | "mpt" | "olmo" => Ok((byte_level(true), false)),
            "llama-bpe" | "llama3" | "llama-v3" => {
                let parts = [split(LLAMA3_PATTERN), byte_level(false)];
                Ok((json!({ "type": "Sequence", "pretokenizers": parts }), true))
            }
            "falcon" => {
                let parts = [
                    json!({ "type": "Punctuation", "behavior": "Contiguous" }),
                    byte_level(true),
                    json!({ "type": "Digits", "individual_digits": false }),
                    split("[0-9][0-9][0-9]"),
                ];
                Ok((json!({ "type": "Sequence", "pretokenizers": parts }), false))
            }
            other => Err(format!(
                "tokenizer.ggml.pre is `{}`; supported are gpt-2, mpt, olmo, llama-bpe and falcon. \
                 Give the tokenizer.json of the original model instead",
                other.escape_debug()
            )),
        }
    }

    fn begin_in_front(&self) -> Option<Value> {
        if flag(self.header, "add_bos_token") != Some(true) {
            return None;
        }
        let id = self.id("bos")?;
        let begin = self.tokens[id].text;
        let token = json!({ "SpecialToken": { "id": begin, "type_id": 0 } });
        let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
        Some(json!({
            "type": "TemplateProcessing",
            "single": [token, text("A")],
            "pair": [token, text("A"), text("B")],
            "special_tokens": { begin: { "id": begin, "ids": [id], "tokens": [begin] } },
        }))
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_number(out: &mut Vec<u8>, field: u64, number: u64) {
    put_varint(out, field << 3);
    put_varint(out, number);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}
