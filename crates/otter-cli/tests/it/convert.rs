//! `otter convert` through the real binary: recorded OpenFlamingo checkpoints run afterwards and give the recorded logits.

use std::path::Path;

use crate::common::{golden, golden_floats, golden_integers, integers, otter};
use otter_checkpoint::load_model;
use otter_model::{TextInput, VisionInput};
use otter_nn::{Device, Tensor};
use serde_json::json;

/// Logits (batch, length, vocabulary) of the recorded inputs.
fn logits(model: &Path, case: &str) -> (Vec<f32>, usize, Vec<bool>) {
    let file = format!("openflamingo/{case}/forward.safetensors");
    let model = load_model(model, Device::Cpu).unwrap();
    let (shape, pixels) = golden_floats(&file, "vision_x");
    let (batch, media, side) = (shape[0], shape[1], shape[5]);
    let items = batch * media;
    let vision = VisionInput {
        pixels: Tensor::from_vec(pixels, &[items, 3, side, side], Device::Cpu),
        media_frames: (0..items).map(|item| item..item + 1).collect(),
        slots: (0..batch).map(|row| (row * media..(row + 1) * media).collect()).collect(),
    };
    let ids: Vec<u32> = golden_integers(&file, "lang_x").iter().map(|&id| id as u32).collect();
    let mask: Vec<bool> = golden_integers(&file, "attention_mask").iter().map(|&kept| kept == 1).collect();
    let text = TextInput {
        length: ids.len() / batch,
        attention_mask: mask.clone(),
        segments: None,
        media_token_id: model.tokenizer.special().image,
        ids,
        batch,
    };
    let hidden = model.otter.forward(&model.parameters, Some(&vision), &text, &mut |_, _| {}).unwrap();
    let logits = model.otter.language().logits(&model.parameters, &hidden);
    let width = *logits.shape().last().unwrap();
    (logits.into_vec(), width, mask)
}

/// Largest difference in the first `columns` columns of rows that are not padding.
fn difference(ours: &(Vec<f32>, usize, Vec<bool>), case: &str, name: &str, columns: usize) -> f32 {
    let (shape, theirs) = golden_floats(&format!("openflamingo/{case}/forward.safetensors"), name);
    let (logits, width, mask) = ours;
    let mut largest = 0f32;
    for (row, _) in mask.iter().enumerate().filter(|(_, kept)| **kept) {
        for column in 0..columns {
            let pair = (logits[row * width + column], theirs[row * shape[2] + column]);
            largest = largest.max((pair.0 - pair.1).abs());
        }
    }
    largest
}

#[test]
fn converted_open_flamingos_give_the_recorded_logits() {
    let place = tempfile::tempdir().unwrap();
    let cases = [
        ("v1-llama", "final_weights.pt", 384, "openflamingo.logits_attend_previous_true"),
        ("v2-mpt", "checkpoint_0.pt", 366, "openflamingo.logits"),
    ];
    for (case, file, known, open_flamingo) in cases {
        let part = |name: &str| golden(&format!("openflamingo/{case}/{name}"));
        let out = place.path().join(case);
        let report = otter(&arguments![
            "convert",
            part(file),
            "--base-lm",
            part("base_lm"),
            "--base-vision",
            part("base_clip"),
            "--out",
            out,
            "--json"
        ])
        .json();
        assert_eq!(report["source_kind"], "the trained part of an OpenFlamingo");
        assert_eq!(report["token_order"], "flamingo");
        assert_eq!(report["warnings"], json!([]));
        let ours = logits(&out, case);
        for name in [open_flamingo, "converted.logits"] {
            let difference = difference(&ours, case, name, known);
            assert!(difference < 2e-4, "{case} {name}: {difference}");
        }
        // The table of contents agrees, and the model answers.
        let inspected = otter(&arguments!["inspect", out, "--json"]).json();
        assert_eq!(inspected["special_tokens"]["answer"], if case == "v1-llama" { 387 } else { 366 });
        let image = golden("images/grey.png");
        let arguments = arguments![
            "generate",
            "--model",
            out,
            "--image",
            image,
            "--prompt",
            "<image>User: What is th",
            "--max-new-tokens",
            "3"
        ];
        otter(&arguments).success();
    }
}

#[test]
fn a_checkpoint_in_half_precision_shards_and_back() {
    let place = tempfile::tempdir().unwrap();
    let (half, bin) = (place.path().join("half"), place.path().join("bin"));
    let source = golden("llama/checkpoint");
    let text = otter(&arguments![
        "convert",
        source,
        "--out",
        half,
        "--dtype",
        "bf16",
        "--keep-f32",
        "norms,gates",
        "--shard-size",
        "500KB"
    ])
    .success()
    .stdout;
    for part in ["a whole Otter", "BF16", "model-00001-of-0000", "config.json"] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    let report = otter(&arguments!["convert", half, "--out", bin, "--format", "bin", "--json"]).json();
    assert_eq!(report["weight_files"], json!(["pytorch_model.bin"]));
    assert_eq!(report["source"], half.to_str().unwrap());
    let inspected = otter(&arguments!["inspect", bin, "--json"]).json();
    assert_eq!(integers(&json!([inspected["parameters"]["total"]])), [990_276]);
}

#[test]
fn open_flamingo_files_are_written() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("checkpoint.pt");
    let source = golden("mpt7b-style/checkpoint");
    let text = otter(&arguments!["convert", source, "--to", "openflamingo", "--out", out, "--module-prefix"])
        .success()
        .stdout;
    for part in ["OpenFlamingo's names", "checkpoint.pt", "frozen"] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    assert!(out.is_file());
}

#[test]
fn wrong_arguments_say_what_is_right() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let part = golden("openflamingo/v1-llama/final_weights.pt");
    otter(&arguments!["convert", part, "--out", out])
        .error(&["final_weights.pt", "--base-lm DIR --base-vision DIR"]);
    otter(&arguments!["convert", place.path().join("absent"), "--out", out]).error(&["absent"]);
    otter(&arguments!["convert", part, "--out", out, "--shard-size", "5XB"]).usage("`XB` is no unit");
    otter(&arguments!["convert", "--out", out]).usage("SOURCE");
    otter(&arguments!["convert", part, "--inject", part, "--out", out]).usage("cannot be used with");
    assert!(!out.exists());
}

/// Every command says that a file became too large; the system would end it without a word.
#[cfg(unix)]
#[test]
fn a_file_size_limit_is_told() {
    let place = tempfile::tempdir().unwrap();
    let (source, out) = (golden("llama/checkpoint"), place.path().join("out"));
    let mut command = std::process::Command::new("bash");
    command.args(["-c", "ulimit -f 20; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_otter"), "convert"]);
    let ended = command.arg(&source).arg("--out").arg(&out).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.starts_with("error: ") && told.contains("File too large"), "{told}");
    assert!(!out.exists());
}
