//! Reading and writing the safetensors layout: 8 bytes of header length, a JSON header, then the elements.
//! Everything the header claims is checked against the file before it is trusted.

use crate::dtype::StoredDType;
use crate::error::{FormatError, Result};
use crate::mapped::Location;
use crate::stored_tensor::{
    LARGEST_RANK, NewTensor, RowOrder, TensorEntry, checked_elements, row_major_strides,
};
use memmap2::Mmap;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// The largest header any writer of the format accepts.
const LARGEST_HEADER: usize = 100_000_000;

/// Tensor entries of a mapped file, in the order of their names in the header.
///
/// # Errors
/// When the header is longer than the file, is not JSON, or any entry does not fit the file.
pub fn read(path: &Path, map: &Arc<Mmap>) -> Result<Vec<(String, TensorEntry)>> {
    let bad = |problem: String| FormatError::damaged(path, problem);
    let Some((length, rest)) = map.split_first_chunk::<8>() else {
        let found = map.len();
        return Err(bad(format!(
            "truncated: {found} bytes, a safetensors file begins with 8 bytes of length"
        )));
    };
    let length = u64::from_le_bytes(*length);
    let Some(header_length) = usize::try_from(length).ok().filter(|&length| length <= rest.len()) else {
        return Err(bad(format!(
            "the header claims {length} bytes but only {} follow; the file is truncated or not safetensors",
            rest.len()
        )));
    };
    if header_length > LARGEST_HEADER {
        return Err(bad(format!("the header has {length} bytes; at most {LARGEST_HEADER} are accepted")));
    }
    let (header, buffer) = rest.split_at(header_length);
    let header: Header =
        serde_json::from_slice(header).map_err(|error| bad(format!("the header is not valid: {error}")))?;
    let base = 8 + header_length;
    let shared_path: Arc<Path> = Arc::from(path);
    let mut entries = Vec::with_capacity(header.tensors.len());
    for (name, claim) in header.tensors {
        let wrong = |problem: String| bad(format!("tensor `{name}`: {problem}"));
        let dtype = StoredDType::from_name(&claim.dtype).ok_or_else(|| {
            let dtype = &claim.dtype;
            wrong(format!(
                "element type {dtype} is not supported; expected F32, F16, BF16, F64 or an integer type"
            ))
        })?;
        let [begin, end] = claim.data_offsets;
        if begin > end || end > buffer.len() {
            return Err(wrong(format!(
                "bytes {begin}..{end} are outside the {} bytes that the file holds after its header",
                buffer.len()
            )));
        }
        let shape = claim.shape;
        if shape.len() > LARGEST_RANK {
            return Err(wrong(format!("{} axes; at most {LARGEST_RANK} are accepted", shape.len())));
        }
        let needed = checked_elements(&shape).and_then(|elements| elements.checked_mul(dtype.size()));
        if needed != Some(end - begin) {
            return Err(wrong(format!(
                "shape {shape:?} of {dtype} does not take the {} bytes that its offsets give",
                end - begin
            )));
        }
        let location = Location {
            path: Arc::clone(&shared_path),
            map: Arc::clone(map),
            bytes: base + begin..base + end,
        };
        let strides = row_major_strides(&shape);
        entries.push((name, TensorEntry { dtype, shape, strides, rows: RowOrder::Stored, location }));
    }
    check_overlap(path, &entries)?;
    Ok(entries)
}

fn check_overlap(path: &Path, entries: &[(String, TensorEntry)]) -> Result<()> {
    let mut order: Vec<_> = entries.iter().filter(|(_, entry)| !entry.location.bytes.is_empty()).collect();
    order.sort_by_key(|(_, entry)| entry.location.bytes.start);
    for pair in order.windows(2) {
        let ((first, first_entry), (second, second_entry)) = (pair[0], pair[1]);
        if first_entry.location.bytes.end > second_entry.location.bytes.start {
            return Err(FormatError::damaged(path, format!("tensors `{first}` and `{second}` overlap")));
        }
    }
    Ok(())
}

/// Writes a whole file; `elements(i, out)` writes the little-endian elements of tensor `i`, in the order given. `path`
/// and `target`, what it will become, are for messages.
///
/// # Errors
/// Those of `elements`, when writing fails, or when a tensor gets another number of bytes than its shape takes.
pub fn write<E: From<FormatError>>(
    file: &mut dyn Write,
    path: &Path,
    target: &Path,
    tensors: &[NewTensor<'_>],
    elements: &mut dyn FnMut(usize, &mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    // Wide elements first, so that every tensor stays aligned for use in the mapped file; the header keeps the order.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(tensors[at].dtype.size()));
    file.write_all(&header_bytes(tensors, &order)).map_err(FormatError::write(path, target))?;
    for at in order {
        let mut counted = Counted { inner: file, bytes: 0 };
        elements(at, &mut counted)?;
        let (found, expected) = (counted.bytes, tensors[at].bytes());
        if found != expected {
            let problem = format!("{found} bytes were written where its shape takes {expected}");
            return Err(FormatError::tensor(path, tensors[at].name, problem).into());
        }
    }
    Ok(())
}

/// Counts what passes through.
struct Counted<'f> {
    inner: &'f mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Length prefix and header for tensors whose elements follow each other in `order`.
fn header_bytes(entries: &[NewTensor<'_>], order: &[usize]) -> Vec<u8> {
    let mut begins = vec![0; entries.len()];
    let mut offset = 0;
    for &at in order {
        begins[at] = offset;
        offset += entries[at].bytes();
    }
    let mut object = serde_json::Map::new();
    object.insert("__metadata__".to_owned(), serde_json::json!({ "format": "pt" }));
    for (entry, begin) in entries.iter().zip(begins) {
        let claim = serde_json::json!({
            "dtype": entry.dtype.name(),
            "shape": entry.shape,
            "data_offsets": [begin, begin + entry.bytes()],
        });
        object.insert(entry.name.to_owned(), claim);
    }
    let mut header = serde_json::Value::Object(object).to_string().into_bytes();
    // Spaces up to a multiple of 64, so that every 32-bit tensor can be used in place when mapped.
    while !(header.len() + 8).is_multiple_of(64) {
        header.push(b' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut header);
    bytes
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header as a list, because a map would hide that a name occurs twice.
struct Header {
    tensors: Vec<(String, Claim)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut tensors = Vec::new();
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name `{name}` occurs twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        let claim = map.next_value::<Claim>()?;
                        tensors.push((name, claim));
                    }
                }
                Ok(Header { tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
