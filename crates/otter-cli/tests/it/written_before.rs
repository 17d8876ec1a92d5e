//! What the binary of commit 24929bc wrote still opens: a configuration with keys in their old spelling, a data set, a run
//! directory that goes on, the trained part that it saved, a GGUF file. They are in `tests/fixtures/written_before`, with
//! `@PLACE@` for the folder they were written in.

use std::path::Path;

use crate::common::{golden, otter};
use serde_json::Value;

fn copy(source: &Path, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let copied = target.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &copied);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let place = target.ancestors().find(|folder| folder.join("run.toml").exists());
            let bytes = match String::from_utf8(bytes) {
                Ok(text) => {
                    text.replace("@PLACE@", &place.unwrap_or(target).display().to_string()).into_bytes()
                }
                Err(binary) => binary.into_bytes(),
            };
            std::fs::write(copied, bytes).unwrap();
        }
    }
}

/// The files as they were written, in a folder of their own, beside the model that they are about.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/written_before");
    std::fs::copy(files.join("run.toml"), place.path().join("run.toml")).unwrap();
    copy(&files, place.path());
    copy(&golden("mpt1b-style/checkpoint"), &place.path().join("base"));
    place
}

fn score(model: &Path) -> Vec<f64> {
    let scored = otter(&arguments![
        "score",
        "--model",
        model,
        "--prompt",
        "<image>User:What is this? GPT:<answer>",
        "--answer",
        "a cup<|endofchunk|>",
        "--image",
        golden("images/photo.jpg"),
        "--json"
    ])
    .json();
    scored["token_logprobs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-4, "{found} instead of {expected}");
    }
}

#[test]
fn a_run_goes_on_as_it_would_have() {
    let place = place();
    let run = place.path().join("run");
    let saved = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(saved.contains("quantise"));
    let config = run.join("config.toml");
    let resume = arguments!["train", "--config", config, "train.stop_after=4", "--resume"];
    let ended = otter(&resume).success();
    assert!(ended.stderr.contains("step 3/4"), "{ended:#?}");
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |key: &str| steps.iter().map(|step| step[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("step"), [1.0, 2.0, 3.0, 4.0]);
    assert_close(&of("loss")[2..], &[9.182494731053062, 8.644554508493302]);
    assert_close(&of("gradient_norm")[2..], &[0.36720027469959987, 0.7661957772036209]);
    let saved = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(saved.contains("quantize") && !saved.contains("quantise"), "{saved}");
}

#[test]
fn a_configuration_a_data_set_and_models_open() {
    let place = place();
    let new = place.path().join("new");
    let config = place.path().join("run.toml");
    let run_dir = format!("train.run_dir={}", new.display());
    let loss = |folder: &Path| {
        let metrics = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        serde_json::from_str::<Value>(metrics.lines().next().unwrap()).unwrap()["loss"].as_f64().unwrap()
    };
    otter(&arguments!["train", "--config", config, run_dir, "train.stop_after=1", "model.quantise=q8_0"])
        .success();
    assert_close(&[loss(&new)], &[loss(&place.path().join("run"))]);
    let model = place.path().join("run/checkpoints/step-000002/model");
    assert_close(
        &score(&model),
        &[-9.79926586151123, -9.606233596801758, -7.090774059295654, -1.9594841003417969],
    );
    let file = place.path().join("model.gguf");
    assert_close(
        &score(&file),
        &[-9.693620681762695, -8.88480281829834, -6.871167182922363, -2.2863025665283203],
    );
}

#[test]
fn the_first_name_of_our_format_is_understood() {
    let place = place();
    let set = place.path().join("A_instructions.json");
    let record = serde_json::json!({ "instruction": "?", "answer": "!", "image_ids": [], "rel_ins_ids": [] });
    let text = serde_json::json!({ "meta": {}, "data": { "A_1": record } }).to_string();
    std::fs::write(&set, text).unwrap();
    let out = place.path().join("out");
    otter(&arguments!["data", "convert", set, "--to", "layout", "--out", out]).success();
    assert!(out.join("manifest.json").exists());
    let fixed = place.path().join("fixed");
    otter(&arguments!["data", "verify", set, "--fix", "--out", fixed, "--form", "layout"]).success();
    assert!(fixed.join("A_instructions/manifest.json").exists());
}
