//! Where encoded images come from: a JSON file, parquet, or a folder of image files.
//!
//! | source | memory held | cost of one image |
//! |---|---|---|
//! | JSON | 24 bytes an image | one base64 decode from the mapped file |
//! | parquet | about 100 bytes an image and the page cache | one page decompressed unless cached |
//! | folder | its file names | one file read |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::base64_text::decode_base64;
use crate::error::{DataError, Result};
use crate::image_parquet::ParquetImages;
use crate::json_index::{JsonIndex, Section, json_string};

/// Encoded images by id.
pub enum ImageTable {
    /// `{id: base64}` or `{"base64": {id: base64}}`.
    Json(JsonIndex),
    /// One parquet file, or a folder of parts.
    Parquet(ParquetImages),
    /// Image files; the id is the path below the folder, with or without extension.
    Folder(ImageFolder),
}

impl ImageTable {
    /// Opens a source, recognised by what it is: a folder with or without parquet parts, or a file's content.
    pub fn open(path: &Path, parquet_cache_bytes: usize) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| DataError::io(path, error))?;
        if metadata.is_dir() {
            let parts = parquet_parts(path)?;
            return if parts.is_empty() {
                Ok(Self::Folder(ImageFolder::open(path)?))
            } else {
                Ok(Self::Parquet(ParquetImages::open(path, parts, parquet_cache_bytes)?))
            };
        }
        let mut magic = [0; 4];
        let mut file = fs::File::open(path).map_err(|error| DataError::io(path, error))?;
        let is_parquet = std::io::Read::read_exact(&mut file, &mut magic).is_ok() && &magic == b"PAR1";
        if is_parquet {
            return Ok(Self::Parquet(ParquetImages::open(path, vec![path.to_owned()], parquet_cache_bytes)?));
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
            return Err(DataError::format(path, "no parquet file: it does not begin with PAR1"));
        }
        Ok(Self::Json(JsonIndex::open(path, Section::NamedOrRoot("base64"))?))
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Json(index) => index.path(),
            Self::Parquet(images) => images.path(),
            Self::Folder(folder) => &folder.path,
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(index) => index.len(),
            Self::Parquet(images) => images.len(),
            Self::Folder(folder) => folder.files,
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries were left out because a later one has the same id.
    pub fn repeated_ids(&self) -> usize {
        match self {
            Self::Json(index) => index.repeated_keys(),
            Self::Parquet(images) => images.repeated_ids(),
            Self::Folder(_) => 0,
        }
    }

    /// Calls `visit` with each id once, in the order in which the images lie in the files.
    pub fn visit_ids(&self, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        match self {
            Self::Json(index) => (0..index.len()).try_for_each(|entry| visit(&index.key(entry)?)),
            Self::Parquet(images) => images.visit_ids(visit),
            Self::Folder(folder) => folder.visit_ids(visit),
        }
    }

    /// The encoded bytes of an image, or `None` if the table does not have it.
    pub fn encoded(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let bad = |message: &str| DataError::Image {
            name: format!("{id} of {}", self.path().display()),
            message: message.to_owned(),
        };
        match self {
            Self::Json(index) => {
                let Some(entry) = index.find(id) else { return Ok(None) };
                let value = index.value(entry)?;
                if value.first() != Some(&b'"') {
                    return Err(bad("its value is no string; base64 text of an image is expected"));
                }
                // The escaped form `\/` of a slash is common in files written by other languages.
                let text = match memchr::memchr(b'\\', value) {
                    Some(_) => {
                        json_string(value).map_err(|message| bad(&message))?.into_owned().into_bytes().into()
                    }
                    None => std::borrow::Cow::Borrowed(&value[1..value.len() - 1]),
                };
                decode_base64(&text).map(Some).map_err(bad)
            }
            Self::Parquet(images) => match images.base64(id)? {
                None => Ok(None),
                Some(text) => decode_base64(&text).map(Some).map_err(bad),
            },
            Self::Folder(folder) => folder.encoded(id),
        }
    }
}

fn parquet_parts(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let path = entry.map_err(|error| DataError::io(folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "parquet") && path.is_file() {
            parts.push(path);
        }
    }
    // part.2 before part.10: the last of several rows with the same id counts.
    parts.sort_by_key(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.rsplit('.').next().and_then(|digits| digits.parse::<u64>().ok());
        (number, name)
    });
    Ok(parts)
}

/// Image files below a folder.
pub struct ImageFolder {
    path: PathBuf,
    /// Relative name with and without extension. `None` where several files share the short name.
    names: BTreeMap<String, Option<PathBuf>>,
    files: usize,
}

const IMAGE_EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "gif"];

/// Deepest folder that is searched.
const FOLDER_DEPTH: usize = 8;

impl ImageFolder {
    fn open(path: &Path) -> Result<Self> {
        let mut folder = Self { path: path.to_owned(), names: BTreeMap::new(), files: 0 };
        folder.collect(path, "", 0)?;
        if folder.files == 0 {
            return Err(DataError::format(
                path,
                format!(
                    "neither parquet parts nor image files ({}) are in this folder",
                    IMAGE_EXTENSIONS.join(", ")
                ),
            ));
        }
        Ok(folder)
    }

    fn collect(&mut self, path: &Path, prefix: &str, depth: usize) -> Result<()> {
        for entry in fs::read_dir(path).map_err(|error| DataError::io(path, error))? {
            let entry = entry.map_err(|error| DataError::io(path, error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // The type of the entry itself: linked folders are not followed, so there is no way out.
            let kind = entry.file_type().map_err(|error| DataError::io(entry.path(), error))?;
            if kind.is_dir() && depth < FOLDER_DEPTH {
                self.collect(&entry.path(), &format!("{prefix}{name}/"), depth + 1)?;
            }
            let Some((stem, extension)) = name.rsplit_once('.') else { continue };
            if kind.is_dir() || !IMAGE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) {
                continue;
            }
            self.files += 1;
            self.names.insert(format!("{prefix}{name}"), Some(entry.path()));
            self.names
                .entry(format!("{prefix}{stem}"))
                .and_modify(|file| *file = None)
                .or_insert_with(|| Some(entry.path()));
        }
        Ok(())
    }

    /// The names with extension.
    fn visit_ids(&self, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut names = self.names.iter();
        names.try_for_each(|(name, file)| {
            let is_whole = file.as_ref().is_some_and(|file| file.ends_with(name));
            if is_whole { visit(name) } else { Ok(()) }
        })
    }

    fn encoded(&self, id: &str) -> Result<Option<Vec<u8>>> {
        match self.names.get(id) {
            None => Ok(None),
            Some(None) => Err(DataError::Image {
                name: format!("{id} of {}", self.path.display()),
                message: "several files have this name; use ids with the extension".into(),
            }),
            Some(Some(file)) => fs::read(file).map(Some).map_err(|error| DataError::io(file, error)),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_only_its_own_files() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("images");
        fs::create_dir_all(folder.join("sub")).unwrap();
        for (name, text) in
            [("a.png", "1"), ("b.jpg", "2"), ("b.png", "3"), ("sub/c.webp", "4"), ("note.txt", "5")]
        {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::write(outer.path().join("secret.png"), "6").unwrap();
        let table = ImageTable::open(&folder, 0).unwrap();
        assert_eq!(table.len(), 4);
        let get = |id: &str| table.encoded(id).unwrap();
        assert_eq!(get("a"), Some(b"1".to_vec()));
        assert_eq!(get("b.jpg"), Some(b"2".to_vec()));
        assert_eq!(get("sub/c"), Some(b"4".to_vec()));
        assert_eq!(get("../secret"), None);
        assert_eq!(get("note"), None);
        assert!(table.encoded("b").is_err());
    }

    #[test]
    fn damaged_values_name_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.json");
        fs::write(&file, r#"{"ok":"aGk\/","cut":"aGk","none":null}"#).unwrap();
        let table = ImageTable::open(&file, 0).unwrap();
        assert_eq!(table.encoded("ok").unwrap(), Some(vec![0x68, 0x69, 0x3f]));
        assert_eq!(table.encoded("absent").unwrap(), None);
        for id in ["cut", "none"] {
            let message = table.encoded(id).err().unwrap().to_string();
            assert!(message.contains(id) && message.contains("images.json"), "{message}");
        }
    }
}
