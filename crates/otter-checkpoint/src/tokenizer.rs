//! The tokenizer of a checkpoint directory: `tokenizer.json`, or else sentencepiece's `tokenizer.model`,
//! with the tokens that Otter adds (`<|endofchunk|>`, `<image>`, `<answer>`, `<PAD>`).
//!
//! Which of `<answer>` and `<PAD>` comes first differs between the Otter and the Flamingo class, so ids are
//! always taken from the files and never assumed.

use crate::error::{CheckpointError, Result};
use crate::gguf::{self, GgufFile};
use crate::sentencepiece::SentencePiece;
use otter_data::{SpecialTokens, TextTokenizer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tokenizers::{AddedToken, Tokenizer};

/// The largest tokenizer file read.
const LONGEST_FILE: u64 = 256 << 20;
/// Placeholder of an image, end of a chunk, begin of an answer.
const REQUIRED: [&str; 3] = ["<|endofchunk|>", "<image>", "<answer>"];
/// The pad token of every published Otter.
const DEFAULT_PAD: &str = "<PAD>";

/// Loads the tokenizer of a checkpoint directory.
///
/// # Errors
/// When there is no tokenizer, a file is damaged, or a special token is missing.
pub fn load_tokenizer(directory: &Path) -> Result<TextTokenizer> {
    if let Some(file) = gguf::file_of(directory) {
        return GgufFile::open(&file)?.tokenizer();
    }
    let declared = Declared::read(directory)?;
    let json = directory.join("tokenizer.json");
    let model = directory.join("tokenizer.model");
    if json.is_file() {
        return from_json(&json, &declared);
    }
    if model.is_file() {
        return from_sentencepiece(&model, &declared);
    }
    Err(CheckpointError::tokenizer(
        directory,
        "no tokenizer; expected tokenizer.json or tokenizer.model (copy them from the checkpoint's language model)",
    ))
}

/// Loads `tokenizer.model` even where a `tokenizer.json` stands beside it.
///
/// # Errors
/// As [`load_tokenizer`].
pub fn load_sentencepiece_tokenizer(directory: &Path) -> Result<TextTokenizer> {
    from_sentencepiece(&directory.join("tokenizer.model"), &Declared::read(directory)?)
}

fn from_json(path: &Path, declared: &Declared) -> Result<TextTokenizer> {
    let bytes = read_bounded(path)?;
    let tokenizer = Tokenizer::from_bytes(bytes)
        .map_err(|error| CheckpointError::tokenizer(path, format!("not a tokenizer: {error}")))?;
    finish(path, tokenizer, declared, None)
}

fn from_sentencepiece(path: &Path, declared: &Declared) -> Result<TextTokenizer> {
    if declared.legacy == Some(false) {
        return Err(CheckpointError::tokenizer(
            path,
            "tokenizer_config.json says legacy: false, which segments differently from every published Otter; \
             give the tokenizer.json of this model instead",
        ));
    }
    let model = SentencePiece::parse(path, &read_bounded(path)?)?;
    let tokenizer = Tokenizer::from_bytes(model.to_tokenizer_json().to_string())
        .map_err(|error| CheckpointError::tokenizer(path, format!("cannot be converted: {error}")))?;
    finish(path, tokenizer, declared, Some(&model))
}

fn finish(
    path: &Path,
    mut tokenizer: Tokenizer,
    declared: &Declared,
    model: Option<&SentencePiece>,
) -> Result<TextTokenizer> {
    // In the order of their ids, because each new token gets the next one.
    for (&id, token) in &declared.added {
        if tokenizer.token_to_id(&token.content).is_none() {
            tokenizer
                .add_special_tokens([token.clone()])
                .map_err(|error| CheckpointError::tokenizer(path, error.to_string()))?;
        }
        let found = tokenizer.token_to_id(&token.content);
        if found != Some(id) {
            let (content, found) = (&token.content, found.map_or("none".to_owned(), |id| id.to_string()));
            return Err(CheckpointError::tokenizer(
                path,
                format!(
                    "token `{content}` has id {found}, but added_tokens.json or tokenizer_config.json give {id}"
                ),
            ));
        }
    }
    let known = tokenizer.get_added_tokens_decoder();
    let id_of = |text: &str| {
        let id = tokenizer.token_to_id(text)?;
        known.contains_key(&id).then_some(id)
    };
    let required = |text: &str| {
        id_of(text).ok_or_else(|| {
            CheckpointError::tokenizer(
                path,
                format!(
                    "the special token `{text}` is missing; expected among `added_tokens` of tokenizer.json, or \
                     in added_tokens.json as \"{text}\": <id>, or in `added_tokens_decoder` of tokenizer_config.json"
                ),
            )
        })
    };
    let optional = |text: Option<&str>| text.map(required).transpose();
    let special = SpecialTokens {
        bos: optional(declared.begin.as_deref().or(model.and_then(SentencePiece::begin)))?,
        eos: optional(declared.end.as_deref().or(model.and_then(SentencePiece::end)))?,
        pad: required(declared.pad.as_deref().unwrap_or(DEFAULT_PAD))?,
        endofchunk: required(REQUIRED[0])?,
        image: required(REQUIRED[1])?,
        answer: required(REQUIRED[2])?,
    };
    Ok(TextTokenizer::new(tokenizer, special))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let length = fs::metadata(path).map_err(CheckpointError::io(path, "open"))?.len();
    if length > LONGEST_FILE {
        return Err(CheckpointError::tokenizer(
            path,
            format!("{length} bytes; at most {LONGEST_FILE} are read"),
        ));
    }
    fs::read(path).map_err(CheckpointError::io(path, "read"))
}

/// What the small JSON files beside the tokenizer say.
#[derive(Debug, Default)]
struct Declared {
    begin: Option<String>,
    end: Option<String>,
    pad: Option<String>,
    legacy: Option<bool>,
    /// Added tokens by id.
    added: BTreeMap<u32, AddedToken>,
}

impl Declared {
    fn read(directory: &Path) -> Result<Self> {
        let mut declared = Self::default();
        // Later files do not override earlier ones.
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            let Some((path, value)) = read_json(directory, name)? else { continue };
            for (key, slot) in [
                ("bos_token", &mut declared.begin),
                ("eos_token", &mut declared.end),
                ("pad_token", &mut declared.pad),
            ] {
                let found = value.get(key).filter(|token| !token.is_null());
                if let (None, Some(token)) = (&slot, found) {
                    *slot = Some(token_text(&path, key, token)?.to_owned());
                }
            }
            declared.legacy = declared.legacy.or(value.get("legacy").and_then(Value::as_bool));
            let Some(decoder) = value.get("added_tokens_decoder").and_then(Value::as_object) else {
                continue;
            };
            for (id, token) in decoder {
                let wrong =
                    || CheckpointError::tokenizer(&path, format!("`added_tokens_decoder.{id}` is no token"));
                let id: u32 = id.parse().map_err(|_| wrong())?;
                let flag =
                    |key: &str, default: bool| token.get(key).and_then(Value::as_bool).unwrap_or(default);
                let content = token_text(&path, "added_tokens_decoder", token)?;
                let token = AddedToken::from(content, flag("special", true))
                    .single_word(flag("single_word", false))
                    .lstrip(flag("lstrip", false))
                    .rstrip(flag("rstrip", false))
                    .normalized(flag("normalized", false));
                declared.added.insert(id, token);
            }
        }
        if let Some((path, value)) = read_json(directory, "added_tokens.json")? {
            let wrong = || CheckpointError::tokenizer(&path, "expected an object of token texts and ids");
            for (content, id) in value.as_object().ok_or_else(wrong)? {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)?;
                let token = AddedToken::from(content.as_str(), true).normalized(false);
                let known = declared.added.entry(id).or_insert(token);
                if known.content != *content {
                    let problem = format!(
                        "id {id} is `{content}` here but `{}` in tokenizer_config.json",
                        known.content
                    );
                    return Err(CheckpointError::tokenizer(&path, problem));
                }
            }
        }
        Ok(declared)
    }
}

fn read_json(directory: &Path, name: &str) -> Result<Option<(std::path::PathBuf, Value)>> {
    let path = directory.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&read_bounded(&path)?)
        .map_err(|source| CheckpointError::Json { path: path.clone(), source })?;
    Ok(Some((path, value)))
}

/// A token is written as its text or as an object with its text under `content`.
fn token_text<'v>(path: &Path, key: &str, token: &'v Value) -> Result<&'v str> {
    let text = token.as_str().or_else(|| token.get("content").and_then(Value::as_str));
    text.filter(|text| !text.is_empty()).ok_or_else(|| {
        CheckpointError::tokenizer(path, format!("`{key}` holds {token}; expected a token text"))
    })
}
