//! "Inject": a plain language model and a plain tower become an untrained Otter.

use crate::common::convert::{Tensors, V1, V2, content, error, floats, json, open_flamingo, run, save};
use crate::common::gguf::{Meta, Tensor, gguf_bytes, moved, scores, vocabulary};
use crate::common::golden;
use otter_checkpoint::convert::{ConvertOptions, NewRows, OutputFormat};
use otter_checkpoint::{CheckpointConfig, load_model, load_tokenizer};
use otter_model::TextInput;
use otter_nn::Device;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_language_model_is_injected() {
    let place = tempfile::tempdir().unwrap();
    let inject = |case: &str, name: &str| ConvertOptions {
        inject: true,
        base_vision: Some(golden(&format!("{case}/base_clip"))),
        cross_attn_every: Some(2),
        seed: 3,
        ..ConvertOptions::new(golden(&format!("{case}/base_lm")), place.path().join(name))
    };
    for case in [V1, V2] {
        let report = run(&inject(case, "fresh"));
        assert_eq!(report.token_order.as_deref(), Some("otter"));
        assert_eq!(report.warnings, [""; 0]);
        let fresh = content(&place.path().join("fresh"));
        let expected = content(&golden(&format!("{case}/converted")));
        assert_eq!(fresh.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, (_, _, bytes)) in &fresh {
            if name.ends_with("_gate") {
                assert_eq!(bytes, &[0; 4], "{name}");
            }
            // What is not between vision and language is the base's, except for new rows.
            let between = name.starts_with("perceiver.") || name.contains("gated_cross");
            if !between
                && !name.contains("embed_tokens")
                && !name.contains("lm_head")
                && !name.contains("wte")
            {
                assert_eq!(bytes, &expected[name].2, "{name}");
            }
        }
        // The same seed gives the same values, another one others.
        run(&inject(case, "same"));
        assert_eq!(content(&place.path().join("same")), fresh);
        run(&ConvertOptions { seed: 4, ..inject(case, "other") });
        assert_ne!(content(&place.path().join("other")), fresh);
    }
    // With an OpenFlamingo's parts between it is that OpenFlamingo.
    let overlay = Some(golden(&format!("{V2}/checkpoint.pt")));
    let options = ConvertOptions { cross_attn_every: None, overlay, ..inject(V2, "trained") };
    run(&options);
    let plain = place.path().join("plain");
    run(&open_flamingo(V2, "checkpoint.pt", &plain));
    assert_eq!(content(&place.path().join("trained")), content(&plain));

    let config = json(&place.path().join("fresh/config.json"));
    assert_eq!(config["text_config"]["hidden_size"], 16);
    let videos = ConvertOptions { max_num_frames: Some(5), ..inject(V1, "video") };
    run(&videos);
    assert_eq!(json(&place.path().join("video/config.json"))["max_num_frames"], 5);
    for every in [0, 9] {
        let options = ConvertOptions { cross_attn_every: Some(every), ..inject(V1, "refused") };
        error(&options, &["--cross-attn-every", "choose 1 to 2"]);
    }
}

/// The language model and the tower of a fixture as directories of their own, under `place`.
fn take_apart(case: &str, owner: &str, place: &Path) -> (PathBuf, PathBuf) {
    let config = json(&golden(&format!("language_models/{case}/checkpoint/config.json")));
    let tensors = floats(&golden(&format!("language_models/{owner}/checkpoint")));
    let part = |prefix: &str| -> Tensors {
        let plain = tensors.iter().filter(|(name, ..)| !name.contains("gated_cross_attn_layer"));
        let of = plain.filter_map(|(name, shape, values)| {
            let name = name.strip_prefix(prefix)?.replace(".decoder_layer.", ".");
            Some((name, shape.clone(), values.clone()))
        });
        of.collect()
    };
    let [language, vision] = ["language", "vision"].map(|name| place.join(format!("{case}-{name}")));
    save(&language, &part("lang_encoder."), &config["text_config"]);
    save(&vision, &part("vision_encoder."), &config["vision_config"]);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden("language_models/tokenizer").join(file), language.join(file)).unwrap();
    }
    (language, vision)
}

/// Every kind of language model, alone under its own names, is a base: all of it and of the tower is in the Otter, to
/// the bit, and the Otter is one that the loader accepts with every tensor accounted for.
#[test]
fn every_language_model_is_a_base() {
    let place = tempfile::tempdir().unwrap();
    for (case, owner) in [
        ("neox", "neox"),
        ("neox-sequential", "neox"),
        ("opt", "opt"),
        ("opt-350m", "opt-350m"),
        ("falcon", "falcon"),
        ("falcon-alibi", "falcon-alibi"),
        ("falcon-gqa", "falcon-gqa"),
        ("llama-linear", "llama-linear"),
        ("llama-3", "llama-linear"),
    ] {
        let (language, vision) = take_apart(case, owner, place.path());
        let options = ConvertOptions {
            inject: true,
            base_vision: Some(vision),
            cross_attn_every: Some(2),
            ..ConvertOptions::new(&language, place.path().join(format!("{case}-otter")))
        };
        run(&options);
        let otter = floats(&options.out);
        for (name, shape, values) in floats(&golden(&format!("language_models/{owner}/checkpoint"))) {
            if !name.starts_with("perceiver.") && !name.contains("gated_cross_attn_layer") {
                let same = otter.iter().find(|(found, ..)| *found == name);
                let same = same.unwrap_or_else(|| panic!("{case}: no {name}"));
                assert_eq!((&same.1, &same.2), (&shape, &values), "{case} {name}");
            }
        }
        let model = load_model(&options.out, Device::Cpu).unwrap();
        let fixture = golden(&format!("language_models/{case}/checkpoint/config.json"));
        let recorded = CheckpointConfig::read(&fixture).unwrap();
        assert_eq!(model.config.model.text, recorded.model.text, "{case}");
        let mut gates = model.parameters.iter().filter(|parameter| parameter.name.ends_with("_gate"));
        assert!(gates.all(|gate| *gate.tensor.values() == [0.0]), "{case}");
    }
}

/// Transformers 5 writes a tower without `vision_model.` in front of its names.
#[test]
fn a_tower_of_transformers_5_is_the_same_tower() {
    let place = tempfile::tempdir().unwrap();
    let tower = golden(&format!("{V1}/base_clip"));
    let newer = place.path().join("clip");
    let tensors: Tensors = floats(&tower)
        .into_iter()
        .map(|(name, shape, values)| (name.replacen("vision_model.", "", 1), shape, values))
        .collect();
    assert!(tensors.iter().any(|(name, ..)| name == "embeddings.class_embedding"));
    save(&newer, &tensors, &json(&tower.join("config.json")));
    let inject = |tower: &Path, name: &str| {
        let options = ConvertOptions {
            inject: true,
            base_vision: Some(tower.to_path_buf()),
            cross_attn_every: Some(1),
            ..ConvertOptions::new(golden(&format!("{V1}/base_lm")), place.path().join(name))
        };
        run(&options);
        content(&options.out)
    };
    assert_eq!(inject(&newer, "new"), inject(&tower, "old"));
}

/// The trained language model of the toy world without Otter's tokens, and a text in its words.
fn toy_language_model(place: &Path) -> (PathBuf, Vec<u32>) {
    let base = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/toybox-base"));
    let tokenizer = load_tokenizer(&base).unwrap();
    let text = "user: what is this? gpt: it is a red circle. user: how many objects are there? gpt: two";
    let ids = tokenizer.encode(text).unwrap();
    let first = tokenizer.special().endofchunk as usize;
    let tensors: Tensors = floats(&base)
        .into_iter()
        .filter(|(name, ..)| !name.contains("gated_cross_attn_layer"))
        .filter_map(|(name, mut shape, mut values)| {
            let name = name.strip_prefix("lang_encoder.")?.replace(".decoder_layer.", ".");
            if name.contains("embed_tokens") || name.contains("lm_head") {
                shape[0] = first;
                values.truncate(first * shape[1]);
            }
            Some((name, shape, values))
        })
        .collect();
    let mut config = json(&base.join("config.json"))["text_config"].take();
    config["vocab_size"] = first.into();
    let directory = place.join("toy-lm");
    save(&directory, &tensors, &config);
    let mut tokenizer = json(&base.join("tokenizer.json"));
    tokenizer["added_tokens"].as_array_mut().unwrap().truncate(3);
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(directory.join("tokenizer_config.json"), r#"{"bos_token": "<s>", "eos_token": "</s>"}"#)
        .unwrap();
    (directory, ids)
}

/// Mean of the negative logarithms of what the softmax over the first `rows` logits gives the next token.
fn loss(logits: &[Vec<f32>], rows: usize, ids: &[u32]) -> f64 {
    let positions = logits.iter().zip(&ids[1..]);
    let losses = positions.map(|(logits, &next)| {
        let sum: f64 = logits[..rows].iter().map(|&logit| f64::from(logit).exp()).sum();
        sum.ln() - f64::from(logits[next as usize])
    });
    losses.sum::<f64>() / (ids.len() - 1) as f64
}

/// New rows at the mean of the old ones take no more than their share of the softmax; the original's rule is an option.
#[test]
fn new_rows_do_not_raise_the_first_loss() {
    let place = tempfile::tempdir().unwrap();
    let (language, ids) = toy_language_model(place.path());
    let rows = json(&language.join("config.json"))["vocab_size"].as_u64().unwrap() as usize;
    let rise = |new_rows: NewRows, seed: u64| {
        let options = ConvertOptions {
            inject: true,
            base_vision: Some(golden(&format!("{V1}/base_clip"))),
            cross_attn_every: Some(1),
            new_rows,
            seed,
            ..ConvertOptions::new(&language, place.path().join(format!("{new_rows:?}{seed}")))
        };
        let report = run(&options);
        assert_eq!(report.created.iter().filter(|created| created.how.starts_with("rows")).count(), 2);
        let model = load_model(&options.out, Device::Cpu).unwrap();
        let input = TextInput {
            ids: ids.clone(),
            attention_mask: vec![true; ids.len()],
            batch: 1,
            length: ids.len(),
            segments: None,
            media_token_id: model.tokenizer.special().image,
        };
        let hidden = model.otter.forward(&model.parameters, None, &input, &mut |_, _| {}).unwrap();
        let table = model.parameters.by_name("lang_encoder.lm_head.weight").unwrap().tensor.values();
        let width = hidden.shape()[1];
        let dot = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let logits: Vec<Vec<f32>> = hidden
            .data()
            .chunks(width)
            .map(|hidden| table.chunks(width).map(|row| dot((row, hidden))).collect())
            .collect();
        let (before, after) = (loss(&logits, rows, &ids), loss(&logits, rows + 4, &ids));
        println!("{new_rows:?}: {before:.4} nats before, {after:.4} after");
        (before, after - before, content(&options.out))
    };
    let (before, raised, first) = rise(NewRows::default(), 0);
    let bound = (1.0 + 4.0 / rows as f64).ln();
    assert!(before < 20.0 && raised > 0.0 && raised < bound, "{before} {raised} {bound}");
    let (_, normal, _) = rise(NewRows::Normal, 0);
    assert!(normal > raised, "{normal} {raised}");
    // The rows are told apart, and by the seed.
    let (.., other) = rise(NewRows::Mean, 1);
    assert_ne!(other, first);
    for table in ["lang_encoder.model.embed_tokens.weight", "lang_encoder.lm_head.weight"] {
        let (_, shape, bytes) = &first[table];
        let new: Vec<&[u8]> = bytes.chunks(bytes.len() / shape[0]).skip(rows).collect();
        assert!(new.len() == 4 && new.windows(2).all(|pair| pair[0] != pair[1]), "{table}");
    }
}

/// A LLaMA as a file of llama.cpp, with its names, its order of rows and its form of the tokenizer.
fn llama_cpp(base: &Path, file: &Path, more: Vec<(&str, Meta<'_>)>) {
    let config = json(&base.join("config.json"));
    let heads = config["num_attention_heads"].as_u64().unwrap();
    let tensors: Vec<Tensor> = floats(base)
        .into_iter()
        .filter(|(name, ..)| !name.contains("inv_freq"))
        .map(|(name, shape, values)| {
            let order = [("q_proj", "query"), ("k_proj", "key")].iter().find(|(part, _)| name.contains(part));
            let order = order.map_or("", |(_, order)| order);
            let values = moved(&values, order, heads as usize, heads as usize, shape[0]);
            let mut own = name.replace("model.layers.", "blk.");
            for (from, to) in [
                ("model.embed_tokens", "token_embd"),
                ("model.norm", "output_norm"),
                ("lm_head", "output"),
                ("self_attn.o_proj", "attn_output"),
                ("self_attn.q_proj", "attn_q"),
                ("self_attn.k_proj", "attn_k"),
                ("self_attn.v_proj", "attn_v"),
                ("mlp.gate_proj", "ffn_gate"),
                ("mlp.up_proj", "ffn_up"),
                ("mlp.down_proj", "ffn_down"),
                ("post_attention_layernorm", "ffn_norm"),
                ("input_layernorm", "attn_norm"),
            ] {
                own = own.replace(from, to);
            }
            Tensor::f32(&own, &shape, &values)
        })
        .collect();
    let (tokens, kinds, merges) = vocabulary(&json(&base.join("tokenizer.json")));
    let scores = scores(&tokens, &merges);
    let number = |key: &str| Meta::U32(config[key].as_u64().unwrap() as u32);
    let mut metadata = vec![
        ("general.architecture", Meta::Text("llama")),
        ("llama.context_length", number("max_position_embeddings")),
        ("llama.embedding_length", number("hidden_size")),
        ("llama.block_count", number("num_hidden_layers")),
        ("llama.feed_forward_length", number("intermediate_size")),
        ("llama.attention.head_count", number("num_attention_heads")),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-6)),
        ("llama.rope.freq_base", Meta::F32(10_000.0)),
        ("tokenizer.ggml.model", Meta::Text("llama")),
        ("tokenizer.ggml.tokens", Meta::Texts(&tokens)),
        ("tokenizer.ggml.token_type", Meta::Ints(&kinds)),
        ("tokenizer.ggml.scores", Meta::Floats(&scores)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
    ];
    metadata.extend(more);
    fs::write(file, gguf_bytes(3, &metadata, &tensors)).unwrap();
}

/// The Otter of a directory without its output table, which its language model then shares with the input's.
fn toy_tied(otter: &Path, place: &Path) -> PathBuf {
    let tied = place.join("tied-source");
    fs::create_dir(&tied).unwrap();
    for file in fs::read_dir(otter).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), tied.join(file.file_name())).unwrap();
    }
    let mut config = json(&tied.join("config.json"));
    config["text_config"]["tie_word_embeddings"] = serde_json::json!(true);
    config["tie_word_embeddings"] = serde_json::json!(true);
    fs::write(tied.join("config.json"), config.to_string()).unwrap();
    let bytes = fs::read(otter.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.iter().filter(|(name, _)| !name.ends_with("lm_head.weight"));
    fs::write(tied.join("model.safetensors"), safetensors::serialize(kept, None).unwrap()).unwrap();
    tied
}

/// The same Otter comes of a base in llama.cpp's form and of the same base in Hugging Face's.
#[test]
fn a_file_of_llama_cpp_is_a_base() {
    let place = tempfile::tempdir().unwrap();
    let base = golden(&format!("{V1}/base_lm"));
    let file = place.path().join("llama.gguf");
    llama_cpp(&base, &file, Vec::new());
    let inject = |source: &Path, name: &str| {
        let options = ConvertOptions {
            inject: true,
            base_vision: Some(golden(&format!("{V1}/base_clip"))),
            cross_attn_every: Some(1),
            ..ConvertOptions::new(source, place.path().join(name))
        };
        run(&options);
        options.out
    };
    let (plain, own) = (inject(&base, "plain"), inject(&file, "own"));
    assert_eq!(content(&own), content(&plain));
    for directory in [&plain, &own] {
        assert_eq!(
            json(&directory.join("config.json"))["otter_input"],
            serde_json::json!({ "begin_token": true })
        );
    }
    // One table for input and output stays one, in a file alone as in a directory.
    let tied = toy_tied(&own, place.path());
    for out in ["tied.gguf", "tied"] {
        let options = ConvertOptions::new(&tied, place.path().join(out));
        run(&ConvertOptions { format: OutputFormat::Gguf, ..options.clone() });
        let file = if out == "tied" { options.out.join("model.gguf") } else { options.out };
        assert!(load_model(&file, Device::Cpu).unwrap().config.model.tie_word_embeddings, "{out}");
    }
    let [own, plain] = [own, plain].map(|directory| {
        let model = load_model(&directory, Device::Cpu).unwrap();
        let tokenizer = load_tokenizer(&directory).unwrap();
        let ids = tokenizer.encode("<image>User: what is this? GPT:<answer> Ünï.<|endofchunk|>").unwrap();
        (model.config.model, *tokenizer.special(), ids)
    });
    assert_eq!(own, plain);
}

/// What the tokenizer's own files say of the beginning is written down once, for training and for use.
#[test]
fn the_beginning_is_decided_when_the_otter_is_made() {
    let place = tempfile::tempdir().unwrap();
    for (case, says, expected) in
        [(V1, None, true), (V1, Some(false), false), (V2, None, false), (V2, Some(true), true)]
    {
        let base = place.path().join("base");
        let _ = fs::remove_dir_all(&base);
        fs::create_dir(&base).unwrap();
        for file in fs::read_dir(golden(&format!("{case}/base_lm"))).unwrap() {
            let file = file.unwrap();
            fs::write(base.join(file.file_name()), fs::read(file.path()).unwrap()).unwrap();
        }
        if let Some(says) = says {
            let mut config = json(&base.join("tokenizer_config.json"));
            config["add_bos_token"] = says.into();
            fs::write(base.join("tokenizer_config.json"), config.to_string()).unwrap();
        }
        let options = ConvertOptions {
            inject: true,
            base_vision: Some(golden(&format!("{case}/base_clip"))),
            cross_attn_every: Some(2),
            ..ConvertOptions::new(&base, place.path().join("otter"))
        };
        run(&options);
        let tokenizer = load_tokenizer(&options.out).unwrap();
        assert_eq!(
            CheckpointConfig::read(&options.out.join("config.json")).unwrap().input.begin_token,
            Some(expected)
        );
        assert_eq!(tokenizer.sample_prefix(), tokenizer.prompt_prefix());
        assert_eq!(tokenizer.begins(), Some(expected), "{case} {says:?}");
    }
}

/// Metadata that changes numbers is refused by its key, and what nothing here knows is said.
#[test]
fn settings_of_a_file_of_llama_cpp_are_obeyed_or_refused() {
    let place = tempfile::tempdir().unwrap();
    let (base, file) = (golden(&format!("{V1}/base_lm")), place.path().join("llama.gguf"));
    let options = ConvertOptions {
        inject: true,
        base_vision: Some(golden(&format!("{V1}/base_clip"))),
        cross_attn_every: Some(1),
        ..ConvertOptions::new(&file, place.path().join("out"))
    };
    for (key, value) in [
        ("llama.attention.scale", Meta::F32(0.5)),
        ("llama.logit_scale", Meta::F32(0.0625)),
        ("llama.embedding_scale", Meta::F32(12.0)),
        ("llama.residual_scale", Meta::F32(0.2)),
        ("llama.attention.sliding_window", Meta::U32(512)),
        ("llama.final_logit_softcapping", Meta::F32(30.0)),
        ("llama.rope.scale_linear", Meta::F32(4.0)),
        ("llama.rope.dimension_count", Meta::U32(2)),
        ("llama.expert_count", Meta::U32(8)),
        ("llama.attention.causal", Meta::Bool(false)),
    ] {
        llama_cpp(&base, &file, vec![(key, value)]);
        error(&options, &[key, "llama.gguf"]);
    }
    let harmless = vec![("llama.logit_scale", Meta::F32(1.0)), ("llama.of_tomorrow", Meta::U32(1))];
    llama_cpp(&base, &file, harmless);
    let report = run(&options);
    let said = report.dropped.iter().filter(|dropped| dropped.reason.contains("`llama.of_tomorrow`")).count();
    assert_eq!(said, 1, "{:?}", report.dropped);
}
