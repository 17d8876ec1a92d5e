//! Where encoded images come from: a JSON file, parquet, the format otter-dataset, tar archives, or a folder of image files.
//!
//! | source | memory held | cost of one image |
//! |---|---|---|
//! | JSON | 24 bytes an image | one base64 decode from the mapped file |
//! | otter-dataset | 12 mapped bytes an image and the page cache | one page read |
//! | parquet | 16 bytes an image and the page cache | one page decompressed unless cached |
//! | tar | 32 bytes an image | one header and the file read |
//! | folder | its file names | one file read |

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::files::json_index::{JsonIndex, Section, json_string};
use crate::files::tar_archive::is_tar;
use crate::otter_dataset::{OtterDatasetImages, dataset_directory};
use crate::tables::base64_image::{decode_base64_image, image_of_file};
use crate::tables::image_files::{ImageFolder, image_stem};
use crate::tables::image_names::{OtherNames, composed};
use crate::tables::image_parquet::ParquetImages;
use crate::tables::image_tar::TarImages;

/// Encoded images by id.
pub struct ImageTable {
    source: Source,
    other_names: OtherNames,
}

enum Source {
    /// `{id: base64}` or `{"base64": {id: base64}}`.
    Json(JsonIndex),
    /// One parquet file, or a folder of parts.
    Parquet(ParquetImages),
    /// An otter-dataset directory.
    OtterDataset(OtterDatasetImages),
    /// One tar archive, or a folder of them; the id is the path inside without extension.
    Tar(TarImages),
    /// Image files; the id is the path below the folder, with or without extension.
    Folder(ImageFolder),
}

impl Source {
    fn open(path: &Path, parquet_cache_bytes: usize) -> Result<Self> {
        if let Some(directory) = dataset_directory(path) {
            return Ok(Self::OtterDataset(OtterDatasetImages::open(&directory, parquet_cache_bytes)?));
        }
        let metadata = fs::metadata(path).map_err(|error| DataError::io(path, error))?;
        if metadata.is_dir() {
            let parts = parts_with_extension(path, "parquet")?;
            if !parts.is_empty() {
                return Ok(Self::Parquet(ParquetImages::open(path, parts, parquet_cache_bytes)?));
            }
            let archives = parts_with_extension(path, "tar")?;
            if !archives.is_empty() {
                return Ok(Self::Tar(TarImages::open(path, archives)?));
            }
            return Ok(Self::Folder(ImageFolder::open(path)?));
        }
        let mut magic = [0; 4];
        let mut file = fs::File::open(path).map_err(|error| DataError::io(path, error))?;
        let is_parquet = std::io::Read::read_exact(&mut file, &mut magic).is_ok() && &magic == b"PAR1";
        if is_parquet {
            return Ok(Self::Parquet(ParquetImages::open(path, vec![path.to_owned()], parquet_cache_bytes)?));
        }
        let has_extension =
            |wanted: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted));
        if has_extension("parquet") {
            return Err(DataError::format(path, "no parquet file: it does not begin with PAR1"));
        }
        if has_extension("tar") || is_tar(path) {
            return Ok(Self::Tar(TarImages::open(path, vec![path.to_owned()])?));
        }
        Ok(Self::Json(JsonIndex::open(path, Section::NamedOrRoot("base64"))?))
    }

    /// Whether a name with its extension is found, too.
    fn is_of_files(&self) -> bool {
        matches!(self, Self::Tar(_) | Self::Folder(_))
    }

    fn find(&self, id: &str) -> Result<Option<usize>> {
        match self {
            Self::Json(index) => Ok(index.find(id)),
            Self::Parquet(images) => images.find(id),
            Self::OtterDataset(images) => images.try_find(id),
            Self::Tar(images) => images.find(id),
            Self::Folder(folder) => folder.find(id),
        }
    }
}

impl ImageTable {
    /// Opens a source, recognized by what it is: a folder's content, or a file's.
    pub fn open(path: &Path, parquet_cache_bytes: usize) -> Result<Self> {
        Ok(Self { source: Source::open(path, parquet_cache_bytes)?, other_names: OtherNames::default() })
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Json(index) => index.path(),
            Source::Parquet(images) => images.path(),
            Source::OtterDataset(images) => images.path(),
            Source::Tar(images) => images.path(),
            Source::Folder(folder) => folder.path(),
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Json(index) => index.len(),
            Source::Parquet(images) => images.len(),
            Source::OtterDataset(images) => images.len(),
            Source::Tar(images) => images.len(),
            Source::Folder(folder) => folder.len(),
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries were left out because a later one has the same id.
    pub fn repeated_ids(&self) -> usize {
        match &self.source {
            Source::Json(index) => index.repeated_keys(),
            Source::Parquet(images) => images.repeated_ids(),
            Source::OtterDataset(_) | Source::Tar(_) | Source::Folder(_) => 0,
        }
    }

    /// Lets go of mapped pages read so far; see [`JsonIndex::release_pages`].
    pub fn release_pages(&self) {
        if let Source::Json(index) = &self.source {
            index.release_pages();
        }
    }

    /// Id of an entry, in the order of the files.
    pub fn id(&self, entry: usize) -> Result<Cow<'_, str>> {
        match &self.source {
            Source::Json(index) => index.key(entry),
            Source::Parquet(images) => images.id(entry).map(Cow::Owned),
            Source::OtterDataset(images) => images.id(entry).map(Cow::Owned),
            Source::Tar(images) => images.id(entry).map(Cow::Owned),
            Source::Folder(folder) => Ok(Cow::Borrowed(folder.id(entry))),
        }
    }

    /// The entry with this id, as it stands or in another Unicode normal form.
    ///
    /// # Errors
    /// When the table cannot be read, or several entries are meant equally.
    pub fn find(&self, id: &str) -> Result<Option<usize>> {
        match self.source.find(id)? {
            None if !id.is_ascii() => self.find_in_other_form(id),
            found => Ok(found),
        }
    }

    fn find_in_other_form(&self, id: &str) -> Result<Option<usize>> {
        let form = composed(id);
        let mut found: BTreeSet<usize> = self.source.find(&form)?.into_iter().collect();
        let stem = image_stem(&form).filter(|_| self.source.is_of_files());
        for name in std::iter::once(form.as_str()).chain(stem) {
            let names = (0..self.len()).map(|entry| self.id(entry));
            found.extend(self.other_names.of_composed(name, names)?.iter().map(|&entry| entry as usize));
        }
        if found.len() > 1 {
            return Err(DataError::Image {
                name: format!("{id} of {}", self.path().display()),
                message: "several images have this name in different Unicode normal forms (NFC, NFD); rename all but one"
                    .to_owned(),
            });
        }
        Ok(found.first().copied())
    }

    /// Whether an image is found by its name without and with its extension.
    pub(crate) fn has_several_names(&self) -> bool {
        self.source.is_of_files()
    }

    /// An id that is equal but for capitals, as a hint where one is not found.
    pub fn similar_id(&self, id: &str) -> Option<String> {
        let names = (0..self.len()).map(|entry| self.id(entry));
        let stem = image_stem(id).filter(|_| self.source.is_of_files());
        let entry = std::iter::once(id).chain(stem).find_map(|id| {
            // A hint is not worth an error.
            self.other_names.but_for_capitals(id, names.clone()).ok().flatten()
        });
        self.id(entry? as usize).ok().map(Cow::into_owned)
    }

    /// The same for the first id only: where many are not found, looking for each costs, and one shows what is wrong.
    pub(crate) fn first_similar_id(&self, id: &str) -> Option<String> {
        self.other_names.is_first_hint().then(|| self.similar_id(id)).flatten()
    }

    /// The encoded bytes of an image, or `None` if the table does not have it.
    pub fn encoded(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.find(id)?.map(|entry| self.encoded_entry(entry)).transpose()
    }

    /// The encoded bytes of the image at an entry.
    pub fn encoded_entry(&self, entry: usize) -> Result<Vec<u8>> {
        let bad = |message: &str| {
            Err(DataError::Image {
                name: format!("{} of {}", self.id(entry)?, self.path().display()),
                message: message.to_owned(),
            })
        };
        let text = match &self.source {
            Source::Json(index) => {
                let value = index.value(entry)?;
                if value.first() != Some(&b'"') {
                    return bad("its value is no string; base64 text of an image is expected");
                }
                // The escaped form `\/` of a slash is common in files written by other languages.
                let text = match memchr::memchr(b'\\', value) {
                    Some(_) => json_string(value).map(|text| Cow::Owned(text.into_owned().into_bytes())),
                    None => Ok(Cow::Borrowed(&value[1..value.len() - 1])),
                };
                match text {
                    Ok(text) => decode_base64_image(&text),
                    Err(message) => return bad(&message),
                }
            }
            Source::Parquet(images) => decode_base64_image(&images.base64(entry)?),
            Source::OtterDataset(images) => return images.encoded(entry).map(|bytes| bytes.to_vec()),
            Source::Tar(images) => return images.encoded(entry).map(image_of_file),
            Source::Folder(folder) => return folder.encoded(entry).map(image_of_file),
        };
        text.or_else(|message| bad(&message))
    }
}

fn parts_with_extension(folder: &Path, wanted: &str) -> Result<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let path = entry.map_err(|error| DataError::io(folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == wanted) && path.is_file() {
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
    fn names_in_the_other_normal_form_are_found_and_capitals_are_a_hint() {
        // é composed and decomposed, as editors and macOS write it.
        let (nfc, nfd) = ("caf\u{e9}", "cafe\u{301}");
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("images");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(format!("{nfd}.png")), "1").unwrap();
        fs::write(folder.join("apple.PNG"), "2").unwrap();
        let table = ImageTable::open(&folder, 0).unwrap();
        for id in [nfc, nfd, &format!("{nfc}.png"), &format!("{nfd}.png")] {
            assert_eq!(table.encoded(id).unwrap(), Some(b"1".to_vec()), "{id}");
        }
        assert_eq!(table.encoded("th\u{e9}").unwrap(), None);
        assert_eq!(table.similar_id("Apple").as_deref(), Some("apple"));
        assert_eq!(table.similar_id("pear"), None);
        assert_eq!(table.first_similar_id("Apple").as_deref(), Some("apple"));
        assert_eq!(table.first_similar_id("Apple"), None);
        let file = place.path().join("images.json");
        fs::write(&file, format!(r#"{{"{nfc}":"MQ=="}}"#)).unwrap();
        let table = ImageTable::open(&file, 0).unwrap();
        assert_eq!(table.encoded(nfd).unwrap(), Some(b"1".to_vec()));
        // Each as it stands; a third form means both.
        let (long_nfc, long_nfd, mixed) = (nfc.repeat(2), nfd.repeat(2), format!("{nfc}{nfd}"));
        fs::write(&file, format!(r#"{{"{long_nfc}":"MQ==","{long_nfd}":"Mg=="}}"#)).unwrap();
        let table = ImageTable::open(&file, 0).unwrap();
        assert_eq!(table.encoded(&long_nfd).unwrap(), Some(b"2".to_vec()));
        assert!(table.encoded(&mixed).unwrap_err().to_string().contains("NFD"));
    }

    #[test]
    fn names_with_dots_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.b.c.png", "a.b.png"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let table = ImageTable::open(folder.path(), 0).unwrap();
        assert_eq!(table.encoded("a.b.c").unwrap(), Some(b"a.b.c.png".to_vec()));
        assert_eq!(table.encoded("a.b").unwrap(), Some(b"a.b.png".to_vec()));
        assert_eq!(table.encoded("a").unwrap(), None);
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
