//! Writing a tokenizer: a set of files that agree with each other, whichever of them a reader opens, and the tokens
//! that Otter adds to the tokenizer of a plain language model.

use crate::atomic;
use crate::directory::text_file::{LONGEST_TOKENIZER, read_for_copy, read_json};
use crate::error::{CheckpointError, Result};
use crate::tokenizer::files::TOKENIZER_FILES;
use crate::tokenizer::files::{ADDED_TOKENS, Declared, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, read_object};
use crate::tokenizer::files::{ANSWER, DEFAULT_PAD, END_OF_CHUNK, IMAGE};
use crate::tokenizer::load::{Base, TOKENIZER_JSON, TOKENIZER_MODEL, TokenizerForm, load_tokenizer};
use otter_data::SpecialTokens;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tokenizers::AddedToken;

/// The order in which the classes of the original add their tokens, which decides about the ids. A checkpoint must be
/// used with the order that it was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOrder {
    /// `<|endofchunk|>`, `<image>`, `<answer>`, then `<PAD>`.
    Otter,
    /// `<|endofchunk|>`, `<image>`, `<PAD>`, then `<answer>`: what training with the Flamingo class gives.
    Flamingo,
}

impl TokenOrder {
    /// The tokens in their order.
    pub fn tokens(self) -> [&'static str; 4] {
        match self {
            Self::Otter => [END_OF_CHUNK, IMAGE, ANSWER, DEFAULT_PAD],
            Self::Flamingo => [END_OF_CHUNK, IMAGE, DEFAULT_PAD, ANSWER],
        }
    }

    /// The order that gives these ids, where `<PAD>` and `<answer>` are neighbors behind `<image>`.
    pub fn of(special: &SpecialTokens) -> Option<Self> {
        let (image, answer, pad) = (special.image, special.answer, special.pad);
        match (answer.checked_sub(image), pad.checked_sub(image)) {
            (Some(1), Some(2)) => Some(Self::Otter),
            (Some(2), Some(1)) => Some(Self::Flamingo),
            _ => None,
        }
    }
}

/// What [`add_special_tokens`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedSpecialTokens {
    /// New tokens and their ids, in the order of the ids. Tokens that were there already keep theirs.
    pub added: Vec<(String, u32)>,
    /// Ids of the structural tokens.
    pub special: SpecialTokens,
    /// Number of ids, added tokens included: the embedding table needs at least so many rows.
    pub vocab_size: usize,
    /// Whether the tokenizer's own files put something in front of a text.
    pub begins: bool,
}

/// Writes the tokenizer of `source` to the directory `target` with Otter's tokens added in the given order, in all files
/// alike. `<PAD>` is added only where the tokenizer has no pad token.
///
/// # Errors
/// When the tokenizer cannot be read, its files disagree, or a file cannot be written.
pub fn add_special_tokens(source: &Path, target: &Path, order: TokenOrder) -> Result<AddedSpecialTokens> {
    let declared = Declared::read(source)?;
    let mut base = Base::open(source, &declared)?;
    base.add_declared(&declared)?;
    let has_pad = declared.pad.as_deref().is_some_and(|pad| base.tokenizer.token_to_id(pad).is_some());
    let mut added = Vec::new();
    for text in order.tokens() {
        if text == DEFAULT_PAD && has_pad || base.added_id(text).is_some() {
            continue;
        }
        base.add(AddedToken::from(text, true).normalized(false))?;
        added.extend(base.added_id(text).map(|id| (text.to_owned(), id)));
    }
    let pad = declared.pad.clone().filter(|_| has_pad).unwrap_or_else(|| DEFAULT_PAD.to_owned());
    let files = compose(source, &base, &declared, Some(&pad))?;
    write_all(source, target, files)?;
    let tokenizer = load_tokenizer(target)?;
    let (special, begins) = (*tokenizer.special(), !tokenizer.prompt_prefix().is_empty());
    Ok(AddedSpecialTokens { added, special, vocab_size: tokenizer.vocab_size(), begins })
}

/// Writes the tokenizer of `source` to the directory `target`: as it is where `tokenizer.json` says everything, else
/// with a complete `tokenizer.json` beside the other files.
///
/// # Errors
/// As [`add_special_tokens`].
pub fn write_tokenizer(source: &Path, target: &Path) -> Result<()> {
    let declared = Declared::read(source)?;
    let mut base = Base::open(source, &declared)?;
    let before = base.tokenizer.get_added_tokens_decoder();
    base.add_declared(&declared)?;
    let complete = base.form == TokenizerForm::Json && before == base.tokenizer.get_added_tokens_decoder();
    let files = if complete { Vec::new() } else { compose(source, &base, &declared, None)? };
    write_all(source, target, files)
}

/// A file's name and content.
type NewFile = (&'static str, Vec<u8>);

/// The given files, and the others of the tokenizer as they are in `source`.
fn write_all(source: &Path, target: &Path, files: Vec<NewFile>) -> Result<()> {
    fs::create_dir_all(target).map_err(CheckpointError::io(target, "create the directory"))?;
    for &name in TOKENIZER_FILES {
        let from = source.join(name);
        if from.is_file() && !files.iter().any(|(new, _)| *new == name) {
            atomic::write_file(&target.join(name), &read_for_copy(&from)?)?;
        }
    }
    files.iter().try_for_each(|(name, bytes)| atomic::write_file(&target.join(name), bytes))
}

/// `tokenizer.json` and the small files, all with the added tokens of `base`. `pad` becomes the pad token.
fn compose(source: &Path, base: &Base, declared: &Declared, pad: Option<&str>) -> Result<Vec<NewFile>> {
    let mut tokens: Vec<(u32, AddedToken)> = base.tokenizer.get_added_tokens_decoder().into_iter().collect();
    tokens.sort_by_key(|(id, _)| *id);
    let pad = pad.or(declared.pad.as_deref());
    let (begin, end) = base.ends(declared);
    let roles = [
        ("bos_token", begin),
        ("eos_token", end),
        ("pad_token", pad),
        ("unk_token", declared.unknown.as_deref()),
    ];
    // What is special beyond the roles, Otter's tokens among them.
    let is_role = |text: &str| roles.iter().any(|(_, role)| *role == Some(text));
    let own = [END_OF_CHUNK, IMAGE, ANSWER];
    let known = declared.special.iter().map(String::as_str).filter(|text| !own.contains(text));
    let further: Vec<&str> =
        known.chain(own).filter(|text| !is_role(text) && base.added_id(text).is_some()).collect();

    let mut whole: Value = match &base.json {
        Some(json) => serde_json::from_str(json)
            .map_err(|error| CheckpointError::Json { path: base.path.clone(), source: error })?,
        None => read_json(&base.path, LONGEST_TOKENIZER)?,
    };
    whole["added_tokens"] = tokens.iter().map(|(id, token)| token_json(token, Some(*id))).collect();
    let mut files = vec![(TOKENIZER_JSON, text(&base.path, &whole)?)];

    let mut config = read_object(source, TOKENIZER_CONFIG)?.map(|(_, object)| object).unwrap_or_default();
    let decoder: Map<String, Value> =
        tokens.iter().map(|(id, token)| (id.to_string(), decoder_json(token))).collect();
    config.insert("added_tokens_decoder".to_owned(), Value::Object(decoder));
    // The list has another name from transformers 5 on.
    let list = if config.get("extra_special_tokens").is_some_and(Value::is_array) {
        "extra_special_tokens"
    } else {
        "additional_special_tokens"
    };
    config.insert(list.to_owned(), json!(further));
    for (key, role) in roles {
        if let Some(role) = role {
            config.insert(key.to_owned(), json!(role));
        }
    }
    if declared.class.is_none() {
        let class =
            if source.join(TOKENIZER_MODEL).is_file() { "LlamaTokenizer" } else { "PreTrainedTokenizerFast" };
        config.insert("tokenizer_class".to_owned(), json!(class));
    }
    files.push((TOKENIZER_CONFIG, text(&base.path, &Value::Object(config))?));

    let object_of = |content: &str| {
        let token = tokens.iter().find(|(_, token)| token.content == content);
        token.map_or(json!(content), |(_, token)| token_json(token, None))
    };
    let mut map = Map::new();
    map.insert("additional_special_tokens".to_owned(), further.iter().map(|text| object_of(text)).collect());
    for (key, role) in roles {
        role.map(|role| map.insert(key.to_owned(), object_of(role)));
    }
    files.push((SPECIAL_TOKENS_MAP, text(&base.path, &Value::Object(map))?));

    // Only readers without tokenizer.json need it.
    if base.form != TokenizerForm::Json
        || [ADDED_TOKENS, TOKENIZER_MODEL].iter().any(|name| source.join(name).is_file())
    {
        let vocabulary = base.tokenizer.get_vocab_size(false);
        let beyond = tokens.iter().filter(|(id, _)| *id as usize >= vocabulary);
        let added: Map<String, Value> =
            beyond.map(|(id, token)| (token.content.clone(), json!(id))).collect();
        files.push((ADDED_TOKENS, text(&base.path, &Value::Object(added))?));
    }
    Ok(files)
}

/// An added token as `tokenizer.json` (with its id) and `special_tokens_map.json` (without) write it.
fn token_json(token: &AddedToken, id: Option<u32>) -> Value {
    let mut object = decoder_json(token);
    if let Value::Object(object) = &mut object {
        match id {
            Some(id) => {
                object.shift_insert(0, "id".to_owned(), json!(id));
            }
            None => {
                object.shift_remove("special");
            }
        }
    }
    object
}

/// An added token as `added_tokens_decoder` writes it.
fn decoder_json(token: &AddedToken) -> Value {
    json!({
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    })
}

fn text(path: &Path, value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| CheckpointError::Json { path: path.to_path_buf(), source })?;
    text.push(b'\n');
    Ok(text)
}
