//! `otter parity` agrees with tensors recorded from the original, and notices when it should not.

use crate::common::{CheckpointCopy, Run, golden, otter, strings};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

fn compare(case: &str, more: &[&str]) -> Run {
    let mut arguments = arguments![
        "parity",
        "--json",
        "--model",
        golden(&format!("{case}/checkpoint")),
        "--golden",
        golden(&format!("{case}/forward.safetensors")),
    ]
    .to_vec();
    arguments.extend(more.iter().map(Into::into));
    otter(&arguments)
}

/// Every scenario, every tensor and, where they are recorded, every gradient, with layers kept and recomputed.
fn agrees(case: &str, scenarios: &[&str]) {
    let file = golden(case).join("grads.safetensors");
    let trained = std::fs::read_to_string(golden(&format!("{case}/trainable.txt"))).unwrap().lines().count();
    let gradients = if file.exists() { trained } else { 0 };
    let forward = std::fs::read(golden(&format!("{case}/forward.safetensors"))).unwrap();
    let forward = SafeTensors::deserialize(&forward).unwrap();
    let inputs = ["vision_x", "lang_x", "attention_mask", "labels"];
    let recorded: Vec<&str> =
        forward.names().into_iter().filter(|key| !inputs.iter().any(|i| key.ends_with(i))).collect();
    for recompute in [&[][..], &["--recompute"]] {
        let mut more = if file.exists() { vec!["--gradients", file.to_str().unwrap()] } else { vec![] };
        more.extend(recompute);
        let result = compare(case, &more).json();
        assert_eq!(result["passed"], true);
        let comparisons = result["report"]["comparisons"].as_array().unwrap();
        let keys: Vec<String> = comparisons
            .iter()
            .map(|c| format!("{}.{}", c["scenario"].as_str().unwrap(), c["name"].as_str().unwrap()))
            .collect();
        for key in &recorded {
            assert!(keys.iter().any(|k| k == key), "{key} was not compared");
        }
        for scenario in scenarios {
            assert!(keys.contains(&format!("{scenario}.logits")), "{scenario}");
        }
        assert_eq!(keys.iter().filter(|key| key.starts_with("gradients.")).count(), gradients);
        assert!(comparisons.iter().all(|c| c["elements"].as_u64().unwrap() > 0));
        assert_eq!(keys.len(), recorded.len() + gradients);
    }
}

#[test]
fn llama_agrees() {
    agrees("llama", &["incontext", "overflow", "padded", "single", "text_only"]);
}

#[test]
fn video_agrees() {
    agrees("video", &["incontext", "one_frame", "padded", "single", "text_only"]);
}

#[test]
fn flamingo_agrees() {
    agrees("flamingo", &["incontext", "padded", "single", "text_only"]);
}

#[test]
fn mpt_agrees() {
    agrees("mpt7b-style", &["incontext", "padded", "single", "text_only"]);
}

#[test]
fn mosaic_gpt_agrees() {
    agrees("mpt1b-style", &["incontext", "padded", "single", "text_only"]);
}

#[test]
fn one_scenario_is_compared_alone() {
    let result = compare("llama", &["--scenario", "padded"]).json();
    let comparisons = result["report"]["comparisons"].as_array().unwrap();
    assert!(!comparisons.is_empty());
    assert!(comparisons.iter().all(|c| c["scenario"] == "padded"));
}

#[test]
fn an_unknown_scenario_lists_those_that_exist() {
    let run = compare("llama", &["--scenario", "incontex"]);
    run.error(&["'incontex'", "incontext, overflow, padded, single, text_only", "forward.safetensors"]);
}

#[test]
fn one_changed_weight_is_noticed_and_named() {
    let changed = "lang_encoder.model.layers.3.decoder_layer.mlp.up_proj.weight";
    let copy = CheckpointCopy::new("llama/checkpoint", |tensors| {
        let (_, _, data) = tensors.iter_mut().find(|(name, _, _)| name == changed).unwrap();
        data[100] += 0.5;
    });
    let run = |scenario: &str| {
        let file = golden("llama/forward.safetensors");
        otter(&arguments!["parity", "--model", copy.path(), "--golden", file, "--scenario", scenario])
    };
    let run = run("single");
    assert_eq!(run.code, Some(1), "{run:#?}");
    let line = |name: &str| run.stdout.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("single.logits").ends_with("DIFFERS"));
    // Layers before the changed one still agree.
    assert!(!line("single.hidden.2").ends_with("DIFFERS"));
    assert!(run.stdout.lines().last().unwrap().starts_with("DIFFERS: "));
}

#[test]
fn an_unchanged_copy_as_safetensors_agrees() {
    let copy = CheckpointCopy::new("video/checkpoint", |_| {});
    let file = golden("video/forward.safetensors");
    otter(&arguments!["parity", "--model", copy.path(), "--golden", file]).success();
}

#[test]
fn wrong_gradients_are_noticed() {
    let place = tempfile::tempdir().unwrap();
    let altered = place.path().join("grads.safetensors");
    let bytes = std::fs::read(golden("video/grads.safetensors")).unwrap();
    let name = "perceiver.latents";
    rewrite(&bytes, &altered, |key, data| {
        if key == name {
            let first = f32::from_le_bytes(data[..4].try_into().unwrap());
            data[..4].copy_from_slice(&(first + 1.0).to_le_bytes());
        }
        Some(key.to_owned())
    });
    let gradients = altered.to_str().unwrap();
    let wrong = report(compare("video", &["--scenario", "incontext", "--gradients", gradients]));
    assert_eq!(wrong["passed"], false);
    let failed: Vec<&str> = wrong["report"]["comparisons"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["ok"] == false)
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(failed, [name]);

    // A trained parameter without a recorded gradient is not passed over either.
    rewrite(&bytes, &altered, |key, _| (key != name).then(|| key.to_owned()));
    let fewer = report(compare("video", &["--scenario", "incontext", "--gradients", gradients]));
    assert_eq!(strings(&fewer["report"]["without_golden"]), [name]);

    // Nor is a recorded gradient of something that is not trained.
    let fewer_trained = report(compare(
        "video",
        &["--gradients", golden("video/grads.safetensors").to_str().unwrap(), "--trainable", "v0.1"],
    ));
    let left = strings(&fewer_trained["report"]["not_compared"]);
    assert!(left.iter().any(|key| key.ends_with("lm_head.weight")), "{left:?}");
}

#[test]
fn an_extra_golden_tensor_is_not_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let altered = place.path().join("forward.safetensors");
    let bytes = std::fs::read(golden("video/forward.safetensors")).unwrap();
    // A result that no layer gives: the file has xattn.1 only.
    rewrite(&bytes, &altered, |key, _| Some(key.replace("single.xattn.1", "single.xattn.0")));
    let run =
        otter(&arguments!["parity", "--json", "--model", golden("video/checkpoint"), "--golden", altered]);
    assert_eq!(strings(&report(run)["report"]["not_compared"]), ["single.xattn.0"]);
}

#[test]
fn golden_files_are_checked() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("forward.safetensors");
    let bytes = std::fs::read(golden("video/forward.safetensors")).unwrap();
    let run = || otter(&arguments!["parity", "--model", golden("video/checkpoint"), "--golden", file]);
    run().error(&["forward.safetensors", "cannot read"]);
    std::fs::write(&file, &bytes[..bytes.len() - 4]).unwrap();
    run().error(&["forward.safetensors", "not a complete safetensors file"]);
    rewrite(&bytes, &file, |key, _| (key != "single.vision_x").then(|| key.to_owned()));
    run().error(&["forward.safetensors", "'single'", "'vision_x'"]);
    // An id that the table does not have.
    rewrite(&bytes, &file, |key, data| {
        if key == "single.lang_x" {
            data[..8].copy_from_slice(&1_000_000_i64.to_le_bytes());
        }
        Some(key.to_owned())
    });
    run().error(&["forward.safetensors", "'single'", "1000000"]);
    // Tensors of other types and shapes: inputs and results.
    for (key, dtype, shape, expected) in [
        ("single.vision_x", Dtype::I64, None, "an integer tensor"),
        ("single.lang_x", Dtype::F32, None, "a float tensor"),
        ("single.labels", Dtype::F32, None, "a float tensor"),
        ("single.attention_mask", Dtype::I64, Some(1), "of shape [1, 1]"),
        ("single.lang_x", Dtype::I64, Some(0), "an empty tensor"),
        ("single.logits", Dtype::I64, None, "an integer tensor"),
        ("single.logits", Dtype::F32, Some(1), "as this model gives"),
    ] {
        rewrite_tensors(&bytes, &file, |name, tensor| {
            if name == key {
                tensor.0 = dtype;
                if let Some(last) = shape {
                    *tensor.1.last_mut().unwrap() = last;
                    tensor.1[0] = tensor.1[0].min(last);
                }
                let elements: usize = tensor.1.iter().product();
                tensor.2.resize(elements * if dtype == Dtype::I64 { 8 } else { 4 }, 0);
            }
            Some(name.to_owned())
        });
        run().error(&["forward.safetensors", key, expected]);
    }
    // Without any scenario nothing can agree.
    rewrite(&bytes, &file, |_, _| None);
    assert_eq!(run().code, Some(1));
}

/// The report of a run that must have found a difference.
#[track_caller]
fn report(run: Run) -> Value {
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert_eq!(run.stderr, "");
    serde_json::from_str(&run.stdout).unwrap()
}

/// Writes a safetensors file again; `edit` gets key and bytes, and returns the new key or nothing to drop the tensor.
fn rewrite(bytes: &[u8], to: &std::path::Path, edit: impl Fn(&str, &mut Vec<u8>) -> Option<String>) {
    rewrite_tensors(bytes, to, |key, (_, _, data)| edit(key, data));
}

/// As [`rewrite`], with type and shape before the bytes.
fn rewrite_tensors(
    bytes: &[u8],
    to: &std::path::Path,
    edit: impl Fn(&str, &mut (Dtype, Vec<usize>, Vec<u8>)) -> Option<String>,
) {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut kept = Vec::new();
    for (key, view) in file.tensors() {
        let mut tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        if let Some(key) = edit(&key, &mut tensor) {
            kept.push((key, tensor));
        }
    }
    let views = kept.iter().map(|(key, (dtype, shape, data))| {
        (key.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let written = safetensors::serialize(views, metadata.metadata().clone()).unwrap();
    std::fs::write(to, written).unwrap();
}
