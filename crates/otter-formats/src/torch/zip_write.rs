//! Writing a ZIP archive of stored members while their bytes stream past: sizes are known beforehand, check
//! sums are put in at the end. Every member's data begins at a multiple of 64 bytes, as PyTorch wants it for
//! mapping. Members, offsets and counts that do not fit 32 or 16 bits get Zip64 records.

use crc32fast::Hasher;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

/// Data of a member begins at a multiple of this.
const ALIGNMENT: u64 = 64;
/// Tag of the extra field that PyTorch pads with.
const PADDING_TAG: [u8; 2] = *b"FB";
const ZIP64_TAG: u16 = 1;
/// Place of the check sum in a local record.
const CHECKSUM_AT: u64 = 14;
/// 1 January 1980, the first day that ZIP can express.
const FIRST_DAY: u16 = 0x21;

struct Entry {
    name: String,
    size: u64,
    offset: u64,
    checksum: u32,
}

/// An archive being written.
pub(crate) struct ZipWriter<W: Write + Seek> {
    out: BufWriter<W>,
    position: u64,
    entries: Vec<Entry>,
    /// Sizes and offsets from here on are written as Zip64.
    wide_from: u64,
}

impl<W: Write + Seek> ZipWriter<W> {
    /// An empty archive at the beginning of `out`.
    pub fn new(out: W) -> Self {
        Self::with_limit(out, u32::MAX.into())
    }

    fn with_limit(out: W, wide_from: u64) -> Self {
        Self { out: BufWriter::with_capacity(1 << 18, out), position: 0, entries: Vec::new(), wide_from }
    }

    /// Begins a member of exactly `size` bytes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&mut self, name: &str, size: u64) -> io::Result<MemberWriter<'_, W>> {
        let offset = self.position;
        let wide = size >= self.wide_from;
        let mut extra = Vec::new();
        if wide {
            extra.extend(ZIP64_TAG.to_le_bytes());
            extra.extend(16u16.to_le_bytes());
            extra.extend(size.to_le_bytes());
            extra.extend(size.to_le_bytes());
        }
        let unpadded = offset + 30 + name.len() as u64 + extra.len() as u64 + 4;
        let padding = (unpadded.next_multiple_of(ALIGNMENT) - unpadded) as u16;
        extra.extend(PADDING_TAG);
        extra.extend(padding.to_le_bytes());
        extra.extend(std::iter::repeat_n(b'Z', padding.into()));
        let mut header = b"PK\x03\x04".to_vec();
        header.extend(fixed_fields(wide, 0, if wide { None } else { Some(size) }, name, extra.len()));
        header.extend(name.as_bytes());
        header.extend(extra);
        self.put(&header)?;
        self.entries.push(Entry { name: name.to_owned(), size, offset, checksum: 0 });
        Ok(MemberWriter { archive: self, left: size, hasher: Hasher::new() })
    }

    /// Writes the directory and the check sums, and gives the file back.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        let start = self.position;
        for index in 0..self.entries.len() {
            let record = self.directory_record(&self.entries[index]);
            self.put(&record)?;
        }
        let size = self.position - start;
        self.put_end(start, size)?;
        self.out.flush()?;
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        for entry in &self.entries {
            file.seek(SeekFrom::Start(entry.offset + CHECKSUM_AT))?;
            file.write_all(&entry.checksum.to_le_bytes())?;
        }
        Ok(file)
    }

    fn directory_record(&self, entry: &Entry) -> Vec<u8> {
        let (wide_size, wide_offset) = (entry.size >= self.wide_from, entry.offset >= self.wide_from);
        let mut values = Vec::new();
        if wide_size {
            values.extend([entry.size, entry.size]);
        }
        if wide_offset {
            values.push(entry.offset);
        }
        let mut extra = Vec::new();
        if !values.is_empty() {
            extra.extend(ZIP64_TAG.to_le_bytes());
            extra.extend((values.len() as u16 * 8).to_le_bytes());
            values.iter().for_each(|value| extra.extend(value.to_le_bytes()));
        }
        let mut record = b"PK\x01\x02".to_vec();
        record.extend(version(!values.is_empty()).to_le_bytes());
        let size = if wide_size { None } else { Some(entry.size) };
        record.extend(fixed_fields(!values.is_empty(), entry.checksum, size, &entry.name, extra.len()));
        // no comment, first disk, no attributes
        record.extend([0; 10]);
        let offset = if wide_offset { u32::MAX } else { entry.offset as u32 };
        record.extend(offset.to_le_bytes());
        record.extend(entry.name.as_bytes());
        record.extend(extra);
        record
    }

    fn put_end(&mut self, start: u64, size: u64) -> io::Result<()> {
        let count = self.entries.len() as u64;
        let wide = start >= self.wide_from || size >= self.wide_from || count >= u16::MAX.into();
        let mut end = Vec::new();
        if wide {
            let record = self.position;
            end.extend(b"PK\x06\x06");
            end.extend(44u64.to_le_bytes());
            end.extend([version(true); 2].into_iter().flat_map(u16::to_le_bytes));
            end.extend([0; 8]);
            for value in [count, count, size, start] {
                end.extend(value.to_le_bytes());
            }
            end.extend(b"PK\x06\x07\0\0\0\0");
            end.extend(record.to_le_bytes());
            end.extend(1u32.to_le_bytes());
        }
        end.extend(b"PK\x05\x06\0\0\0\0");
        let short = if wide { u16::MAX } else { count as u16 };
        end.extend([short; 2].into_iter().flat_map(u16::to_le_bytes));
        for value in [size, start] {
            let value = if wide { u32::MAX } else { value as u32 };
            end.extend(value.to_le_bytes());
        }
        end.extend([0; 2]);
        self.put(&end)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// What the local and the directory record have in common, from the version needed to the length of the extra
/// field. A size of `None` is found in the Zip64 field.
fn fixed_fields(wide: bool, checksum: u32, size: Option<u64>, name: &str, extra: usize) -> Vec<u8> {
    let size = size.map_or(u32::MAX, |size| size as u32);
    let mut fields = Vec::with_capacity(26);
    // version, flags (names are UTF-8), method (stored), time, date
    for number in [version(wide), 1 << 11, 0, 0, FIRST_DAY] {
        fields.extend(number.to_le_bytes());
    }
    for number in [checksum, size, size] {
        fields.extend(number.to_le_bytes());
    }
    for length in [name.len(), extra] {
        fields.extend((length as u16).to_le_bytes());
    }
    fields
}

/// Version of the format that a reader needs: 4.5 for Zip64, 2.0 else.
fn version(wide: bool) -> u16 {
    if wide { 45 } else { 20 }
}

/// The bytes of one member.
pub(crate) struct MemberWriter<'z, W: Write + Seek> {
    archive: &'z mut ZipWriter<W>,
    left: u64,
    hasher: Hasher,
}

impl<W: Write + Seek> MemberWriter<'_, W> {
    /// Ends the member; says how many bytes are missing when it is not complete.
    pub fn end(self) -> Result<(), u64> {
        if let Some(entry) = self.archive.entries.last_mut() {
            entry.checksum = self.hasher.finalize();
        }
        if self.left == 0 { Ok(()) } else { Err(self.left) }
    }
}

impl<W: Write + Seek> Write for MemberWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            let problem = format!("{} bytes given where {} are left", bytes.len(), self.left);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        self.archive.put(bytes)?;
        self.hasher.update(bytes);
        self.left -= bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.archive.out.flush()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::torch::zip as archive;
    use std::io::{Cursor, Read};
    use std::path::Path;

    fn archive(limit: u64, members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut zip = ZipWriter::with_limit(Cursor::new(Vec::new()), limit);
        for (name, data) in members {
            let mut member = zip.begin(name, data.len() as u64).unwrap();
            data.chunks(7).for_each(|chunk| member.write_all(chunk).unwrap());
            member.end().unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    /// Our reader and an independent one, with narrow records, wide offsets only, and everything wide.
    #[test]
    fn readers_find_what_was_written() {
        let members = [("a/data.pkl", vec![1; 10]), ("a/data/0", (0..200).collect()), ("a/data/1", vec![])];
        for limit in [u64::from(u32::MAX), 150, 20, 0] {
            let bytes = archive(limit, &members);
            let found = archive::members(Path::new("x"), &bytes).unwrap();
            let mut foreign = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
            assert_eq!((found.len(), foreign.len()), (3, 3));
            for (name, data) in &members {
                let range = found[*name].clone();
                assert_eq!(range.start % 64, 0);
                assert_eq!(bytes[range], data[..], "{limit} {name}");
                let mut content = Vec::new();
                // Reading to the end compares the check sum.
                foreign.by_name(name).unwrap().read_to_end(&mut content).unwrap();
                assert_eq!(content, data[..]);
            }
        }
    }

    #[test]
    fn more_members_than_sixteen_bits_count() {
        let names: Vec<String> = (0..70_000).map(|number| format!("a/{number}")).collect();
        let members: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), vec![7])).collect();
        let bytes = archive(u32::MAX.into(), &members);
        assert_eq!(archive::members(Path::new("x"), &bytes).unwrap().len(), 70_000);
        assert_eq!(zip::ZipArchive::new(Cursor::new(&bytes)).unwrap().len(), 70_000);
    }

    #[test]
    fn sizes_are_kept_to() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let mut member = zip.begin("a", 4).unwrap();
        assert!(member.write_all(&[0; 5]).unwrap_err().to_string().contains("4 are left"));
        member.write_all(&[0; 3]).unwrap();
        assert_eq!(member.end(), Err(1));
    }
}
