//! `otter inspect`: the numbers of a known checkpoint, and what is wrong with an odd one.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{CheckpointCopy, golden, integers, otter, strings};
use serde_json::{Value, json};

fn inspect(directory: &std::path::Path, more: &[&str]) -> Value {
    let mut arguments = arguments!["inspect", directory, "--json"].to_vec();
    arguments.extend(more.iter().map(Into::into));
    otter(&arguments).json()
}

#[test]
fn the_numbers_of_the_llama_checkpoint() {
    let value = inspect(&golden("llama/checkpoint"), &[]);
    assert_eq!(value["architecture"], "OtterForConditionalGeneration");
    assert_eq!(value["weights"], "PyTorch pickle");
    assert_eq!(
        value["parameters"],
        json!({"total": 990_276, "trainable": 757_956, "rule": "head", "stored": 990_276})
    );
    assert_eq!(integers(&value["cross_attention_layers"]), [1, 3]);
    assert_eq!(strings(&value["dtypes"]), ["F32"]);
    let parts: Vec<(&str, u64)> = value["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["part"].as_str().unwrap(), part["parameters"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        parts,
        [
            ("vision encoder", 31_040),
            ("Perceiver resampler", 445_632),
            ("gated cross-attention", 262_660),
            ("language model", 201_280),
            ("embeddings", 49_664),
        ]
    );
    let special = json!({"image": 385, "answer": 386, "endofchunk": 384, "pad": 387, "bos": 1, "eos": 2});
    assert_eq!(value["special_tokens"], special);
    for (section, key, expected) in [
        ("text", "hidden_size", 64),
        ("text", "num_hidden_layers", 4),
        ("text", "vocab_size", 388),
        ("vision", "hidden_size", 32),
        ("vision", "image_size", 28),
        ("vision", "patch_size", 7),
        ("perceiver", "depth", 6),
        ("perceiver", "num_latents", 64),
    ] {
        assert_eq!(value["config"][section][key], expected, "{section}.{key}");
    }
    for key in ["missing", "unexpected", "ignored", "odd"] {
        assert_eq!(value[key], json!([]), "{key}");
    }
    assert!(value.get("tensors").is_none());
}

/// The golden list of trained parameters was made by the original.
#[test]
fn trainable_counts_equal_the_recorded_list() {
    for case in ["llama", "video"] {
        let list = std::fs::read_to_string(golden(&format!("{case}/trainable.txt"))).unwrap();
        let count: u64 = list
            .lines()
            .map(|line| {
                let (_, shape) = line.split_once('\t').unwrap();
                let sizes = shape.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
                sizes.map(|digits| digits.parse::<u64>().unwrap()).product::<u64>()
            })
            .sum();
        let directory = golden(&format!("{case}/checkpoint"));
        assert_eq!(inspect(&directory, &[])["parameters"]["trainable"], count, "{case}");
        // The first release did not train the output table.
        let first =
            inspect(&directory, &["--trainable", "v0.1"])["parameters"]["trainable"].as_u64().unwrap();
        assert!(first < count);
        let none = otter(&arguments!["inspect", directory, "--trainable", "percever"]);
        none.error(&["'percever'", "matches no parameter"]);
    }
}

#[test]
fn shards_and_frames_of_the_video_checkpoint() {
    let value = inspect(&golden("video/checkpoint"), &["--tensors"]);
    assert_eq!(value["files"].as_array().unwrap().len(), 3);
    assert_eq!(value["config"]["perceiver"]["max_num_frames"], 128);
    let tensors = value["tensors"].as_array().unwrap();
    let frames = tensors.iter().find(|tensor| tensor["name"] == "perceiver.frame_embs").unwrap();
    assert_eq!(integers(&frames["shape"]), [128, 8]);
    assert_eq!(frames["dtype"], "F32");
    let elements: i64 = tensors.iter().map(|tensor| integers(&tensor["shape"]).iter().product::<i64>()).sum();
    assert_eq!(value["parameters"]["stored"], elements);
    assert_eq!(value["parameters"]["total"], elements);
}

#[test]
fn missing_unexpected_and_ignored_tensors_are_named() {
    let (missing, unexpected) = ("perceiver.latents", "perceiver.layers.9.norm_media.weight");
    let (ignored, misshapen) = (
        "lang_encoder.model.layers.0.decoder_layer.self_attn.rotary_emb.inv_freq",
        "lang_encoder.model.norm.weight",
    );
    let copy = CheckpointCopy::new("llama/checkpoint", |tensors| {
        tensors.retain(|(name, _, _)| name != missing && name != misshapen);
        tensors.push((unexpected.to_owned(), vec![32], vec![1.0; 32]));
        tensors.push((ignored.to_owned(), vec![8], vec![1.0; 8]));
        tensors.push((misshapen.to_owned(), vec![63], vec![1.0; 63]));
    });
    let value = inspect(copy.path(), &[]);
    assert_eq!(value["weights"], "safetensors");
    assert_eq!(strings(&value["missing"]), [missing]);
    assert_eq!(strings(&value["unexpected"]), [unexpected]);
    assert_eq!(value["ignored"][0][0], ignored);
    let odd = strings(&value["odd"]).join("\n");
    for name in [missing, unexpected, ignored, misshapen] {
        assert!(odd.contains(name), "{odd}");
    }
    assert!(odd.contains("[63], expected [64]"), "{odd}");
    let text = otter(&arguments!["inspect", copy.path()]).success().stdout;
    assert!(text.contains(&format!("missing: {missing}")), "{text}");
    assert!(text.contains(&format!("unexpected: {unexpected}")), "{text}");

    // Such a checkpoint is not run, and all of it is said at once.
    let message = otter(&arguments!["generate", "--model", copy.path(), "--prompt", "User: hi GPT:<answer>"])
        .error(&["1 missing", missing, "1 unexpected", unexpected, "1 of another shape", misshapen]);
    assert!(message.contains(copy.path().to_str().unwrap()), "{message}");
}

#[test]
fn oddities_of_the_configuration_are_told() {
    // Early releases left the vocabulary of the base model in the file.
    let copy = CheckpointCopy::new("llama/checkpoint", |_| {});
    copy.edit_json("config.json", |config| config["text_config"]["vocab_size"] = json!(384));
    let value = inspect(copy.path(), &[]);
    assert_eq!(value["config"]["text"]["vocab_size"], 388);
    assert!(strings(&value["odd"]).iter().any(|odd| odd.contains("vocab_size is 384")), "{}", value["odd"]);
    // Without a tokenizer the rest is still shown.
    std::fs::remove_file(copy.file("tokenizer.json")).unwrap();
    std::fs::remove_file(copy.file("tokenizer.model")).unwrap();
    let value = inspect(copy.path(), &[]);
    assert!(value["special_tokens"]["unknown"].as_str().unwrap().contains("no tokenizer"));
    assert_eq!(value["parameters"]["total"], 990_276);
}
