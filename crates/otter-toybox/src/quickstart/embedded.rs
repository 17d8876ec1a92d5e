//! The base model inside the binary, so that the quickstart works from any folder.

use std::path::{Path, PathBuf};

use otter_checkpoint::atomic;

use super::error::QuickstartError;

/// Files of `assets/toybox-base`.
const FILES: [(&str, &[u8]); 7] = [
    ("config.json", include_bytes!("../../../../assets/toybox-base/config.json")),
    ("generation_config.json", include_bytes!("../../../../assets/toybox-base/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../../assets/toybox-base/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../../assets/toybox-base/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../../assets/toybox-base/tokenizer_config.json")),
    ("special_tokens_map.json", include_bytes!("../../../../assets/toybox-base/special_tokens_map.json")),
    ("added_tokens.json", include_bytes!("../../../../assets/toybox-base/added_tokens.json")),
];

/// Writes the base model as the directory `to`.
///
/// # Errors
/// When it cannot be written.
pub fn unpack(to: &Path) -> Result<PathBuf, QuickstartError> {
    let temporary = atomic::temporary_dir(to)?;
    for (name, bytes) in FILES {
        atomic::write_file(&temporary.join(name), bytes)?;
    }
    atomic::replace_dir(&temporary, to)?;
    Ok(to.to_path_buf())
}
