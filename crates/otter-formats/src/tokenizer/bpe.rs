//! Byte-level BPE from `vocab.json` and `merges.txt` (GPT-2, OPT, GPT-NeoX without a `tokenizer.json`), turned into the
//! equivalent `tokenizer.json`.

use crate::error::{FormatError, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Token texts and their ids.
pub const VOCABULARY: &str = "vocab.json";
/// Pairs of tokens, best first, one a line.
pub const MERGES: &str = "merges.txt";

/// What stands beside both files: how the tokenizer cuts and what it puts in front.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// A space is put in front of a text.
    pub add_prefix_space: bool,
    /// Texts are brought into Unicode's form NFC (GPT-NeoX).
    pub normalize: bool,
    /// The token that is put in front of every text.
    pub begin: Option<&'a str>,
}

/// The tokenizer of the contents of both files, as `tokenizer.json` says it. Added tokens are not in it. `files` are for
/// messages: the paths of [`VOCABULARY`] and [`MERGES`].
///
/// # Errors
/// When a file is damaged or the two do not fit each other.
pub fn tokenizer_json(
    files: [&Path; 2],
    vocabulary: Map<String, Value>,
    merges: &str,
    options: &Options<'_>,
) -> Result<Value> {
    check_vocabulary(files[0], &vocabulary)?;
    let merges = read_merges(files[1], merges, &vocabulary)?;
    let prefix = options.add_prefix_space;
    let normalizer = if options.normalize { json!({ "type": "NFC" }) } else { Value::Null };
    let byte_level = |trim_offsets: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim_offsets, "use_regex": true });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": byte_level(true),
        "post_processor": post_processor(options.begin, &vocabulary).unwrap_or_else(|| byte_level(false)),
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
fn post_processor(begin: Option<&str>, vocabulary: &Map<String, Value>) -> Option<Value> {
    let begin = begin?;
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
fn check_vocabulary(path: &Path, vocabulary: &Map<String, Value>) -> Result<()> {
    let mut texts: Vec<Option<&str>> = vec![None; vocabulary.len()];
    for (text, id) in vocabulary {
        let place = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let Some(slot) = place.and_then(|id| texts.get_mut(id)) else {
            let most = vocabulary.len();
            let problem =
                format!("token `{}` has the id {id}; expected ids from 0 below {most}", text.escape_debug());
            return Err(FormatError::damaged(path, problem));
        };
        if let Some(other) = slot.replace(text) {
            let (other, text) = (other.escape_debug(), text.escape_debug());
            return Err(FormatError::damaged(path, format!("`{other}` and `{text}` have the id {id}")));
        }
    }
    if vocabulary.is_empty() {
        return Err(FormatError::damaged(path, "holds no tokens"));
    }
    Ok(())
}

fn read_merges(path: &Path, text: &str, vocabulary: &Map<String, Value>) -> Result<Vec<(String, String)>> {
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
            FormatError::damaged(path, problem)
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
