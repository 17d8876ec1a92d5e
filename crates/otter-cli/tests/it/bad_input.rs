//! Damaged, hostile or contradictory input: a clear message that names the culprit, never a panic.

use std::path::Path;

use crate::common::{CheckpointCopy, Run, golden, otter};
use serde_json::json;

fn generate(model: &Path) -> Run {
    otter(&arguments![
        "generate",
        "--model",
        model,
        "--prompt",
        "User: hi GPT:<answer>",
        "--max-new-tokens",
        "2"
    ])
}

fn unchanged() -> CheckpointCopy {
    CheckpointCopy::new("video/checkpoint", |_| {})
}

#[test]
fn an_unchanged_copy_runs() {
    generate(unchanged().path()).success();
}

/// Every way to use, score or hand on weights that are not finite ends in an error that names them.
#[test]
fn weights_that_are_not_finite_are_named() {
    let prompt = "<image>User: what is it? GPT:<answer>";
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("a.png");
    image::RgbImage::from_pixel(9, 9, image::Rgb([200, 30, 60])).save(&image).unwrap();
    for (name, at, bad) in [
        ("lang_encoder.model.layers.1.decoder_layer.self_attn.q_proj.weight", 0, f32::NAN),
        ("perceiver.latents", 3, f32::NAN),
        ("lang_encoder.lm_head.weight", 70, f32::NEG_INFINITY),
    ] {
        let copy = CheckpointCopy::new("llama/checkpoint", |tensors| {
            tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap().2[at] = bad;
        });
        let model = copy.path();
        let named = [name, "first at element", "otter inspect --scan"];
        for more in [
            &["generate", "--json", "--max-new-tokens", "2"][..],
            &["generate", "--max-new-tokens", "2", "--temperature", "1"],
            &["generate", "--json", "--max-new-tokens", "2", "--num-beams", "2"],
            &["score", "--json", "--answer", "cup"],
            &["score", "--answer", "cup"],
        ] {
            let mut arguments: Vec<std::ffi::OsString> = more.iter().map(Into::into).collect();
            arguments.extend(arguments!["--model", model, "--image", &image, "--prompt", prompt]);
            otter(&arguments).error(&named);
        }
        let run = crate::common::otter_with_input(
            &arguments!["chat", "--model", model, "--image", &image, "--max-new-tokens", "2"],
            b"what is it?\n",
        );
        assert_eq!(run.code, Some(1), "{run:#?}");
        assert!(named.iter().all(|part| run.stderr.contains(part)), "{run:#?}");
        // A pure copy, another type, blocks.
        for (number, more) in
            [&[][..], &["--dtype", "bf16"], &["--format", "gguf", "--quantize", "q8_0"], &["--format", "bin"]]
                .iter()
                .enumerate()
        {
            let out = place.path().join(format!("{number}-{at}"));
            let mut arguments = arguments!["convert", model, "--out", &out].to_vec();
            arguments.extend(more.iter().map(Into::into));
            otter(&arguments).error(&[name, &bad.to_string(), "otter inspect --scan"]);
            assert!(!out.exists(), "{more:?}");
        }
    }
}

#[test]
fn truncated_safetensors() {
    let copy = unchanged();
    let file = copy.file("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..length]).unwrap();
        generate(copy.path()).error(&["model.safetensors"]);
        otter(&arguments!["inspect", copy.path()]).error(&["model.safetensors"]);
    }
}

#[test]
fn safetensors_that_claim_more_than_they_hold() {
    let copy = unchanged();
    let file = copy.file("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for claim in [bytes.len() as u64, 1 << 40, u64::MAX] {
        let mut longer = bytes.clone();
        longer[..8].copy_from_slice(&claim.to_le_bytes());
        std::fs::write(&file, longer).unwrap();
        generate(copy.path()).error(&["model.safetensors", &claim.to_string()]);
    }
    let header =
        r#"{"perceiver.latents":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#;
    let claimed = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 64]].concat();
    std::fs::write(&file, claimed).unwrap();
    generate(copy.path()).error(&["model.safetensors", "perceiver.latents"]);
}

/// A ZIP archive of stored members.
fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let offset = bytes.len() as u32;
        let mut record = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // version, flags, method, time, date
        for number in [0, data.len() as u32, data.len() as u32] {
            record.extend(number.to_le_bytes()); // checksum, sizes
        }
        record.extend((name.len() as u32).to_le_bytes()); // length of the name and of the extra field
        bytes.extend([b"PK\x03\x04", record.as_slice(), name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02\x14\0", record.as_slice(), &[0; 10], &offset.to_le_bytes()].concat());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([members.len() as u8, 0, members.len() as u8, 0]);
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

#[test]
fn a_pickle_with_a_foreign_class_runs_nothing() {
    let copy = unchanged();
    std::fs::remove_file(copy.file("model.safetensors")).unwrap();
    let witness = copy.file("executed");
    let command = format!("touch {}", witness.display());
    for module in ["os\nsystem", "posix\nsystem", "builtins\neval", "torch\nload"] {
        let mut pickle = b"\x80\x02c".to_vec();
        pickle.extend(module.as_bytes());
        pickle.extend(b"\nX");
        pickle.extend((command.len() as u32).to_le_bytes());
        pickle.extend(command.as_bytes());
        pickle.extend(b"\x85R.");
        let bytes = zip(&[("archive/data.pkl", &pickle), ("archive/version", b"3\n")]);
        std::fs::write(copy.file("pytorch_model.bin"), bytes).unwrap();
        generate(copy.path()).error(&["pytorch_model.bin", &module.replace('\n', ".")]);
        assert!(!witness.exists());
    }
    std::fs::write(copy.file("pytorch_model.bin"), b"\x80\x02cos\nsystem\n.").unwrap();
    generate(copy.path()).error(&["pytorch_model.bin"]);
    std::fs::write(copy.file("pytorch_model.bin"), b"version https://git-lfs.github.com/spec/v1\n").unwrap();
    generate(copy.path()).error(&["pytorch_model.bin"]);
}

#[test]
fn shards_stay_in_their_folder_and_exist() {
    let copy = unchanged();
    std::fs::remove_file(copy.file("model.safetensors")).unwrap();
    for shard in ["../outside.bin", "/etc/passwd", "absent.bin"] {
        let index = json!({"metadata": {}, "weight_map": {"perceiver.latents": shard}});
        std::fs::write(copy.file("pytorch_model.bin.index.json"), index.to_string()).unwrap();
        generate(copy.path()).error(&[shard]);
    }
    std::fs::remove_file(copy.file("pytorch_model.bin.index.json")).unwrap();
    generate(copy.path()).error(&["no weights found", "model.safetensors"]);
}

#[test]
fn configurations_are_checked() {
    let change = |key: &str, edit: &dyn Fn(&mut serde_json::Value), parts: &[&str]| {
        let copy = unchanged();
        copy.edit_json("config.json", edit);
        let mut expected = vec!["config.json", key];
        expected.extend(parts);
        generate(copy.path()).error(&expected);
    };
    // Keys that nothing here knows may be those of a writer's next release: they are said, and the model loads.
    let copy = unchanged();
    copy.edit_json("config.json", |c| {
        c["text_config"]["hiden_size"] = json!(3);
        c["cross_attn_every_layers"] = json!(3);
        c["of_tomorrow"] = json!(3);
    });
    let run = generate(copy.path()).success();
    let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.contains("not known here")).collect();
    assert_eq!(warnings.len(), 1, "{run:#?}");
    for part in
        ["warning: ", "config.json", "text_config.hiden_size", "`text_config.hidden_size`", "of_tomorrow"]
    {
        assert!(warnings[0].contains(part), "no {part} in {run:#?}");
    }
    change(
        "text_config.embedding_multiplier",
        &|c| c["text_config"]["embedding_multiplier"] = json!(12.0),
        &["changes numbers", "12"],
    );
    change(
        "architectures",
        &|c| c["text_config"]["architectures"] = json!(["WombatForCausalLM"]),
        &["WombatForCausalLM", "LlamaForCausalLM"],
    );
    change("model_type", &|c| c["model_type"] = json!("llava"), &["llava"]);
    change("hidden_size", &|c| c["text_config"]["hidden_size"] = json!("big"), &["big"]);
    change("hidden_size", &|c| c["text_config"]["hidden_size"] = json!(0), &["0"]);
    change("num_attention_heads", &|c| c["text_config"]["num_attention_heads"] = json!(5), &["5"]);
    change("hidden_act", &|c| c["text_config"]["hidden_act"] = json!("tanh"), &["tanh"]);
    change("patch_size", &|c| c["vision_config"]["patch_size"] = json!(0), &["0"]);

    // Sizes that do not belong to the weights, however large, are compared before anything is set aside for them.
    let of_size = |size: u64| {
        let copy = unchanged();
        copy.edit_json("config.json", |c| c["text_config"]["intermediate_size"] = json!(size));
        generate(copy.path())
    };
    of_size(25).error(&["mlp.up_proj.weight", "[25, 24]"]);
    of_size(1 << 20).error(&["mlp.up_proj.weight", "[1048576, 24]"]);
    of_size(1 << 40).error(&["config.json", "intermediate_size", "1099511627776"]);
    let copy = unchanged();
    copy.edit_json("config.json", |c| c["text_config"]["num_hidden_layers"] = json!(1_u64 << 40));
    generate(copy.path()).error(&["config.json", "num_hidden_layers"]);
    for text in ["", "{", "[]", "{\"a\": 1, \"a\": 2}"] {
        std::fs::write(copy.file("config.json"), text).unwrap();
        generate(copy.path()).error(&["config.json"]);
    }
}

/// A message says each thing once.
#[test]
fn messages_do_not_repeat_themselves() {
    let copy = unchanged();
    copy.edit_json("config.json", |c| c["text_config"]["intermediate_size"] = json!(1_u64 << 40));
    let message = generate(copy.path()).error(&["intermediate_size"]);
    assert_eq!(message.matches("intermediate_size").count(), 1, "{message}");
}

#[test]
fn directories_that_are_none() {
    generate(Path::new("/no/such/model")).error(&["/no/such/model"]);
    otter(&arguments!["inspect", "/no/such/model"]).error(&["/no/such/model"]);
    otter(&arguments!["chat", "--model", "/no/such/model"]).error(&["/no/such/model"]);
    generate(&golden("images")).error(&["images", "config.json"]);
    generate(&golden("images/wide.png")).error(&["wide.png"]);
    let empty = tempfile::tempdir().unwrap();
    generate(empty.path()).error(&["config.json"]);
}

#[test]
fn tokenizers_are_checked() {
    // Ids that the table has no row for: the token does not belong to this checkpoint.
    let copy = unchanged();
    copy.edit_json("tokenizer.json", |tokenizer| {
        let mut added = tokenizer["added_tokens"][0].clone();
        added["content"] = json!("<extra>");
        added["id"] = json!(388);
        tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    });
    generate(copy.path()).success();
    let prompt = |text: &str| {
        otter(&arguments!["generate", "--model", copy.path(), "--prompt", text, "--max-new-tokens", "1"])
    };
    prompt("a<extra>b").error(&["388", "vocabulary"]);
    otter(&arguments!["score", "--model", copy.path(), "--prompt", "a", "--answer", "<extra>"])
        .error(&["388", "vocabulary"]);

    let copy = unchanged();
    std::fs::write(copy.file("tokenizer.json"), b"{}").unwrap();
    generate(copy.path()).error(&["tokenizer.json"]);
    let copy = unchanged();
    std::fs::remove_file(copy.file("tokenizer.json")).unwrap();
    std::fs::remove_file(copy.file("tokenizer.model")).unwrap();
    generate(copy.path()).error(&["no tokenizer", "tokenizer.json"]);
    let copy = unchanged();
    copy.edit_json("added_tokens.json", |tokens| tokens["<image>"] = json!(7));
    generate(copy.path()).error(&["<image>"]);
}

#[test]
fn images_and_placeholders_must_match() {
    let (wide, gray) = (golden("images/wide.png"), golden("images/grey.png"));
    let model = golden("llama/checkpoint");
    let run = |prompt: &str, images: usize| {
        let mut arguments = arguments!["generate", "--model", model, "--prompt", prompt].to_vec();
        for image in [&wide, &gray].into_iter().take(images) {
            arguments.extend(["--image".into(), image.into()]);
        }
        otter(&arguments)
    };
    run("<image>a<image>b", 1).error(&["2 <image> placeholders", "1 image was given"]);
    run("<image>a", 0).error(&["1 <image> placeholder,", "0 images were given"]);
    run("<image>a", 2).error(&["1 <image> placeholder,", "2 images were given"]);
    run("a", 1).error(&["0 <image> placeholders", "1 image was given", "--chat"]);
    otter(&arguments!["score", "--model", model, "--prompt", "<image>a", "--answer", "b"])
        .error(&["1 <image> placeholder,", "0 images were given"]);
    // Frames of a video need exactly one placeholder.
    let video = golden("video/checkpoint");
    otter(&arguments![
        "generate",
        "--model",
        video,
        "--prompt",
        "<image><image>a",
        "--image",
        wide,
        "--image",
        gray,
        "--image",
        wide
    ])
    .error(&["2 <image> placeholders", "3 images were given"]);
}

#[test]
fn more_frames_than_the_checkpoint_knows() {
    let copy = CheckpointCopy::new("video/checkpoint", |tensors| {
        let (_, shape, data) =
            tensors.iter_mut().find(|(name, _, _)| name == "perceiver.frame_embs").unwrap();
        data.truncate(2 * shape[1]);
        shape[0] = 2;
    });
    copy.edit_json("config.json", |config| config["max_num_frames"] = json!(2));
    let run = |frames: usize| {
        let mut arguments = arguments!["generate", "--model", copy.path(), "--prompt", "<image>a"].to_vec();
        arguments.extend((0..frames).flat_map(|_| ["--image".into(), golden("images/tiny.png").into()]));
        otter(&arguments)
    };
    run(2).success();
    run(3).error(&["3 frames", "cover 2"]);
}

#[test]
fn batch_files_are_checked_line_by_line() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("prompts.jsonl");
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        otter(&arguments![
            "generate",
            "--model",
            golden("video/checkpoint"),
            "--batch",
            file,
            "--max-new-tokens",
            "1"
        ])
    };
    run("{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\"}\n").success();
    run("{\"prompt\": \"a\"}\nnothing\n").error(&["prompts.jsonl", "line 2"]);
    run("{\"prompt\": \"a\", \"image\": \"b.png\"}").error(&["prompts.jsonl", "line 1", "`image`"]);
    run("{\"images\": []}").error(&["prompts.jsonl", "line 1", "prompt"]);
    run("\n \n").error(&["prompts.jsonl", "no prompt"]);
    run("{\"prompt\": \"a\"}\n{\"prompt\": \"<image>\"}\n").error(&["prompt 2", "1 <image> placeholder,"]);
    run("{\"prompt\": \"a\"}\n{\"prompt\": \"<image>\", \"images\": [\"gone.png\"]}\n")
        .error(&["prompt 2", "gone.png"]);
    let absent = place.path().join("absent.jsonl");
    otter(&arguments!["generate", "--model", golden("video/checkpoint"), "--batch", absent])
        .error(&["absent.jsonl"]);
}

#[test]
fn option_values_are_checked() {
    let run = |more: &[&str]| {
        let mut arguments =
            arguments!["generate", "--model", golden("video/checkpoint"), "--prompt", "User: hi"].to_vec();
        arguments.extend(more.iter().map(Into::into));
        otter(&arguments)
    };
    run(&["--temperature", "-1"]).usage("-1");
    run(&["--temperature=-1"]).error(&["--temperature", "-1"]);
    run(&["--temperature", "NaN"]).error(&["--temperature", "NaN"]);
    run(&["--top-p", "0"]).error(&["--top-p", "0"]);
    run(&["--top-p", "1.5"]).error(&["--top-p", "1.5"]);
    run(&["--repetition-penalty", "0"]).error(&["--repetition-penalty", "0"]);
    run(&["--repetition-penalty", "inf"]).error(&["--repetition-penalty", "inf"]);
    run(&["--max-length", "2"]).error(&["--max-length", "2"]);
    run(&["--max-new-tokens", "18446744073709551615"]).error(&["18446744073709551615", "limit"]);
    run(&["--max-length", "18446744073709551615"]).error(&["limit"]);
    run(&["--max-new-tokens", "0"]).success();
    run(&["--min-new-tokens", "18446744073709551615", "--max-new-tokens", "2"]).success();
    run(&["--no-repeat-ngram-size", "18446744073709551615", "--max-new-tokens", "2"]).success();
    run(&["--top-k", "18446744073709551615", "--max-new-tokens", "2"]).success();
    run(&["--no-repeat-ngram-size", "1", "--max-new-tokens", "400"]).success();
    run(&["--temperature", "1e-30", "--max-new-tokens", "2"]).success();
    run(&["--temperature", "1e30", "--max-new-tokens", "2"]).success();

    run(&["--num-beams", "0"]).error(&["--num-beams", "0", "from 1"]);
    run(&["--num-beams", "18446744073709551615"]).error(&["--num-beams", "256"]);
    run(&["--num-return-sequences", "0"]).error(&["--num-return-sequences", "0", "from 1"]);
    run(&["--num-return-sequences", "2"]).error(&["--num-return-sequences", "greedy", "--num-beams 2"]);
    run(&["--num-return-sequences", "2", "--temperature", "0"]).error(&["greedy"]);
    for sampling in [&[][..], &["--temperature", "1"]] {
        run(&[&["--num-beams", "2", "--num-return-sequences", "3"], sampling].concat())
            .error(&["--num-return-sequences is 3", "--num-beams 2"]);
    }
    run(&["--num-beams", "2", "--length-penalty", "NaN"]).error(&["--length-penalty", "NaN"]);
    run(&["--num-beams", "2", "--length-penalty", "-1e300", "--max-new-tokens", "3"]).success();
    run(&["--num-beams", "2", "--length-penalty", "1e300", "--max-new-tokens", "3"]).success();
    run(&["--num-beams", "2", "--max-new-tokens", "0"]).success();
    run(&["--num-beams", "256", "--max-new-tokens", "3"]).success();
    run(&["--num-beams", "2", "--no-repeat-ngram-size", "1", "--max-new-tokens", "400"]).success();
    run(&["--num-beams", "2", "--temperature", "1e-40", "--max-new-tokens", "3"]).success();
    run(&["--num-beams", "2", "--temperature", "1e30", "--top-k", "1", "--max-new-tokens", "3"]).success();
    run(&["--num-beams", "2", "--early-stopping", "sometimes"]).usage("never");
    run(&["--bad-words", ""]).error(&["--bad-words", "''"]);
    let idle = run(&["--length-penalty", "2", "--max-new-tokens", "1"]).success();
    assert!(idle.stderr.contains("--length-penalty changes nothing"), "{}", idle.stderr);
    run(&["--decoding", "magic"]).usage("keep");
    run(&["--max-new-tokens", "many"]).usage("many");
    run(&["--max-new-tokens", "3", "--max-length", "9"]).usage("--max-length");
    run(&["--greedy", "--temperature", "1"]).usage("--temperature");
    run(&["--imag", "a.png"]).usage("--image");
    otter(&["fly"]).usage("fly");
    otter(&["generate"]).usage("--model");
    otter(&["--threads", "x", "inspect", "."]).usage("x");
}

#[test]
fn empty_and_long_prompts() {
    let model = golden("video/checkpoint");
    let run = |prompt: &str| {
        otter(&arguments![
            "generate",
            "--json",
            "--model",
            model,
            "--prompt",
            prompt,
            "--max-new-tokens",
            "1"
        ])
    };
    // The token at the beginning is a prompt too.
    run("").success();
    // Longer than the 512 positions the configuration speaks of: rotary positions know no end.
    run(&"word ".repeat(300)).success();
    run("\u{1}\u{1f40}\u{202e}\u{fffd}\u{10ffff} 图 <|endofchunk|><PAD><s></s>").success();
    otter(&arguments!["score", "--model", model, "--prompt", "a", "--answer", ""])
        .error(&["nothing to score"]);
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let on = |device: &str, dtype: &str| {
        let model = golden("llama/checkpoint");
        let device = arguments!["--device", device, "--dtype", dtype];
        otter(&[&arguments!["generate", "--model", model, "--prompt", "a"][..], &device].concat())
    };
    on("tpu", "f32").error(&["--device tpu", "`tpu` is no device", "`cuda:0`"]);
    on("cuda:x", "f32").error(&["`cuda:x` is no device"]);
    on("cpu", "bf16").error(&["bf16 needs a GPU"]);
    if !cfg!(feature = "cuda") {
        on("cuda", "f32").error(&["--device cuda", "--features cuda", "docs/cuda.md"]);
    }
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/toybox.toml");
    let train = otter(&arguments!["train", "--config", config, "--device", "tpu"]);
    train.error(&["train.device", "`tpu` is no device"]);
}

/// A reader such as `head` that ends early ends the command, quietly, with the status of SIGPIPE; a closed standard error changes
/// nothing.
#[test]
fn closed_pipes_are_no_panic() {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let ended = |arguments: &[&str], is_output: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_otter"));
        command.args(arguments);
        if is_output {
            command.stdout(closed())
        } else {
            command.stderr(closed())
        };
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let model = golden("llama/checkpoint");
    let model = model.to_str().unwrap();
    for arguments in [&["init", "--list"][..], &["inspect", model], &["inspect", model, "--json"]] {
        assert_eq!(ended(arguments, true), (Some(141), String::new()), "{arguments:?}");
        assert_eq!(ended(arguments, false), (Some(0), String::new()), "{arguments:?}");
    }
    assert_eq!(ended(&["inspect", "/no/such"], false), (Some(1), String::new()));
}

#[test]
fn commands_that_moved_say_where() {
    for (old, new) in [
        (&["bench", "--preset", "mid"][..], "bench --preset mid"),
        (&["data", "synthesise", "--pairs", "9"], "synthesize --pairs 9"),
        (&["pretrain-base", "--help"], "pretrain-base --help"),
    ] {
        otter(old).error(&[&format!("cargo run --release -p otter-dev -- {new}\n")]);
    }
}
