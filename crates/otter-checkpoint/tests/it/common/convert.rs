//! Running a conversion, and what is in its result.

use super::golden;
use otter_checkpoint::convert::{ConvertOptions, ConvertReport, convert};
use otter_checkpoint::{StoredDType, Weights};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub const V1: &str = "openflamingo/v1-llama";
pub const V2: &str = "openflamingo/v2-mpt";

pub fn run(options: &ConvertOptions) -> ConvertReport {
    let (mut last, mut total) = (0, 0);
    let report = convert(options, &mut |progress| {
        assert!(progress.done >= last && progress.done <= progress.total);
        (last, total) = (progress.done, progress.total);
    });
    let report = report.unwrap();
    assert_eq!(last, total);
    // Only a GGUF file holds fewer bytes than went through the conversion.
    let gguf = report.weight_files.iter().any(|file| file.ends_with(".gguf"));
    assert!(report.bytes == last || gguf && report.bytes < last, "{} {last}", report.bytes);
    report
}

pub fn error(options: &ConvertOptions, parts: &[&str]) {
    let message = convert(options, &mut |_| {}).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "no '{part}' in: {message}");
    }
    assert!(!options.out.exists(), "an error leaves nothing behind");
}

pub fn open_flamingo(case: &str, file: &str, out: &Path) -> ConvertOptions {
    ConvertOptions {
        base_lm: Some(golden(&format!("{case}/base_lm"))),
        base_vision: Some(golden(&format!("{case}/base_clip"))),
        ..ConvertOptions::new(golden(&format!("{case}/{file}")), out)
    }
}

/// Name, type, shape and bytes of every tensor.
pub fn content(path: &Path) -> BTreeMap<String, (StoredDType, Vec<usize>, Vec<u8>)> {
    let weights = Weights::open(path).unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    names
        .into_iter()
        .map(|name| {
            let entry = weights.get(&name).unwrap().clone();
            let bytes = match entry.is_contiguous() {
                true => entry.location.map[entry.location.bytes.clone()].to_vec(),
                false => {
                    entry.read_f32(&name).unwrap().iter().flat_map(|value| value.to_le_bytes()).collect()
                }
            };
            (name, (entry.dtype, entry.shape, bytes))
        })
        .collect()
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Name, shape and values of every tensor of a file.
pub type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Writes 32-bit tensors.
pub fn write(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
        (*name, view)
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// All tensors of a checkpoint as floats.
pub fn floats(path: &Path) -> Tensors {
    let weights = Weights::open(path).unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let shape = |name: &str| weights.get(name).unwrap().shape.clone();
    names.into_iter().map(|name| (name.clone(), shape(&name), weights.read_f32(&name).unwrap())).collect()
}

/// A checkpoint directory.
pub fn save(directory: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)], config: &Value) {
    fs::create_dir_all(directory).unwrap();
    let borrowed: Vec<(&str, Vec<usize>, Vec<f32>)> =
        tensors.iter().map(|(name, shape, values)| (name.as_str(), shape.clone(), values.clone())).collect();
    write(&directory.join("model.safetensors"), &borrowed);
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
}
