//! Elements of a stored tensor piece by piece, so that converting needs no more memory than a piece. Pages of the mapped
//! file are given back once they were read.

use crate::error::{CheckpointError, Result};
use half::{bf16, f16};
use otter_formats::{Location, RowOrder, StoredDType, TensorEntry};
use std::ops::Range;

/// Elements handled at a time.
pub(super) const PIECE: usize = 1 << 18;

/// The part of a stored tensor along its first axis.
///
/// # Errors
/// When the tensor has no such rows, or its file holds them in another order or inside blocks.
pub(super) fn rows(entry: &TensorEntry, name: &str, rows: Range<usize>) -> Result<TensorEntry> {
    let wrong = |problem: String| Err(CheckpointError::tensor(&entry.location.path, name, problem));
    let available = entry.shape.first().copied().unwrap_or(0);
    if entry.shape.is_empty() || rows.start > rows.end || rows.end > available {
        return wrong(format!("it has {available} rows; rows {} to {} were asked for", rows.start, rows.end));
    }
    if rows.len() == available {
        return Ok(entry.clone());
    }
    let mut part = entry.clone();
    part.shape[0] = rows.len();
    let base = entry.location.bytes.start;
    if part.elements() == 0 {
        part.location.bytes = base..base;
        return Ok(part);
    }
    // The element behind the last one that the part reaches.
    let reach: usize =
        part.shape.iter().zip(&part.strides).map(|(length, stride)| (length - 1) * stride).sum();
    let start = rows.start * entry.strides[0];
    let place = (entry.dtype.bytes_of(start), entry.dtype.bytes_of(start + reach + 1));
    match (entry.rows, place) {
        (RowOrder::Stored, (Some(start), Some(end))) => {
            part.location.bytes = base + start..base + end;
            Ok(part)
        }
        _ => wrong("its rows cannot be taken apart; convert this GGUF file to safetensors first".to_owned()),
    }
}

/// Passes the elements in row-major order, as they are stored, to `each`, at most [`PIECE`] at a time. Elements of blocks
/// have no bytes of their own, see [`for_each_f32`].
///
/// # Errors
/// Those of `each`.
pub(super) fn for_each_piece(entry: &TensorEntry, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let width = entry.dtype.size();
    let location = &entry.location;
    let count = entry.elements();
    if entry.dtype.is_block() {
        return Err(CheckpointError::format(
            &location.path,
            format!(
                "its matrices are {}, which only GGUF stores; give a --dtype for the result",
                entry.dtype
            ),
        ));
    }
    if entry.rows != RowOrder::Stored && count > 0 {
        let length = count / entry.shape[0] * width;
        for row in 0..entry.shape[0] {
            let start = location.bytes.start + entry.rows.place(row) * length;
            each(&location.map[start..start + length])?;
        }
        give_back(location, location.bytes.clone());
        return Ok(());
    }
    if entry.is_contiguous() {
        for start in (0..count).step_by(PIECE) {
            let end = (start + PIECE).min(count);
            let bytes = location.bytes.start + start * width..location.bytes.start + end * width;
            each(&location.map[bytes.clone()])?;
            give_back(location, bytes);
        }
        return Ok(());
    }
    let bytes = &location.map[location.bytes.clone()];
    if entry.rows != RowOrder::Stored {
        let length = count / entry.shape[0].max(1) * width;
        (0..entry.shape[0]).try_for_each(|row| each(&bytes[entry.rows.place(row) * length..][..length]))?;
        give_back(location, location.bytes.clone());
        return Ok(());
    }
    let mut piece = Vec::with_capacity(PIECE.min(count) * width);
    let mut index = vec![0; entry.shape.len()];
    let mut position = 0;
    for done in 1..=count {
        piece.extend_from_slice(&bytes[position * width..(position + 1) * width]);
        if done % PIECE == 0 || done == count {
            each(&piece)?;
            piece.clear();
        }
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
    give_back(location, location.bytes.clone());
    Ok(())
}

/// Passes the elements as 32-bit floats to `each`, at most [`PIECE`] at a time.
///
/// # Errors
/// When the elements are not floats; those of `each`.
pub(super) fn for_each_f32(
    entry: &TensorEntry,
    name: &str,
    each: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    if entry.dtype.is_block() {
        return entry.for_each_f32(name, each);
    }
    let mut values = Vec::with_capacity(PIECE.min(entry.elements()));
    for_each_piece(entry, &mut |bytes| {
        values.clear();
        widen(entry, name, bytes, &mut values)?;
        each(&values)
    })
}

fn widen(entry: &TensorEntry, name: &str, bytes: &[u8], values: &mut Vec<f32>) -> Result<()> {
    match entry.dtype {
        StoredDType::F32 => values.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
        StoredDType::F64 => values.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
        StoredDType::F16 => {
            values.extend(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()))
        }
        StoredDType::Bf16 => {
            values.extend(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()))
        }
        other => {
            let problem = format!("elements are {other}; expected F32, F16, BF16 or F64");
            return Err(CheckpointError::tensor(&entry.location.path, name, problem));
        }
    }
    Ok(())
}

/// A value among stored elements that is not finite, if there is one. Integers are finite.
pub(super) fn not_finite(dtype: StoredDType, bytes: &[u8]) -> Option<f32> {
    // All bits of the exponent are set, in infinities and NaN alone. One pass without branches; the culprit is looked for
    // only when there is one.
    macro_rules! find {
        ($bits:ty, $float:ty, $exponent:expr, $widen:expr) => {{
            let values = bytes.as_chunks().0;
            let bad = |&b: &[u8; size_of::<$bits>()]| <$bits>::from_le_bytes(b) & $exponent == $exponent;
            if !values.iter().fold(false, |any, value| any | bad(value)) {
                return None;
            }
            values.iter().copied().find(bad).map(|b| $widen(<$float>::from_le_bytes(b)))
        }};
    }
    match dtype {
        StoredDType::F32 => find!(u32, f32, 0x7f80_0000, |value: f32| value),
        StoredDType::F64 => find!(u64, f64, 0x7ff0_0000_0000_0000, |value: f64| value as f32),
        StoredDType::F16 => find!(u16, f16, 0x7c00, f16::to_f32),
        StoredDType::Bf16 => find!(u16, bf16, 0x7f80, bf16::to_f32),
        _ => None,
    }
}

/// Whether two stored tensors hold the same bytes in the same order.
pub(super) fn same_bytes(left: &TensorEntry, right: &TensorEntry) -> bool {
    if left.dtype != right.dtype || left.shape != right.shape {
        return false;
    }
    let (a, b) = (&left.location, &right.location);
    if a.path == b.path && a.bytes == b.bytes && left.strides == right.strides && left.rows == right.rows {
        return true;
    }
    if left.dtype.is_block() {
        return left.rows == right.rows && a.map[a.bytes.clone()] == b.map[b.bytes.clone()];
    }
    if left.is_contiguous() && right.is_contiguous() {
        let width = left.dtype.size();
        let equal = (0..left.elements()).step_by(PIECE).all(|start| {
            let end = (start + PIECE).min(left.elements());
            let bytes = |base: usize| base + start * width..base + end * width;
            let equal = a.map[bytes(a.bytes.start)] == b.map[bytes(b.bytes.start)];
            give_back(a, bytes(a.bytes.start));
            give_back(b, bytes(b.bytes.start));
            equal
        });
        return equal;
    }
    let mut all = [Vec::new(), Vec::new()];
    for (entry, bytes) in [left, right].into_iter().zip(&mut all) {
        let copied = for_each_piece(entry, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        if copied.is_err() {
            return false;
        }
    }
    all[0] == all[1]
}

/// Gives back the pages of some bytes of a mapped file.
fn give_back(location: &Location, bytes: Range<usize>) {
    otter_formats::give_back(&location.map, bytes);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use otter_formats::map_file;
    use std::sync::Arc;

    pub(in crate::convert) fn entry(values: &[f32], shape: &[usize], strides: &[usize]) -> TensorEntry {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("bytes");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&path, &bytes).unwrap();
        let location = Location {
            path: Arc::from(path.as_path()),
            map: map_file(&path).unwrap(),
            bytes: 0..bytes.len(),
        };
        TensorEntry {
            dtype: StoredDType::F32,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            rows: RowOrder::Stored,
            location,
        }
    }

    fn all(entry: &TensorEntry) -> Vec<f32> {
        let mut values = Vec::new();
        for_each_f32(entry, "x", &mut |piece| {
            assert!(piece.len() <= PIECE);
            values.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        values
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_in_every_type() {
        let bytes = |value: f64| {
            [
                (StoredDType::F32, (value as f32).to_le_bytes().to_vec()),
                (StoredDType::F64, value.to_le_bytes().to_vec()),
                (StoredDType::F16, f16::from_f64(value).to_le_bytes().to_vec()),
                (StoredDType::Bf16, bf16::from_f64(value).to_le_bytes().to_vec()),
            ]
        };
        let good = bytes(-60000.0);
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for ((dtype, good), (_, bad_bytes)) in good.iter().zip(bytes(bad)) {
                assert_eq!(not_finite(*dtype, &good.repeat(9)), None);
                let found = not_finite(*dtype, &[good.repeat(9), bad_bytes].concat()).unwrap();
                assert!(found.is_nan() && bad.is_nan() || f64::from(found) == bad, "{dtype} {found}");
            }
        }
        assert_eq!(not_finite(StoredDType::I64, &[255; 16]), None);
    }

    #[test]
    fn pieces_join_to_the_whole() {
        let values: Vec<f32> = (0..2 * PIECE + 77).map(|i| i as f32).collect();
        let whole = entry(&values, &[values.len()], &[1]);
        assert_eq!(all(&whole), values);
        // Given back pages are read again.
        assert_eq!(all(&whole), values);
        let part = rows(&whole, "x", PIECE - 1..PIECE + 2).unwrap();
        assert_eq!(all(&part), values[PIECE - 1..PIECE + 2]);
        assert!(rows(&whole, "x", 0..values.len() + 1).unwrap_err().to_string().contains("rows"));
        assert_eq!(all(&rows(&whole, "x", 5..5).unwrap()), [0.0; 0]);
    }

    #[test]
    fn transposed_views_come_in_row_major_order() {
        let (height, width) = (700, 900);
        let values: Vec<f32> = (0..height * width).map(|i| i as f32).collect();
        let view = entry(&values, &[width, height], &[1, width]);
        let expected: Vec<f32> =
            (0..width).flat_map(|column| (0..height).map(move |row| (row * width + column) as f32)).collect();
        assert_eq!(all(&view), expected);
        assert_eq!(all(&rows(&view, "x", 3..5).unwrap()), expected[3 * height..5 * height]);
        let plain = entry(&expected, &[width, height], &[height, 1]);
        assert!(same_bytes(&view, &plain) && same_bytes(&plain, &plain));
        let other = entry(&values, &[width, height], &[height, 1]);
        assert!(!same_bytes(&view, &other) && !same_bytes(&plain, &other));
    }

    /// Blocks of moved rows, copied, are those of the rows in order.
    #[test]
    fn blocks_are_copied_in_the_order_of_rows() {
        let (rows, width) = (12, 32);
        // 12 rows of a block of Q8_0 each, of 34 bytes.
        let bytes: Vec<f32> =
            (0..rows * 34 / 4).map(|i| f32::from_bits(0x3c01_0203u32.wrapping_mul(i as u32 + 1))).collect();
        let mut moved = entry(&bytes, &[rows, width], &[width, 1]);
        moved.dtype = StoredDType::Q8_0;
        moved.rows = RowOrder::Interleaved { head: 6 };
        let mut copied = Vec::new();
        moved
            .for_each_blocks::<CheckpointError>("x", &mut |bytes| {
                copied.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        let mut values = vec![0.0; rows * width];
        otter_formats::gguf::dequantize_blocks(StoredDType::Q8_0, &copied, &mut values);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(&moved.read_f32("x").unwrap()));
    }

    #[test]
    fn moved_rows_come_in_their_order() {
        let (rows_of, head) = (12, 6);
        let values: Vec<f32> = (0..rows_of * 5).map(|i| i as f32).collect();
        let mut moved = entry(&values, &[rows_of, 5], &[5, 1]);
        moved.rows = RowOrder::Interleaved { head };
        let expected = moved.read_f32("x").unwrap();
        assert_ne!(expected, values);
        assert_eq!(all(&moved), expected);
        assert!(rows(&moved, "x", 0..6).unwrap_err().to_string().contains("GGUF"));
        assert_eq!(all(&rows(&moved, "x", 0..12).unwrap()), expected);
        let plain = entry(&expected, &[rows_of, 5], &[5, 1]);
        assert!(same_bytes(&moved, &plain) && !same_bytes(&moved, &entry(&values, &[rows_of, 5], &[5, 1])));
    }
}
