//! GGUF files: whole Otters written and read again, language models as llama.cpp's converter writes them.

use crate::common::gguf::{Meta, Tensor, gguf_bytes, moved, scores, vocabulary};
use crate::common::golden;
use otter_checkpoint::{
    Checkpoint, DType, GgufFile, GgufOptions, StoredDType, WeightForm, Weights, load_model, load_tokenizer,
    save_gguf,
};
use otter_nn::Device;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const CASES: [&str; 4] =
    ["llama/checkpoint", "video/checkpoint", "mpt7b-style/checkpoint", "mpt1b-style/checkpoint"];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Every parameter of a checkpoint and of its copy.
fn compare(source: &Path, copy: &Path, same: impl Fn(&str, &StoredDType, &[f32], &[f32])) {
    let (source, copy) = (load_model(source, Device::Cpu).unwrap(), Checkpoint::open(copy).unwrap());
    assert_eq!(source.config.model, copy.config.model);
    for parameter in source.parameters.iter() {
        let entry = copy.weights.get(&parameter.name).unwrap();
        assert_eq!(entry.shape, parameter.tensor.shape());
        let values = entry.read_f32(&parameter.name).unwrap();
        same(&parameter.name, &entry.dtype, &parameter.tensor.values(), &values);
    }
}

#[test]
fn whole_otters_come_back() {
    let place = tempfile::tempdir().unwrap();
    for case in CASES {
        let directory = golden(case);
        let checkpoint = Checkpoint::open(&directory).unwrap();
        for quantization in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0, DType::Q4_0, DType::Q4K] {
            let path = place.path().join("otter.gguf");
            save_gguf(&path, &checkpoint, &GgufOptions { quantization, ..GgufOptions::default() }).unwrap();
            assert_eq!(Weights::open(&path).unwrap().form(), WeightForm::Gguf);
            compare(&directory, &path, |name, dtype, source, copy| {
                let largest = source.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let allowed = match dtype {
                    StoredDType::F32 => 0.0,
                    StoredDType::F16 => largest * 2f32.powi(-11) + 1e-7,
                    StoredDType::Bf16 => largest * 2f32.powi(-8),
                    StoredDType::Q8_0 => largest / 250.0,
                    block if block.is_block() => largest / 7.9,
                    other => panic!("{name} is {other}"),
                };
                for (a, b) in source.iter().zip(copy) {
                    assert!((a - b).abs() <= allowed, "{case} {quantization:?} {name} {a} {b} {allowed}");
                }
                if quantization == DType::F32 || name.contains("gate") && source.len() == 1 {
                    assert_eq!(bits(source), bits(copy), "{name}");
                }
            });
        }
    }
}

/// A block whose scale is infinite is not copied.
#[test]
fn blocks_that_are_not_finite_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("otter.gguf");
    let options = GgufOptions { quantization: DType::Q8_0, ..GgufOptions::default() };
    save_gguf(&path, &Checkpoint::open(&golden("llama/checkpoint")).unwrap(), &options).unwrap();
    let weights = Weights::open(&path).unwrap();
    let is_block = |name: &&str| weights.get(name).unwrap().dtype.is_block();
    let name = weights.names().find(is_block).unwrap().to_owned();
    let scale = weights.get(&name).unwrap().location.bytes.start;
    drop(weights);
    let mut bytes = fs::read(&path).unwrap();
    bytes[scale..scale + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let copy = place.path().join("copy.gguf");
    let error = save_gguf(&copy, &Checkpoint::open(&path).unwrap(), &options).unwrap_err().to_string();
    assert!(error.contains(&name) && !copy.exists(), "{error}");
}

/// As a file, and as `model.gguf` in a directory of its own, it is a model that runs.
#[test]
fn a_file_is_a_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let directory = golden("llama/checkpoint");
    let path = place.path().join("model.gguf");
    let options = GgufOptions { quantization: DType::F32, name: Some("tiny"), ..Default::default() };
    save_gguf(&path, &Checkpoint::open(&directory).unwrap(), &options).unwrap();
    let original = load_model(&directory, Device::Cpu).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert!(file.is_otter().unwrap());
    for place in [path.as_path(), place.path()] {
        let model = load_model(place, Device::Cpu).unwrap();
        assert_eq!(model.config.model, original.config.model);
        assert_eq!(model.config.family, original.config.family);
        assert_eq!(model.tokenizer.special(), original.tokenizer.special());
        let text = "<image>User: wie geht's? GPT:<answer> gut.<|endofchunk|>";
        assert_eq!(model.tokenizer.encode(text).unwrap(), original.tokenizer.encode(text).unwrap());
        for (own, other) in model.parameters.iter().zip(original.parameters.iter()) {
            assert_eq!((&own.name, bits(&own.tensor.values())), (&other.name, bits(&other.tensor.values())));
        }
        // Nothing was copied.
        assert!(Weights::open(place).unwrap().mapped_f32("perceiver.latents").is_some());
    }
    // From one GGUF file another can be made.
    let again = place.path().join("again.gguf");
    save_gguf(&again, &Checkpoint::open(&path).unwrap(), &options).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());
    // A damaged copy is refused and a failed one leaves the old file.
    let bytes = fs::read(&path).unwrap();
    fs::write(&again, &bytes[..bytes.len() - 64]).unwrap();
    assert!(Checkpoint::open(&again).unwrap_err().to_string().contains("truncated"));
}

fn pseudo_random(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
}

struct Expected {
    hugging_face: &'static str,
    llama_cpp: &'static str,
    order: &'static str,
    shape: &'static [usize],
}

const fn expected(
    hugging_face: &'static str,
    llama_cpp: &'static str,
    order: &'static str,
    shape: &'static [usize],
) -> Expected {
    Expected { hugging_face, llama_cpp, order, shape }
}

/// A file with these tensors gives them back under their Hugging Face names, whatever the order of its rows.
fn check_language_model(
    metadata: &[(&str, Meta<'_>)],
    heads: usize,
    key_heads: usize,
    list: &[Expected],
) -> (GgufFile, Weights) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("lm.gguf");
    let tensors: Vec<Tensor> = list
        .iter()
        .enumerate()
        .map(|(seed, tensor)| {
            let values = pseudo_random(seed, tensor.shape.iter().product());
            let values = moved(&values, tensor.order, heads, key_heads, tensor.shape[0]);
            Tensor::f32(tensor.llama_cpp, tensor.shape, &values)
        })
        .collect();
    // Version 2 has the same layout.
    let version = 2 + list.len() as u32 % 2;
    fs::write(&path, gguf_bytes(version, metadata, &tensors)).unwrap();
    let weights = Weights::open(&path).unwrap();
    for (seed, tensor) in list.iter().enumerate() {
        if tensor.hugging_face.is_empty() {
            continue;
        }
        let entry = weights.get(tensor.hugging_face).unwrap_or_else(|| panic!("no {}", tensor.hugging_face));
        assert_eq!(entry.shape, tensor.shape);
        let values = pseudo_random(seed, tensor.shape.iter().product());
        assert_eq!(entry.read_f32(tensor.hugging_face).unwrap(), values, "{}", tensor.hugging_face);
    }
    assert_eq!(weights.len(), list.iter().filter(|tensor| !tensor.hugging_face.is_empty()).count());
    (GgufFile::open(&path).unwrap(), weights)
}

#[test]
fn llama() {
    let metadata = [
        ("general.architecture", Meta::Text("llama")),
        ("llama.context_length", Meta::U32(512)),
        ("llama.embedding_length", Meta::U32(16)),
        ("llama.block_count", Meta::U32(1)),
        ("llama.feed_forward_length", Meta::U32(24)),
        ("llama.attention.head_count", Meta::U32(4)),
        ("llama.attention.head_count_kv", Meta::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.freq_base", Meta::F32(500_000.0)),
        ("llama.rope.scaling.type", Meta::Text("linear")),
        ("llama.rope.scaling.factor", Meta::F32(2.0)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
    ];
    let (file, _) = check_language_model(
        &metadata,
        4,
        2,
        &[
            expected("model.embed_tokens.weight", "token_embd.weight", "", &[20, 16]),
            expected("model.norm.weight", "output_norm.weight", "", &[16]),
            expected("lm_head.weight", "output.weight", "", &[20, 16]),
            expected("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", "query", &[16, 16]),
            expected("model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias", "query", &[16]),
            expected("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", "key", &[8, 16]),
            expected("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", "", &[8, 16]),
            expected("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", "", &[16, 24]),
        ],
    );
    assert_eq!(
        file.text_config().unwrap(),
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 20, "bos_token_id": 1,
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
            "rope_scaling": { "type": "linear", "factor": 2.0 }, "hidden_act": "silu", "attention_bias": true,
            "tie_word_embeddings": false,
        })
    );
    assert!(!file.is_otter().unwrap());
    assert!(file.config().unwrap_err().to_string().contains("not a whole Otter"));
}

/// Metadata says nothing of the scaling of LLaMA 3: its factors are a tensor.
#[test]
fn llama_3_is_recognized_by_its_factors() {
    let metadata = |base: f32| {
        vec![
            ("general.architecture", Meta::Text("llama")),
            ("llama.context_length", Meta::U32(131_072)),
            ("llama.embedding_length", Meta::U32(256)),
            ("llama.block_count", Meta::U32(1)),
            ("llama.feed_forward_length", Meta::U32(32)),
            ("llama.attention.head_count", Meta::U32(2)),
            ("llama.rope.freq_base", Meta::F32(base)),
        ]
    };
    // The factors of Llama-3.1: 1 for the first 29 of 64 pairs, 8 from the 36th on, smooth between.
    let between = [1.08, 1.36, 1.77, 2.42, 3.57, 6.06];
    let factors: Vec<f32> = (0..64)
        .map(|pair| {
            let wavelength = std::f32::consts::TAU * 500_000f32.powf(pair as f32 / 64.0);
            let smooth = (8192.0 / wavelength - 1.0) / 3.0;
            match wavelength {
                short if short < 2048.0 => 1.0,
                long if long > 8192.0 => 8.0,
                _ => 8.0 / (1.0 - smooth + 8.0 * smooth),
            }
        })
        .collect();
    let smooth: Vec<f32> = factors.iter().copied().filter(|factor| *factor > 1.0 && *factor < 8.0).collect();
    assert_eq!(smooth.len(), between.len());
    let open = |metadata: &[(&str, Meta<'_>)]| {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lm.gguf");
        let tensors = [
            Tensor::f32("token_embd.weight", &[1, 256], &[0.0; 256]),
            Tensor::f32("rope_freqs.weight", &[64], &factors),
        ];
        fs::write(&path, gguf_bytes(3, metadata, &tensors)).unwrap();
        let weights = Weights::open(&path).unwrap();
        assert!(weights.notes()[0].contains("rope_freqs"));
        GgufFile::open(&path).unwrap().text_config()
    };
    let config = open(&metadata(500_000.0)).unwrap();
    assert_eq!(config["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(config["rope_scaling"]["factor"], 8.0);
    assert_eq!(config["tie_word_embeddings"], true);
    assert!(open(&metadata(10_000.0)).unwrap_err().to_string().contains("no published LLaMA 3"));
}

#[test]
fn mpt() {
    let metadata = [
        ("general.architecture", Meta::Text("mpt")),
        ("mpt.context_length", Meta::U32(256)),
        ("mpt.embedding_length", Meta::U32(8)),
        ("mpt.block_count", Meta::U32(1)),
        ("mpt.feed_forward_length", Meta::U32(32)),
        ("mpt.attention.head_count", Meta::U32(2)),
        ("mpt.attention.layer_norm_epsilon", Meta::F32(1e-5)),
        ("mpt.attention.clamp_kqv", Meta::F32(6.0)),
        ("mpt.attention.max_alibi_bias", Meta::F32(8.0)),
    ];
    let (file, weights) = check_language_model(
        &metadata,
        2,
        2,
        &[
            expected("transformer.wte.weight", "token_embd.weight", "", &[12, 8]),
            expected("", "output.weight", "", &[12, 8]),
            expected("transformer.norm_f.weight", "output_norm.weight", "", &[8]),
            expected("transformer.blocks.0.attn.Wqkv.weight", "blk.0.attn_qkv.weight", "", &[24, 8]),
            expected("transformer.blocks.0.attn.q_ln.weight", "blk.0.attn_q_norm.weight", "", &[8]),
            expected("transformer.blocks.0.ffn.up_proj.weight", "blk.0.ffn_up.weight", "", &[32, 8]),
        ],
    );
    assert!(weights.notes()[0].contains("`output.weight`: a copy"));
    let config = file.text_config().unwrap();
    assert_eq!(
        config["attn_config"],
        json!({ "alibi": true, "attn_type": "multihead_attention", "qk_ln": true, "clip_qkv": 6.0, "alibi_bias_max": 8.0 })
    );
    assert_eq!((config["expansion_ratio"].as_u64(), config["no_bias"].as_bool()), (Some(4), Some(true)));
    assert_eq!(config.get("layer_norm_epsilon"), None);
}

#[test]
fn gpt_neox() {
    let metadata = [
        ("general.architecture", Meta::Text("gptneox")),
        ("gptneox.context_length", Meta::U32(256)),
        ("gptneox.embedding_length", Meta::U32(16)),
        ("gptneox.block_count", Meta::U32(1)),
        ("gptneox.feed_forward_length", Meta::U32(64)),
        ("gptneox.attention.head_count", Meta::U32(2)),
        ("gptneox.rope.dimension_count", Meta::U32(2)),
        ("gptneox.use_parallel_residual", Meta::Bool(false)),
    ];
    let (file, _) = check_language_model(
        &metadata,
        2,
        2,
        &[
            expected("gpt_neox.embed_in.weight", "token_embd.weight", "", &[12, 16]),
            expected("embed_out.weight", "output.weight", "", &[12, 16]),
            expected(
                "gpt_neox.layers.0.attention.query_key_value.weight",
                "blk.0.attn_qkv.weight",
                "fused",
                &[48, 16],
            ),
            expected(
                "gpt_neox.layers.0.attention.query_key_value.bias",
                "blk.0.attn_qkv.bias",
                "fused",
                &[48],
            ),
        ],
    );
    let config = file.text_config().unwrap();
    assert_eq!((&config["rotary_pct"], &config["use_parallel_residual"]), (&json!(0.25), &json!(false)));
}

#[test]
fn falcon() {
    let metadata = |key_heads| {
        vec![
            ("general.architecture", Meta::Text("falcon")),
            ("falcon.context_length", Meta::U32(2048)),
            ("falcon.embedding_length", Meta::U32(16)),
            ("falcon.block_count", Meta::U32(1)),
            ("falcon.feed_forward_length", Meta::U32(64)),
            ("falcon.attention.head_count", Meta::U32(4)),
            ("falcon.attention.head_count_kv", Meta::U32(key_heads)),
        ]
    };
    let qkv = "transformer.h.0.self_attention.query_key_value.weight";
    let (file, _) = check_language_model(
        &metadata(1),
        4,
        1,
        &[
            expected("transformer.word_embeddings.weight", "token_embd.weight", "", &[12, 16]),
            expected("transformer.h.0.input_layernorm.weight", "blk.0.attn_norm.weight", "", &[16]),
            expected(qkv, "blk.0.attn_qkv.weight", "fused", &[24, 16]),
        ],
    );
    let config = file.text_config().unwrap();
    assert_eq!((&config["multi_query"], &config["new_decoder_architecture"]), (&json!(true), &json!(false)));
    let (file, _) = check_language_model(
        &metadata(2),
        4,
        2,
        &[
            expected("transformer.word_embeddings.weight", "token_embd.weight", "", &[12, 16]),
            expected("transformer.h.0.ln_mlp.weight", "blk.0.attn_norm.weight", "", &[16]),
            expected("transformer.h.0.ln_attn.weight", "blk.0.attn_norm_2.weight", "", &[16]),
            expected(qkv, "blk.0.attn_qkv.weight", "fused", &[32, 16]),
        ],
    );
    let config = file.text_config().unwrap();
    assert_eq!((&config["num_kv_heads"], &config["new_decoder_architecture"]), (&json!(2), &json!(true)));
}

#[test]
fn tokenizers_give_the_ids_of_the_original() {
    let texts = [
        "Hello world, what's in the picture?",
        "  two spaces,\n\ttabs and 1234567 digits",
        "Ünïcødé 図 e\u{301}",
        "<image>User: hi GPT:<answer> yes.<|endofchunk|>",
    ];
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("lm.gguf");
    for case in ["mpt7b-style/checkpoint", "llama/checkpoint"] {
        let directory = golden(case);
        let json: Value =
            serde_json::from_slice(&fs::read(directory.join("tokenizer.json")).unwrap()).unwrap();
        let (mut tokens, mut kinds, merges) = vocabulary(&json);
        // Files are filled up to the rows of the table.
        tokens.push("[PAD]".to_owned());
        kinds.push(5);
        let scores: Vec<f32> = scores(&tokens, &merges);
        let llama = case.starts_with("llama");
        let metadata = [
            ("general.architecture", Meta::Text(if llama { "llama" } else { "mpt" })),
            ("tokenizer.ggml.model", Meta::Text(if llama { "llama" } else { "gpt2" })),
            ("tokenizer.ggml.tokens", Meta::Texts(&tokens)),
            ("tokenizer.ggml.token_type", Meta::Ints(&kinds)),
            ("tokenizer.ggml.scores", Meta::Floats(&scores)),
            ("tokenizer.ggml.merges", Meta::Texts(&merges)),
            ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
            ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
        ];
        fs::write(&path, gguf_bytes(3, &metadata, &[])).unwrap();
        let json = GgufFile::open(&path).unwrap().language_tokenizer_json().unwrap();
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join("tokenizer.json"), json.to_string()).unwrap();
        let (own, original) = (load_tokenizer(copy.path()).unwrap(), load_tokenizer(&directory).unwrap());
        assert_eq!(own.vocab_size(), original.vocab_size(), "{case}");
        for text in texts {
            assert_eq!(own.encode(text).unwrap(), original.encode(text).unwrap(), "{case} {text:?}");
        }
    }
}
