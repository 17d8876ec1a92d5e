//! Checkpoints in half precision: matrices stay as they are stored, and the model computes what the widened one does.

use std::fs;
use std::path::{Path, PathBuf};

use otter_checkpoint::{
    Checkpoint, DType, LoadedModel, NamedTensor, SaveOptions, load_model, save_checkpoint, save_model,
};
use otter_model::{Otter, TextInput, VisionInput};
use otter_nn::{Device, Tensor};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(case).join("checkpoint")
}

fn load(directory: &Path) -> LoadedModel {
    load_model(directory, Device::Cpu).unwrap()
}

/// Saves a golden checkpoint in another type.
fn saved_as(case: &str, dtype: DType, directory: &Path) {
    let source = golden(case);
    let shared = source.join("../../tokenizer");
    let tokenizer = if shared.is_dir() { &shared } else { &source };
    let checkpoint = Checkpoint::open(&source).unwrap();
    let (_, specs) = Otter::new(&checkpoint.config.model).unwrap();
    let values: Vec<Vec<f32>> =
        specs.iter().map(|spec| checkpoint.weights.read_f32(&spec.name).unwrap()).collect();
    let tensors = specs.iter().zip(&values).map(|(spec, data)| NamedTensor {
        name: spec.name.clone(),
        shape: spec.shape.clone(),
        data: data.into(),
    });
    let options = SaveOptions { tokenizer_from: Some(tokenizer), dtype, ..SaveOptions::default() };
    save_checkpoint(directory, &checkpoint.config, tensors, &options).unwrap();
}

/// Logits of a sequence with an image, longer than the few rows that have a kernel of their own, and of one row.
fn logits(model: &LoadedModel) -> Vec<f32> {
    let image = model.tokenizer.special().image;
    let vision = &model.config.model.vision;
    let pixels = (0..3 * vision.image_size * vision.image_size).map(|i| (i % 17) as f32 / 8.0 - 1.0);
    let vision_input = VisionInput {
        pixels: Tensor::from_vec(
            pixels.collect(),
            &[1, 3, vision.image_size, vision.image_size],
            Device::Cpu,
        ),
        media_frames: std::iter::once(0..1).collect(),
        slots: vec![vec![0]],
    };
    let vocabulary = model.config.model.text.vocab_size() as u32;
    let ids: Vec<u32> = std::iter::once(image).chain((3..40).map(|i| i * 5 % vocabulary)).collect();
    let text = TextInput {
        attention_mask: vec![true; ids.len()],
        batch: 1,
        length: ids.len(),
        ids,
        segments: None,
        media_token_id: image,
    };
    let hidden = model.otter.forward(&model.parameters, Some(&vision_input), &text, &mut |_, _| {}).unwrap();
    let width = hidden.width();
    let last = Tensor::from_vec(hidden.data()[hidden.len() - width..].to_vec(), &[1, width], Device::Cpu);
    let language = model.otter.language();
    let mut all = language.logits(&model.parameters, &hidden).into_vec();
    all.extend(language.logits(&model.parameters, &last).into_vec());
    all
}

fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "logit {at}: {a}, widened {b}");
    }
}

#[test]
fn half_models_compute_what_widened_ones_do() {
    let place = tempfile::tempdir().unwrap();
    let others = ["falcon", "falcon-gqa", "opt", "opt-350m"];
    let others = others.map(|name| format!("language_models/{name}"));
    let own = ["llama", "video", "mpt7b-style", "mpt1b-style"].map(str::to_owned);
    for case in own.iter().chain(&others) {
        for dtype in [DType::F16, DType::Bf16] {
            let directory = place.path().join(format!("{case}-{dtype:?}"));
            saved_as(case, dtype, &directory);
            let mut model = load(&directory);
            for parameter in model.parameters.iter() {
                let matrix = parameter.tensor.shape().len() == 2;
                let table = ["position_embedding", "latents", "frame_embs"];
                let whole = !matrix || table.iter().any(|part| parameter.name.contains(part));
                assert_eq!(parameter.tensor.is_half(), !whole, "{case}: {}", parameter.name);
                assert_eq!(parameter.tensor.is_shared(), !whole, "{case}: {}", parameter.name);
            }
            let memory = model.parameters.memory();
            assert!(memory.half > memory.total / 2 && memory.mapped == 2 * memory.half, "{memory}");
            let half = logits(&model);
            for parameter in model.parameters.iter_mut() {
                parameter.tensor.make_full();
            }
            assert_eq!(model.parameters.memory().mapped, 0);
            close(&half, &logits(&model), 2e-5);
        }
    }
}

#[test]
fn saving_a_half_model_keeps_its_values() {
    let place = tempfile::tempdir().unwrap();
    let half = place.path().join("half");
    saved_as("llama", DType::F16, &half);
    let model = load(&half);
    for (dtype, name) in [(DType::F16, "again"), (DType::F32, "wide")] {
        let directory = place.path().join(name);
        let options = SaveOptions { tokenizer_from: Some(&half), dtype, ..SaveOptions::default() };
        save_model(&directory, &model.config, &model.parameters, &options).unwrap();
        let again = load(&directory);
        for (a, b) in model.parameters.iter().zip(again.parameters.iter()) {
            assert_eq!(a.tensor.values(), b.tensor.values(), "{}", a.name);
        }
    }
    let bytes = |name: &str| fs::read(place.path().join(name).join("model.safetensors")).unwrap();
    assert!(bytes("half") == bytes("again"), "the saved files differ");
}

/// A header of odd length puts every element at an odd address: the matrices are then copied, still 16 bits wide.
#[test]
fn misaligned_matrices_are_copied_in_half_precision() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("half");
    saved_as("llama", DType::F16, &directory);
    let aligned = logits(&load(&directory));
    let file = directory.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let (header, data) = bytes[8..].split_at(length as usize);
    let odd = [&(length + 1).to_le_bytes()[..], header, b" ", data].concat();
    fs::write(&file, odd).unwrap();
    let model = load(&directory);
    let memory = model.parameters.memory();
    assert_eq!(memory.mapped, 0);
    assert!(memory.half > memory.total / 2);
    assert_eq!(logits(&model), aligned);
}
