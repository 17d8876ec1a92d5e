//! Where a stored tensor lies and how its elements become 32-bit floats.

use crate::error::{CheckpointError, Result};
use half::{bf16, f16};
use memmap2::Mmap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// More axes than any tensor of a model has.
pub(crate) const LARGEST_RANK: usize = 16;

/// Element type in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// 16-bit float with the exponent range of 32-bit.
    Bf16,
    /// 64-bit float.
    F64,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Unsigned byte.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name safetensors uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// The type with this safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::F32,
            Self::F16,
            Self::Bf16,
            Self::F64,
            Self::I64,
            Self::I32,
            Self::I16,
            Self::I8,
            Self::U8,
            Self::Bool,
        ];
        all.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The bytes of a tensor inside a mapped file.
#[derive(Debug, Clone)]
pub struct Location {
    /// The file.
    pub path: Arc<Path>,
    /// The mapped file.
    pub map: Arc<Mmap>,
    /// From the first byte of the first element to the last byte that any index reaches. Checked
    /// against the file when the entry was made.
    pub bytes: Range<usize>,
}

/// One stored tensor.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Elements between neighbours along each axis.
    pub strides: Vec<usize>,
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
        self.elements() * self.dtype.size()
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
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
        let usable = self.dtype == Dtype::F32
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

    /// Whether the elements are 16-bit floats.
    pub fn is_half(&self) -> bool {
        matches!(self.dtype, Dtype::F16 | Dtype::Bf16)
    }

    /// The bits of all elements in row-major order. Call on a tensor of 16-bit floats.
    pub(crate) fn read_bits(&self) -> Vec<u16> {
        debug_assert!(self.is_half(), "elements are {}", self.dtype);
        self.gather(u16::from_le_bytes)
    }

    /// All elements in row-major order as 32-bit floats; 64-bit floats are rounded, 16-bit ones widened.
    ///
    /// # Errors
    /// When the elements are not floats.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.dtype {
            Dtype::F32 => Ok(self.gather(f32::from_le_bytes)),
            Dtype::F64 => Ok(self.gather(|bytes| f64::from_le_bytes(bytes) as f32)),
            Dtype::F16 => Ok(self.gather(|bytes| f16::from_le_bytes(bytes).to_f32())),
            Dtype::Bf16 => Ok(self.gather(|bytes| bf16::from_le_bytes(bytes).to_f32())),
            other => Err(CheckpointError::Tensor {
                path: self.location.path.to_path_buf(),
                name: name.to_owned(),
                problem: format!("elements are {other}; expected F32, F16, BF16 or F64"),
            }),
        }
    }

    fn gather<const SIZE: usize, T>(&self, convert: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
        let bytes = &self.location.map[self.location.bytes.clone()];
        let (elements, _) = bytes.as_chunks::<SIZE>();
        let count = self.elements();
        if self.is_contiguous() {
            return elements[..count].iter().map(|&element| convert(element)).collect();
        }
        let mut values = Vec::with_capacity(count);
        let mut index = vec![0; self.shape.len()];
        let mut position = 0;
        for _ in 0..count {
            values.push(convert(elements[position]));
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
        values
    }
}

/// Strides of row-major elements. The product of `shape` must be known to fit.
pub(crate) fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// Number of elements, or `None` when it does not fit a `usize`. Axes of length 0 do not hide an overflow.
pub(crate) fn checked_elements(shape: &[usize]) -> Option<usize> {
    let nonzero = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { nonzero })
}

/// Maps a whole file for reading.
///
/// # Errors
/// When it cannot be opened, is empty or is not a regular file.
pub(crate) fn map_file(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(CheckpointError::io(path, "open"))?;
    let metadata = file.metadata().map_err(CheckpointError::io(path, "inspect"))?;
    if !metadata.is_file() {
        return Err(CheckpointError::format(path, "this is not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(CheckpointError::format(
            path,
            "the file is empty; it was probably not written completely",
        ));
    }
    // SAFETY: the mapping is read-only. Checkpoint files are never changed in place, only replaced by
    // rename, which leaves the mapped content alive; another program that truncates the file meanwhile
    // is outside what a mapping can guard against, as in every loader that maps weights.
    let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(path, "map"))?;
    Ok(Arc::new(map))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn entry(dtype: Dtype, bytes: &[u8], shape: &[usize], strides: &[usize]) -> TensorEntry {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bytes");
        std::fs::write(&path, bytes).unwrap();
        let location = Location {
            path: Arc::from(path.as_path()),
            map: map_file(&path).unwrap(),
            bytes: 0..bytes.len(),
        };
        TensorEntry { dtype, shape: shape.to_vec(), strides: strides.to_vec(), location }
    }

    #[test]
    fn every_float_type_widens() {
        let values = [1.5f32, -0.25, 1024.0, 0.0];
        let f16s: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        let f64s: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
        for (dtype, bytes) in [(Dtype::F16, f16s), (Dtype::Bf16, bf16s), (Dtype::F64, f64s)] {
            let entry = entry(dtype, &bytes, &[2, 2], &[2, 1]);
            assert_eq!(entry.read_f32("x").unwrap(), values);
            assert!(entry.mapped_f32().is_none());
        }
        let integers = entry(Dtype::I64, &[0; 16], &[2], &[1]);
        assert!(integers.read_f32("position_ids").unwrap_err().to_string().contains("`position_ids`"));
    }

    #[test]
    fn transposed_views_are_gathered() {
        let bytes: Vec<u8> = (0..24u16).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        // storage (2, 3, 4) seen as (4, 2, 3)
        let view = entry(Dtype::F32, &bytes, &[4, 2, 3], &[1, 12, 4]);
        assert!(!view.is_contiguous());
        assert!(view.mapped_f32().is_none());
        let expected: Vec<f32> = (0..4)
            .flat_map(|a| (0..2).flat_map(move |b| (0..3).map(move |c| (a + 12 * b + 4 * c) as f32)))
            .collect();
        assert_eq!(view.read_f32("x").unwrap(), expected);
        // an axis of length 1 may carry any stride
        let row = entry(Dtype::F32, &bytes, &[1, 24], &[7, 1]);
        assert!(row.is_contiguous());
        assert!(row.mapped_f32().is_some());
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
