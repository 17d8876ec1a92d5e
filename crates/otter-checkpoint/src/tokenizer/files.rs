//! What the small JSON files beside a tokenizer declare: `special_tokens_map.json`, `tokenizer_config.json`,
//! `added_tokens.json`, in the variants that transformers 4.28 to 5.x write.
//!
//! | since | what changed |
//! |---|---|
//! | 4.28 | tokens as texts or as objects with `content`; ids of added tokens only in `added_tokens.json` |
//! | 4.34 | `added_tokens_decoder` in `tokenizer_config.json`; `special_tokens_map.json` is then not read any more |
//! | 4.48 | `extra_special_tokens`: names and tokens |
//! | 5.0 | `extra_special_tokens` as a list in place of `additional_special_tokens`; one file besides `tokenizer.json` |
//!
//! Two files that give one token different ids, or one id different tokens, are an error. Two files that name different
//! begin, end or pad tokens are a warning: the one that transformers would take counts.

use crate::directory::text_file::{self, LONGEST_TOKENIZER};
use crate::error::{CheckpointError, Result};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tokenizers::AddedToken;

/// End of a chunk.
pub(crate) const END_OF_CHUNK: &str = "<|endofchunk|>";
/// Placeholder of an image.
pub(crate) const IMAGE: &str = "<image>";
/// Begin of an answer.
pub(crate) const ANSWER: &str = "<answer>";
/// The pad token of every published Otter.
pub(crate) const DEFAULT_PAD: &str = "<PAD>";

/// Files that make up a tokenizer and are copied as they are.
pub(crate) const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// Names tokens by role.
pub(crate) const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
/// Class, roles, switches and (from 4.34 on) ids.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Texts and ids.
pub(crate) const ADDED_TOKENS: &str = "added_tokens.json";
/// Lists of further special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The declarations of all files together.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    /// Begin of text.
    pub begin: Option<String>,
    /// End of text.
    pub end: Option<String>,
    /// Stands for what is not in the vocabulary.
    pub unknown: Option<String>,
    /// Padding.
    pub pad: Option<String>,
    /// Every text that some file calls a special token.
    pub special: Vec<String>,
    /// `legacy` of LLaMA's sentencepiece tokenizers.
    pub legacy: Option<bool>,
    /// `add_bos_token`
    pub add_begin: Option<bool>,
    /// `add_prefix_space`
    pub add_prefix_space: Option<bool>,
    /// `tokenizer_class`
    pub class: Option<String>,
    /// Added tokens by id, with the file that gives the id.
    pub added: BTreeMap<u32, (AddedToken, &'static str)>,
    /// Disagreements that do not stop a reader.
    pub warnings: Vec<String>,
}

impl Declared {
    /// Reads whichever of the files a directory holds.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let mut declared = Self::default();
        let config = read_object(directory, TOKENIZER_CONFIG)?;
        let map = read_object(directory, SPECIAL_TOKENS_MAP)?;
        let decoder = config.as_ref().and_then(|(_, config)| config.get("added_tokens_decoder"));
        // From 4.34 on the configuration says everything; before, the map was read last and won.
        let config_counts = decoder.is_some() || map.is_none();
        let mut sources = [(TOKENIZER_CONFIG, &config), (SPECIAL_TOKENS_MAP, &map)];
        if !config_counts {
            sources.reverse();
        }
        let mut from = HashMap::new();
        for (name, source) in sources {
            if let Some((path, object)) = source {
                declared.read_roles(path, name, object, &mut from)?;
            }
        }
        if let Some((path, config)) = &config {
            declared.read_switches(path, config)?;
            if let Some(decoder) = decoder {
                declared.read_decoder(path, decoder)?;
            }
        }
        if let Some((path, object)) = read_object(directory, ADDED_TOKENS)? {
            declared.read_added(&path, &object)?;
        }
        Ok(declared)
    }

    /// Begin, end, unknown, pad, and all other tokens that are called special.
    fn read_roles(
        &mut self,
        path: &Path,
        name: &'static str,
        object: &Map<String, Value>,
        from: &mut HashMap<&'static str, &'static str>,
    ) -> Result<()> {
        for (key, slot) in [
            ("bos_token", &mut self.begin),
            ("eos_token", &mut self.end),
            ("unk_token", &mut self.unknown),
            ("pad_token", &mut self.pad),
        ] {
            let Some(found) =
                object.get(key).map(|token| token_text(path, key, token)).transpose()?.flatten()
            else {
                continue;
            };
            match slot {
                None => {
                    *slot = Some(found.to_owned());
                    from.insert(key, name);
                }
                Some(used) if used != found => self.warnings.push(format!(
                    "`{key}` is `{used}` in {} but `{found}` in {name}; `{used}` is used, as transformers does",
                    from.get(key).copied().unwrap_or(name)
                )),
                Some(_) => {}
            }
        }
        let mut special = Vec::new();
        for (key, token) in object {
            if key.ends_with("_token") && !token.is_boolean() {
                special.extend(token_text(path, key, token)?);
            }
        }
        for key in LISTS {
            let tokens: Vec<&Value> = match object.get(key) {
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(named)) => named.values().collect(),
                None | Some(Value::Null) => continue,
                Some(other) => {
                    let problem = format!("`{key}` is {}; expected a list of tokens", short(other));
                    return Err(CheckpointError::format(path, problem));
                }
            };
            for token in tokens {
                special.extend(token_text(path, key, token)?);
            }
        }
        for text in special {
            if !self.special.iter().any(|known| known == text) {
                self.special.push(text.to_owned());
            }
        }
        Ok(())
    }

    fn read_switches(&mut self, path: &Path, config: &Map<String, Value>) -> Result<()> {
        for (key, slot) in [
            ("legacy", &mut self.legacy),
            ("add_bos_token", &mut self.add_begin),
            ("add_prefix_space", &mut self.add_prefix_space),
        ] {
            *slot = match config.get(key) {
                None | Some(Value::Null) => None,
                Some(Value::Bool(value)) => Some(*value),
                Some(other) => {
                    let problem = format!("`{key}` is {}; expected true or false", short(other));
                    return Err(CheckpointError::format(path, problem));
                }
            };
        }
        self.class = config.get("tokenizer_class").and_then(Value::as_str).map(str::to_owned);
        Ok(())
    }

    /// `added_tokens_decoder`: id to token with its flags.
    fn read_decoder(&mut self, path: &Path, decoder: &Value) -> Result<()> {
        let Value::Object(decoder) = decoder else {
            let problem =
                format!("`added_tokens_decoder` is {}; expected an object of ids and tokens", short(decoder));
            return Err(CheckpointError::format(path, problem));
        };
        for (id, token) in decoder {
            let wrong = || CheckpointError::format(path, format!("`added_tokens_decoder.{id}` is no token"));
            let id: u32 = id.parse().map_err(|_| wrong())?;
            let content = token_text(path, "added_tokens_decoder", token)?.ok_or_else(wrong)?;
            let flag = |key: &str, default: bool| token.get(key).and_then(Value::as_bool).unwrap_or(default);
            let special = flag("special", true);
            let token = AddedToken::from(content, special)
                .single_word(flag("single_word", false))
                .lstrip(flag("lstrip", false))
                .rstrip(flag("rstrip", false))
                .normalized(flag("normalized", !special));
            self.add(path, id, token, TOKENIZER_CONFIG)?;
        }
        Ok(())
    }

    /// `added_tokens.json`: text to id, without flags.
    fn read_added(&mut self, path: &Path, object: &Map<String, Value>) -> Result<()> {
        for (content, id) in object {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|_| !content.is_empty());
            let id =
                id.ok_or_else(|| CheckpointError::format(path, "expected an object of token texts and ids"))?;
            let special = is_structural(content) || self.special.contains(content);
            let token = AddedToken::from(content.as_str(), special).normalized(!special);
            self.add(path, id, token, ADDED_TOKENS)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, id: u32, token: AddedToken, file: &'static str) -> Result<()> {
        let content = token.content.as_str();
        if let Some((known, other)) = self.added.get(&id) {
            if known.content == *content {
                return Ok(());
            }
            let problem = format!("id {id} is `{content}` here but `{}` in {other}", known.content);
            return Err(CheckpointError::format(path, problem));
        }
        let same = self.added.iter().find(|(_, (known, _))| known.content == *content);
        if let Some((known, (_, other))) = same {
            let problem = format!(
                "token `{content}` has id {id} here but {known} in {other}; keep the id that the weights were \
                 trained with"
            );
            return Err(CheckpointError::format(path, problem));
        }
        self.added.insert(id, (token, file));
        Ok(())
    }
}

/// A token is written as its text, or as an object with its text under `content`. Null, false and the empty text of
/// the first LLaMA conversions stand for "none".
fn token_text<'v>(path: &Path, key: &str, token: &'v Value) -> Result<Option<&'v str>> {
    let text = match token {
        Value::Null | Value::Bool(false) => return Ok(None),
        Value::String(text) => Some(text.as_str()),
        other => other.get("content").and_then(Value::as_str),
    };
    match text {
        Some("") => Ok(None),
        Some(text) => Ok(Some(text)),
        None => Err(CheckpointError::format(
            path,
            format!("`{key}` holds {}; expected a token text", short(token)),
        )),
    }
}

/// A value's beginning, for a message.
fn short(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}

/// The JSON object in a file of the directory, if there is such a file.
pub(crate) fn read_object(directory: &Path, name: &str) -> Result<Option<(PathBuf, Map<String, Value>)>> {
    let path = directory.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let object = text_file::read_object(&path, LONGEST_TOKENIZER)?;
    Ok(Some((path, object)))
}

/// Whether a token carries structure in every Otter.
pub(crate) fn is_structural(token: &str) -> bool {
    [END_OF_CHUNK, IMAGE, ANSWER, DEFAULT_PAD].contains(&token)
}
