//! What an import has done so far, so that an interrupted one goes on: a folder beside the data set.
//!
//! `plan.json` says what is imported and how; another plan does not continue this one. `items.bin` holds the finished items in
//! order, each with its length and a check sum, so that what a kill left half-written is found and cut off. Images that stay as they
//! are in their files are named, not copied.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::process::{Entry, Finished};
use crate::sources::error::ImportError;

/// Largest entry without its images that is believed.
const MAX_ENTRY: u64 = 1 << 30;

/// An open journal.
pub struct Journal {
    folder: PathBuf,
    file: PathBuf,
    writer: BufWriter<File>,
    /// Number of items in it.
    pub items: usize,
}

impl Journal {
    /// Opens or begins the journal in `folder`.
    pub fn open(folder: &Path, plan: &Value) -> Result<Self, ImportError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| ImportError::io(&path, error)
        };
        fs::create_dir_all(folder).map_err(failed(folder))?;
        let file = folder.join("items.bin");
        let plan_file = folder.join("plan.json");
        let mut items = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .map_err(failed(&file))?;
        if items.try_lock().is_err() {
            return Err(ImportError::Option(format!(
                "{}: another import is writing here; wait for it, or give another --out",
                folder.display()
            )));
        }
        match fs::read(&plan_file) {
            Ok(text) => {
                let before: Value = serde_json::from_slice(&text).unwrap_or_default();
                if let Some(difference) = difference(&before, plan) {
                    return Err(ImportError::Option(format!(
                        "{} holds a part of an import with other options ({difference}); repeat it with those, or begin anew \
                         with --restart",
                        folder.display()
                    )));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                otter_io::write_whole(&plan_file, plan.to_string().as_bytes()).map_err(failed(&plan_file))?;
                // Items without a plan are of nobody.
                items.set_len(0).map_err(failed(&file))?;
            }
            Err(error) => return Err(ImportError::io(&plan_file, error)),
        }
        let mut reader = Reader::new(&file)?;
        let mut done = 0;
        let mut end = 0;
        while reader.next_entry(false)?.is_some() {
            done += 1;
            end = reader.position;
        }
        items.set_len(end).map_err(failed(&file))?;
        items.seek(SeekFrom::End(0)).map_err(failed(&file))?;
        let writer = BufWriter::with_capacity(1 << 18, items);
        Ok(Self { folder: folder.to_owned(), file, writer, items: done })
    }

    /// Adds an item.
    pub fn append(&mut self, item: &Finished) -> Result<(), ImportError> {
        let failed = |error: std::io::Error| ImportError::io(&self.file, error);
        let entry = serde_json::to_vec(&item.entry).map_err(|error| ImportError::io(&self.file, error))?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(&entry);
        item.bytes.iter().for_each(|bytes| sum.update(bytes));
        let body: u64 = item.bytes.iter().map(|bytes| bytes.len() as u64).sum();
        let mut head = [0; 20];
        head[..8].copy_from_slice(&(entry.len() as u64).to_le_bytes());
        head[8..16].copy_from_slice(&body.to_le_bytes());
        head[16..].copy_from_slice(&sum.finalize().to_le_bytes());
        self.writer.write_all(&head).map_err(failed)?;
        self.writer.write_all(&entry).map_err(failed)?;
        for bytes in &item.bytes {
            self.writer.write_all(bytes).map_err(failed)?;
        }
        self.items += 1;
        Ok(())
    }

    /// Hands what was added to the system.
    pub fn flush(&mut self) -> Result<(), ImportError> {
        self.writer.flush().map_err(|error| ImportError::io(&self.file, error))
    }

    /// Reads what is in it from the start.
    pub fn read(&mut self) -> Result<Reader, ImportError> {
        self.flush()?;
        Reader::new(&self.file)
    }

    /// Removes it after the data set is complete.
    pub fn remove(self) -> Result<(), ImportError> {
        drop(self.writer);
        fs::remove_dir_all(&self.folder).map_err(|error| ImportError::io(&self.folder, error))
    }
}

/// Reads a journal.
pub struct Reader {
    file: PathBuf,
    reader: BufReader<File>,
    length: u64,
    position: u64,
}

impl Reader {
    fn new(file: &Path) -> Result<Self, ImportError> {
        let open = File::open(file).map_err(|error| ImportError::io(file, error))?;
        let length = open.metadata().map_err(|error| ImportError::io(file, error))?.len();
        let reader = BufReader::with_capacity(1 << 18, open);
        Ok(Self { file: file.to_owned(), reader, length, position: 0 })
    }

    /// The next whole entry, or `None` at the end or where the rest is damaged. Without `bytes` the images are only checked.
    pub fn next_entry(&mut self, bytes: bool) -> Result<Option<Finished>, ImportError> {
        let mut head = [0; 20];
        if self.length - self.position < head.len() as u64 {
            return Ok(None);
        }
        self.fill(&mut head)?;
        let number = |range: std::ops::Range<usize>| {
            head[range].iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
        };
        let (entry_length, body, sum) = (number(0..8), number(8..16), number(16..20));
        let room = self.length - self.position - head.len() as u64;
        if entry_length > MAX_ENTRY || entry_length > room || body > room - entry_length {
            return Ok(None);
        }
        let mut text = vec![0; entry_length as usize];
        self.fill(&mut text)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&text);
        let Ok(entry) = serde_json::from_slice::<Entry>(&text) else { return Ok(None) };
        let sizes: Vec<u64> =
            entry.images.iter().filter(|image| !image.kept).map(|image| image.bytes).collect();
        if sizes.iter().try_fold(0_u64, |total, size| total.checked_add(*size)) != Some(body) {
            return Ok(None);
        }
        let mut images = Vec::new();
        for size in sizes {
            let mut image = vec![0; size as usize];
            self.fill(&mut image)?;
            hasher.update(&image);
            if bytes {
                images.push(image);
            }
        }
        if u64::from(hasher.finalize()) != sum {
            return Ok(None);
        }
        self.position += head.len() as u64 + entry_length + body;
        Ok(Some(Finished { entry, bytes: images }))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImportError> {
        self.reader.read_exact(buffer).map_err(|error| ImportError::io(&self.file, error))
    }
}

/// The first difference between two plans.
fn difference(before: &Value, now: &Value) -> Option<String> {
    let (Value::Object(old), Value::Object(new)) = (before, now) else {
        return (before != now).then(|| format!("{before}, now {now}"));
    };
    let keys = old.keys().chain(new.keys());
    keys.into_iter().find_map(|key| {
        let (old, new) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
        difference(old, new).map(|found| {
            if old.is_object() && new.is_object() {
                format!("{key}.{found}")
            } else {
                format!("{key} was {found}")
            }
        })
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::sources::import::process::EntryImage;

    fn item(number: usize) -> Finished {
        let image = |name: &str, bytes, kept| EntryImage {
            id: format!("{name}{number}"),
            origin: PathBuf::from("x"),
            bytes,
            kept,
            notes: otter_data::ImageNotes::default(),
        };
        let entry = Entry {
            name: format!("item {number}"),
            numbered: 1,
            pairs: Vec::new(),
            images: vec![image("kept", 1000, true), image("new", 3, false)],
            skips: Vec::new(),
            thinned: false,
        };
        Finished { entry, bytes: vec![vec![number as u8; 3]] }
    }

    fn names(journal: &mut Journal) -> Vec<String> {
        let mut reader = journal.read().unwrap();
        std::iter::from_fn(|| reader.next_entry(true).unwrap())
            .map(|item| format!("{} {:?}", item.entry.name, item.bytes))
            .collect()
    }

    #[test]
    fn every_cut_and_every_changed_byte_costs_at_most_the_rest() {
        let place = tempfile::tempdir().unwrap();
        let plan = json!({"source": "sd"});
        let folder = place.path().join("a.import");
        let mut journal = Journal::open(&folder, &plan).unwrap();
        for number in 0..3 {
            journal.append(&item(number)).unwrap();
        }
        let all = names(&mut journal);
        assert_eq!(all.len(), 3);
        drop(journal);
        let file = folder.join("items.bin");
        let whole = fs::read(&file).unwrap();
        let third = whole.len() / 3;
        for cut in 0..whole.len() {
            fs::write(&file, &whole[..cut]).unwrap();
            let mut journal = Journal::open(&folder, &plan).unwrap();
            assert_eq!(journal.items, cut / third);
            journal.append(&item(journal.items)).unwrap();
            assert_eq!(names(&mut journal), all[..=cut / third]);
        }
        for at in (0..third).map(|at| at + third) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            fs::write(&file, &changed).unwrap();
            assert_eq!(Journal::open(&folder, &plan).unwrap().items, 1, "byte {at}");
        }
    }

    #[test]
    fn another_plan_and_another_process_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a.import");
        let plan = json!({"video": {"fps": 1.0}, "source": "dc"});
        let journal = Journal::open(&folder, &plan).unwrap();
        let message = Journal::open(&folder, &plan).err().unwrap().to_string();
        assert!(message.contains("another import"), "{message}");
        drop(journal);
        let other = json!({"video": {"fps": 2.0}, "source": "dc"});
        let message = Journal::open(&folder, &other).err().unwrap().to_string();
        assert!(message.contains("video.fps was 1.0, now 2.0") && message.contains("--restart"), "{message}");
        assert!(Journal::open(&folder, &plan).is_ok());
    }
}
