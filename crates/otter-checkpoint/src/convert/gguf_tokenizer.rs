//! The tokenizer inside a GGUF file as the files of a directory.

use crate::convert::output::write_json;
use crate::error::{CheckpointError, Result};
use crate::gguf::GgufFile;
use crate::tokenizer::files::TOKENIZER_CONFIG;
use crate::tokenizer::files::TOKENIZER_FILES;
use crate::tokenizer::load::TOKENIZER_JSON;
use otter_formats::tokenizer::json;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Writes `tokenizer.json` and `tokenizer_config.json` into `directory`, in the place of any tokenizer there. Returns
/// whether the file has a tokenizer.
///
/// # Errors
/// When the tokenizer is damaged, or a file cannot be written.
pub(super) fn unpack(file: &GgufFile, path: &Path, directory: &Path) -> Result<bool> {
    for old in TOKENIZER_FILES.iter().map(|name| directory.join(name)).filter(|old| old.is_file()) {
        fs::remove_file(&old).map_err(CheckpointError::io(&old, "remove"))?;
    }
    let (text, roles) = if file.is_otter()? {
        let Some(text) = file.otter_tokenizer_json()? else { return Ok(false) };
        let special = *file.tokenizer()?.special();
        (text, [("bos_token", special.bos), ("eos_token", special.eos), ("pad_token", Some(special.pad))])
    } else {
        let config = file.text_config()?;
        let id = |key: &str| config.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let roles =
            [("bos_token", id("bos_token_id")), ("eos_token", id("eos_token_id")), ("pad_token", None)];
        (file.language_tokenizer_json()?.to_string(), roles)
    };
    let tokenizer = json::parse(text.as_bytes())
        .map_err(|error| CheckpointError::format(path, format!("not a tokenizer: {error}")))?;
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    for (role, id) in roles {
        if let Some(token) = id.and_then(|id| tokenizer.id_to_token(id)) {
            config.insert(role.to_owned(), json!(token));
        }
    }
    let json = directory.join(TOKENIZER_JSON);
    fs::write(&json, text).map_err(CheckpointError::write(&json, directory))?;
    write_json(&directory.join(TOKENIZER_CONFIG), directory, &Value::Object(config))?;
    Ok(true)
}
