//! Embeddings that were made elsewhere: a matrix in `.npy` or `.safetensors`, and a list of ids for its rows.

use std::collections::HashMap;
use std::path::Path;

use half::f16;
use otter_checkpoint::Weights;
use otter_data::{parse_json, read_text_file};

use crate::retrieve::error::{Result, RetrieveError};
use crate::retrieve::hash;
use crate::retrieve::vectors::normalize_rows;

/// Longest header of a `.npy` file that is looked at.
const LONGEST_HEADER: usize = 1 << 16;

/// Unit vectors by id.
pub struct Precomputed {
    width: usize,
    rows: Vec<f32>,
    row_of: HashMap<u128, u32>,
    fingerprint: String,
}

impl Precomputed {
    /// Reads a matrix (rows, width) and the ids of its rows: a JSON array of strings, or one id a line.
    ///
    /// # Errors
    /// When the files are damaged, the counts differ, an id occurs twice, a value is not finite or a row is zero.
    pub fn open(matrix: &Path, ids: &Path) -> Result<Self> {
        let extension = matrix.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let (mut rows, width) = match extension {
            "npy" => read_npy(matrix)?,
            "safetensors" => read_safetensors(matrix)?,
            _ => {
                let problem = "a .npy or .safetensors file with one matrix (rows, width) is expected";
                return Err(RetrieveError::format(matrix, problem));
            }
        };
        let list = read_ids(ids)?;
        let count = rows.len() / width;
        if list.len() != count {
            let problem =
                format!("{} ids, but {} has {count} rows; they must agree", list.len(), matrix.display());
            return Err(RetrieveError::format(ids, problem));
        }
        for (id, row) in list.iter().zip(rows.chunks_exact(width)) {
            if let Some(value) = row.iter().find(|value| !value.is_finite()) {
                let problem =
                    format!("the row of `{}` holds {value}; finite numbers are expected", id.escape_debug());
                return Err(RetrieveError::format(matrix, problem));
            }
            if row.iter().all(|&value| value == 0.0) {
                let problem = format!("the row of `{}` is zero: it has no direction", id.escape_debug());
                return Err(RetrieveError::format(matrix, problem));
            }
        }
        let mut row_of = HashMap::with_capacity(list.len());
        for (row, id) in (0..).zip(&list) {
            if row_of.insert(hash::content(id.as_bytes()), row).is_some() {
                return Err(RetrieveError::format(
                    ids,
                    format!("the id `{}` occurs twice", id.escape_debug()),
                ));
            }
        }
        normalize_rows(&mut rows, width);
        let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        let digest = hash::content(&bytes) ^ hash::content(list.join("\n").as_bytes());
        Ok(Self { width, rows, row_of, fingerprint: format!("precomputed-1 {width} {digest:032x}") })
    }

    /// Length of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Changes when any vector or id does.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The unit vector of an id.
    pub fn get(&self, id: &str) -> Option<&[f32]> {
        let row = *self.row_of.get(&hash::content(id.as_bytes()))? as usize;
        Some(&self.rows[row * self.width..][..self.width])
    }
}

fn read_safetensors(path: &Path) -> Result<(Vec<f32>, usize)> {
    let weights = Weights::open_file(path)?;
    let names: Vec<&str> = weights.names().collect();
    let &[name] = &names[..] else {
        let problem = format!("{} tensors; exactly one, the matrix of embeddings, is expected", names.len());
        return Err(RetrieveError::format(path, problem));
    };
    let shape = weights.get(name).map(|entry| entry.shape.clone()).unwrap_or_default();
    let width = matrix_width(path, &shape)?;
    Ok((weights.read_f32(name)?, width))
}

fn matrix_width(path: &Path, shape: &[usize]) -> Result<usize> {
    match *shape {
        [rows, width] if rows > 0 && width > 0 => Ok(width),
        _ => {
            let problem = format!("shape {shape:?}; a matrix (rows, width), neither of them 0, is expected");
            Err(RetrieveError::format(path, problem))
        }
    }
}

/// NumPy's format, versions 1 to 3: `<f2`, `<f4` or `<f8` in C order.
fn read_npy(path: &Path) -> Result<(Vec<f32>, usize)> {
    let bytes = std::fs::read(path).map_err(RetrieveError::io(path, "read"))?;
    let wrong = |problem: &str| RetrieveError::format(path, problem);
    let broken = || wrong("no complete .npy file; save it again with numpy.save");
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(broken)?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err(broken()),
    };
    if length > LONGEST_HEADER {
        return Err(broken());
    }
    let (header, data) = rest.split_at_checked(length).ok_or_else(broken)?;
    let header: String = std::str::from_utf8(header).map_err(|_| broken())?.split_whitespace().collect();
    if !header.contains("'fortran_order':False") {
        return Err(wrong("the matrix is stored by columns; save numpy.ascontiguousarray of it"));
    }
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest);
    let kind = after("'descr':'").and_then(|rest| rest.split('\'').next()).unwrap_or_default();
    let shape = after("'shape':(").and_then(|rest| rest.split(')').next()).unwrap_or_default();
    let shape: Vec<usize> = shape
        .split(',')
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().map_err(|_| broken()))
        .collect::<Result<_>>()?;
    let width = matrix_width(path, &shape)?;
    let size = match kind {
        "<f2" => 2,
        "<f4" => 4,
        "<f8" => 8,
        _ => return Err(wrong(&format!("elements are `{kind}`; <f2, <f4 or <f8 are expected"))),
    };
    let expected = shape.iter().try_fold(size, |product: usize, &size| product.checked_mul(size));
    if expected != Some(data.len()) {
        let problem =
            format!("{} bytes of elements; the shape {shape:?} of {kind} asks for {expected:?}", data.len());
        return Err(wrong(&problem));
    }
    let rows = match kind {
        "<f2" => data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        "<f4" => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        _ => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
    };
    Ok((rows, width))
}

fn read_ids(path: &Path) -> Result<Vec<String>> {
    let text = read_text_file(path)?;
    if text.trim_start().starts_with('[') {
        return parse_json(text.as_bytes()).map_err(|fault| {
            RetrieveError::format(path, format!("a JSON array of strings is expected: {fault}"))
        });
    }
    Ok(text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(data);
        bytes
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn rows_are_found_by_id_and_everything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (matrix, ids) = (folder.path().join("m.npy"), folder.path().join("ids.json"));
        let open = |bytes: Vec<u8>, list: &str| {
            std::fs::write(&matrix, bytes).unwrap();
            std::fs::write(&ids, list).unwrap();
            Precomputed::open(&matrix, &ids)
        };
        let good = floats(&[3.0, 4.0, 0.0, -2.0]);
        for list in ["[\"a\", \"b\"]", "a\nb\n"] {
            let found = open(npy("<f4", "(2, 2)", &good), list).unwrap();
            assert_eq!(found.get("a").unwrap(), [0.6, 0.8]);
            assert_eq!(found.get("b").unwrap(), [0.0, -1.0]);
            assert!(found.get("c").is_none());
        }
        let list = "a\nb";
        for (bytes, list, part) in [
            (npy("<f4", "(2, 2)", &good), "a", "1 ids"),
            (npy("<f4", "(2, 2)", &good), "a\na", "twice"),
            (npy("<f4", "(2, 2)", &good), "[1, 2]", "array of strings"),
            (npy("<f4", "(4,)", &good), list, "shape [4]"),
            (npy("<f4", "(2, 3)", &good), list, "16 bytes"),
            (npy("<f4", "(99999999999, 99999999999)", &good), list, "16 bytes"),
            (npy("<i4", "(2, 2)", &good), list, "<i4"),
            (npy("<f4", "(2, 2)", &floats(&[1.0, f32::NAN, 1.0, 1.0])), list, "NaN"),
            (npy("<f4", "(2, 2)", &floats(&[1.0, 1.0, 0.0, 0.0])), list, "zero"),
            (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), list, "no complete"),
            (b"PK".to_vec(), list, "no complete"),
        ] {
            let message = open(bytes, list).err().unwrap().to_string();
            assert!(message.contains(part), "no '{part}' in {message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damaged_headers_never_panic(header in "[ -~]{0,60}", data in proptest::collection::vec(0_u8.., 0..40)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("m.npy");
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend((header.len() as u16).to_le_bytes());
            bytes.extend(header.bytes());
            bytes.extend(data);
            std::fs::write(&path, bytes).unwrap();
            let _ = read_npy(&path);
        }
    }
}
