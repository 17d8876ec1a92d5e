//! PyTorch files we write: our reader finds the same tensors, bit for bit.

use crate::common::golden;
use otter_checkpoint::{NewTensor, Result, StoredDType, Weights, write_torch};
use std::path::Path;

fn write(path: &Path, tensors: &[NewTensor<'_>], prefix: Option<&str>, data: &[Vec<u8>]) -> Result<()> {
    write_torch(path, tensors, prefix, &mut |index, out| {
        // In small pieces, as a converter gives them.
        for piece in data[index].chunks(5) {
            out.write_all(piece).map_err(otter_checkpoint::CheckpointError::io(path, "write"))?;
        }
        Ok(())
    })
}

#[test]
fn every_type_and_shape_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("weights.bin");
    let shapes: [(StoredDType, &[usize]); 8] = [
        (StoredDType::F32, &[3, 300]),
        (StoredDType::F16, &[1]),
        (StoredDType::Bf16, &[2, 1, 4]),
        (StoredDType::F64, &[]),
        (StoredDType::I64, &[70_000]),
        (StoredDType::I32, &[0, 5]),
        (StoredDType::U8, &[7]),
        (StoredDType::Bool, &[2, 2]),
    ];
    let names: Vec<String> = (0..shapes.len()).map(|number| format!("layer.{number}.weight")).collect();
    let tensors: Vec<NewTensor<'_>> =
        names.iter().zip(&shapes).map(|(name, &(dtype, shape))| NewTensor { name, dtype, shape }).collect();
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| {
            let size = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
            (0..size).map(|at| (at * 31 % 251) as u8).collect()
        })
        .collect();
    for prefix in [None, Some("model_state_dict")] {
        write(&path, &tensors, prefix, &data).unwrap();
        let weights = Weights::open(&path).unwrap();
        assert!(weights.notes().is_empty());
        assert_eq!(weights.names().collect::<Vec<_>>(), names);
        for (tensor, data) in tensors.iter().zip(&data) {
            let entry = weights.get(tensor.name).unwrap();
            assert_eq!((entry.dtype, &entry.shape[..]), (tensor.dtype, tensor.shape));
            assert!(entry.is_contiguous());
            assert_eq!(entry.location.map[entry.location.bytes.clone()], data[..]);
            assert_eq!(entry.location.bytes.start % 64, 0);
        }
        assert!(weights.mapped_f32(tensors[0].name).is_some());
    }
}

#[test]
fn the_original_and_its_copy_hold_the_same() {
    let source = Weights::open(&golden("llama/checkpoint")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pytorch_model.bin");
    let names: Vec<&str> = source.names().collect();
    let tensors: Vec<NewTensor<'_>> = names
        .iter()
        .map(|&name| NewTensor { name, dtype: StoredDType::F32, shape: &source.get(name).unwrap().shape })
        .filter(|tensor| source.read_f32(tensor.name).is_ok())
        .collect();
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| source.read_f32(tensor.name).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    write(&path, &tensors, None, &data).unwrap();
    let copy = Weights::open(place.path()).unwrap();
    for tensor in tensors {
        let bits = |weights: &Weights| {
            weights.read_f32(tensor.name).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(&source), bits(&copy), "{}", tensor.name);
    }
}

#[test]
fn what_does_not_fit_leaves_the_old_file() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("weights.bin");
    std::fs::write(&path, b"old").unwrap();
    let tensor = |name, shape| NewTensor { name, dtype: StoredDType::F32, shape };
    let cases: [(&[NewTensor<'_>], usize, &str); 4] = [
        (&[tensor("a", &[2])], 7, "7 bytes were given for shape [2] of F32, which takes 8"),
        (&[tensor("a", &[2])], 9, "are left"),
        (&[tensor("a", &[2]), tensor("a", &[2])], 8, "already used"),
        (&[tensor("a", &[usize::MAX, 4])], 8, "2^63"),
    ];
    for (tensors, given, expected) in cases {
        let error = write(&path, tensors, None, &[vec![0; given], vec![0; given]]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
