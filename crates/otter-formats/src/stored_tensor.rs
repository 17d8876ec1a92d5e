//! Where a stored tensor lies and how its elements become 32-bit floats.

use crate::dtype::{LARGEST_BLOCK, StoredDType};
use crate::encode::{EncodeError, check_finite};
use crate::error::{FormatError, Result};
use crate::gguf::dequantize_blocks;
use crate::mapped::{Location, give_back};
use half::{bf16, f16};
use memmap2::Mmap;
use otter_nn::QuantizedFormat;
use otter_nn::backend::cpu::half::f16_to_f32;
use otter_nn::tensor::quantized::OutOfRange;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Elements widened at a time: whole blocks of every kind.
const PIECE: usize = 256 * LARGEST_BLOCK;

/// More axes than any tensor of a model has.
pub(crate) const LARGEST_RANK: usize = 16;

/// In which order a file holds the rows (the first axis) of a matrix or bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowOrder {
    /// As the shape says.
    #[default]
    Stored,
    /// Within each head of so many rows, the first and the second half are interleaved (llama.cpp's LLaMA).
    Interleaved {
        /// Rows of a head.
        head: usize,
    },
    /// Groups of queries, key and value were taken apart: all queries, all keys, all values (llama.cpp's GPT-NeoX, Falcon).
    Apart {
        /// Groups; each has one key and one value.
        groups: usize,
        /// Queries of a group.
        queries: usize,
        /// Rows of a query, key or value.
        head: usize,
    },
}

impl RowOrder {
    /// Where the file holds a row.
    pub fn place(self, row: usize) -> usize {
        match self {
            Self::Stored => row,
            Self::Interleaved { head } => {
                let (start, within) = (row / head * head, row % head);
                start + within % (head / 2) * 2 + within / (head / 2)
            }
            Self::Apart { groups, queries, head } => {
                let (part, within) = (row / head, row % head);
                let (group, part) = (part / (queries + 2), part % (queries + 2));
                let place = match part.checked_sub(queries) {
                    None => group * queries + part,
                    Some(which) => groups * (queries + which) + group,
                };
                place * head + within
            }
        }
    }
}

/// One stored tensor.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Element type in the file.
    pub dtype: StoredDType,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Elements between neighbors along each axis.
    pub strides: Vec<usize>,
    /// Order of the rows in the file.
    pub rows: RowOrder,
    /// Where the elements lie.
    pub location: Location,
}

impl TensorEntry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the elements in the file's own type.
    pub fn byte_size(&self) -> usize {
        // An entry is only made of whole blocks.
        self.dtype.bytes_of(self.elements()).unwrap_or_default()
    }

    /// Whether the elements lie in row-major order without gaps, each with bytes of its own.
    pub fn is_contiguous(&self) -> bool {
        if self.rows != RowOrder::Stored || self.dtype.is_block() {
            return false;
        }
        let mut expected = 1;
        for (&length, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if length != 1 && stride != expected {
                return self.elements() == 0;
            }
            expected *= length;
        }
        true
    }

    /// File and byte range, when the bytes are exactly the row-major 32-bit floats, aligned for direct use.
    pub fn mapped_f32(&self) -> Option<(Arc<Mmap>, Range<usize>)> {
        let bytes = &self.location.bytes;
        let usable = self.dtype == StoredDType::F32
            && self.is_contiguous()
            && cfg!(target_endian = "little")
            && (self.location.map.as_ptr() as usize + bytes.start).is_multiple_of(align_of::<f32>())
            && bytes.len() == self.elements() * size_of::<f32>();
        usable.then(|| (Arc::clone(&self.location.map), bytes.clone()))
    }

    /// File and byte range, when the bytes are exactly the row-major 16-bit floats, aligned for direct use.
    pub fn mapped_half(&self) -> Option<(Arc<Mmap>, Range<usize>)> {
        let bytes = &self.location.bytes;
        let usable = self.is_half()
            && self.is_contiguous()
            && cfg!(target_endian = "little")
            && (self.location.map.as_ptr() as usize + bytes.start).is_multiple_of(align_of::<f16>())
            && bytes.len() == self.elements() * size_of::<f16>();
        usable.then(|| (Arc::clone(&self.location.map), bytes.clone()))
    }

    /// File and byte range, when the bytes are exactly the row-major blocks of a matrix that kernels multiply with as they
    /// are, and the format of these.
    pub fn mapped_blocks(&self) -> Option<(QuantizedFormat, Arc<Mmap>, Range<usize>)> {
        let &[_, width] = &self.shape[..] else { return None };
        let format = self.dtype.quantized().filter(|format| format.fits(width))?;
        let bytes = &self.location.bytes;
        let usable = self.rows == RowOrder::Stored && bytes.len() == self.byte_size();
        usable.then(|| (format, Arc::clone(&self.location.map), bytes.clone()))
    }

    /// The rows of a matrix of floats, quantized on all threads without widening the matrix as a whole.
    ///
    /// # Errors
    /// When the tensor is no matrix of floats, its rows are not whole blocks of `format`, or a value does not fit.
    pub fn quantize(&self, name: &str, format: QuantizedFormat) -> Result<Vec<u8>> {
        let bad = |problem: String| self.refusal(name, problem);
        self.check_float(name)?;
        let &[rows, width] = &self.shape[..] else {
            return Err(bad(format!("shape {:?}; only matrices are quantized", self.shape)));
        };
        if !format.fits(width) {
            let (name, block) = (format.name(), format.block_len());
            return Err(bad(format!("rows of {width} elements are no whole blocks of {name} ({block})")));
        }
        let mut bytes = vec![0; rows * format.row_bytes(width)];
        bytes.par_chunks_mut(format.row_bytes(width)).enumerate().try_for_each_init(
            Vec::new,
            |values, (row, bytes)| {
                if !self.read_row(row, values) {
                    return Err(bad(format!("row {row} ends inside a block of {}", self.dtype)));
                }
                format.encode(values, bytes).map_err(|OutOfRange(value)| {
                    bad(format!("row {row} holds {value}, which {} cannot hold", format.name()))
                })
            },
        )?;
        give_back(&self.location.map, self.location.bytes.clone());
        Ok(bytes)
    }

    /// Whether the elements are 16-bit floats.
    pub fn is_half(&self) -> bool {
        matches!(self.dtype, StoredDType::F16 | StoredDType::Bf16)
    }

    /// The bits of all elements in row-major order. Call on a tensor of 16-bit floats.
    pub fn read_bits(&self) -> Vec<u16> {
        debug_assert!(self.is_half(), "elements are {}", self.dtype);
        let (elements, _) = self.location.map[self.location.bytes.clone()].as_chunks::<2>();
        let mut bits = Vec::with_capacity(self.elements());
        if self.rows == RowOrder::Stored {
            self.for_each_position(|position| bits.push(u16::from_le_bytes(elements[position])));
        } else {
            let length = self.elements() / self.shape[0].max(1);
            for row in 0..self.shape[0] {
                let row = &elements[self.rows.place(row) * length..][..length];
                bits.extend(row.iter().map(|&element| u16::from_le_bytes(element)));
            }
        }
        bits
    }

    /// All elements in row-major order as 32-bit floats; 64-bit floats are rounded, 16-bit ones widened, blocks dequantized.
    ///
    /// # Errors
    /// When the elements are not floats.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.for_each_f32::<FormatError>(name, &mut |piece| {
            if values.is_empty() {
                values.reserve_exact(self.elements());
            }
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }

    /// Passes all elements in row-major order as 32-bit floats to `each`, piece by piece.
    ///
    /// # Errors
    /// When the elements are not floats; those of `each`.
    pub fn for_each_f32<E: From<FormatError>>(
        &self,
        name: &str,
        each: &mut dyn FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_float(name)?;
        if self.elements() == 0 {
            return Ok(());
        }
        if self.rows != RowOrder::Stored {
            return self.for_each_row(each);
        }
        if !self.is_contiguous() && !self.dtype.is_block() {
            return each(&self.gather());
        }
        let bytes = &self.location.map[self.location.bytes.clone()];
        let mut values = vec![0.0; PIECE.min(self.elements())];
        for start in (0..self.elements()).step_by(PIECE) {
            let count = PIECE.min(self.elements() - start);
            self.widen(bytes, start, &mut values[..count]);
            each(&values[..count])?;
        }
        Ok(())
    }

    /// Passes the bytes of a matrix in blocks to `each`, in the order of its rows. Call on a tensor of blocks. `name` is for
    /// messages.
    ///
    /// # Errors
    /// When the scale of a block makes its elements no finite numbers; those of `each`.
    pub fn for_each_blocks<E: From<FormatError>>(
        &self,
        name: &str,
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.for_each_f32::<FormatError>(name, &mut |values| {
            check_finite(values).map_err(|value| self.refusal(name, EncodeError::NotFinite(value).problem()))
        })?;
        let bytes = &self.location.map[self.location.bytes.clone()];
        let rows = self.shape.first().copied().unwrap_or(0);
        if self.rows == RowOrder::Stored || rows == 0 {
            return bytes.chunks(PIECE).try_for_each(each);
        }
        let length = bytes.len() / rows;
        (0..rows).try_for_each(|row| each(&bytes[self.rows.place(row) * length..][..length]))
    }

    /// One row of a matrix as 32-bit floats; `None` where there is no such row, or the elements are no floats.
    pub fn row_f32(&self, row: usize) -> Option<Vec<f32>> {
        let mut values = Vec::new();
        self.read_row(row, &mut values).then_some(values)
    }

    /// As [`TensorEntry::row_f32`], into `values`; whether there is such a row.
    fn read_row(&self, row: usize, values: &mut Vec<f32>) -> bool {
        let (&[rows, width], &[down, along]) = (&self.shape[..], &self.strides[..]) else { return false };
        // A row that ends inside a block is not read.
        if row >= rows || self.check_float("").is_err() || self.dtype.bytes_of(width).is_none() {
            return false;
        }
        let bytes = &self.location.map[self.location.bytes.clone()];
        values.resize(width, 0.0);
        if along == 1 && down == width {
            self.widen(bytes, self.rows.place(row) * width, values);
        } else {
            values
                .chunks_mut(1)
                .enumerate()
                .for_each(|(at, value)| self.widen(bytes, row * down + at * along, value));
        }
        true
    }

    fn refusal(&self, name: &str, problem: String) -> FormatError {
        FormatError::tensor(&self.location.path, name, problem)
    }

    fn check_float(&self, name: &str) -> Result<()> {
        if self.dtype.is_float() {
            return Ok(());
        }
        let problem = format!("elements are {}; expected F32, F16, BF16 or F64", self.dtype);
        Err(self.refusal(name, problem))
    }

    /// Rows one by one from where the file holds them.
    fn for_each_row<E>(&self, each: &mut dyn FnMut(&[f32]) -> Result<(), E>) -> Result<(), E> {
        let bytes = &self.location.map[self.location.bytes.clone()];
        let rows = self.shape[0];
        let length = self.elements() / rows;
        if length == 1 {
            // A block may hold many rows of one element.
            let mut stored = vec![0.0; rows];
            self.widen(bytes, 0, &mut stored);
            let moved: Vec<f32> = (0..rows).map(|row| stored[self.rows.place(row)]).collect();
            return each(&moved);
        }
        let mut values = vec![0.0; length];
        for row in 0..rows {
            self.widen(bytes, self.rows.place(row) * length, &mut values);
            each(&values)?;
        }
        Ok(())
    }

    /// Widens consecutive elements; for block formats `start` and the length must be whole blocks.
    fn widen(&self, bytes: &[u8], start: usize, out: &mut [f32]) {
        fn convert<const SIZE: usize>(
            bytes: &[u8],
            start: usize,
            out: &mut [f32],
            convert: impl Fn([u8; SIZE]) -> f32,
        ) {
            let (elements, _) = bytes.as_chunks::<SIZE>();
            for (value, element) in out.iter_mut().zip(&elements[start..]) {
                *value = convert(*element);
            }
        }
        match self.dtype {
            StoredDType::F64 => convert(bytes, start, out, |bytes| f64::from_le_bytes(bytes) as f32),
            StoredDType::F16 => convert(bytes, start, out, |bytes| f16_to_f32(u16::from_le_bytes(bytes))),
            StoredDType::Bf16 => convert(bytes, start, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            dtype if dtype.is_block() => {
                let (length, size) = dtype.block();
                let first = start / length * size;
                dequantize_blocks(dtype, &bytes[first..first + out.len() / length * size], out);
            }
            // `check_float` let nothing else through.
            _ => convert(bytes, start, out, f32::from_le_bytes),
        }
    }

    /// Elements of a view with gaps, in row-major order.
    fn gather(&self) -> Vec<f32> {
        let bytes = &self.location.map[self.location.bytes.clone()];
        let mut values = Vec::with_capacity(self.elements());
        self.for_each_position(|position| {
            let mut value = [0.0];
            self.widen(bytes, position, &mut value);
            values.extend(value);
        });
        values
    }

    /// Place in the file, in elements, of every element in row-major order.
    fn for_each_position(&self, mut each: impl FnMut(usize)) {
        let mut index = vec![0; self.shape.len()];
        let mut position = 0;
        for _ in 0..self.elements() {
            each(position);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                position += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                position -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
    }
}

/// One tensor of a file to write.
#[derive(Debug, Clone, Copy)]
pub struct NewTensor<'a> {
    /// Name in the state dict.
    pub name: &'a str,
    /// Element type in the file.
    pub dtype: StoredDType,
    /// Length of each axis.
    pub shape: &'a [usize],
}

impl NewTensor<'_> {
    /// Bytes of all elements; of a plain type.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.size() as u64
    }
}

/// Strides of row-major elements. The product of `shape` must be known to fit.
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// Number of elements, or `None` when it does not fit a `usize`. Axes of length 0 do not hide an overflow.
pub fn checked_elements(shape: &[usize]) -> Option<usize> {
    let nonzero = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { nonzero })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::mapped::map_file;

    fn entry(dtype: StoredDType, bytes: &[u8], shape: &[usize], strides: &[usize]) -> TensorEntry {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bytes");
        std::fs::write(&path, bytes).unwrap();
        let location = Location {
            path: Arc::from(path.as_path()),
            map: map_file(&path).unwrap(),
            bytes: 0..bytes.len(),
        };
        TensorEntry {
            dtype,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            rows: RowOrder::Stored,
            location,
        }
    }

    #[test]
    fn every_float_type_widens() {
        let values = [1.5f32, -0.25, 1024.0, 0.0];
        let f16s: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        let f64s: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
        for (dtype, bytes) in [(StoredDType::F16, f16s), (StoredDType::Bf16, bf16s), (StoredDType::F64, f64s)]
        {
            let entry = entry(dtype, &bytes, &[2, 2], &[2, 1]);
            assert_eq!(entry.read_f32("x").unwrap(), values);
            assert!(entry.mapped_f32().is_none());
        }
        let integers = entry(StoredDType::I64, &[0; 16], &[2], &[1]);
        assert!(integers.read_f32("position_ids").unwrap_err().to_string().contains("`position_ids`"));
    }

    #[test]
    fn transposed_views_are_gathered() {
        let bytes: Vec<u8> = (0..24u16).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        // storage (2, 3, 4) seen as (4, 2, 3)
        let view = entry(StoredDType::F32, &bytes, &[4, 2, 3], &[1, 12, 4]);
        assert!(!view.is_contiguous());
        assert!(view.mapped_f32().is_none());
        let expected: Vec<f32> = (0..4)
            .flat_map(|a| (0..2).flat_map(move |b| (0..3).map(move |c| (a + 12 * b + 4 * c) as f32)))
            .collect();
        assert_eq!(view.read_f32("x").unwrap(), expected);
        // an axis of length 1 may carry any stride
        let row = entry(StoredDType::F32, &bytes, &[1, 24], &[7, 1]);
        assert!(row.is_contiguous());
        assert!(row.mapped_f32().is_some());
    }

    /// The converter of llama.cpp moves rows so; reading moves them back.
    #[test]
    fn moved_rows_come_back() {
        let read = |stored: &[f32], rows: RowOrder, shape: &[usize]| {
            let bytes: Vec<u8> = stored.iter().flat_map(|value| value.to_le_bytes()).collect();
            let entry =
                TensorEntry { rows, ..entry(StoredDType::F32, &bytes, shape, &row_major_strides(shape)) };
            assert!(entry.mapped_f32().is_none() && !entry.is_contiguous());
            entry.read_f32("x").unwrap()
        };
        let (heads, head, width) = (3, 8, 2);
        let original: Vec<f32> = (0..heads * head * width).map(|number| number as f32).collect();
        // reshape(heads, 2, head / 2, width).swapaxes(1, 2)
        let mut stored = Vec::new();
        for h in 0..heads {
            for i in 0..head / 2 {
                for half in 0..2 {
                    let row = h * head + half * (head / 2) + i;
                    stored.extend(&original[row * width..(row + 1) * width]);
                }
            }
        }
        let order = RowOrder::Interleaved { head };
        assert_eq!(read(&stored, order, &[heads * head, width]), original);
        let column = |all: &[f32]| all.iter().copied().step_by(width).collect::<Vec<f32>>();
        assert_eq!(read(&column(&stored), order, &[heads * head]), column(&original));

        // view(groups, queries + 2, head, width) -> all queries, all keys, all values
        let (groups, queries, head) = (2, 3, 4);
        let rows = groups * (queries + 2) * head;
        let original: Vec<f32> = (0..rows * width).map(|number| number as f32).collect();
        let mut stored = Vec::new();
        for parts in [0..queries, queries..queries + 1, queries + 1..queries + 2] {
            for group in 0..groups {
                for part in parts.clone() {
                    let start = (group * (queries + 2) + part) * head * width;
                    stored.extend(&original[start..start + head * width]);
                }
            }
        }
        let order = RowOrder::Apart { groups, queries, head };
        assert_eq!(read(&stored, order, &[rows, width]), original);
        assert_eq!(read(&column(&stored), order, &[rows]), column(&original));
    }

    #[test]
    fn overflowing_shapes_are_refused() {
        assert_eq!(checked_elements(&[2, 3]), Some(6));
        assert_eq!(checked_elements(&[]), Some(1));
        assert_eq!(checked_elements(&[0, 5]), Some(0));
        assert_eq!(checked_elements(&[usize::MAX, 2]), None);
        assert_eq!(checked_elements(&[0, usize::MAX, 2]), None);
    }
}
