//! Files and directories that are replaced as a whole or not at all.
//!
//! A directory named `model` is replaced in steps that a kill at any moment leaves repairable:
//! write `.model.tmp-<pid>-<n>`, fsync all of it, rename it to `.model.new` (from here on it is complete),
//! rename `model` to `.model.old`, rename `.model.new` to `model`, delete `.model.old`.
//! [`recover`] finishes or undoes whatever an interrupted run left behind.

use crate::error::{CheckpointError, Result};
use otter_io::atomic_file::{self, AtomicFile, hidden_sibling, parent, sync_folder};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the process table cannot be asked, a temporary directory this old belongs to nobody.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Writes a file under a temporary name beside `path`, fsyncs it and renames it into place.
///
/// # Errors
/// When any step fails; then `path` is as it was before and the temporary file is gone.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file_with(path, |file| file.write_all(bytes).map_err(write_failed(path, path)))
}

/// As [`write_file`], for content that is made while it is written.
///
/// # Errors
/// As [`write_file`], and whatever `write` gives.
pub fn write_file_with<T>(path: &Path, write: impl FnOnce(&mut AtomicFile) -> Result<T>) -> Result<T> {
    let mut file = AtomicFile::create(path).map_err(write_failed(path, path))?;
    let result = write(&mut file)?;
    let temporary = file.temporary().to_path_buf();
    file.finish().map_err(write_failed(&temporary, path))?;
    Ok(result)
}

/// Puts the finished file `temporary`, of a [`temporary_dir`] of `target`, in the place of `target`.
///
/// # Errors
/// When the rename or fsync fails; then `target` is as it was before.
pub fn replace_file(temporary: &Path, target: &Path) -> Result<()> {
    let target = resolve(target);
    fs::rename(temporary, &target).map_err(write_failed(temporary, &target))?;
    sync_directory(parent(&target))
}

fn write_failed(path: &Path, target: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    CheckpointError::write(path, target)
}

/// A new empty directory beside `target` to write into, for [`replace_dir`]. Leftovers of dead
/// processes are cleared first.
///
/// # Errors
/// When the parent cannot be written.
pub fn temporary_dir(target: &Path) -> Result<PathBuf> {
    let target = resolve(target);
    let above = parent(&target);
    fs::create_dir_all(above).map_err(CheckpointError::io(above, "create the directory"))?;
    recover(&target)?;
    let temporary = temporary_sibling(&target)?;
    fs::create_dir(&temporary).map_err(CheckpointError::io(&temporary, "create the directory"))?;
    Ok(temporary)
}

/// Puts the finished directory `temporary` in the place of `target`, which may exist.
///
/// # Errors
/// When a rename or fsync fails. `target` then still holds the old content, or [`recover`] brings it back.
pub fn replace_dir(temporary: &Path, target: &Path) -> Result<()> {
    let target = resolve(target);
    sync_tree(temporary)?;
    recover(&target)?;
    let ready = marked(&target, ".new")?;
    fs::rename(temporary, &ready).map_err(CheckpointError::io(temporary, "rename the finished directory"))?;
    sync_directory(parent(&target))?;
    swap_in(&target)
}

/// Repairs what an interrupted [`replace_dir`] left: afterwards `target` is the old or the new content,
/// complete, and temporary directories of dead processes are gone. Call before reading or writing `target`.
///
/// # Errors
/// When a rename or removal fails.
pub fn recover(target: &Path) -> Result<()> {
    let target = resolve(target);
    let (ready, old) = (marked(&target, ".new")?, marked(&target, ".old")?);
    if ready.exists() {
        if target.exists() && old.exists() {
            remove_tree(&old)?;
        }
        swap_in(&target)?;
    } else if old.exists() {
        if target.exists() {
            remove_tree(&old)?;
        } else {
            fs::rename(&old, &target).map_err(CheckpointError::io(&old, "restore the previous directory"))?;
        }
        sync_directory(parent(&target))?;
    }
    remove_stale(&target)
}

/// From "complete under `.new`" to "in place". Every step may already have happened.
fn swap_in(target: &Path) -> Result<()> {
    let (ready, old) = (marked(target, ".new")?, marked(target, ".old")?);
    if target.exists() {
        fs::rename(target, &old).map_err(CheckpointError::io(target, "set the previous directory aside"))?;
    }
    if let Err(source) = fs::rename(&ready, target) {
        // A reader that found the place empty may have finished the replacement for us.
        if source.kind() != io::ErrorKind::NotFound || !target.exists() {
            return Err(CheckpointError::io(&ready, "rename into place")(source));
        }
    }
    sync_directory(parent(target))?;
    if old.exists() { remove_tree(&old) } else { Ok(()) }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CheckpointError::io(path, "remove")(source))
        }
        _ => Ok(()),
    }
}

fn remove_stale(target: &Path) -> Result<()> {
    let above = parent(target);
    let prefix = marked(target, ".tmp-")?;
    let prefix = prefix.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Ok(listing) = fs::read_dir(above) else { return Ok(()) };
    for item in listing.flatten() {
        let name = item.file_name();
        let name = name.to_string_lossy();
        let Some(owner) = name.strip_prefix(&prefix).and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        let Ok(process) = owner.parse::<u32>() else { continue };
        if process == std::process::id() || is_alive(process, &item) {
            continue;
        }
        let path = item.path();
        if path.is_dir() {
            remove_tree(&path)?;
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

fn is_alive(process: u32, item: &fs::DirEntry) -> bool {
    if Path::new("/proc/self").exists() {
        return Path::new("/proc").join(process.to_string()).exists();
    }
    let age = item.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_none_or(|age| age < STALE_AFTER)
}

/// A link is followed, so that what it points to is replaced and not the link.
fn resolve(target: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(target) {
        return real;
    }
    // A link whose target was just set aside by an interrupted replacement.
    match fs::read_link(target) {
        Ok(pointed_to) => parent(target).join(pointed_to),
        Err(_) => target.to_path_buf(),
    }
}

/// `.name` + suffix, beside `target`.
fn marked(target: &Path, suffix: &str) -> Result<PathBuf> {
    hidden_sibling(target, suffix).ok_or_else(|| {
        CheckpointError::format(target, "this path has no last component that could be replaced")
    })
}

fn temporary_sibling(target: &Path) -> Result<PathBuf> {
    atomic_file::temporary_sibling(target).map_err(CheckpointError::io(target, "replace"))
}

fn sync_tree(path: &Path) -> Result<()> {
    let listing = fs::read_dir(path).map_err(CheckpointError::io(path, "list"))?;
    for item in listing {
        let item = item.map_err(CheckpointError::io(path, "list"))?;
        let inner = item.path();
        if inner.is_dir() {
            sync_tree(&inner)?;
        } else {
            let file = File::open(&inner).map_err(CheckpointError::io(&inner, "open"))?;
            file.sync_all().map_err(CheckpointError::io(&inner, "fsync"))?;
        }
    }
    sync_directory(path)
}

fn sync_directory(path: &Path) -> Result<()> {
    sync_folder(path).map_err(CheckpointError::io(path, "fsync"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn directory(path: &Path, content: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join("value"), content).unwrap();
    }

    fn value(path: &Path) -> String {
        fs::read_to_string(path.join("value")).unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_whole() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state.json");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(place.path()), ["state.json"]);
        assert!(write_file(&place.path().join("absent/state.json"), b"x").is_err());
    }

    #[test]
    fn directories_are_replaced_whole() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        for content in ["one", "two"] {
            let temporary = temporary_dir(&target).unwrap();
            fs::write(temporary.join("value"), content).unwrap();
            replace_dir(&temporary, &target).unwrap();
            assert_eq!(value(&target), content);
            assert_eq!(names(place.path()), ["model"]);
        }
    }

    /// Every state that a kill between two system calls can leave, and what must come out of it.
    #[test]
    fn every_interrupted_state_recovers() {
        // (target, new, old) present before; content expected afterwards
        let states = [
            (true, false, false, "target"),
            (true, true, false, "new"),
            (false, true, true, "new"),
            (false, true, false, "new"),
            (true, false, true, "target"),
            (false, false, true, "old"),
            (true, true, true, "new"),
        ];
        for (has_target, has_new, has_old, expected) in states {
            let place = tempfile::tempdir().unwrap();
            let target = place.path().join("model");
            for (present, name, content) in [
                (has_target, "model", "target"),
                (has_new, ".model.new", "new"),
                (has_old, ".model.old", "old"),
            ] {
                if present {
                    directory(&place.path().join(name), content);
                }
            }
            directory(&place.path().join(".model.tmp-4294967295-0"), "half");
            recover(&target).unwrap();
            assert_eq!(value(&target), expected, "{has_target} {has_new} {has_old}");
            assert_eq!(names(place.path()), ["model"]);
            recover(&target).unwrap();
            assert_eq!(value(&target), expected);
        }
    }

    #[test]
    fn temporary_directories_in_use_stay() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        let temporary = temporary_dir(&target).unwrap();
        recover(&target).unwrap();
        assert!(temporary.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_keeps_pointing_to_the_replaced_directory() {
        let place = tempfile::tempdir().unwrap();
        directory(&place.path().join("real"), "one");
        let link = place.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let temporary = temporary_dir(&link).unwrap();
        fs::write(temporary.join("value"), "two").unwrap();
        replace_dir(&temporary, &link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(value(&place.path().join("real")), "two");
    }
}
