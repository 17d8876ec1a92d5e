//! Byte-level BPE from `vocab.json` and `merges.txt` (GPT-2, OPT, GPT-NeoX without a `tokenizer.json`), turned into the
//! equivalent `tokenizer.json`.

use crate::directory::text_file::{LONGEST_TOKENIZER, into_text, read_object, read_text};
use crate::error::{CheckpointError, Result};
use crate::tokenizer::files::Declared;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Token texts and their ids.
pub(crate) const VOCABULARY: &str = "vocab.json";
/// Pairs of tokens, best first, one a line.
pub(crate) const MERGES: &str = "merges.txt";

/// The tokenizer of a directory that holds both files, as `tokenizer.json` says it. Added tokens are not in it yet.
///
/// # Errors
/// When a file is damaged or the two do not fit each other.
pub(crate) fn tokenizer_json(directory: &Path, declared: &Declared) -> Result<Value> {
    let vocabulary = read_vocabulary(&directory.join(VOCABULARY))?;
    let merges = read_merges(&directory.join(MERGES), &vocabulary)?;
    let prefix = declared.add_prefix_space.unwrap_or(false);
    let class = declared.class.as_deref().unwrap_or_default();
    let normalizer = if class.starts_with("GPTNeoX") { json!({ "type": "NFC" }) } else { Value::Null };
    let byte_level = |trim_offsets: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim_offsets, "use_regex": true });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": byte_level(true),
        "post_processor": post_processor(declared, &vocabulary).unwrap_or_else(|| byte_level(false)),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

/// Puts the begin token in front where `add_bos_token` asks for it (OPT).
fn post_processor(declared: &Declared, vocabulary: &Map<String, Value>) -> Option<Value> {
    let begin = declared.begin.as_deref().filter(|_| declared.add_begin == Some(true))?;
    let id = vocabulary.get(begin)?;
    let token = json!({ "SpecialToken": { "id": begin, "type_id": 0 } });
    let text = |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
    Some(json!({
        "type": "TemplateProcessing",
        "single": [token, text("A", 0)],
        "pair": [token, text("A", 0), text("B", 1)],
        "special_tokens": { begin: { "id": begin, "ids": [id], "tokens": [begin] } },
    }))
}

/// The ids must be 0, 1, 2, …: what is added later takes the next one.
fn read_vocabulary(path: &Path) -> Result<Map<String, Value>> {
    let vocabulary = read_object(path, LONGEST_TOKENIZER)?;
    let mut texts: Vec<Option<&str>> = vec![None; vocabulary.len()];
    for (text, id) in &vocabulary {
        let place = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let Some(slot) = place.and_then(|id| texts.get_mut(id)) else {
            let most = vocabulary.len();
            let problem =
                format!("token `{}` has the id {id}; expected ids from 0 below {most}", text.escape_debug());
            return Err(CheckpointError::tokenizer(path, problem));
        };
        if let Some(other) = slot.replace(text) {
            let (other, text) = (other.escape_debug(), text.escape_debug());
            return Err(CheckpointError::tokenizer(path, format!("`{other}` and `{text}` have the id {id}")));
        }
    }
    if vocabulary.is_empty() {
        return Err(CheckpointError::tokenizer(path, "holds no tokens"));
    }
    Ok(vocabulary)
}

fn read_merges(path: &Path, vocabulary: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let text = into_text(path, read_text(path, LONGEST_TOKENIZER)?)?;
    let mut merges = Vec::new();
    // Only line feeds end a line here: other separators may be parts of tokens.
    for (number, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
        let wrong = |problem: &str| {
            let line: String = line.chars().take(100).collect();
            let problem = format!("line {}, `{}`: {problem}", number + 1, line.escape_debug());
            CheckpointError::tokenizer(path, problem)
        };
        let pair = line
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        let (left, right) = pair.ok_or_else(|| wrong("expected two tokens with one space between them"))?;
        if [left, right, &format!("{left}{right}")].iter().any(|&token| !vocabulary.contains_key(token)) {
            return Err(wrong(
                "a part or the whole is not in vocab.json; both files must be of one tokenizer",
            ));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}
