//! Writing the ZIP form of PyTorch files (`.bin`, `.pt`) while the elements stream past, so that memory does
//! not grow with the model. `torch.load(path, weights_only=True)` opens the result, also with `mmap=True`.

use super::names::storage_name;
use super::zip_write::ZipWriter;
use crate::error::{FormatError, Result};
use crate::stored_tensor::{LARGEST_RANK, NewTensor, checked_elements, row_major_strides};
use std::collections::HashSet;
use std::io::{self, Seek, Write};
use std::path::Path;

/// Folder of all members; older writers of PyTorch always use it. It keeps the bytes independent of the name.
const STEM: &str = "archive";

/// Writes a PyTorch file into `file`. With `prefix` the state dict is the value of that key in a dict of one entry, as
/// trainers write it (`model_state_dict`).
///
/// `bytes(i, out)` writes the little-endian elements of tensor `i` in row-major order; it is called once a
/// tensor, in order, and the number of bytes is checked. `path` is for messages.
///
/// # Errors
/// When a name occurs twice, a size overflows, the elements are more or fewer than the shape says, or the disk
/// refuses.
pub fn write<E: From<FormatError>>(
    file: &mut (impl Write + Seek),
    path: &Path,
    tensors: &[NewTensor<'_>],
    prefix: Option<&str>,
    bytes: &mut dyn FnMut(usize, &mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let sizes = check(path, tensors)?;
    let pickle = pickle(tensors, prefix);
    let failed = |source| FormatError::write(path, path)(source);
    let mut zip = ZipWriter::new(file);
    let small = |zip: &mut ZipWriter<_>, name: &str, content: &[u8]| -> io::Result<()> {
        let mut member = zip.begin(&format!("{STEM}/{name}"), content.len() as u64)?;
        member.write_all(content)?;
        member.end().map_err(|_| io::ErrorKind::WriteZero.into())
    };
    small(&mut zip, "data.pkl", &pickle).map_err(failed)?;
    small(&mut zip, "byteorder", b"little").map_err(failed)?;
    for (index, (tensor, &size)) in tensors.iter().zip(&sizes).enumerate() {
        let mut member = zip.begin(&format!("{STEM}/data/{index}"), size as u64).map_err(failed)?;
        bytes(index, &mut member)?;
        member.end().map_err(|missing| {
            let problem = format!(
                "{} bytes were given for shape {:?} of {}, which takes {size}",
                size as u64 - missing,
                tensor.shape,
                tensor.dtype
            );
            FormatError::tensor(path, tensor.name, problem)
        })?;
    }
    small(&mut zip, "version", b"3\n").map_err(failed)?;
    zip.finish().map_err(failed)?;
    Ok(())
}

/// Bytes of each tensor.
fn check(path: &Path, tensors: &[NewTensor<'_>]) -> Result<Vec<usize>> {
    let mut seen = HashSet::new();
    tensors
        .iter()
        .map(|tensor| {
            let bad = |problem: String| FormatError::tensor(path, tensor.name, problem);
            if !seen.insert(tensor.name) {
                return Err(bad("this name was already used; each tensor needs its own".to_owned()));
            }
            let size = checked_elements(tensor.shape)
                .and_then(|elements| elements.checked_mul(tensor.dtype.size()))
                .filter(|&size| i64::try_from(size).is_ok() && tensor.shape.len() <= LARGEST_RANK);
            let shape = tensor.shape;
            size.ok_or_else(|| {
                bad(format!("shape {shape:?} has more than {LARGEST_RANK} axes or 2^63 bytes"))
            })
        })
        .collect()
}

/// `data.pkl`: `{name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), …}`, protocol 2.
fn pickle(tensors: &[NewTensor<'_>], prefix: Option<&str>) -> Vec<u8> {
    let mut out = vec![0x80, 2, b'}'];
    if let Some(prefix) = prefix {
        text(&mut out, prefix);
        out.push(b'}');
    }
    out.push(b'(');
    for (index, tensor) in tensors.iter().enumerate() {
        text(&mut out, tensor.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{}\n", storage_name(tensor.dtype)).bytes());
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        number(&mut out, tensor.shape.iter().product());
        out.extend(b"tQ");
        number(&mut out, 0);
        for list in [tensor.shape, &row_major_strides(tensor.shape)] {
            out.push(b'(');
            list.iter().for_each(|&length| number(&mut out, length));
            out.push(b't');
        }
        // no gradient, no hooks
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.push(b'u');
    if prefix.is_some() {
        out.push(b's');
    }
    out.push(b'.');
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    if let Ok(number) = u8::try_from(number) {
        out.extend([b'K', number]);
    } else if let Ok(number) = i32::try_from(number) {
        out.push(b'J');
        out.extend(number.to_le_bytes());
    } else {
        // `check` keeps numbers below 2^63, so eight bytes are positive.
        out.extend([0x8a, 8]);
        out.extend((number as u64).to_le_bytes());
    }
}
