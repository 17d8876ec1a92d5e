//! Writing a GGUF file while the elements stream past.

use super::dequantize_blocks;
use super::header::{DEFAULT_ALIGNMENT, MAGIC, MOST_AXES, kind, size, type_number};
use crate::dtype::{LARGEST_BLOCK, StoredDType};
use crate::encode::{EncodeError, encode};
use crate::error::{FormatError, Result};
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

/// Elements converted at a time: whole blocks of every kind.
const PIECE: usize = 256 * LARGEST_BLOCK;

/// One tensor to write.
#[derive(Debug, Clone, Copy)]
pub struct PlannedTensor<'a> {
    /// Name in the state dict.
    pub name: &'a str,
    /// Length of each axis, rows last.
    pub shape: &'a [usize],
    /// Type of the elements in the file.
    pub dtype: StoredDType,
    /// Whether its blocks are given as they are and copied bit by bit; floats are given else.
    pub copied: bool,
}

impl PlannedTensor<'_> {
    /// Bytes in the file.
    fn size(&self, path: &Path) -> Result<usize> {
        size(self.dtype, self.shape).map_err(|problem| FormatError::tensor(path, self.name, problem))
    }
}

/// Some of a tensor's elements.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'e> {
    /// Floats, in any number.
    Floats(&'e [f32]),
    /// Bytes of blocks; of tensors that are [copied](PlannedTensor::copied).
    Blocks(&'e [u8]),
}

/// What became of a tensor.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredTensor {
    /// Name in the state dict.
    pub name: String,
    /// Type of the elements in the file.
    pub dtype: String,
    /// Bytes of the elements in the file.
    pub bytes: u64,
    /// Root mean square of what quantizing changed over that of the elements; of tensors whose blocks were made here.
    pub relative_error: Option<f64>,
}

/// Receives some of a tensor's elements.
pub type PutElements<'p, E> = dyn FnMut(Elements<'_>) -> Result<(), E> + 'p;

/// Passes the elements of the tensor with this number on.
pub type PassElements<'p, E> = dyn FnMut(usize, &mut PutElements<'_, E>) -> Result<(), E> + 'p;

/// Writes a whole file. Memory does not grow with the tensors. `path` is for messages.
///
/// `elements(i, put)` passes the elements of tensor `i` in row-major order to `put`, in pieces of any length.
/// Returns the tensors as they were stored.
///
/// # Errors
/// When a tensor does not have the elements its shape says, a value does not fit the type, a name occurs twice, or the
/// disk refuses.
pub fn write<E: From<FormatError>>(
    file: &mut dyn Write,
    path: &Path,
    metadata: &Metadata,
    tensors: &[PlannedTensor<'_>],
    elements: &mut PassElements<'_, E>,
) -> Result<Vec<StoredTensor>, E> {
    let header = header(path, metadata, tensors)?;
    let mut stored = Vec::with_capacity(tensors.len());
    let mut out = Output { file, path };
    out.put(&header)?;
    for (index, planned) in tensors.iter().enumerate() {
        let mut body = Body {
            planned,
            out: &mut out,
            waiting: Vec::new(),
            bytes: Vec::new(),
            written: 0,
            error: Error::default(),
        };
        elements(index, &mut |elements| Ok(body.take(elements)?))?;
        stored.push(body.finish()?);
    }
    out.file.flush().map_err(FormatError::io(path, "write"))?;
    Ok(stored)
}

/// What a file says about itself, in the order of the calls.
#[derive(Debug, Default)]
pub struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

impl Metadata {
    /// Adds a text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.entry(key, kind::TEXT);
        put_text(&mut self.bytes, value);
    }

    /// Adds a number.
    pub fn number(&mut self, key: &str, value: u32) {
        self.entry(key, kind::U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn entry(&mut self, key: &str, kind: u32) {
        put_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }
}

/// `general.file_type` as llama.cpp counts: the type of most elements of matrices.
pub fn file_type(tensors: &[PlannedTensor<'_>]) -> u32 {
    const NUMBERS: [(StoredDType, u32); 13] = [
        (StoredDType::F32, 0),
        (StoredDType::F16, 1),
        (StoredDType::Q4_0, 2),
        (StoredDType::Q4_1, 3),
        (StoredDType::Q8_0, 7),
        (StoredDType::Q5_0, 8),
        (StoredDType::Q5_1, 9),
        (StoredDType::Q2K, 10),
        (StoredDType::Q3K, 12),
        (StoredDType::Q4K, 14),
        (StoredDType::Q5K, 16),
        (StoredDType::Q6K, 18),
        (StoredDType::Bf16, 32),
    ];
    let elements = |dtype: StoredDType| -> usize {
        let own = tensors.iter().filter(|planned| planned.dtype == dtype && planned.shape.len() == 2);
        own.map(|planned| planned.shape.iter().product::<usize>()).sum()
    };
    let most = NUMBERS.iter().rev().max_by_key(|(dtype, _)| elements(*dtype));
    most.map_or(0, |(_, number)| *number)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Everything before the tensors' bytes, padded.
fn header(path: &Path, metadata: &Metadata, tensors: &[PlannedTensor<'_>]) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(metadata.count.to_le_bytes());
    out.extend(&metadata.bytes);
    let mut offset = 0u64;
    let mut seen = HashSet::new();
    for planned in tensors {
        let bad = |problem: String| FormatError::tensor(path, planned.name, problem);
        if !seen.insert(planned.name) {
            return Err(bad("this name was already used; each tensor needs its own".to_owned()));
        }
        if planned.shape.len() > MOST_AXES {
            return Err(bad(format!("{} axes; GGUF has at most {MOST_AXES}", planned.shape.len())));
        }
        put_text(&mut out, planned.name);
        out.extend((planned.shape.len() as u32).to_le_bytes());
        for &length in planned.shape.iter().rev() {
            out.extend((length as u64).to_le_bytes());
        }
        out.extend(type_number(planned.dtype).unwrap_or_default().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (planned.size(path)? as u64).next_multiple_of(DEFAULT_ALIGNMENT as u64);
    }
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
    Ok(out)
}

struct Output<'f> {
    file: &'f mut dyn Write,
    path: &'f Path,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(FormatError::write(self.path, self.path))
    }
}

/// The bytes of one tensor; pieces are gathered to whole blocks.
struct Body<'b, 'f> {
    planned: &'b PlannedTensor<'b>,
    out: &'b mut Output<'f>,
    waiting: Vec<f32>,
    bytes: Vec<u8>,
    written: usize,
    error: Error,
}

/// Sums of squares of what quantizing changed and of the elements.
#[derive(Default)]
struct Error {
    changed: f64,
    elements: f64,
}

impl Error {
    fn add(&mut self, format: StoredDType, bytes: &[u8], values: &[f32]) {
        let mut back = vec![0.0; values.len()];
        dequantize_blocks(format, bytes, &mut back);
        for (value, back) in values.iter().zip(back) {
            self.changed += f64::from(value - back).powi(2);
            self.elements += f64::from(*value).powi(2);
        }
    }

    fn relative(&self) -> f64 {
        if self.elements > 0.0 { (self.changed / self.elements).sqrt() } else { 0.0 }
    }
}

impl Body<'_, '_> {
    fn take(&mut self, elements: Elements<'_>) -> Result<()> {
        match (elements, self.planned.copied) {
            (Elements::Floats(values), false) => self.put(values),
            (Elements::Blocks(bytes), true) => {
                self.written += bytes.len();
                self.out.put(bytes)
            }
            _ => {
                let problem = "floats were given for blocks, or blocks for floats".to_owned();
                Err(FormatError::tensor(self.out.path, self.planned.name, problem))
            }
        }
    }

    fn put(&mut self, mut values: &[f32]) -> Result<()> {
        while !values.is_empty() {
            let taken = values.len().min(PIECE - self.waiting.len());
            self.waiting.extend(&values[..taken]);
            values = &values[taken..];
            if self.waiting.len() == PIECE {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.bytes.clear();
        let dtype = self.planned.dtype;
        encode(&self.waiting, dtype, &mut self.bytes).map_err(|error| {
            let problem = match error {
                EncodeError::Overflow(value) => {
                    format!("the value {value} does not fit {dtype}; choose a wider type")
                }
                other => other.problem(),
            };
            FormatError::tensor(self.out.path, self.planned.name, problem)
        })?;
        if dtype.is_block() {
            self.error.add(dtype, &self.bytes, &self.waiting);
        }
        self.written += self.bytes.len();
        self.waiting.clear();
        self.out.put(&self.bytes)
    }

    fn finish(mut self) -> Result<StoredTensor> {
        let PlannedTensor { name, shape, dtype, copied } = *self.planned;
        let size = self.planned.size(self.out.path)?;
        let whole = self.waiting.len().is_multiple_of(dtype.block().0);
        if whole && !copied {
            self.write()?;
        }
        if !whole || self.written != size {
            let problem = format!(
                "{} bytes were given for shape {shape:?} of {dtype}, which takes {size}",
                self.written
            );
            return Err(FormatError::tensor(self.out.path, name, problem));
        }
        let padding = size.next_multiple_of(DEFAULT_ALIGNMENT) - size;
        self.out.put(&[0; DEFAULT_ALIGNMENT][..padding])?;
        Ok(StoredTensor {
            name: name.to_owned(),
            dtype: dtype.name().to_owned(),
            bytes: size as u64,
            relative_error: (dtype.is_block() && !copied).then(|| self.error.relative()),
        })
    }
}
