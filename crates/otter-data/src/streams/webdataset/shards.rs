//! The samples of tar shards and of files of JSON lines, found by one pass over headers or line ends.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{DataError, Result};
use crate::files::positioned_file::PositionedFile;
use crate::files::tar_archive::{TarEntries, is_tar};
use crate::files::text_file::open_text_file;
use crate::text::clean::without_byte_order_mark;

/// Largest file of a sample, or line, that is read.
pub(super) const MAX_PART_BYTES: u64 = 1 << 27;

/// Most files that one sample may have.
const MAX_PARTS: usize = 64;

/// How a file holds its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Consecutive files of one key.
    Tar,
    /// One JSON document a line.
    JsonLines,
}

struct Shard {
    path: PathBuf,
    /// Size when the places were noted.
    length: u64,
    form: Form,
    /// Entry of its first sample.
    first: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    shard: u32,
    start: u64,
}

/// The files of one sample.
pub(crate) struct Item {
    /// Extension, after the first dot of the name and in lower case, and content. A line has the extension `json`.
    pub(crate) parts: Vec<(String, Vec<u8>)>,
    /// Extensions of its files that were not asked for.
    others: Vec<String>,
}

impl Item {
    /// The content of the first part whose extension is one of these, with the extension.
    pub(crate) fn part(&self, extensions: &[&str]) -> Option<(&str, &[u8])> {
        let found =
            extensions.iter().find_map(|wanted| self.parts.iter().find(|(extension, _)| extension == wanted));
        found.map(|(extension, bytes)| match extension.as_str() {
            text @ ("json" | "txt") => (text, without_byte_order_mark(bytes)),
            other => (other, &bytes[..]),
        })
    }

    /// Its files, for a message that one is missing; with the rule of names where that is the likely cause.
    pub(crate) fn listing(&self) -> String {
        let read = self.parts.iter().map(|(extension, _)| extension);
        let names: Vec<String> = read.chain(&self.others).map(|extension| format!(".{extension}")).collect();
        if names.is_empty() {
            return String::new();
        }
        let rule = if self.others.iter().any(|extension| extension.contains('.')) {
            "; WebDataset splits a name at its first dot, so files that differ only behind it collide in one sample: rename them"
        } else {
            ""
        };
        format!(" (its files are {}{rule})", names.join(", "))
    }
}

/// All samples of a list of files, in order.
pub(crate) struct Shards {
    shards: Vec<Shard>,
    places: Vec<Place>,
}

impl Shards {
    /// Notes where each sample begins. Files are read in parallel; of tar archives only the headers.
    pub(crate) fn open(paths: Vec<PathBuf>) -> Result<Self> {
        if u32::try_from(paths.len()).is_err() {
            return Err(DataError::Config("more than 4294967295 shards; list fewer".into()));
        }
        let found: Vec<(u64, Form, Vec<u64>)> =
            paths.par_iter().map(|path| starts(path)).collect::<Result<_>>()?;
        let mut shards = Vec::with_capacity(paths.len());
        let mut places = Vec::with_capacity(found.iter().map(|(_, _, starts)| starts.len()).sum());
        for (path, (length, form, starts)) in paths.into_iter().zip(found) {
            let shard = shards.len() as u32;
            shards.push(Shard { path, length, form, first: places.len() });
            places.extend(starts.into_iter().map(|start| Place { shard, start }));
        }
        if u32::try_from(places.len()).is_err() {
            return Err(DataError::Config(
                "more than 4294967295 samples in one stream; list fewer shards".into(),
            ));
        }
        Ok(Self { shards, places })
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The file that holds a sample.
    pub(crate) fn path(&self, entry: usize) -> &Path {
        &self.shards[self.places[entry].shard as usize].path
    }

    /// `shard/key`; lines have no key and are numbered from 0.
    pub(crate) fn id(&self, entry: usize) -> Result<String> {
        let (shard, file, start, end) = self.open_at(entry)?;
        let name = shard.path.file_stem().unwrap_or_default().to_string_lossy();
        if shard.form == Form::JsonLines {
            return Ok(format!("{name}/{}", entry - shard.first));
        }
        let entry = sample_entries(&file, &shard.path, start, end).next().transpose()?;
        let (key, _, _) = entry.ok_or_else(|| changed(&shard.path))?;
        Ok(format!("{name}/{key}"))
    }

    /// The files of a sample that have one of these extensions. The inner error says why this one sample cannot be used.
    pub(crate) fn item(&self, entry: usize, extensions: &[&str]) -> Result<Result<Item, String>> {
        let (shard, file, start, end) = self.open_at(entry)?;
        let read = |start: u64, size: u64| {
            file.bytes(start, size as usize).map_err(|e| DataError::io(&shard.path, e))
        };
        let (mut parts, mut others) = (Vec::new(), Vec::new());
        match shard.form {
            Form::JsonLines => {
                if let Some(message) = too_large("the line", end - start) {
                    return Ok(Err(message));
                }
                let mut line = read(start, end - start)?;
                line.truncate(memchr::memchr(b'\n', &line).unwrap_or(line.len()));
                parts.push(("json".to_owned(), line));
            }
            Form::Tar => {
                for found in sample_entries(&file, &shard.path, start, end) {
                    let (_, extension, place) = found?;
                    if !extensions.contains(&extension.as_str()) {
                        others.push(extension);
                        continue;
                    }
                    if let Some(message) = too_large(&format!("its file .{extension}"), place.size) {
                        return Ok(Err(message));
                    }
                    parts.push((extension, read(place.start, place.size)?));
                }
            }
        }
        Ok(Ok(Item { parts, others }))
    }

    /// The shard of a sample, opened, and the range of bytes that belongs to the sample.
    fn open_at(&self, entry: usize) -> Result<(&Shard, PositionedFile, u64, u64)> {
        let place = self.places[entry];
        let shard = &self.shards[place.shard as usize];
        // Opened anew each time: there may be more shards than a process may hold open.
        let file = PositionedFile::open(&shard.path)?;
        if file.length() != shard.length {
            return Err(changed(&shard.path));
        }
        let next = self.places.get(entry + 1).filter(|next| next.shard == place.shard);
        Ok((shard, file, place.start, next.map_or(shard.length, |next| next.start)))
    }
}

fn changed(path: &Path) -> DataError {
    DataError::format(path, "the file was changed while it is in use; start again")
}

fn too_large(what: &str, size: u64) -> Option<String> {
    (size > MAX_PART_BYTES)
        .then(|| format!("{what} has {size} bytes, more than the limit of {MAX_PART_BYTES}"))
}

/// Length, form and the start of each sample of a file.
fn starts(path: &Path) -> Result<(u64, Form, Vec<u64>)> {
    let file = PositionedFile::open(path)?;
    if is_tar(path) || path.extension().is_some_and(|extension| extension == "tar") {
        return Ok((file.length(), Form::Tar, tar_starts(&file, path)?));
    }
    Ok((file.length(), Form::JsonLines, line_starts(path)?))
}

fn tar_starts(file: &PositionedFile, path: &Path) -> Result<Vec<u64>> {
    let mut entries = TarEntries::new(file, path, 0);
    let mut starts = Vec::new();
    let (mut current, mut seen) = (String::new(), Vec::new());
    while let Some(entry) = entries.next_file()? {
        let Some((key, extension)) = key_and_extension(&entry.name) else { continue };
        // A repeated extension begins a new sample.
        if starts.is_empty() || key != current || seen.contains(&extension) {
            starts.push(entry.header);
            current = key.to_owned();
            seen.clear();
        }
        seen.push(extension);
        if seen.len() > MAX_PARTS {
            let message = format!(
                "sample {current:?} has more than {MAX_PARTS} files; a name is split at its first dot, so give each sample a name of its own before it"
            );
            return Err(DataError::format(path, message));
        }
    }
    Ok(starts)
}

fn line_starts(path: &Path) -> Result<Vec<u64>> {
    let failed = |error| DataError::io(path, error);
    let (mut reader, mut position) = open_text_file(path)?;
    let head = reader.fill_buf().map_err(failed)?;
    if head.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(DataError::format(
            path,
            "neither a tar archive nor JSON lines: it does not begin with `{`; unpack compressed files, write one document a line",
        ));
    }
    let mut starts = Vec::new();
    let mut in_line = false;
    loop {
        let buffer = reader.fill_buf().map_err(failed)?;
        if buffer.is_empty() {
            return Ok(starts);
        }
        let mut at = 0;
        while at < buffer.len() {
            if in_line {
                match memchr::memchr(b'\n', &buffer[at..]) {
                    Some(end) => (at, in_line) = (at + end, false),
                    None => at = buffer.len(),
                }
            } else if buffer[at].is_ascii_whitespace() {
                at += 1;
            } else {
                starts.push(position + at as u64);
                in_line = true;
            }
        }
        let length = buffer.len();
        position += length as u64;
        reader.consume(length);
    }
}

/// Where a file of a sample lies.
struct PartPlace {
    start: u64,
    size: u64,
}

/// Key, extension and place of the files of a sample, whose headers lie in a range of bytes.
fn sample_entries<'a>(
    file: &'a PositionedFile,
    path: &'a Path,
    start: u64,
    end: u64,
) -> impl Iterator<Item = Result<(String, String, PartPlace)>> + 'a {
    let mut entries = TarEntries::new(file, path, start);
    std::iter::from_fn(move || {
        loop {
            match entries.next_file() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some(entry)) if entry.header >= end => return None,
                Ok(Some(entry)) => {
                    if let Some((key, extension)) = key_and_extension(&entry.name) {
                        let place = PartPlace { start: entry.start, size: entry.size };
                        return Some(Ok((key.to_owned(), extension, place)));
                    }
                }
            }
        }
    })
}

/// The name up to the first dot of its last component, and what follows in lower case. Names without either part belong to
/// no sample.
fn key_and_extension(name: &str) -> Option<(&str, String)> {
    let component = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = component + name[component..].find('.')?;
    (dot > component).then(|| (&name[..dot], name[dot + 1..].to_lowercase()))
}
