//! Named f32 tensors in a safetensors file, written and read one at a time: moments are too large to copy whole.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, View};

use crate::error::{Result, TrainError};

/// No header of a real file is longer.
const LARGEST_HEADER: u64 = 100_000_000;

/// A tensor to write.
struct Values<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Writes named tensors (name, shape, values).
///
/// # Errors
/// When the file cannot be written.
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a [usize], &'a [f32])>,
) -> Result<()> {
    let views = tensors.into_iter().map(|(name, shape, values)| (name, Values { shape, values }));
    safetensors::serialize_to_file(views, None, path)
        .map_err(|error| TrainError::checkpoint(path, format!("cannot be written: {error}")))
}

/// A file of named f32 tensors, opened for reading.
pub struct TensorsFile {
    file: BufReader<File>,
    path: std::path::PathBuf,
    metadata: Metadata,
    /// Where the elements begin.
    base: u64,
}

impl TensorsFile {
    /// Opens a file and checks its header against its size.
    ///
    /// # Errors
    /// When the file cannot be read or its header does not describe it.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |problem: String| TrainError::checkpoint(path, problem);
        let mut file = File::open(path).map_err(TrainError::io(path, "open"))?;
        let size = file.metadata().map_err(TrainError::io(path, "read"))?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(TrainError::io(path, "read"))?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_HEADER || length > size - 8 {
            return Err(bad(format!("damaged: the header claims {length} bytes of a file of {size}")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(TrainError::io(path, "read"))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| bad(format!("damaged header: {error}")))?;
        let base = 8 + length;
        let expected = base + metadata.data_len() as u64;
        if expected != size {
            return Err(bad(format!("damaged: {size} bytes, its header describes {expected}")));
        }
        Ok(Self { file: BufReader::new(file), path: path.to_path_buf(), metadata, base })
    }

    /// Reads a tensor of known size.
    ///
    /// # Errors
    /// When it is absent, of another type or size, or cannot be read.
    pub fn read_into(&mut self, name: &str, values: &mut [f32]) -> Result<()> {
        let bad = |problem: String| TrainError::checkpoint(&self.path, problem);
        let Some(info) = self.metadata.info(name) else {
            return Err(bad(format!(
                "there is no tensor `{name}`; the checkpoint is of another model or rule"
            )));
        };
        let (start, end) = info.data_offsets;
        if info.dtype != Dtype::F32 || end - start != 4 * values.len() {
            return Err(bad(format!(
                "tensor `{name}` is {:?} {:?}; expected {} elements of F32",
                info.dtype,
                info.shape,
                values.len()
            )));
        }
        let failed = |source| TrainError::Io { path: self.path.clone(), action: "read", source };
        self.file.seek(SeekFrom::Start(self.base + start as u64)).map_err(failed)?;
        let mut bytes = vec![0; 1 << 16];
        for values in values.chunks_mut(bytes.len() / 4) {
            let bytes = &mut bytes[..4 * values.len()];
            self.file.read_exact(bytes).map_err(failed)?;
            let (words, _) = bytes.as_chunks::<4>();
            for (value, word) in values.iter_mut().zip(words) {
                *value = f32::from_le_bytes(*word);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_bit_for_bit() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        let large: Vec<f32> = (0..50_001).map(|i| (i as f32).sin()).collect();
        let odd = [f32::MIN_POSITIVE / 2.0, -0.0, f32::NAN];
        write(&path, [("large".to_owned(), &[50_001][..], &large[..]), ("odd".to_owned(), &[3], &odd)])
            .unwrap();
        let mut file = TensorsFile::open(&path).unwrap();
        let (mut a, mut b) = (vec![0.0; large.len()], [0.0; 3]);
        file.read_into("large", &mut a).unwrap();
        file.read_into("odd", &mut b).unwrap();
        assert_eq!(a, large);
        assert_eq!(b.map(f32::to_bits), odd.map(f32::to_bits));
        assert!(file.read_into("absent", &mut b).unwrap_err().to_string().contains("`absent`"));
        assert!(file.read_into("odd", &mut a).unwrap_err().to_string().contains("expected 50001"));
    }

    #[test]
    fn damaged_files_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        write(&path, [("t".to_owned(), &[4][..], &[1.0f32; 4][..])]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut cases = vec![whole[..whole.len() - 1].to_vec(), whole[..4].to_vec()];
        let mut claims = whole.clone();
        claims[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        cases.push(claims);
        let mut scrambled = whole;
        scrambled[9] = b'!';
        cases.push(scrambled);
        for bytes in cases {
            std::fs::write(&path, bytes).unwrap();
            assert!(TensorsFile::open(&path).is_err());
        }
    }
}
