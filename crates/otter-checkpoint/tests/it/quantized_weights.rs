//! Weights in blocks of 8 or 4 bits: quantized while loading or mapped from a GGUF file, the model gives the same numbers,
//! near those of full precision; what is kept out stays exact.

use std::path::Path;

use crate::common::golden;
use otter_checkpoint::{
    Checkpoint, CheckpointConfig, DType, GgufOptions, LoadOptions, LoadedModel, SaveOptions, load_model,
    load_model_with, save_gguf, save_model,
};
use otter_model::{LossScale, Otter, TextInput, VisionInput};
use otter_nn::{Device, Gradients, Parameters, QuantizedFormat, Tensor, Weight};
use serde_json::json;

/// A checkpoint whose language model has rows of whole blocks of 256, and whose gates are open.
fn checkpoint(directory: &Path) {
    let source = golden("llama/checkpoint");
    let text = std::fs::read_to_string(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["text_config"]["hidden_size"] = json!(256);
    config["text_config"]["intermediate_size"] = json!(512);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let config = CheckpointConfig::read(&file).unwrap();
    let (_, specs) = Otter::new(&config.model).unwrap();
    let mut parameters = Parameters::<f32>::initialize(&specs, 5, Device::Cpu);
    for parameter in parameters.iter_mut().filter(|p| p.name.contains("gate") && p.tensor.len() == 1) {
        parameter.tensor.make_full().data_mut().fill(0.5);
    }
    let options = SaveOptions { tokenizer_from: Some(&source), ..SaveOptions::default() };
    save_model(directory, &config, &parameters, &options).unwrap();
}

fn quantized(directory: &Path, format: QuantizedFormat) -> LoadedModel {
    load_model_with(directory, Device::Cpu, LoadOptions { quantize: Some(format), keep: None }).unwrap()
}

fn vision(model: &LoadedModel) -> VisionInput<f32> {
    let size = model.config.model.vision.image_size;
    let pixels = (0..3 * size * size).map(|i| (i * 31 % 17) as f32 / 8.0 - 1.0).collect();
    VisionInput {
        pixels: Tensor::from_vec(pixels, &[1, 3, size, size], Device::Cpu),
        media_frames: std::iter::once(0..1).collect(),
        slots: vec![vec![0]],
    }
}

fn text(model: &LoadedModel, length: usize) -> TextInput {
    let image = model.tokenizer.special().image;
    let vocabulary = model.config.model.text.vocab_size() as u32;
    let ids: Vec<u32> =
        std::iter::once(image).chain((3..).map(|i| i * 5 % vocabulary)).take(length).collect();
    TextInput {
        attention_mask: vec![true; length],
        batch: 1,
        length,
        ids,
        segments: None,
        media_token_id: image,
    }
}

fn logits(model: &LoadedModel, length: usize) -> Vec<f32> {
    let (vision, text) = (vision(model), text(model, length));
    let hidden = model.otter.forward(&model.parameters, Some(&vision), &text, &mut |_, _| {}).unwrap();
    model.otter.language().logits(&model.parameters, &hidden).into_vec()
}

/// Root mean square of the difference over that of what is expected.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let changed = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (changed / square(&mut expected.iter().copied())).sqrt()
}

#[test]
fn quantized_while_loading_is_what_a_gguf_file_holds() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("model");
    checkpoint(&directory);
    let full = load_model(&directory, Device::Cpu).unwrap();
    for (format, quantization, tolerance) in
        [(QuantizedFormat::Q8_0, DType::Q8_0, 0.03), (QuantizedFormat::Q4K, DType::Q4K, 0.25)]
    {
        let file = place.path().join(format!("{}.gguf", format.name()));
        let options = GgufOptions { quantization, ..GgufOptions::default() };
        let stored = save_gguf(&file, &Checkpoint::open(&directory).unwrap(), &options).unwrap();
        let (loaded, mapped) = (quantized(&directory, format), load_model(&file, Device::Cpu).unwrap());
        let mut blocks = [0; 2];
        for ((loaded, mapped), full) in
            loaded.parameters.iter().zip(mapped.parameters.iter()).zip(full.parameters.iter())
        {
            match (&loaded.tensor, &mapped.tensor) {
                (Weight::Quantized(own), Weight::Quantized(other)) => {
                    assert!(!own.is_shared() && other.is_shared(), "{}", loaded.name);
                    assert_eq!(own.format(), other.format(), "{}", loaded.name);
                    assert_eq!(own.bytes(), other.bytes(), "{}", loaded.name);
                    blocks[usize::from(own.format() == QuantizedFormat::Q4K)] += 1;
                    let error = relative(&loaded.tensor.values(), &full.tensor.values());
                    let said = stored.iter().find(|stored| stored.name == loaded.name).unwrap();
                    assert!((said.relative_error.unwrap() - error).abs() < 1e-6, "{said:?} {error}");
                    assert!((1e-5..0.1).contains(&error), "{} {error}", loaded.name);
                }
                (own, other) => {
                    assert!(own.is_full() && other.is_full(), "{}", loaded.name);
                    assert_eq!(own.values(), full.tensor.values(), "{}", loaded.name);
                }
            }
        }
        match format {
            QuantizedFormat::Q8_0 => assert!(blocks[0] > 30 && blocks[1] == 0, "{blocks:?}"),
            QuantizedFormat::Q4K => assert!(blocks[0] > 10 && blocks[1] > 20, "{blocks:?}"),
        }
        let memory = mapped.parameters.memory();
        assert!(memory.quantized > memory.total / 2 && memory.mapped < 2 * memory.total, "{memory}");
        // One row, few and many: dot products and panels.
        for length in [1, 3, 40] {
            let found = logits(&loaded, length);
            assert_eq!(found, logits(&mapped, length));
            let error = relative(&found, &logits(&full, length));
            assert!((1e-4..tolerance).contains(&error), "{} {length}: {error}", format.name());
        }
    }
}

#[test]
fn the_vision_tower_in_eight_bits_sees_the_same() {
    let place = tempfile::tempdir().unwrap();
    checkpoint(&place.path().join("model"));
    let full = load_model(&place.path().join("model"), Device::Cpu).unwrap();
    for format in QuantizedFormat::ALL {
        let model = quantized(&place.path().join("model"), format);
        let tower = model.parameters.iter().filter(|p| p.name.starts_with("vision_encoder."));
        let formats: Vec<_> = tower.filter_map(|p| p.tensor.quantized()).map(|m| m.format()).collect();
        assert!(formats.len() > 6 && formats.iter().all(|f| *f == QuantizedFormat::Q8_0));
        let encode = |model: &LoadedModel| {
            let pixels = vision(model).pixels;
            model.otter.vision_features(&model.parameters, &pixels).into_vec()
        };
        let (found, expected) = (encode(&model), encode(&full));
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a * *b)).sum::<f64>();
        let width = full.config.model.vision.hidden_size;
        for (found, expected) in found.chunks(width).zip(expected.chunks(width)) {
            let cosine =
                product(found, expected) / (product(found, found) * product(expected, expected)).sqrt();
            assert!(cosine >= 0.999, "{cosine}");
        }
    }
}

/// What will be trained is kept; its gradients through the frozen blocks are those through the dequantized blocks, but for the
/// rounding of activations in the forward pass.
#[test]
fn what_is_trained_stays_exact_and_gets_its_gradient() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("model");
    checkpoint(&directory);
    let full = load_model(&directory, Device::Cpu).unwrap();
    let trained = |name: &str| name.contains("gated_cross_attn") || name.starts_with("perceiver.");
    for (format, tolerance) in [(QuantizedFormat::Q8_0, 0.03), (QuantizedFormat::Q4K, 0.06)] {
        let options = LoadOptions { quantize: Some(format), keep: Some(&trained) };
        let mut model = load_model_with(&directory, Device::Cpu, options).unwrap();
        assert_eq!(model.parameters.set_trainable(trained), 0, "nothing that is trained was quantized");
        for (own, full) in
            model.parameters.iter().zip(full.parameters.iter()).filter(|(own, _)| own.trainable)
        {
            assert_eq!(own.tensor.values(), full.tensor.values(), "{}", own.name);
        }
        assert!(model.parameters.quantized_count() > model.parameters.total_count() / 3);
        let mut dequantized = model.parameters.clone();
        dequantized.iter_mut().for_each(|parameter| {
            parameter.tensor.make_full();
        });
        let gradients = |parameters: &Parameters| {
            let (vision, text) = (vision(&model), text(&model, 24));
            let mut gradients = Gradients::new(parameters);
            let labels: Vec<i64> = text.ids.iter().map(|&id| i64::from(id)).collect();
            let scale = LossScale::Mean;
            let otter = &model.otter;
            let loss = otter
                .forward_backward(parameters, Some(&vision), &text, &labels, scale, false, &mut gradients)
                .unwrap();
            (loss.mean(), gradients.flat())
        };
        let (loss, found) = gradients(&model.parameters);
        let (exact_loss, expected) = gradients(&dequantized);
        assert!((loss - exact_loss).abs() < 0.02 * exact_loss, "{loss} {exact_loss}");
        let error = relative(&found, &expected);
        assert!((1e-6..tolerance).contains(&error), "{}: {error}", format.name());
    }
}

#[test]
fn a_value_that_no_block_holds_is_named() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("model");
    checkpoint(&directory);
    let mut model = load_model(&directory, Device::Cpu).unwrap();
    let name = "lang_encoder.model.layers.1.decoder_layer.mlp.up_proj.weight";
    let weight = model.parameters.by_name_mut(name).unwrap();
    weight.tensor.make_full().data_mut()[700] = 1e30;
    let broken = place.path().join("broken");
    let source = golden("llama/checkpoint");
    let options = SaveOptions { tokenizer_from: Some(&source), ..SaveOptions::default() };
    save_model(&broken, &model.config, &model.parameters, &options).unwrap();
    for format in QuantizedFormat::ALL {
        let options = LoadOptions { quantize: Some(format), keep: None };
        let error = load_model_with(&broken, Device::Cpu, options).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("up_proj") && error.contains("row 2") && error.contains(format.name()),
            "{error}"
        );
    }
}
