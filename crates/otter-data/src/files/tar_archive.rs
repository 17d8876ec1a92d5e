//! Tar archives: writing them, and finding files in them without unpacking.
//!
//! Read: POSIX ustar, with the long names of pax and GNU tar and sizes in base 256. Links, devices, damaged headers and
//! entries that reach beyond the file are errors that name the entry.

use std::io::{self, Read};
use std::path::Path;

use crate::error::{DataError, Result};
use crate::files::positioned_file::PositionedFile;
use crate::files::staging::StagedFile;

const BLOCK: u64 = 512;

/// Longest name or pax header that is read.
const MAX_NAME_RECORD: u64 = 1 << 16;

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TarEntry {
    /// Path inside the archive.
    pub(crate) name: String,
    /// Byte position of the first header that belongs to the entry.
    pub(crate) header: u64,
    /// Byte position of the content.
    pub(crate) start: u64,
    /// Size of the content.
    pub(crate) size: u64,
}

/// Walks through the files of an archive.
pub(crate) struct TarEntries<'a> {
    file: &'a PositionedFile,
    path: &'a Path,
    position: u64,
}

impl<'a> TarEntries<'a> {
    /// Starts at the header at `position`; `path` is for messages.
    pub(crate) fn new(file: &'a PositionedFile, path: &'a Path, position: u64) -> Self {
        Self { file, path, position }
    }

    /// The next regular file, `None` at the end of the archive.
    pub(crate) fn next_file(&mut self) -> Result<Option<TarEntry>> {
        let first_header = self.position;
        let mut header_of_entry = first_header;
        let (mut long_name, mut long_size) = (None, None);
        loop {
            let at = self.position;
            let mut header = [0; BLOCK as usize];
            if at + BLOCK > self.file.length() {
                if at == self.file.length() && long_name.is_none() {
                    return Ok(None); // without the two empty blocks, as some writers leave it
                }
                return Err(self.fault(at, "the archive ends inside a header; it is cut"));
            }
            self.file.read_exact_at(&mut header, at).map_err(|error| DataError::io(self.path, error))?;
            if header.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            check_sum(&header).map_err(|what| self.fault(at, what))?;
            let kind = header[156];
            let size = match long_size.take().filter(|_| is_file(kind)) {
                Some(size) => size,
                None => number(&header[124..136]).map_err(|what| self.fault(at, what))?,
            };
            let start = at + BLOCK;
            let end = start.checked_add(size).filter(|&end| end <= self.file.length());
            let Some(end) = end else {
                let what = format!(
                    "entry {:?} claims {size} bytes, but the file has {} after its header; it is cut or damaged",
                    String::from_utf8_lossy(&short_name(&header)),
                    self.file.length() - start
                );
                return Err(self.fault(at, &what));
            };
            self.position = end.next_multiple_of(BLOCK).min(self.file.length());
            match kind {
                b'L' => {
                    let bytes = self.record(at, start, size)?;
                    long_name = Some(bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec());
                }
                b'x' => {
                    let bytes = self.record(at, start, size)?;
                    let (name, size) = pax_fields(&bytes).map_err(|what| self.fault(at, what))?;
                    long_name = name.or(long_name);
                    long_size = size;
                }
                // Global pax headers hold nothing about one file; folders arise from the names of their files.
                b'g' | b'5' => {
                    long_name = None;
                    header_of_entry = self.position;
                }
                kind if is_file(kind) => {
                    let name = long_name.unwrap_or_else(|| short_name(&header));
                    let name = String::from_utf8(name)
                        .map_err(|_| self.fault(at, "the name of an entry is not UTF-8"))?;
                    let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
                    return Ok(Some(TarEntry { name, header: header_of_entry, start, size }));
                }
                kind => {
                    let what = format!(
                        "entry {:?} is of kind {:?} (a link or device); only files and folders are read",
                        String::from_utf8_lossy(&short_name(&header)),
                        char::from(kind)
                    );
                    return Err(self.fault(at, &what));
                }
            }
        }
    }

    fn record(&self, at: u64, start: u64, size: u64) -> Result<Vec<u8>> {
        if size > MAX_NAME_RECORD {
            return Err(self.fault(at, &format!("a long name of {size} bytes is refused")));
        }
        self.file.bytes(start, size as usize).map_err(|error| DataError::io(self.path, error))
    }

    fn fault(&self, at: u64, what: &str) -> DataError {
        DataError::format(self.path, format!("tar, byte {at}: {what}"))
    }
}

fn is_file(kind: u8) -> bool {
    matches!(kind, b'0' | 0 | b'7')
}

/// The name in a header: the prefix of ustar, then the name.
fn short_name(header: &[u8; BLOCK as usize]) -> Vec<u8> {
    let until_zero = |bytes: &[u8]| bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let name = until_zero(&header[..100]);
    let is_posix = &header[257..263] == b"ustar\0";
    let prefix = if is_posix { until_zero(&header[345..500]) } else { Vec::new() };
    if prefix.is_empty() { name } else { [&prefix[..], b"/", &name].concat() }
}

fn check_sum(header: &[u8; BLOCK as usize]) -> Result<(), &'static str> {
    let expected = number(&header[148..156])?;
    if sum(header) == expected {
        Ok(())
    } else {
        Err("the checksum of a header is wrong; this is no tar archive, or it is damaged")
    }
}

/// Sum of the bytes of a header, its checksum field taken as spaces.
fn sum(header: &[u8; BLOCK as usize]) -> u64 {
    let field = 148..156;
    header.iter().enumerate().map(|(at, &byte)| if field.contains(&at) { 32 } else { u64::from(byte) }).sum()
}

/// A number field: octal digits, or base 256 if the first bit is set.
fn number(field: &[u8]) -> Result<u64, &'static str> {
    const WRONG: &str = "a number in a header is damaged";
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7f);
        for &byte in &field[1..] {
            value =
                value.checked_mul(256).and_then(|value| value.checked_add(u64::from(byte))).ok_or(WRONG)?;
        }
        return Ok(value);
    }
    let mut value = 0_u64;
    for &byte in field.iter().skip_while(|&&byte| byte == b' ') {
        match byte {
            b'0'..=b'7' => value = value.checked_mul(8).ok_or(WRONG)? + u64::from(byte - b'0'),
            0 | b' ' => break,
            _ => return Err(WRONG),
        }
    }
    Ok(value)
}

/// `path` and `size` of a pax header: records `length key=value\n`.
fn pax_fields(mut bytes: &[u8]) -> Result<(Option<Vec<u8>>, Option<u64>), &'static str> {
    const WRONG: &str = "a pax header is damaged";
    let (mut path, mut size) = (None, None);
    while !bytes.is_empty() && bytes[0] != 0 {
        let space = bytes.iter().position(|&byte| byte == b' ').ok_or(WRONG)?;
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|&length| length > space + 1 && length <= bytes.len()).ok_or(WRONG)?;
        let record = bytes[space + 1..length].strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or(WRONG)?;
        let value = &record[equals + 1..];
        match &record[..equals] {
            b"path" => path = Some(value.to_vec()),
            b"size" => {
                let text = std::str::from_utf8(value).map_err(|_| WRONG)?;
                size = Some(text.parse().map_err(|_| WRONG)?);
            }
            _ => {}
        }
        bytes = &bytes[length..];
    }
    Ok((path, size))
}

/// Writes an archive.
pub(crate) struct TarWriter {
    file: StagedFile,
}

impl TarWriter {
    pub(crate) fn new(file: StagedFile) -> Self {
        Self { file }
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let size = content.len() as u64;
        if name.len() > 100 || size >= 1 << 33 {
            let mut record = pax_record("path", name);
            record.push_str(&pax_record("size", &size.to_string()));
            self.block(b"pax", b'x', record.len() as u64)?;
            self.content(record.as_bytes())?;
        }
        let short = &name.as_bytes()[..name.len().min(100)];
        self.block(short, b'0', size.min((1 << 33) - 1))?;
        self.content(content)
    }

    fn block(&mut self, name: &[u8], kind: u8, size: u64) -> Result<()> {
        let mut header = [0; BLOCK as usize];
        header[..name.len()].copy_from_slice(name);
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum = sum(&header);
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.file.put(&header)
    }

    fn content(&mut self, content: &[u8]) -> Result<()> {
        self.file.put(content)?;
        let padding = content.len().next_multiple_of(BLOCK as usize) - content.len();
        self.file.put(&[0; BLOCK as usize][..padding])
    }

    /// Writes the end of the archive; gives its size.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.file.put(&[0; 2 * BLOCK as usize])?;
        Ok(self.file.finish()?.bytes)
    }
}

/// A pax record begins with its own length.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3; // space, `=`, newline
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    format!("{length} {key}={value}\n")
}

/// Whether a file begins like a tar archive.
pub(crate) fn is_tar(path: &Path) -> bool {
    let mut header = [0; BLOCK as usize];
    let read = |header: &mut [u8]| -> io::Result<()> { std::fs::File::open(path)?.read_exact(header) };
    read(&mut header).is_ok() && check_sum(&header).is_ok() && header[0] != 0
}
