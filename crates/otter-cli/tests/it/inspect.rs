//! `otter inspect`: the numbers of a known checkpoint, and what is wrong with an odd one.

use crate::common::{CheckpointCopy, golden, integers, otter, strings};
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
    for case in ["llama", "video", "flamingo", "mpt7b-style", "mpt1b-style"] {
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
        // The first release did not train the output table; MPT has none.
        let first =
            inspect(&directory, &["--trainable", "v0.1"])["parameters"]["trainable"].as_u64().unwrap();
        assert_eq!(first < count, !case.starts_with("mpt"), "{case}");
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

/// Whole models, plain language models, towers and OpenFlamingo files: all are told, none is an error.
#[test]
fn every_golden_directory_and_file_is_told() {
    for (path, kind) in [
        ("llama/checkpoint", "complete model"),
        ("video/checkpoint", "complete model"),
        ("flamingo/checkpoint", "complete model"),
        ("mpt7b-style/checkpoint", "complete model"),
        ("mpt1b-style/checkpoint", "complete model"),
        ("openflamingo/v1-llama", "OpenFlamingo v1 file"),
        ("openflamingo/v1-llama/base_lm", "language model alone"),
        ("openflamingo/v1-llama/base_clip", "image tower alone"),
        ("openflamingo/v1-llama/converted", "complete model"),
        ("openflamingo/v2-mpt/checkpoint.pt", "OpenFlamingo v2 file"),
        ("openflamingo/v2-mpt/checkpoint_0.pt", "OpenFlamingo v2 file"),
        ("openflamingo/v2-mpt/base_lm", "language model alone"),
        ("openflamingo/v2-mpt/converted", "complete model"),
    ] {
        let value = inspect(&golden(path), &["--scan"]);
        assert!(value["kind"].as_str().unwrap().starts_with(kind), "{path}: {}", value["kind"]);
        assert_eq!(value["scan"], json!([]), "{path}");
        let sizes = value["file_sizes"].as_array().unwrap();
        assert!(!sizes.is_empty() && sizes.iter().all(|file| file["bytes"].as_u64() > Some(0)), "{path}");
        let text = otter(&arguments!["inspect", golden(path)]).success().stdout;
        assert!(text.contains(kind) && text.contains("no known one has these sizes"), "{text}");
        let partial = value["partial"].as_str().unwrap_or_default();
        assert_eq!(partial.contains("otter convert"), kind.starts_with("OpenFlamingo"), "{path}: {partial}");
        assert!(text.contains(partial), "{text}");
        for part in value["parts"].as_array().unwrap() {
            assert_eq!(part["dtypes"][0]["dtype"], "F32", "{path}");
        }
    }
}

#[test]
fn the_order_of_the_tokens_is_told() {
    let value = inspect(&golden("flamingo/checkpoint"), &[]);
    let order = json!({"files": "flamingo", "class": "flamingo", "matches": true,
        "other_class": {"answer": 386, "pad": 387}, "tokens": 388, "rows_without_token": 0});
    assert_eq!(value["token_order"], order);
    let copy = CheckpointCopy::new("flamingo/checkpoint", |_| {});
    copy.edit_json("config.json", |config| config["model_type"] = json!("otter"));
    let value = inspect(copy.path(), &[]);
    assert_eq!(value["token_order"]["matches"], false);
    let text = otter(&arguments!["inspect", copy.path()]).success().stdout;
    assert!(text.contains("gives <answer> 386 and <PAD> 387"), "{text}");
}

#[test]
fn untrained_checkpoints_are_told_before_chat_and_generate() {
    let copy = CheckpointCopy::new("llama/checkpoint", |tensors| {
        for (name, _, values) in tensors.iter_mut() {
            if name.ends_with("_gate") {
                values.fill(0.0);
            }
        }
    });
    let value = inspect(copy.path(), &[]);
    assert_eq!(value["training"]["zero_gates"], 4);
    let warning = strings(&value["training"]["warnings_before_chat"])[0].to_owned();
    assert!(warning.contains("all 4 gates") && strings(&value["odd"]).contains(&warning.as_str()), "{value}");
    let prompt = ["--prompt", "User: hi GPT:<answer>", "--max-new-tokens", "1"];
    let mut arguments = arguments!["generate", "--model", copy.path()].to_vec();
    arguments.extend(prompt.map(Into::into));
    assert!(otter(&arguments).success().stderr.contains(&warning));
    let run = crate::common::otter_with_input(&arguments!["chat", "--model", copy.path()], b"").success();
    assert!(run.stderr.contains(&warning), "{}", run.stderr);
    // A tuned one says nothing.
    let mut arguments = arguments!["generate", "--model", golden("llama/checkpoint")].to_vec();
    arguments.extend(prompt.map(Into::into));
    assert_eq!(otter(&arguments).success().stderr, "");
}

#[test]
fn unsupported_and_incomplete_checkpoints_are_told() {
    let copy = CheckpointCopy::new("llama/checkpoint", |tensors| {
        let (_, _, values) = tensors.iter_mut().find(|(name, ..)| name == "perceiver.latents").unwrap();
        values[3] = f32::NAN;
    });
    copy.edit_json("config.json", |config| {
        config["text_config"]["model_type"] = json!("bloom");
        config["text_config"]["architectures"] = json!(["BloomForCausalLM"]);
    });
    let value = inspect(copy.path(), &["--scan"]);
    assert!(value["config_problem"].as_str().unwrap().contains("Bloom"), "{value}");
    assert_eq!(value["parameters"]["stored"], 990_276);
    assert_eq!(value["scan"], json!([{"name": "perceiver.latents", "nan": 1, "infinite": 0, "first": 3}]));
    let text = otter(&arguments!["inspect", copy.path(), "--scan"]).success().stdout;
    assert!(text.contains("perceiver.latents: 1 NaN") && text.contains("cannot be loaded"), "{text}");

    // One of three shards is not there.
    let place = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("video/checkpoint")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "pytorch_model-00003-of-00003.bin" {
            std::fs::write(place.path().join(entry.file_name()), std::fs::read(entry.path()).unwrap())
                .unwrap();
        }
    }
    let value = inspect(place.path(), &[]);
    assert_eq!(value["missing_files"].as_array().unwrap().len(), 1);
    assert!(value["parameters"]["stored"].as_u64() < value["parameters"]["total"].as_u64());
    let text = otter(&arguments!["inspect", place.path()]).success().stdout;
    assert!(text.contains("pytorch_model-00003-of-00003.bin") && text.contains("is missing"), "{text}");
}
