//! Images as files: a folder of them, and the rules for ids that become file names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};

/// Extensions of image files that are read. `img` is what the writer gives to content that it does not recognize.
const IMAGE_EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "img"];

/// Deepest folder that is searched.
const FOLDER_DEPTH: usize = 8;

/// Longest component of a path, extension included, that all usual file systems take.
const COMPONENT_BYTES: usize = 250;

/// The extension that fits the content.
pub(crate) fn file_extension(encoded: &[u8]) -> &'static str {
    match encoded {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpg",
        [b'G', b'I', b'F', b'8', ..] => "gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
        _ => "img",
    }
}

/// The name without its extension, if that is one of an image.
pub(crate) fn image_stem(name: &str) -> Option<&str> {
    let (stem, extension) = name.rsplit_once('.')?;
    let is_image = IMAGE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known));
    (is_image && !stem.is_empty() && !stem.ends_with('/')).then_some(stem)
}

/// Why a relative path cannot be used, if so: it must stay inside its folder, on every system.
pub(crate) fn path_fault(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path.starts_with('/') {
        return Some("it is absolute");
    }
    if path.contains(|c: char| c == '\\' || c == ':' || c.is_control()) {
        return Some("it has a backslash, a colon or a control character");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("a part of it is empty, `.` or `..`");
    }
    None
}

/// Refuses ids that cannot be the path of a file below a folder.
pub(crate) fn check_file_id(id: &str) -> Result<()> {
    let fault = path_fault(id).or_else(|| {
        if id.split('/').count() > FOLDER_DEPTH {
            Some("it has more than 8 parts")
        } else if id.split('/').any(|part| part.len() > COMPONENT_BYTES) {
            Some("a part of it is longer than 250 bytes")
        } else {
            None
        }
    });
    match fault {
        None => Ok(()),
        Some(fault) => Err(DataError::Image {
            name: format!("{:?}", id.chars().take(100).collect::<String>()),
            message: format!(
                "{fault}, so the id cannot be the name of a file; write the form otter-dataset, json or parquet"
            ),
        }),
    }
}

/// Image files below a folder. The id is the path without extension; the name with extension finds it, too.
pub struct ImageFolder {
    path: PathBuf,
    /// Names relative to the folder, sorted.
    files: Vec<Box<str>>,
    /// Position in `files` by the name without extension; `None` where several files share it.
    stems: BTreeMap<Box<str>, Option<u32>>,
}

impl ImageFolder {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(path, "", 0, &mut files)?;
        if files.is_empty() {
            return Err(DataError::format(
                path,
                format!(
                    "neither a data set, parquet parts, tar files nor image files ({}) are in this folder",
                    IMAGE_EXTENSIONS.join(", ")
                ),
            ));
        }
        if u32::try_from(files.len()).is_err() {
            return Err(DataError::format(path, "more than 4294967295 files; split the folder"));
        }
        files.sort_unstable();
        let mut stems = BTreeMap::new();
        for (place, name) in files.iter().enumerate() {
            let Some(stem) = image_stem(name) else { continue };
            stems.entry(stem.into()).and_modify(|place| *place = None).or_insert(Some(place as u32));
        }
        Ok(Self { path: path.to_owned(), files, stems })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of image files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no image file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Id of an image: its name without extension, or with it where several files share the short one.
    pub fn id(&self, entry: usize) -> &str {
        let name = &self.files[entry];
        image_stem(name).filter(|stem| self.stems.get(*stem).is_some_and(Option::is_some)).unwrap_or(name)
    }

    /// Position of the image with this id.
    pub fn find(&self, id: &str) -> Result<Option<usize>> {
        let by_name = || self.files.binary_search_by(|name| (**name).cmp(id)).ok();
        match self.stems.get(id) {
            Some(Some(place)) => Ok(Some(*place as usize)),
            None => Ok(by_name()),
            Some(None) => by_name().map(Some).ok_or_else(|| DataError::Image {
                name: format!("{id} of {}", self.path.display()),
                message: "several files have this name; use ids with the extension".into(),
            }),
        }
    }

    /// The bytes of an image.
    pub fn encoded(&self, entry: usize) -> Result<Vec<u8>> {
        let file = self.path.join(&*self.files[entry]);
        fs::read(&file).map_err(|error| DataError::io(file, error))
    }
}

fn collect(path: &Path, prefix: &str, depth: usize, files: &mut Vec<Box<str>>) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|error| DataError::io(path, error))? {
        let entry = entry.map_err(|error| DataError::io(path, error))?;
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                let shown = name.to_string_lossy();
                if image_stem(&shown).is_some() {
                    let message = format!("the name of the image {shown:?} is not UTF-8; rename it");
                    return Err(DataError::format(path, message));
                }
                continue;
            }
        };
        // The type of the entry itself: linked folders are not followed, so there is no way out.
        let kind = entry.file_type().map_err(|error| DataError::io(entry.path(), error))?;
        if kind.is_dir() {
            if depth < FOLDER_DEPTH {
                collect(&entry.path(), &format!("{prefix}{name}/"), depth + 1, files)?;
            }
        } else if image_stem(&name).is_some() {
            files.push(format!("{prefix}{name}").into());
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ids_that_leave_their_folder_are_refused() {
        for id in ["a", "a.b", "sub/a", "ä", "..a", "a..", "a b"] {
            check_file_id(id).unwrap();
        }
        let long = "x".repeat(251);
        for id in [
            "",
            "/a",
            "../a",
            "a/../b",
            "a/",
            "a//b",
            ".",
            "a\\b",
            "c:x",
            "a\0",
            "a\n",
            "1/2/3/4/5/6/7/8/9",
            &long,
        ] {
            let message = check_file_id(id).unwrap_err().to_string();
            assert!(message.contains("otter-dataset"), "{message}");
        }
    }

    #[test]
    fn a_short_name_goes_before_a_long_one() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.png", "a.png.jpg", "b.png", "b.jpg"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let images = ImageFolder::open(folder.path()).unwrap();
        let get = |id: &str| images.encoded(images.find(id).unwrap().unwrap()).unwrap();
        assert_eq!(get("a"), b"a.png");
        assert_eq!(get("a.png"), b"a.png.jpg");
        assert_eq!(get("b.jpg"), b"b.jpg");
        assert!(images.find("b").is_err());
        for entry in 0..images.len() {
            assert_eq!(images.find(images.id(entry)).unwrap(), Some(entry), "{}", images.id(entry));
        }
    }
}
