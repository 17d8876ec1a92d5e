//! Images in tar archives, fetched without unpacking. Held in memory: 16 bytes an image for its place, 16 for its id's hash.

use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::files::hash_index::{HashIndex, hash_id};
use crate::files::positioned_file::PositionedFile;
use crate::files::tar_archive::{TarEntries, TarEntry};
use crate::tables::image_files::{image_stem, path_fault};

/// Image files of one or several archives. The id is the path inside without extension; the name with it is found, too.
pub struct TarImages {
    path: PathBuf,
    archives: Vec<(PathBuf, PositionedFile)>,
    /// Archive and header of each image, in the order of the archives.
    places: Vec<(u32, u64)>,
    index: HashIndex,
    /// Entries that share their short name with another file, sorted.
    ambiguous: Vec<u32>,
}

impl TarImages {
    /// Reads the headers of the archives. Files that are no images are passed over; of a repeated name the last one counts.
    pub fn open(path: &Path, archives: Vec<PathBuf>) -> Result<Self> {
        let archives = archives
            .into_iter()
            .map(|path| PositionedFile::open(&path).map(|file| (path, file)))
            .collect::<Result<Vec<_>>>()?;
        let mut places = Vec::new();
        let mut hashes = Vec::new();
        for (number, (archive, file)) in archives.iter().enumerate() {
            let mut entries = TarEntries::new(file, archive, 0);
            while let Some(entry) = entries.next_file()? {
                if let Some(fault) = path_fault(&entry.name) {
                    let message =
                        format!("tar, byte {}: the name {:?} is refused: {fault}", entry.header, entry.name);
                    return Err(DataError::format(archive, message));
                }
                let Some(stem) = image_stem(&entry.name) else { continue };
                let Ok(place) = u32::try_from(places.len()) else {
                    return Err(DataError::format(path, "more than 4294967295 images; split the archive"));
                };
                hashes.push((hash_id(stem.as_bytes()), place));
                places.push((number as u32, entry.header));
            }
        }
        if places.is_empty() {
            return Err(DataError::format(path, "the archive holds no image file"));
        }
        let index = HashIndex::new(hashes);
        let mut images = Self { path: path.to_owned(), archives, places, index, ambiguous: Vec::new() };
        if images.drop_repeated()? {
            let hashes = (0..images.places.len()).map(|entry| {
                let name = images.entry(entry)?.name;
                Ok((hash_id(image_stem(&name).unwrap_or(&name).as_bytes()), entry as u32))
            });
            images.index = HashIndex::new(hashes.collect::<Result<_>>()?);
        }
        images.find_ambiguous()?;
        Ok(images)
    }

    /// Drops all but the last of entries of the same name; says whether there were any.
    fn drop_repeated(&mut self) -> Result<bool> {
        let mut gone = Vec::new();
        for group in self.index.shared() {
            let names = group
                .iter()
                .map(|&entry| Ok(self.entry(entry as usize)?.name))
                .collect::<Result<Vec<_>>>()?;
            gone.extend(
                (0..group.len()).filter(|&at| names[at + 1..].contains(&names[at])).map(|at| group[at]),
            );
        }
        gone.sort_unstable();
        let mut entry = 0;
        self.places.retain(|_| {
            entry += 1;
            gone.binary_search(&(entry - 1)).is_err()
        });
        Ok(!gone.is_empty())
    }

    fn find_ambiguous(&mut self) -> Result<()> {
        for group in self.index.shared() {
            let names = group
                .iter()
                .map(|&entry| Ok(self.entry(entry as usize)?.name))
                .collect::<Result<Vec<_>>>()?;
            let stems: Vec<_> = names.iter().map(|name| image_stem(name)).collect();
            let shared = |at: usize| stems.iter().filter(|stem| **stem == stems[at]).count() > 1;
            self.ambiguous.extend((0..group.len()).filter(|&at| shared(at)).map(|at| group[at]));
        }
        self.ambiguous.sort_unstable();
        Ok(())
    }

    /// The archive, or the folder of archives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn entry(&self, entry: usize) -> Result<TarEntry> {
        let (archive, header) = self.places[entry];
        let (path, file) = &self.archives[archive as usize];
        TarEntries::new(file, path, header).next_file()?.ok_or_else(|| {
            DataError::format(path, format!("tar, byte {header}: the entry is gone; the file was changed"))
        })
    }

    /// Id of an image: its path without extension, or with it where several files share the short one.
    pub fn id(&self, entry: usize) -> Result<String> {
        let name = self.entry(entry)?.name;
        let is_ambiguous = self.ambiguous.binary_search(&(entry as u32)).is_ok();
        Ok(image_stem(&name).filter(|_| !is_ambiguous).unwrap_or(&name).to_owned())
    }

    /// Position of the image with this id.
    pub fn find(&self, id: &str) -> Result<Option<usize>> {
        let candidates = |stem: &str| self.index.rows(hash_id(stem.as_bytes())).collect::<Vec<_>>();
        let mut found = Vec::new();
        for entry in candidates(id) {
            if image_stem(&self.entry(entry as usize)?.name) == Some(id) {
                found.push(entry as usize);
            }
        }
        if let [entry] = found[..] {
            return Ok(Some(entry));
        }
        for entry in image_stem(id).map(candidates).unwrap_or_default() {
            if self.entry(entry as usize)?.name == id {
                return Ok(Some(entry as usize));
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        Err(DataError::Image {
            name: format!("{id} of {}", self.path.display()),
            message: "several files have this name; use ids with the extension".into(),
        })
    }

    /// The bytes of an image.
    pub fn encoded(&self, entry: usize) -> Result<Vec<u8>> {
        let (archive, _) = self.places[entry];
        let found = self.entry(entry)?;
        let (path, file) = &self.archives[archive as usize];
        let size = usize::try_from(found.size).map_err(|error| DataError::io(path, error))?;
        file.bytes(found.start, size).map_err(|error| DataError::io(path, error))
    }
}
