//! Files that annotations name: always below the folder that was given.

use std::path::{Component, Path, PathBuf};

use super::item::{Reason, Skip};

/// What is looked for when an annotation names a video without its extension, besides a folder of that name.
const VIDEO_EXTENSIONS: [&str; 7] = ["mp4", "mkv", "webm", "avi", "mov", "m4v", "gif"];

/// `relative` below `root`; names that would leave it are refused.
pub fn below(root: &Path, relative: &str, place: &str) -> Result<PathBuf, Skip> {
    let path = Path::new(relative);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || relative.is_empty() || relative.contains('\0') {
        return Err(Skip::new(
            Reason::UnsafePath,
            format!(
                "{place}: the path {relative:?} is absolute, leaves its folder or is empty; give it relative to {}",
                root.display()
            ),
        ));
    }
    Ok(root.join(path))
}

/// The first of several names that is a file below `root`.
pub fn first_file(root: &Path, names: &[String], place: &str) -> Result<PathBuf, Skip> {
    for name in names {
        let path = below(root, name, place)?;
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(Skip::new(
        Reason::MissingImage,
        format!("{place}: no image {} in {}", names.join(" or "), root.display()),
    ))
}

/// A video by its name with or without extension: a file, or a folder of frames.
pub fn video(root: &Path, name: &str, place: &str) -> Result<PathBuf, Skip> {
    let exact = below(root, name, place)?;
    if exact.exists() {
        return Ok(exact);
    }
    for extension in VIDEO_EXTENSIONS {
        let path = root.join(format!("{name}.{extension}"));
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(Skip::new(
        Reason::MissingVideo,
        format!(
            "{place}: no video {name} (folder of frames, or .{}) in {}",
            VIDEO_EXTENSIONS.join(", ."),
            root.display()
        ),
    ))
}

/// The last component of a path up to its first dot, from which the original makes ids.
pub fn id_name(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    name.split('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_folder() {
        let root = Path::new("/data");
        assert_eq!(below(root, "a/./b.png", "x"), Ok(PathBuf::from("/data/a/./b.png")));
        for path in ["../b", "a/../../b", "/etc/passwd", "", "a\0b"] {
            let skip = below(root, path, "line 3").expect_err("it leaves the folder");
            assert_eq!(skip.reason, Reason::UnsafePath);
            assert!(skip.message.starts_with("line 3"));
        }
    }

    #[test]
    fn ids_are_names_up_to_the_first_dot() {
        assert_eq!(id_name("coco/train2017/000000000009.jpg"), "000000000009");
        assert_eq!(id_name("v_1.2.mp4"), "v_1");
    }
}
