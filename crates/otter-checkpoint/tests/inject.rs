//! "Inject": a plain language model and a plain tower become an untrained Otter.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::convert::{Tensors, V1, V2, content, error, floats, json, open_flamingo, run, save};
use common::gguf::{Meta, Tensor, gguf_bytes, moved, scores, vocabulary};
use common::golden;
use otter_checkpoint::convert::ConvertOptions;
use otter_checkpoint::{CheckpointConfig, load_model, load_tokenizer};
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

/// A LLaMA as a file of llama.cpp, with its names, its order of rows and its form of the tokenizer.
fn llama_cpp(base: &Path, file: &Path) {
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
    let metadata = [
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
    fs::write(file, gguf_bytes(3, &metadata, &tensors)).unwrap();
}

/// The same Otter comes of a base in llama.cpp's form and of the same base in Hugging Face's.
#[test]
fn a_file_of_llama_cpp_is_a_base() {
    let place = tempfile::tempdir().unwrap();
    let base = golden(&format!("{V1}/base_lm"));
    let file = place.path().join("llama.gguf");
    llama_cpp(&base, &file);
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
