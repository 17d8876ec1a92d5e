//! The directory of a ZIP archive whose members are stored without compression, as PyTorch writes them.
//! Nothing is unpacked: a member is a range of the mapped file. Zip64 is supported, compression and
//! encryption are refused.

use crate::error::{FormatError, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

const END_OF_DIRECTORY: [u8; 4] = *b"PK\x05\x06";
const ZIP64_LOCATOR: [u8; 4] = *b"PK\x06\x07";
const ZIP64_END_OF_DIRECTORY: [u8; 4] = *b"PK\x06\x06";
const DIRECTORY_ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL_ENTRY: [u8; 4] = *b"PK\x03\x04";
const END_LENGTH: usize = 22;
const LONGEST_COMMENT: usize = u16::MAX as usize;

/// Little-endian numbers at checked positions.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn slice(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    fn number(&self, at: usize, length: usize) -> Option<u64> {
        let bytes = self.slice(at, length)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn index(&self, at: usize, length: usize) -> Option<usize> {
        usize::try_from(self.number(at, length)?).ok()
    }
}

/// Name and byte range of every member.
///
/// # Errors
/// When the archive is truncated or damaged, a member is compressed or encrypted, members overlap, or a
/// name occurs twice or points outside the archive.
pub(crate) fn members(path: &Path, data: &[u8]) -> Result<HashMap<String, Range<usize>>> {
    let bad = |problem: String| FormatError::damaged(path, problem);
    let bytes = Bytes(data);
    let truncated =
        || bad("the ZIP directory is missing or damaged; the file is probably truncated".to_owned());
    let (directory, count) = find_directory(&bytes).ok_or_else(truncated)?;
    let mut found = HashMap::new();
    let mut ranges = Vec::new();
    let mut at = directory.start;
    for _ in 0..count {
        let entry =
            Entry::read(&bytes, at).filter(|entry| entry.next <= directory.end).ok_or_else(truncated)?;
        at = entry.next;
        let name =
            String::from_utf8(bytes.slice(entry.name.start, entry.name.len()).unwrap_or_default().to_vec())
                .map_err(|_| bad("a member name of the ZIP archive is not UTF-8".to_owned()))?;
        if !is_inside(&name) {
            return Err(bad(format!("member name `{}` points outside the archive", name.escape_debug())));
        }
        if entry.encrypted {
            return Err(bad(format!("member `{name}` is encrypted; only plain archives are supported")));
        }
        if entry.method != 0 || entry.compressed != entry.size {
            return Err(bad(format!(
                "member `{name}` is compressed (method {}); PyTorch stores members uncompressed. \
                 Save the file again with torch.save",
                entry.method
            )));
        }
        let range = entry
            .data_range(&bytes, name.as_bytes())
            .filter(|range| range.end <= directory.start)
            .ok_or_else(|| {
                bad(format!("member `{name}` lies outside the file; the file is probably truncated"))
            })?;
        ranges.push(range.clone());
        if found.insert(name.clone(), range).is_some() {
            return Err(bad(format!("member `{name}` occurs twice")));
        }
    }
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(bad("members of the ZIP archive overlap".to_owned()));
    }
    Ok(found)
}

/// Whether a name stays below the folder it would be unpacked to.
fn is_inside(name: &str) -> bool {
    let outside = |part: &str| part == ".." || part.contains(['\\', ':', '\0']);
    !name.is_empty() && !name.starts_with('/') && !name.split('/').any(outside)
}

/// Byte range of the central directory and its number of entries.
fn find_directory(bytes: &Bytes<'_>) -> Option<(Range<usize>, usize)> {
    let length = bytes.0.len();
    let last = length.checked_sub(END_LENGTH)?;
    let first = last.saturating_sub(LONGEST_COMMENT);
    let end = (first..=last).rev().find(|&at| {
        bytes.slice(at, 4) == Some(&END_OF_DIRECTORY)
            && bytes.index(at + 20, 2).is_some_and(|comment| at + END_LENGTH + comment == length)
    })?;
    let (mut count, mut size, mut start) =
        (bytes.index(end + 10, 2)?, bytes.index(end + 12, 4)?, bytes.index(end + 16, 4)?);
    let mut limit = end;
    let locator = end.checked_sub(20).filter(|&at| bytes.slice(at, 4) == Some(&ZIP64_LOCATOR));
    if let Some(locator) = locator {
        let record = bytes.index(locator + 8, 8)?;
        if bytes.slice(record, 4)? != ZIP64_END_OF_DIRECTORY || record >= locator {
            return None;
        }
        (count, size, start) =
            (bytes.index(record + 32, 8)?, bytes.index(record + 40, 8)?, bytes.index(record + 48, 8)?);
        limit = record;
    }
    let range = start..start.checked_add(size)?;
    let fits = range.end <= limit && count <= size / 46;
    fits.then_some((range, count))
}

/// One record of the central directory.
struct Entry {
    method: u64,
    encrypted: bool,
    compressed: u64,
    size: u64,
    local: u64,
    name: Range<usize>,
    next: usize,
}

impl Entry {
    fn read(bytes: &Bytes<'_>, at: usize) -> Option<Self> {
        if bytes.slice(at, 4)? != DIRECTORY_ENTRY {
            return None;
        }
        let flags = bytes.number(at + 8, 2)?;
        let name_length = bytes.index(at + 28, 2)?;
        let extra_length = bytes.index(at + 30, 2)?;
        let comment_length = bytes.index(at + 32, 2)?;
        let name = at + 46..at + 46 + name_length;
        let extra = name.end..name.end + extra_length;
        let mut entry = Self {
            method: bytes.number(at + 10, 2)?,
            encrypted: flags & 1 != 0,
            compressed: bytes.number(at + 20, 4)?,
            size: bytes.number(at + 24, 4)?,
            local: bytes.number(at + 42, 4)?,
            name,
            next: extra.end + comment_length,
        };
        bytes.slice(at, entry.next - at)?;
        entry.widen(bytes, extra)?;
        Some(entry)
    }

    /// Replaces the 32-bit fields that are full by their 64-bit values from the Zip64 extra field.
    fn widen(&mut self, bytes: &Bytes<'_>, extra: Range<usize>) -> Option<()> {
        let full = u64::from(u32::MAX);
        let mut at = extra.start;
        while at + 4 <= extra.end {
            let (tag, length) = (bytes.number(at, 2)?, bytes.index(at + 2, 2)?);
            let mut field = at + 4;
            at = field + length;
            if at > extra.end {
                break;
            }
            if tag == 1 {
                for value in [&mut self.size, &mut self.compressed, &mut self.local] {
                    if *value == full && field + 8 <= at {
                        *value = bytes.number(field, 8)?;
                        field += 8;
                    }
                }
            }
        }
        Some(())
    }

    /// Where the member's bytes lie, found through its local record.
    fn data_range(&self, bytes: &Bytes<'_>, name: &[u8]) -> Option<Range<usize>> {
        let local = usize::try_from(self.local).ok()?;
        if bytes.slice(local, 4)? != LOCAL_ENTRY {
            return None;
        }
        let name_length = bytes.index(local.checked_add(26)?, 2)?;
        let extra_length = bytes.index(local + 28, 2)?;
        if bytes.slice(local + 30, name_length)? != name {
            return None;
        }
        let start = local + 30 + name_length + extra_length;
        Some(start..start.checked_add(usize::try_from(self.size).ok()?)?)
    }
}
