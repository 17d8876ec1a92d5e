//! Models by their name on a hub, for every command that takes a model.

use std::path::{Path, PathBuf};

use anyhow::Result;
use otter_hub::Settings;

/// The directory of a model given as a path, or as `org/name` or `org/name@revision` of one that was pulled.
///
/// Nothing is downloaded: that is `otter pull`'s to do.
pub fn resolve_model(model: &Path) -> Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    Ok(otter_hub::resolve_model(model, &Settings::from_env()?)?)
}

/// As [`resolve_model`] for a model that the configuration file `config` names: reading the file has put the file's
/// folder, or the working directory for an override, in front of a relative name.
pub fn resolve_from(config: &Path, model: &Path) -> Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    let folder = config.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for base in [std::path::absolute(folder)?, std::env::current_dir()?] {
        if let Ok(name) = model.strip_prefix(&base) {
            let found = resolve_model(name)?;
            return Ok(if found == name { model.to_path_buf() } else { found });
        }
    }
    Ok(model.to_path_buf())
}
