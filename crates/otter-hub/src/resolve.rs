//! From what a user writes for a model to a folder on this machine. Never uses the network.

use std::path::{Path, PathBuf};

use crate::error::{HubError, Result};
use crate::local::cache::pull_command;
use crate::local::record::Record;
use crate::names::repository::ModelReference;
use crate::settings::Settings;

/// The folder of a model given as a path, or as `org/name` or `org/name@revision`.
///
/// What exists as a path is that path. A name is looked for in the mirror, then in the cache. What is neither a path
/// nor a name comes back unchanged, so that the caller's own message names it.
///
/// # Errors
/// For a name of which there is no complete copy: what is there, and the command that gets it.
pub fn resolve_model(model: &Path, settings: &Settings) -> Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    let Some(reference) = model.to_str().and_then(|text| text.parse::<ModelReference>().ok()) else {
        return Ok(model.to_path_buf());
    };
    if let Some(mirror) = &settings.mirror {
        let folder = mirror_folder(mirror, &reference);
        if folder.is_dir() {
            check_revision(&folder, &reference)?;
            return Ok(folder);
        }
    }
    settings.cache.find(&reference).map_err(|error| match error {
        // Nothing of it is in the cache: more likely than not it was meant as a path.
        HubError::NotHere { what, problem, .. } => HubError::NotHere {
            what,
            problem: format!("there is no such file or directory, and {problem}"),
            advice: format!("if it is a model on the hub, get it with `{}`", pull_command(&reference)),
        },
        other => other,
    })
}

/// Where a mirror keeps a model.
pub(crate) fn mirror_folder(mirror: &Path, reference: &ModelReference) -> PathBuf {
    reference.id.as_str().split('/').fold(mirror.to_path_buf(), |path, part| path.join(part))
}

/// A mirror holds one revision of a model; a named one must be it.
pub(crate) fn check_revision(folder: &Path, reference: &ModelReference) -> Result<Option<Record>> {
    let record = Record::read(folder)?;
    let Some(asked) = &reference.revision else { return Ok(record) };
    let problem = match &record {
        Some(record) if [&record.revision, &record.commit].contains(&&asked.to_string()) => {
            return Ok(Some(record.clone()));
        }
        Some(record) => {
            format!(
                "the mirror {} holds revision {} (commit {})",
                folder.display(),
                record.revision,
                record.commit
            )
        }
        None => format!("the mirror {} does not say which revision it holds", folder.display()),
    };
    Err(HubError::NotHere {
        what: reference.to_string(),
        problem,
        advice: "name no revision to use it as it is, or pull this revision from the hub".to_string(),
    })
}
