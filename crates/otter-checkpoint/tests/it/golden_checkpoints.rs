//! Checkpoints written by the original: configuration, every tensor, accounting.

use crate::common::{borrowed, golden, parameters};
use otter_checkpoint::{
    Checkpoint, ModelFamily, NamedTensor, Part, SaveOptions, TiePolicy, WeightForm, Weights, inspect,
    save_checkpoint,
};
use otter_model::config::{LlamaConfig, OtterConfig, PerceiverConfig, VisionConfig};
use std::fs;
use std::io::Read;
use std::path::Path;

#[test]
fn llama_configuration() {
    let checkpoint = Checkpoint::open(&golden("llama/checkpoint")).unwrap();
    let expected = OtterConfig {
        vision: VisionConfig {
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            image_size: 28,
            patch_size: 7,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        text: LlamaConfig {
            hidden_size: 64,
            intermediate_size: 176,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            max_position_embeddings: 512,
            ..LlamaConfig::llama_7b(388)
        }
        .into(),
        cross_attention: otter_model::config::CrossAttentionConfig {
            every_n_layers: 2,
            ..Default::default()
        },
        ..OtterConfig::otter_9b()
    };
    assert_eq!(checkpoint.config.model, expected);
    assert_eq!(checkpoint.config.family, ModelFamily::Otter);
    assert!(checkpoint.config.use_cache && checkpoint.config.warnings.is_empty());
}

#[test]
fn every_tensor_is_accounted_for() {
    for (name, form) in [("llama", WeightForm::Torch), ("video", WeightForm::ShardedTorch)] {
        let checkpoint = Checkpoint::open(&golden(name).join("checkpoint")).unwrap();
        let list = parameters(&checkpoint.config.model);
        let report = checkpoint.account(borrowed(&list)).unwrap();
        assert_eq!(report.loaded.len(), list.len());
        assert!(report.ignored.is_empty() && report.warnings.is_empty(), "{report:?}");
        assert_eq!(checkpoint.weights.form(), form);
        let elements: usize = list.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(elements as u128, checkpoint.config.model.parameter_count());
    }
    let video = Checkpoint::open(&golden("video/checkpoint")).unwrap();
    let expected = PerceiverConfig { max_num_frames: Some(128), ..PerceiverConfig::default() };
    assert_eq!(video.config.model.perceiver, expected);
    assert_eq!(video.weights.files().len(), 3);
}

/// Another ZIP reader must find the same bytes: in this file tensor number n of the dict is storage n.
#[test]
fn pickle_tensors_are_the_bytes_of_their_members() {
    let path = golden("llama/checkpoint/pytorch_model.bin");
    let weights = Weights::open(&path).unwrap();
    let mut archive = zip::ZipArchive::new(fs::File::open(&path).unwrap()).unwrap();
    let mut compared = 0;
    for (number, name) in weights.names().enumerate() {
        let mut bytes = Vec::new();
        archive.by_name(&format!("pytorch_model/data/{number}")).unwrap().read_to_end(&mut bytes).unwrap();
        let values = weights.read_f32(name).unwrap();
        let entry = weights.get(name).unwrap();
        if entry.is_contiguous() {
            let own: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(own, bytes, "{name}");
            let (map, range) = weights.mapped_f32(name).unwrap();
            assert_eq!(map[range], bytes, "{name}");
            compared += 1;
        }
    }
    assert!(compared > 150, "{compared}");
}

#[test]
fn pickle_and_safetensors_are_equal_bit_for_bit() {
    for name in ["llama", "video"] {
        let source = golden(name).join("checkpoint");
        let checkpoint = Checkpoint::open(&source).unwrap();
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("copy");
        rewrite(
            &checkpoint,
            &target,
            &SaveOptions { tokenizer_from: Some(&source), ..SaveOptions::default() },
        );
        let copy = Checkpoint::open(&target).unwrap();
        assert_eq!(copy.weights.form(), WeightForm::Safetensors);
        assert_eq!(copy.config.model, checkpoint.config.model);
        assert_eq!(copy.weights.len(), checkpoint.weights.len());
        for name in checkpoint.weights.names() {
            let (one, two) =
                (checkpoint.weights.read_f32(name).unwrap(), copy.weights.read_f32(name).unwrap());
            assert!(one.iter().zip(&two).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
            assert_eq!(one.len(), two.len());
            assert!(copy.weights.mapped_f32(name).is_some(), "{name} is not usable in place");
        }
        // The library of the format reads the same.
        let bytes = fs::read(target.join("model.safetensors")).unwrap();
        let foreign = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(foreign.len(), checkpoint.weights.len());
        for (name, view) in foreign.iter() {
            let own: Vec<u8> = checkpoint
                .weights
                .read_f32(name)
                .unwrap()
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            assert_eq!(view.data(), own, "{name}");
        }
        // The configuration keeps every key and value but the ones this crate owns.
        let read = |path: &Path| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(read(&target), read(&source));
        let keys = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(read(&target)), keys(read(&source)));
        assert!(target.join("tokenizer.model").is_file() && target.join("generation_config.json").is_file());
    }
}

#[test]
fn misfits_are_all_listed() {
    let checkpoint = Checkpoint::open(&golden("llama/checkpoint")).unwrap();
    let mut list = parameters(&checkpoint.config.model);
    list.retain(|(name, _)| name != "perceiver.latents");
    list.push(("perceiver.frame_embs".to_owned(), vec![128, 32]));
    list[0].1 = vec![33];
    let text = checkpoint.account(borrowed(&list)).unwrap_err().to_string();
    for part in
        ["1 missing", "perceiver.frame_embs", "1 unexpected", "perceiver.latents", "file [32], model [33]"]
    {
        assert!(text.contains(part), "{text}");
    }
    let text = checkpoint.account([]).unwrap_err().to_string();
    assert!(text.contains("185 unexpected") && text.contains("… and 175 more"), "{text}");
}

#[test]
fn inspection_sums_the_parts() {
    let checkpoint = Checkpoint::open(&golden("llama/checkpoint")).unwrap();
    let inspection = inspect(&golden("llama/checkpoint")).unwrap();
    assert_eq!(inspection.total_parameters as u128, checkpoint.config.model.parameter_count());
    assert_eq!(inspection.total_bytes, 4 * inspection.total_parameters);
    let part = |part: Part| inspection.parts.iter().find(|sum| sum.part == part).unwrap();
    assert_eq!(part(Part::Embeddings).parameters, 2 * 388 * 64);
    assert_eq!(part(Part::CrossAttention).tensors, 2 * 11);
    assert!(inspection.parts.iter().all(|sum| sum.part != Part::Other));
    assert_eq!(inspection.special_tokens.as_ref().unwrap().special.image, 385);
    assert!(inspection.report.unwrap().is_complete());
}

/// Writes the golden model with other tensors or another configuration.
fn rewrite(checkpoint: &Checkpoint, target: &Path, options: &SaveOptions<'_>) {
    let values: Vec<_> = checkpoint
        .weights
        .names()
        .map(|name| {
            let shape = checkpoint.weights.get(name).unwrap().shape.clone();
            (name.to_owned(), shape, checkpoint.weights.read_f32(name).unwrap())
        })
        .collect();
    let tensors = values.iter().map(|(name, shape, data)| NamedTensor {
        name: name.clone(),
        shape: shape.clone(),
        data: data.into(),
    });
    save_checkpoint(target, &checkpoint.config, tensors, options).unwrap();
}

fn edit_config(directory: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = directory.join("config.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(value.as_object_mut().unwrap());
    fs::write(&path, value.to_string()).unwrap();
}

const INPUT: &str = "lang_encoder.model.embed_tokens.weight";
const OUTPUT: &str = "lang_encoder.lm_head.weight";

#[test]
fn stored_tables_survive_the_tie_trap() {
    let original = Checkpoint::open(&golden("llama/checkpoint")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    rewrite(&original, &target, &SaveOptions::default());
    for declared in [None, Some(true)] {
        edit_config(&target, |config| {
            config.shift_remove("tie_word_embeddings");
            declared
                .into_iter()
                .for_each(|value| drop(config.insert("tie_word_embeddings".to_owned(), value.into())));
        });
        let kept = Checkpoint::open(&target).unwrap();
        assert!(!kept.config.model.tie_word_embeddings);
        assert_eq!(kept.weights.read_f32(INPUT).unwrap(), original.weights.read_f32(INPUT).unwrap());
        let report = kept.account(borrowed(&parameters(&kept.config.model))).unwrap();
        assert!(report.warnings.iter().any(|warning| warning.contains("tie_word_embeddings")));
        // As the original: one table, the output table's values.
        let tied = Checkpoint::open_with(&target, TiePolicy::Reference).unwrap();
        assert!(tied.config.model.tie_word_embeddings);
        assert_eq!(tied.weights.read_f32(INPUT).unwrap(), original.weights.read_f32(OUTPUT).unwrap());
        let report = tied.account(borrowed(&parameters(&tied.config.model))).unwrap();
        assert_eq!(report.ignored[0].0, OUTPUT);
    }
}

#[test]
fn a_table_stored_once_is_tied() {
    let original = Checkpoint::open(&golden("llama/checkpoint")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    let mut config = original.config.clone();
    config.model.tie_word_embeddings = true;
    let table = original.weights.read_f32(INPUT).unwrap();
    let tensors = [NamedTensor { name: INPUT.to_owned(), shape: vec![388, 64], data: (&table).into() }];
    save_checkpoint(&target, &config, tensors, &SaveOptions::default()).unwrap();
    let tied = Checkpoint::open(&target).unwrap();
    assert!(tied.config.model.tie_word_embeddings);
    assert_eq!(tied.weights.read_f32(OUTPUT).unwrap(), table);
    // The file says it in both places; a reader that finds neither makes two tables.
    edit_config(&target, |config| {
        assert_eq!(config["text_config"]["tie_word_embeddings"], true);
        config["text_config"]["tie_word_embeddings"] = false.into();
        config.insert("tie_word_embeddings".to_owned(), false.into());
    });
    let apart = Checkpoint::open(&target).unwrap();
    assert!(!apart.config.model.tie_word_embeddings);
    assert!(apart.weights.get(OUTPUT).is_none());
}

#[test]
fn more_rows_than_declared_win_with_a_warning() {
    let original = Checkpoint::open(&golden("llama/checkpoint")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    rewrite(&original, &target, &SaveOptions::default());
    edit_config(&target, |config| config["text_config"]["vocab_size"] = 384.into());
    let checkpoint = Checkpoint::open(&target).unwrap();
    assert_eq!(checkpoint.config.model.text.vocab_size(), 388);
    assert!(checkpoint.config.warnings[0].contains("384"));
}
