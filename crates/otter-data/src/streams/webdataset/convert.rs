//! From the files in which pre-training data comes to tar shards.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};

use super::pattern::expand_paths;
use super::shards::{MAX_PART_BYTES, Shards};
use super::writer::{ShardLimits, ShardWriter};
use crate::batch::report::DataReport;
use crate::error::{DataError, Result, SkipReason};
use crate::files::json_text::{parse_json, parse_object};
use crate::files::text_file::open_text_file;
use crate::streams::pretraining::image_bytes;
use crate::tables::image_files::file_extension;
use crate::tables::image_table::ImageTable;

/// What was written, and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    /// Samples written (`used`) and left out, by reason.
    #[serde(flatten)]
    pub samples: DataReport,
    /// Listed images that were not found; their documents are written with the others.
    pub missing_images: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_image_example: Option<String>,
    /// Number of shards.
    pub shards: u64,
    /// Bytes of all shards.
    pub bytes: u64,
}

impl ShardReport {
    /// The error of a run of which no sample is left, before anything has its name.
    fn check_used(&self, path: &Path) -> Result<()> {
        if self.samples.used > 0 {
            return Ok(());
        }
        let reasons = self.samples.skipped.iter().map(|(reason, count)| {
            let example = self.samples.examples.get(reason).map(String::as_str).unwrap_or_default();
            format!("{count} [{reason}], e.g. {example}")
        });
        let reasons: Vec<String> = reasons.collect();
        let message = if reasons.is_empty() {
            "it holds no sample: there is nothing to write".to_owned()
        } else {
            format!("no sample could be used, so no shard was written; left out: {}", reasons.join("; "))
        };
        Err(DataError::format(path, message))
    }
}

/// Writes documents in the form of MMC4 (JSON lines) as shards of `json` files, with the images that they name in base64
/// inside. Documents without any image are left out. `progress` gets the documents done and their number.
pub fn shard_documents(
    files: &[PathBuf],
    images: Option<&Path>,
    folder: &Path,
    limits: ShardLimits,
    mut progress: impl FnMut(u64, u64),
) -> Result<ShardReport> {
    let documents = Shards::open(expand_paths(files)?)?;
    let images = images.map(|path| ImageTable::open(path, 64 << 20)).transpose()?;
    let mut writer = ShardWriter::create(folder, limits)?;
    let mut report = ShardReport::default();
    for entry in 0..documents.len() {
        progress(entry as u64, documents.len() as u64);
        let parsed = documents.item(entry, &["json"])?.and_then(|item| {
            let (_, json) =
                item.part(&["json"]).ok_or_else(|| format!("it has no .json file{}", item.listing()))?;
            parse_object::<Map<String, Value>>(json)
        });
        let filled = match parsed {
            Err(message) => Err((SkipReason::BadRecord, message)),
            Ok(mut document) => {
                let mut missing = Vec::new();
                let filled = fill_in_images(&mut document, images.as_ref(), &mut missing)?;
                report.missing_images += missing.len() as u64;
                if let (None, Some(first)) = (&report.missing_image_example, missing.first()) {
                    report.missing_image_example = Some(format!("{}: {first}", documents.id(entry)?));
                }
                match filled {
                    Ok(0) => {
                        let what = missing.first().map(|first| format!(": {first}")).unwrap_or_default();
                        Err((SkipReason::NoImages, format!("none of its images was found{what}")))
                    }
                    Ok(_) => Ok(document),
                    Err(message) => Err((SkipReason::BadRecord, message)),
                }
            }
        };
        match filled {
            Ok(document) => {
                let json = Value::Object(document).to_string();
                writer.sample(&[("json", json.as_bytes())])?;
                report.samples.used += 1;
            }
            Err((reason, message)) => {
                let (id, file) = (documents.id(entry)?, documents.path(entry).to_owned());
                report.samples.skip(reason, &DataError::Sample { id, file, reason, message });
            }
        }
    }
    report.check_used(files.first().map_or(folder, PathBuf::as_path))?;
    (report.shards, report.bytes) = writer.finish()?;
    Ok(report)
}

/// Puts the bytes of named images into a document; how many images it has then, or why it is no document. What was not
/// found is told in words.
fn fill_in_images(
    document: &mut Map<String, Value>,
    images: Option<&ImageTable>,
    missing: &mut Vec<String>,
) -> Result<Result<usize, String>> {
    if document.get("is_gpt").is_some_and(|mark| !mark.is_null()) {
        return Ok(Ok(document.get("image_map").and_then(Value::as_object).map_or(0, Map::len)));
    }
    let Some(list) = document.get_mut("image_info").and_then(Value::as_array_mut) else {
        return Ok(Err("it has neither a list `image_info` nor `is_gpt`".to_owned()));
    };
    let mut present = 0;
    for (number, info) in list.iter_mut().enumerate() {
        let Some(info) = info.as_object_mut() else {
            return Ok(Err(format!("`image_info[{number}]` is {info}, an object is expected")));
        };
        if info.get("image_base64").is_some_and(Value::is_string) {
            present += 1;
            continue;
        }
        let name = match info.get("image_name") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(other) => {
                return Ok(Err(format!(
                    "`image_info[{number}].image_name` is {other}, a string is expected"
                )));
            }
        };
        let found = match (name, images) {
            (Some(name), Some(images)) => images.encoded(name)?,
            _ => None,
        };
        match (found, name) {
            (Some(bytes), _) => {
                info.insert("image_base64".to_owned(), STANDARD.encode(bytes).into());
                present += 1;
            }
            (None, None) => {
                missing.push(format!("`image_info[{number}]` has neither `image_base64` nor `image_name`"));
            }
            (None, Some(name)) => missing.push(match images {
                None => format!("image {name} is named, but no --images were given"),
                Some(images) => format!("image {name} is not in {}", images.path().display()),
            }),
        }
    }
    Ok(Ok(present))
}

/// Writes captions given as two files of tab-separated lines, `key<TAB>base64 of an image` and
/// `key<TAB>{"captions": [caption, …]}` with the same keys in the same order, as shards of an image and a `txt` file each.
/// The first caption is taken. `progress` gets the bytes of the image file done and its size.
pub fn shard_captions(
    images: &Path,
    texts: &Path,
    folder: &Path,
    limits: ShardLimits,
    mut progress: impl FnMut(u64, u64),
) -> Result<ShardReport> {
    let size = std::fs::metadata(images).map_err(|error| DataError::io(images, error))?.len();
    let (mut image_lines, mut text_lines) = (Lines::open(images)?, Lines::open(texts)?);
    let mut writer = ShardWriter::create(folder, limits)?;
    let mut report = ShardReport::default();
    loop {
        let (image, text) = match (image_lines.next()?, text_lines.next()?) {
            (None, None) => break,
            (Some(image), Some(text)) => (image, text),
            (image, _) => {
                let (short, long) = if image.is_none() { (images, texts) } else { (texts, images) };
                let message =
                    format!("the file ends before {}; both need a line for each sample", long.display());
                return Err(DataError::format(short, message));
            }
        };
        progress(image_lines.bytes, size);
        let number = image_lines.number;
        if image.0 != text.0 {
            let message = format!(
                "line {number} has the key {:?}, but {} has {:?} there",
                text.0,
                images.display(),
                image.0
            );
            return Err(DataError::format(texts, message));
        }
        let sample = || {
            let bytes = image_bytes(&image.1).map_err(|what| (SkipReason::BadImage, what))?;
            Ok((bytes, caption(&text.1).map_err(|what| (SkipReason::BadRecord, what))?))
        };
        match sample() {
            Ok((bytes, caption)) => {
                writer.sample(&[(file_extension(&bytes), &bytes), ("txt", caption.as_bytes())])?;
                report.samples.used += 1;
            }
            Err((reason, message)) => {
                let message = format!("line {number}: {message}");
                let error = DataError::Sample { id: image.0, file: images.to_owned(), reason, message };
                report.samples.skip(reason, &error);
            }
        }
    }
    report.check_used(images)?;
    (report.shards, report.bytes) = writer.finish()?;
    Ok(report)
}

fn caption(json: &[u8]) -> Result<String, String> {
    let value: Value = parse_json(json).map_err(|fault| format!("its text is {fault}"))?;
    let first = value.get("captions").and_then(|captions| captions.get(0)).and_then(Value::as_str);
    first.map(str::to_owned).ok_or_else(|| "its text has no list `captions` with a string".to_owned())
}

/// Lines `key<TAB>value` of a file.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// Lines and bytes read so far.
    number: u64,
    bytes: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let (reader, bytes) = open_text_file(path)?;
        Ok(Self { path: path.to_owned(), reader, number: 0, bytes })
    }

    fn next(&mut self) -> Result<Option<(String, Vec<u8>)>> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(MAX_PART_BYTES).read_until(b'\n', &mut line);
        let read = read.map_err(|error| DataError::io(&self.path, error))? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read;
        let wrong = |what: &str| DataError::format(&self.path, format!("line {}: {what}", self.number));
        if read == MAX_PART_BYTES {
            return Err(wrong(&format!("more than the limit of {MAX_PART_BYTES} bytes")));
        }
        let tab = memchr::memchr(b'\t', &line).ok_or_else(|| wrong("no tab; `key<TAB>value` is expected"))?;
        let value = line.split_off(tab + 1);
        line.truncate(tab);
        let key = String::from_utf8(line).map_err(|_| wrong("the key is not UTF-8"))?;
        Ok(Some((key, value.trim_ascii_end().to_vec())))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n not looked into";

    fn write(place: &Path, name: &str, lines: &[(&str, &str)]) -> PathBuf {
        let path = place.join(name);
        let text: String = lines.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
        fs::write(&path, text).unwrap();
        path
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn captions_become_shards_of_limited_size() {
        let place = tempfile::tempdir().unwrap();
        let image = STANDARD.encode(PNG);
        let keys = ["a", "b", "c", "d", "e"];
        let images = write(place.path(), "i.tsv", &keys.map(|key| (key, image.as_str())));
        let texts = write(place.path(), "t.tsv", &keys.map(|key| (key, r#"{"captions":["x"]}"#)));
        let size = PNG.len() as u64 + 1;
        for (samples, bytes, shards) in
            [(2, 1 << 20, 3), (100, 2 * size, 3), (100, 2 * size + 1, 2), (100, 1 << 20, 1)]
        {
            let out = place.path().join(format!("{samples}-{bytes}"));
            let mut steps = 0;
            let report =
                shard_captions(&images, &texts, &out, ShardLimits { samples, bytes }, |_, _| steps += 1)
                    .unwrap();
            assert_eq!((report.samples.used, report.shards, steps), (5, shards, 5));
            let paths: Vec<PathBuf> = names(&out).into_iter().map(|name| out.join(name)).collect();
            assert_eq!(paths.len() as u64, shards);
            let read = Shards::open(paths).unwrap();
            assert_eq!(read.len(), 5);
            let item = read.item(4, &["png", "txt"]).unwrap().unwrap();
            assert_eq!(
                (item.part(&["png"]), item.part(&["txt"])),
                (Some(("png", PNG)), Some(("txt", &b"x"[..])))
            );
            assert!(read.id(4).unwrap().ends_with("/000000004"));
        }
    }

    #[test]
    fn files_that_do_not_fit_leave_nothing_behind() {
        let place = tempfile::tempdir().unwrap();
        let image = STANDARD.encode(PNG);
        let images = write(place.path(), "i.tsv", &[("a", &image), ("b", &image)]);
        let text = r#"{"captions":["x"]}"#;
        let out = place.path().join("out");
        for (lines, parts) in [
            (&[("a", text), ("c", text)][..], &["t.tsv", "line 2", "\"c\"", "\"b\""][..]),
            (&[("a", text)], &["t.tsv", "ends before", "i.tsv"]),
            (&[("a", text), ("b", text), ("c", text)], &["i.tsv", "ends before", "t.tsv"]),
        ] {
            let texts = write(place.path(), "t.tsv", lines);
            let limits = ShardLimits { samples: 1, bytes: 1 };
            let message = shard_captions(&images, &texts, &out, limits, |_, _| {}).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert_eq!(names(&out), Vec::<String>::new());
        }
        let texts = place.path().join("t.tsv");
        fs::write(&texts, "no tab\n").unwrap();
        let limits = ShardLimits { samples: 1, bytes: 1 };
        let message = shard_captions(&images, &texts, &out, limits, |_, _| {}).unwrap_err().to_string();
        assert!(message.contains("line 1") && message.contains("tab"), "{message}");
    }

    #[test]
    fn what_is_no_image_is_left_out_and_told() {
        let place = tempfile::tempdir().unwrap();
        let image = STANDARD.encode(PNG);
        let images = write(place.path(), "i.tsv", &[("a", "bm8gaW1hZ2U="), ("b", &image)]);
        let text = r#"{"captions":["x"]}"#;
        let texts = write(place.path(), "t.tsv", &[("a", text), ("b", text)]);
        let limits = ShardLimits { samples: 9, bytes: 1 << 20 };
        let out = place.path().join("out");
        let report = shard_captions(&images, &texts, &out, limits, |_, _| {}).unwrap();
        assert_eq!((report.samples.used, report.samples.skipped["bad_image"]), (1, 1));
        assert!(report.samples.examples["bad_image"].contains("line 1"));
    }

    #[test]
    fn a_caption_is_the_first_of_the_list() {
        assert_eq!(caption(br#"{"captions":["a","b"]}"#), Ok("a".to_owned()));
        for wrong in [&b"{}"[..], b"[]", br#"{"captions":[]}"#, br#"{"captions":[1]}"#, b"x"] {
            assert!(caption(wrong).is_err());
        }
    }
}
