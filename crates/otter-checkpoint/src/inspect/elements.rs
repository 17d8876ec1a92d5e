//! Elements of a stored tensor one at a time, without copying the tensor.

use crate::tensor::{Dtype, TensorEntry};
use half::{bf16, f16};

/// How a float of this type is read, with its width in bytes; `None` for what is not a plain float.
pub(crate) fn decoder(dtype: Dtype) -> Option<(usize, fn(&[u8]) -> f32)> {
    fn at<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    Some(match dtype {
        Dtype::F32 => (4, |bytes| f32::from_le_bytes(at(bytes))),
        Dtype::F16 => (2, |bytes| f16::from_le_bytes(at(bytes)).to_f32()),
        Dtype::Bf16 => (2, |bytes| bf16::from_le_bytes(at(bytes)).to_f32()),
        Dtype::F64 => (8, |bytes| f64::from_le_bytes(at(bytes)) as f32),
        _ => return None,
    })
}

/// One row of a matrix; `None` where there is no such row or the elements are no plain floats.
pub(crate) fn row(entry: &TensorEntry, row: usize) -> Option<Vec<f32>> {
    let (&[rows, width], &[down, along]) = (&entry.shape[..], &entry.strides[..]) else { return None };
    let (size, decode) = decoder(entry.dtype)?;
    let bytes = entry.location.map.get(entry.location.bytes.clone())?;
    (row < rows).then(|| (0..width).map(|at| decode(&bytes[(row * down + at * along) * size..])).collect())
}

/// Calls `each` with every element in row-major order; false where the elements are no plain floats.
pub(crate) fn for_each(entry: &TensorEntry, each: &mut dyn FnMut(f32)) -> bool {
    let Some((size, decode)) = decoder(entry.dtype) else { return false };
    let Some(bytes) = entry.location.map.get(entry.location.bytes.clone()) else { return false };
    if entry.is_contiguous() {
        bytes.chunks_exact(size).take(entry.elements()).for_each(|element| each(decode(element)));
        return true;
    }
    let mut index = vec![0; entry.shape.len()];
    let mut position = 0;
    for _ in 0..entry.elements() {
        each(decode(&bytes[position * size..]));
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            position += entry.strides[axis];
            if index[axis] < entry.shape[axis] {
                break;
            }
            position -= entry.strides[axis] * entry.shape[axis];
            index[axis] = 0;
        }
    }
    true
}
