//! What is saved comes back: shards, element types, replacement, and failures that leave the old one whole.

use crate::common::convert;
use otter_checkpoint::{
    Checkpoint, CheckpointConfig, DType, NamedTensor, SaveOptions, StoredDType, WeightForm, Weights,
    initialize_checkpoint, save_checkpoint,
};
use otter_model::Otter;
use otter_model::config::OtterConfig;
use otter_nn::{Device, Parameters};
use serde_json::json;
use std::fs;
use std::path::Path;

fn config() -> CheckpointConfig {
    CheckpointConfig::new(OtterConfig::otter_9b())
}

/// Odd bit patterns included.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let special = [f32::MAX, -0.0, f32::MIN, f32::MIN_POSITIVE / 2.0, 1.0e-3];
    let number = |index: usize| (index as f32 + 1.0) * 0.37 * seed as f32;
    (0..count).map(|index| special.get(index).copied().unwrap_or_else(|| number(index))).collect()
}

fn save(directory: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)], options: &SaveOptions<'_>) {
    save_checkpoint(directory, &config(), named(tensors), options).unwrap();
}

fn named<'a>(tensors: &'a [(&str, Vec<usize>, Vec<f32>)]) -> Vec<NamedTensor<'a>> {
    let one = |(name, shape, data): &'a (&str, Vec<usize>, Vec<f32>)| NamedTensor {
        name: (*name).to_owned(),
        shape: shape.clone(),
        data: data.into(),
    };
    tensors.iter().map(one).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn three() -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
    vec![
        ("a", vec![3, 5], values(15, 1)),
        ("b", vec![], values(1, 2)),
        ("c", vec![2, 0], vec![]),
        ("d", vec![40], values(40, 3)),
    ]
}

#[test]
fn a_single_file_comes_back_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    save(&target, &three(), &SaveOptions::default());
    let weights = Weights::open(&target).unwrap();
    assert_eq!(weights.form(), WeightForm::Safetensors);
    for (name, shape, data) in three() {
        assert_eq!(weights.get(name).unwrap().shape, shape);
        assert_eq!(bits(&weights.read_f32(name).unwrap()), bits(&data));
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn numbers_that_are_not_finite_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    save(&target, &three(), &SaveOptions::default());
    for (bad, dtype) in
        [(f32::NAN, DType::F32), (f32::INFINITY, DType::F16), (f32::NEG_INFINITY, DType::Bf16)]
    {
        let tensors = vec![("a", vec![3], vec![1.0; 3]), ("b", vec![2], vec![2.0, bad])];
        let options = SaveOptions { dtype, ..SaveOptions::default() };
        let error = save_checkpoint(&target, &config(), named(&tensors), &options).unwrap_err().to_string();
        assert!(error.contains("`b`") && error.contains(&bad.to_string()), "{error}");
        // What was there stays.
        assert!(Weights::open(&target).unwrap().get("d").is_some());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}

#[test]
fn shards_are_named_indexed_and_bounded() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    save(&target, &three(), &SaveOptions { max_shard_bytes: 64, ..SaveOptions::default() });
    let weights = Weights::open(&target).unwrap();
    assert_eq!(weights.form(), WeightForm::ShardedSafetensors);
    for (name, _, data) in three() {
        assert_eq!(bits(&weights.read_f32(name).unwrap()), bits(&data));
    }
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(target.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 56 * 4);
    assert_eq!(index["weight_map"]["a"], "model-00001-of-00002.safetensors");
    assert_eq!(index["weight_map"]["d"], "model-00002-of-00002.safetensors");
    assert!(weights.notes().is_empty());
}

#[test]
fn half_precision_rounds_and_refuses_what_does_not_fit() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    let data = vec![("a", vec![4], vec![1.0f32, 0.1, -3.5, 60000.0])];
    for (dtype, stored, torch) in
        [(DType::F16, StoredDType::F16, "float16"), (DType::Bf16, StoredDType::Bf16, "bfloat16")]
    {
        save(&target, &data, &SaveOptions { dtype, ..SaveOptions::default() });
        let weights = Weights::open(&target).unwrap();
        assert_eq!(weights.get("a").unwrap().dtype, stored);
        let read = weights.read_f32("a").unwrap();
        assert!(read.iter().zip(&data[0].2).all(|(read, value)| (read - value).abs() <= value.abs() / 256.0));
        assert!((read[0], read[2]) == (1.0, -3.5) && read[1] != 0.1);
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(target.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"], torch);
    }
    // The refusal comes in the middle of writing and must leave the bf16 checkpoint alone.
    let large = vec![("a", vec![1], vec![1.0f32]), ("b", vec![1], vec![70000.0])];
    let options = SaveOptions { dtype: DType::F16, ..SaveOptions::default() };
    let error = save_checkpoint(&target, &config(), named(&large), &options).unwrap_err().to_string();
    assert!(error.contains("`b`") && error.contains("70000"), "{error}");
    assert_eq!(Weights::open(&target).unwrap().get("a").unwrap().dtype, StoredDType::Bf16);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn inconsistent_tensors_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    for tensors in [
        vec![("a", vec![2], vec![1.0f32])],
        vec![("a", vec![1], vec![1.0f32]), ("a", vec![1], vec![2.0])],
        vec![("__metadata__", vec![1], vec![1.0f32])],
    ] {
        assert!(save_checkpoint(&target, &config(), named(&tensors), &SaveOptions::default()).is_err());
    }
    assert!(!target.exists());
}

#[test]
fn only_checkpoints_are_replaced() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("documents");
    fs::create_dir(&target).unwrap();
    save(&target, &three(), &SaveOptions::default());
    fs::create_dir(target.join("photos")).unwrap();
    let refuse = || {
        let error = save_checkpoint(&target, &config(), named(&three()), &SaveOptions::default());
        error.unwrap_err().to_string()
    };
    assert!(refuse().contains("`photos`"));
    fs::remove_dir(target.join("photos")).unwrap();
    fs::remove_file(target.join("config.json")).unwrap();
    assert!(refuse().contains("not a checkpoint"));
    assert!(target.join("model.safetensors").is_file());
    let file = place.path().join("file");
    fs::write(&file, b"x").unwrap();
    assert!(save_checkpoint(&file, &config(), named(&three()), &SaveOptions::default()).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

/// A checkpoint may be read while it is replaced by a new one made from it.
#[test]
fn a_checkpoint_can_be_saved_over_itself() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    save(&target, &three(), &SaveOptions::default());
    let old = Weights::open(&target).unwrap();
    let (map, range) = old.mapped_f32("d").unwrap();
    fs::write(target.join("tokenizer.json"), b"{}").unwrap();
    let half: Vec<f32> = old.read_f32("d").unwrap().iter().map(|value| value / 2.0).collect();
    let tensors = [("d", vec![40], half)];
    save(&target, &tensors, &SaveOptions { tokenizer_from: Some(&target), ..SaveOptions::default() });
    let expected: Vec<u8> = values(40, 3).iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(map[range], expected);
    assert_eq!(Weights::open(&target).unwrap().len(), 1);
    assert_eq!(fs::read(target.join("tokenizer.json")).unwrap(), b"{}");
}

#[test]
fn an_interrupted_replacement_is_found_again_when_opened() {
    let place = tempfile::tempdir().unwrap();
    let golden = crate::common::golden("video/checkpoint");
    let aside = place.path().join(".model.old");
    fs::create_dir(&aside).unwrap();
    for item in fs::read_dir(golden).unwrap() {
        let item = item.unwrap();
        fs::copy(item.path(), aside.join(item.file_name())).unwrap();
    }
    let target = place.path().join("model");
    assert!(!target.exists());
    assert!(Checkpoint::open(&target).is_ok());
    assert!(target.exists() && !aside.exists());
}

/// A file size limit makes writes fail in the middle as a full disk does.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_previous_checkpoint() {
    const VARIABLE: &str = "OTTER_CHECKPOINT_TEST_FULL_DISK";
    if let Some(target) = std::env::var_os(VARIABLE) {
        let large = [("a", vec![1 << 20], vec![1.0f32; 1 << 20])];
        let error = save_checkpoint(Path::new(&target), &config(), named(&large), &SaveOptions::default());
        let text = error.unwrap_err().to_string();
        assert!(text.contains("writing failed") && text.contains("unchanged"), "{text}");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("model");
    save(&target, &three(), &SaveOptions::default());
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "save_and_load::a_full_disk_leaves_the_previous_checkpoint", "--nocapture"])
        .env(VARIABLE, &target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(bits(&Weights::open(&target).unwrap().read_f32("d").unwrap()), bits(&values(40, 3)));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn weights_under_other_names_are_read_or_named() {
    let place = tempfile::tempdir().unwrap();
    let options = SaveOptions { max_shard_bytes: 80, ..SaveOptions::default() };
    save(&place.path().join("one"), &three(), &SaveOptions::default());
    save(&place.path().join("many"), &three(), &options);
    let (one, many) = (place.path().join("one"), place.path().join("many"));
    fs::rename(one.join("model.safetensors"), one.join("model.fp16.safetensors")).unwrap();
    let weights = Weights::open(&one).unwrap();
    assert_eq!((weights.len(), weights.form()), (4, WeightForm::Safetensors));
    assert!(weights.notes()[0].contains("model.fp16.safetensors"));
    // Two of them: which is meant is not guessed.
    fs::copy(one.join("model.fp16.safetensors"), one.join("model.v1.2.safetensors")).unwrap();
    let error = Weights::open(&one).unwrap_err().to_string();
    assert!(error.contains("model.fp16.safetensors") && error.contains("model.v1.2.safetensors"), "{error}");

    // Shards with dots in their names, under the index of a variant.
    let index = fs::read_to_string(many.join("model.safetensors.index.json")).unwrap();
    fs::remove_file(many.join("model.safetensors.index.json")).unwrap();
    for file in fs::read_dir(&many).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(rest) = name.strip_prefix("model-") {
            fs::rename(&path, many.join(format!("model.v1.2-{rest}"))).unwrap();
        }
    }
    let error = Weights::open(&many).unwrap_err().to_string();
    assert!(error.contains("without their index") && error.contains("model.v1.2-00001-of-"), "{error}");
    fs::write(many.join("model.safetensors.index.fp16.json"), index.replace("model-", "model.v1.2-"))
        .unwrap();
    let weights = Weights::open(&many).unwrap();
    assert_eq!((weights.len(), weights.form()), (4, WeightForm::ShardedSafetensors));
    assert_eq!(bits(&weights.read_f32("d").unwrap()), bits(&values(40, 3)));

    fs::write(many.join("model.safetensors.index.fp16.json"), r#"{"weight_map": {"a": 7}}"#).unwrap();
    let error = Weights::open(&many).unwrap_err().to_string();
    assert!(error.contains("index.fp16.json") && error.contains("`weight_map.a`"), "{error}");
    assert!(error.contains("line 1 column"), "{error}");
}

/// A LLaMA with one table, as a directory.
fn tied(place: &Path) -> CheckpointConfig {
    let source = crate::common::golden("llama/checkpoint");
    let mut tensors = convert::floats(&source);
    tensors.retain(|(name, ..)| name != "lang_encoder.lm_head.weight");
    let mut config = convert::json(&source.join("config.json"));
    config["tie_word_embeddings"] = json!(true);
    config["text_config"]["tie_word_embeddings"] = json!(true);
    convert::save(place, &tensors, &config);
    Checkpoint::config_like(place).unwrap()
}

/// A copy of a shape has as many tables, with weights to tell and without, and its file says so in both places.
#[test]
fn a_copy_of_a_tied_model_is_tied() {
    let place = tempfile::tempdir().unwrap();
    let (one, copy) = (place.path().join("one"), place.path().join("copy"));
    let config = tied(&one);
    assert!(config.model.tie_word_embeddings);
    let options = SaveOptions::default();
    let made = initialize_checkpoint(&copy, &config, 1, &options, &mut |_, _| {}).unwrap();
    let count = |directory: &Path| {
        let weights = Weights::open(directory).unwrap();
        weights.names().map(|name| weights.get(name).unwrap().elements() as u64).sum::<u64>()
    };
    assert_eq!((made.parameters, count(&copy)), (count(&one), count(&one)));
    let written = convert::json(&copy.join("config.json"));
    assert_eq!(
        (&written["tie_word_embeddings"], &written["text_config"]["tie_word_embeddings"]),
        (&json!(true), &json!(true))
    );
    fs::remove_file(one.join("model.safetensors")).unwrap();
    assert!(Checkpoint::config_like(&one).unwrap().model.tie_word_embeddings);
    let untied = Checkpoint::config_like(&crate::common::golden("llama/checkpoint")).unwrap();
    assert!(!untied.model.tie_word_embeddings);
    // Weights that are there must be whole, and images prepared as here.
    fs::write(one.join("model.safetensors"), b"cut off").unwrap();
    let error = Checkpoint::config_like(&one).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    fs::remove_file(one.join("model.safetensors")).unwrap();
    fs::write(one.join("preprocessor_config.json"), r#"{"image_mean": [0.5, 0.5, 0.5]}"#).unwrap();
    let error = Checkpoint::config_like(&one).unwrap_err().to_string();
    assert!(error.contains("image_mean"), "{error}");
}

/// What does not load replaces nothing.
#[test]
fn random_values_replace_only_what_they_can() {
    let place = tempfile::tempdir().unwrap();
    let (out, bad) = (place.path().join("out"), place.path().join("bad"));
    save(&out, &three(), &SaveOptions::default());
    fs::create_dir(&bad).unwrap();
    fs::write(bad.join("tokenizer.json"), "{}").unwrap();
    let config = Checkpoint::config_like(&crate::common::golden("llama/checkpoint")).unwrap();
    let options = SaveOptions { tokenizer_from: Some(&bad), ..SaveOptions::default() };
    let made = initialize_checkpoint(&out, &config, 1, &options, &mut |_, _| {});
    assert!(made.unwrap_err().to_string().contains("does not load"));
    assert!(Weights::open(&out).unwrap().get("d").is_some());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

/// The same specification, seed and name begin with the same values in a file and in memory.
#[test]
fn initial_values_are_the_same_in_a_file_and_in_memory() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("random");
    let config = Checkpoint::config_like(&crate::common::golden("llama/checkpoint")).unwrap();
    initialize_checkpoint(&directory, &config, 7, &SaveOptions::default(), &mut |_, _| {}).unwrap();
    let (_, specs) = Otter::new(&config.model).unwrap();
    let parameters = Parameters::<f32>::initialize(&specs, 7, Device::Cpu);
    let weights = Weights::open(&directory).unwrap();
    assert_eq!(weights.len(), specs.len());
    for parameter in parameters.iter() {
        let stored = weights.read_f32(&parameter.name).unwrap();
        assert!(stored == *parameter.tensor.values(), "{}", parameter.name);
    }
}
