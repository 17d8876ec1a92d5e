//! Named tensors of 32-bit floats or bytes in a safetensors file, written and read piece by piece: moments are too large to
//! copy whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use otter_nn::{NotFinite, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Result, TrainError};

/// No header of a real file is longer.
const LARGEST_HEADER: u64 = 100_000_000;
/// Bytes written or read at a time.
const PIECE: usize = 1 << 16;

/// Elements of a part of the optimizer's state, or of a parameter.
#[derive(Clone, Copy)]
pub enum StateElements<'a> {
    /// Moments, scales of 8-bit ones, or values.
    F32(&'a Tensor),
    /// Codes of 8-bit moments.
    U8(&'a Tensor<u8>),
}

/// As [`StateElements`], writable.
#[derive(Debug)]
pub enum StateElementsMut<'a> {
    /// Moments, or scales of 8-bit ones.
    F32(&'a mut [f32]),
    /// Codes of 8-bit moments.
    U8(&'a mut [u8]),
}

/// Why elements were not written.
enum Unwritten {
    Io(std::io::Error),
    NotFinite(NotFinite),
}

impl StateElements<'_> {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::U8(_) => Dtype::U8,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32(values) => 4 * values.len(),
            Self::U8(codes) => codes.len(),
        }
    }

    fn write(self, out: &mut impl Write) -> Result<(), Unwritten> {
        match self {
            Self::U8(codes) => out.write_all(&codes.host_bytes()).map_err(Unwritten::Io),
            Self::F32(values) => {
                let values = values.host_data();
                if let Some(found) = NotFinite::find([&*values]) {
                    return Err(Unwritten::NotFinite(found));
                }
                let mut bytes = Vec::with_capacity(PIECE);
                values.chunks(PIECE / 4).try_for_each(|values| {
                    bytes.clear();
                    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                    out.write_all(&bytes).map_err(Unwritten::Io)
                })
            }
        }
    }
}

/// Writes named tensors (name, shape, elements), floats before bytes so that all are aligned.
///
/// # Errors
/// When a shape is not that of its elements, a number is not finite, or the file cannot be written.
pub fn write(path: &Path, mut tensors: Vec<(String, Vec<usize>, StateElements<'_>)>) -> Result<()> {
    tensors.sort_by_key(|(_, _, elements)| elements.dtype() != Dtype::F32);
    let mut end = 0;
    let infos = tensors.iter().map(|(name, shape, elements)| {
        let start = end;
        end += elements.bytes();
        let (dtype, shape) = (elements.dtype(), shape.clone());
        (name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let unwritable = |problem: String| TrainError::checkpoint(path, format!("cannot be written: {problem}"));
    let metadata = Metadata::new(None, infos.collect()).map_err(|error| unwritable(error.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| unwritable(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let failed = |source| TrainError::Io { path: path.to_path_buf(), action: "write", source };
    let mut out = BufWriter::with_capacity(PIECE, File::create(path).map_err(failed)?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    out.write_all(&header).map_err(failed)?;
    for (name, _, elements) in &tensors {
        elements.write(&mut out).map_err(|error| match error {
            Unwritten::Io(source) => failed(source),
            Unwritten::NotFinite(found) => TrainError::checkpoint(
                path,
                format!(
                    "not written: `{name}` is not finite ({found}). The checkpoints before are kept; resume from the newest \
                     with a smaller optimizer.learning_rate"
                ),
            ),
        })?;
    }
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)
}

/// A file of named tensors, opened for reading.
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

    /// Reads a tensor of known type and size.
    ///
    /// # Errors
    /// When it is absent, of another type or size, or cannot be read.
    pub fn read_into(&mut self, name: &str, elements: StateElementsMut<'_>) -> Result<()> {
        let bad = |problem: String| TrainError::checkpoint(&self.path, problem);
        let Some(info) = self.metadata.info(name) else {
            return Err(bad(format!(
                "there is no tensor `{name}`; the checkpoint is of another model or rule"
            )));
        };
        let (start, end) = info.data_offsets;
        let (dtype, count, size) = match &elements {
            StateElementsMut::F32(values) => (Dtype::F32, values.len(), 4),
            StateElementsMut::U8(values) => (Dtype::U8, values.len(), 1),
        };
        if info.dtype != dtype || end - start != size * count {
            return Err(bad(format!(
                "tensor `{name}` is {:?} {:?}; expected {count} elements of {dtype:?}",
                info.dtype, info.shape,
            )));
        }
        let failed = |source| TrainError::Io { path: self.path.clone(), action: "read", source };
        self.file.seek(SeekFrom::Start(self.base + start as u64)).map_err(failed)?;
        match elements {
            StateElementsMut::U8(values) => self.file.read_exact(values).map_err(failed),
            StateElementsMut::F32(values) => {
                let mut bytes = vec![0; PIECE];
                values.chunks_mut(PIECE / 4).try_for_each(|values| {
                    let bytes = &mut bytes[..4 * values.len()];
                    self.file.read_exact(bytes).map_err(failed)?;
                    for (value, word) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                        *value = f32::from_le_bytes(*word);
                    }
                    Ok(())
                })
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use otter_nn::Device;

    fn tensor<T: Copy>(values: &[T]) -> Tensor<T> {
        Tensor::from_vec(values.to_vec(), &[values.len()], Device::Cpu)
    }

    #[test]
    fn tensors_come_back_bit_for_bit() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        let large: Vec<f32> = (0..50_001).map(|i| (i as f32).sin()).collect();
        let odd = [f32::MIN_POSITIVE / 2.0, -0.0, f32::MAX];
        let codes = [0, 255, 7, 128, 1];
        let (kept, kept_large, kept_odd) = (tensor(&codes), tensor(&large), tensor(&odd));
        let tensors = vec![
            ("codes".to_owned(), vec![5], StateElements::U8(&kept)),
            ("large".to_owned(), vec![50_001], StateElements::F32(&kept_large)),
            ("odd".to_owned(), vec![3], StateElements::F32(&kept_odd)),
        ];
        write(&path, tensors).unwrap();
        let mut file = TensorsFile::open(&path).unwrap();
        let (mut a, mut b, mut c) = (vec![0.0; large.len()], [0.0; 3], [0; 5]);
        file.read_into("large", StateElementsMut::F32(&mut a)).unwrap();
        file.read_into("odd", StateElementsMut::F32(&mut b)).unwrap();
        file.read_into("codes", StateElementsMut::U8(&mut c)).unwrap();
        assert_eq!(a, large);
        assert_eq!(b.map(f32::to_bits), odd.map(f32::to_bits));
        assert_eq!(c, codes);
        let message = |error: TrainError| error.to_string();
        let absent = file.read_into("absent", StateElementsMut::F32(&mut b)).unwrap_err();
        assert!(message(absent).contains("`absent`"));
        let longer = file.read_into("odd", StateElementsMut::F32(&mut a)).unwrap_err();
        assert!(message(longer).contains("expected 50001"));
        let floats = file.read_into("codes", StateElementsMut::F32(&mut a[..5])).unwrap_err();
        assert!(message(floats).contains("5 elements of F32"));
        // The format's own reader accepts the file, and its floats are aligned.
        let bytes = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("codes").unwrap().data(), codes);
        let place = read.tensor("odd").unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert!(place.is_multiple_of(4));
    }

    #[test]
    fn a_shape_must_fit_its_elements() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        assert!(
            write(&path, vec![("t".to_owned(), vec![5], StateElements::F32(&tensor(&[1.0; 4])))]).is_err()
        );
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let values = [1.0, 2.0, bad, bad];
            let (good, bad) = (tensor(&values[..2]), tensor(&values));
            let tensors = vec![
                ("good".to_owned(), vec![2], StateElements::F32(&good)),
                ("moment.weight".to_owned(), vec![4], StateElements::F32(&bad)),
            ];
            let message = write(&path, tensors).unwrap_err().to_string();
            assert!(
                message.contains("`moment.weight`") && message.contains("first at element 2"),
                "{message}"
            );
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        write(&path, vec![("t".to_owned(), vec![4], StateElements::F32(&tensor(&[1.0; 4])))]).unwrap();
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
