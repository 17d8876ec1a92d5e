//! `config.json` as the original writes it: sub-configurations under `vision_config` and `text_config`, the
//! keys in the order of the file that was loaded, and everything that file said but this project does not use.

use crate::config::checkpoint_config::CheckpointConfig;
use crate::config::text::write_text_config;
use otter_model::config::{CrossAttentionConfig, PerceiverConfig};
use otter_model::text::config_json::set;
use serde_json::{Map, Value, json};

impl CheckpointConfig {
    /// The JSON object to write. Keys of the loaded file stay; values that describe the model are set from
    /// [`CheckpointConfig::model`].
    pub fn to_json(&self) -> Value {
        let mut top = if self.original.is_empty() { self.template() } else { self.original.clone() };
        // It names Python files beside the loaded file, which a new directory does not have.
        top.shift_remove("auto_map");
        let model = &self.model;
        set(&mut top, "model_type", json!(self.family.model_type()));
        set(&mut top, "cross_attn_every_n_layers", json!(model.cross_attention.every_n_layers));
        set(&mut top, "tie_word_embeddings", json!(model.tie_word_embeddings));
        set_unless(&mut top, "train_vision_encoder", json!(model.train_vision_encoder), json!(false));
        set_unless(&mut top, "train_lang_encoder", json!(model.train_lang_encoder), json!(false));
        set_unless(&mut top, "train_full_model", json!(model.train_full_model), json!(false));
        set_unless(&mut top, "max_num_frames", json!(model.perceiver.max_num_frames), Value::Null);
        set_unless(&mut top, "perceiver_config", self.perceiver_extension(), Value::Null);
        set_unless(&mut top, "cross_attention_config", self.cross_attention_extension(), Value::Null);
        self.input.write(&mut top);
        if let Some(Value::Object(vision)) = top.get_mut("vision_config") {
            let sizes = &model.vision;
            set(vision, "hidden_size", json!(sizes.hidden_size));
            set(vision, "image_size", json!(sizes.image_size));
            set(vision, "intermediate_size", json!(sizes.intermediate_size));
            set(vision, "layer_norm_eps", json!(sizes.layer_norm_eps));
            set(vision, "num_attention_heads", json!(sizes.num_attention_heads));
            set(vision, "num_channels", json!(sizes.num_channels));
            set(vision, "num_hidden_layers", json!(sizes.num_hidden_layers));
            set(vision, "patch_size", json!(sizes.patch_size));
        }
        if let Some(Value::Object(text)) = top.get_mut("text_config") {
            write_text_config(text, &model.text, self.use_cache);
            // Both places say the same, so that no reader makes two tables of one or one of two.
            if self.text_ties != model.tie_word_embeddings {
                set(text, "tie_word_embeddings", json!(model.tie_word_embeddings));
            }
        }
        Value::Object(top)
    }

    /// `generation_config.json` beside it.
    pub fn generation_json(&self) -> Value {
        let end = match &self.end_tokens[..] {
            several @ [_, _, ..] => json!(several),
            _ => json!(self.model.text.eos_token_id()),
        };
        json!({
            "_from_model_config": true,
            "bos_token_id": self.model.text.bos_token_id(),
            "eos_token_id": end,
            "pad_token_id": self.model.text.pad_token_id(),
        })
    }

    /// What the original writes around the sizes of a new model.
    fn template(&self) -> Map<String, Value> {
        let top = json!({
            "_commit_hash": null,
            "architectures": [self.family.architecture()],
            "cross_attn_every_n_layers": null,
            "model_type": null,
            "only_attend_previous": true,
            "text_config": self.model.text.template(self.model.tie_word_embeddings),
            "tie_word_embeddings": null,
            "torch_dtype": "float32",
            "transformers_version": null,
            "use_media_placement_augmentation": true,
            "vision_config": {
                "_name_or_path": "openai/clip-vit-large-patch14",
                "architectures": null,
                "attention_dropout": 0.0,
                "hidden_act": "quick_gelu",
                "initializer_factor": 1.0,
                "initializer_range": 0.02,
                "model_type": "clip_vision_model",
                "projection_dim": 512,
            },
        });
        match top {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// Perceiver sizes that differ from the published ones.
    fn perceiver_extension(&self) -> Value {
        let (own, default) = (&self.model.perceiver, PerceiverConfig::default());
        let mut object = Map::new();
        set_unless(&mut object, "depth", json!(own.depth), json!(default.depth));
        set_unless(&mut object, "heads", json!(own.heads), json!(default.heads));
        set_unless(&mut object, "dim_head", json!(own.dim_head), json!(default.dim_head));
        set_unless(&mut object, "num_latents", json!(own.num_latents), json!(default.num_latents));
        set_unless(&mut object, "ff_mult", json!(own.ff_mult), json!(default.ff_mult));
        set_unless(&mut object, "max_num_media", json!(own.max_num_media), Value::Null);
        if object.is_empty() { Value::Null } else { Value::Object(object) }
    }

    /// Cross-attention sizes that differ from the published ones.
    fn cross_attention_extension(&self) -> Value {
        let (own, default) = (&self.model.cross_attention, CrossAttentionConfig::default());
        let mut object = Map::new();
        set_unless(&mut object, "heads", json!(own.heads), json!(default.heads));
        set_unless(&mut object, "dim_head", json!(own.dim_head), json!(default.dim_head));
        set_unless(&mut object, "ff_mult", json!(own.ff_mult), json!(default.ff_mult));
        if object.is_empty() { Value::Null } else { Value::Object(object) }
    }
}

/// A value equal to `default` is left out, unless the key was there already and the default can be written.
fn set_unless(map: &mut Map<String, Value>, key: &str, value: Value, default: Value) {
    if value != default || (map.contains_key(key) && !default.is_null()) {
        map.insert(key.to_owned(), value);
    } else {
        map.shift_remove(key);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use otter_model::config::{
        FalconBlock, FalconConfig, GptNeoxConfig, HiddenActivation, LlamaConfig, MptConfig, NormKind,
        OptConfig, OtterConfig, RopeConfig, RopeScaling, TextConfig,
    };

    fn reread(config: &CheckpointConfig) -> CheckpointConfig {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&config.to_json()).unwrap()).unwrap();
        CheckpointConfig::read(&path).unwrap()
    }

    #[test]
    fn a_new_model_reads_back() {
        let mut config = CheckpointConfig::new(OtterConfig::otter_9b());
        assert_eq!(reread(&config).model, config.model);
        let written = config.to_json();
        assert!(written.get("perceiver_config").is_none() && written.get("max_num_frames").is_none());
        config.model.perceiver.num_latents = 8;
        config.model.perceiver.max_num_media = Some(5);
        config.model.perceiver.max_num_frames = Some(16);
        config.model.cross_attention.dim_head = 32;
        config.model.cross_attention.every_n_layers = 2;
        config.model.train_lang_encoder = true;
        config.model.text = LlamaConfig { pad_token_id: None, ..LlamaConfig::llama_7b(32004) }.into();
        config.use_cache = false;
        config.input.begin_token = Some(false);
        let again = reread(&config);
        assert_eq!((&again.model, again.input), (&config.model, config.input));
        assert!(!again.use_cache);
        assert_eq!(config.to_json()["perceiver_config"], json!({ "num_latents": 8, "max_num_media": 5 }));
    }

    #[test]
    fn every_variant_of_mpt_reads_back() {
        let unusual = MptConfig {
            alibi: false,
            clip_qkv: Some(6.0),
            key_heads: 1,
            no_bias: false,
            norm: NormKind::Rms,
            logit_scale: Some(0.5),
            softmax_scale: Some(0.25),
            embedding_fraction: 0.1,
            pad_token_id: Some(1),
            ..MptConfig::mpt_7b()
        };
        let grouped = MptConfig { key_heads: 8, ..MptConfig::mpt_30b() };
        let mosaic = MptConfig { qk_ln: false, clip_qkv: Some(2.0), ..MptConfig::mpt_1b_redpajama() };
        for text in [MptConfig::mpt_7b(), MptConfig::mpt_1b_redpajama(), unusual, grouped, mosaic] {
            let model = OtterConfig { text: text.into(), ..OtterConfig::otter_mpt7b() };
            let mut config = CheckpointConfig::new(model);
            config.use_cache = false;
            let again = reread(&config);
            assert_eq!(again.model, config.model);
            assert!(!again.use_cache);
        }
    }

    #[test]
    fn other_language_models_read_back() {
        let dynamic = RopeConfig { theta: 5e5, scaling: RopeScaling::Dynamic { factor: 2.0 } };
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let llama = LlamaConfig {
            rope_scaling: llama3,
            head_dim_override: Some(64),
            attention_bias: true,
            mlp_bias: true,
            ..LlamaConfig::llama_7b(32004)
        };
        let neox = GptNeoxConfig {
            rotary_pct: 0.25,
            rope: dynamic,
            use_parallel_residual: true,
            attention_bias: false,
            hidden_act: HiddenActivation::GeluTanh,
            ..GptNeoxConfig::redpajama_incite_3b()
        };
        let opt_350m = OptConfig {
            word_embed_proj_dim: 512,
            do_layer_norm_before: false,
            final_layer_norm: false,
            enable_bias: false,
            ..OptConfig::opt_125m()
        };
        let opt_removed = OptConfig { final_layer_norm: false, ..OptConfig::opt_125m() };
        let falcon = FalconConfig::falcon_7b();
        let falcon_rw = FalconConfig {
            hidden_size: 2048,
            num_attention_heads: 32,
            num_kv_heads: 32,
            block: FalconBlock::Sequential,
            bias: true,
            alibi: true,
            ..falcon.clone()
        };
        let falcon_40b = FalconConfig {
            hidden_size: 8192,
            num_attention_heads: 128,
            num_kv_heads: 8,
            block: FalconBlock::ParallelTwoNorms,
            ..falcon.clone()
        };
        let texts: [TextConfig; 9] = [
            llama.into(),
            GptNeoxConfig::redpajama_incite_3b().into(),
            neox.into(),
            OptConfig::opt_125m().into(),
            opt_350m.into(),
            opt_removed.into(),
            falcon.into(),
            falcon_rw.into(),
            falcon_40b.into(),
        ];
        for text in texts {
            let config = CheckpointConfig::new(OtterConfig { text, ..OtterConfig::otter_9b() });
            assert_eq!(reread(&config).model, config.model);
        }
    }

    /// A file keeps the form that it has: keys of Transformers 5, or the older ones of Falcon's own code.
    #[test]
    fn older_and_newer_keys_are_kept() {
        let written = |text: Value| {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("config.json");
            let file = json!({ "model_type": "otter", "text_config": text, "vision_config": {} });
            std::fs::write(&path, file.to_string()).unwrap();
            let read = CheckpointConfig::read(&path).unwrap();
            let again = read.to_json();
            assert_eq!(reread(&read).model, read.model);
            (read.model.text, again["text_config"].clone())
        };
        let (text, json) = written(json!({
            "architectures": ["RWForCausalLM"], "model_type": "RefinedWebModel", "hidden_size": 4544, "n_layer": 32,
            "n_head": 71, "multi_query": true, "parallel_attn": true, "bias": false, "vocab_size": 65024
        }));
        assert_eq!(text, FalconConfig::falcon_7b().into());
        assert_eq!((&json["n_layer"], &json["n_head"]), (&json!(32), &json!(71)));
        assert!(json.get("num_hidden_layers").is_none());
        let (text, json) = written(json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 128,
            "rope_parameters": { "rope_type": "linear", "factor": 4.0, "rope_theta": 5e5 }
        }));
        let TextConfig::Llama(text) = text else { panic!("{text:?}") };
        assert_eq!(text.rope(), RopeConfig { theta: 5e5, scaling: RopeScaling::Linear { factor: 4.0 } });
        assert_eq!(
            json["rope_parameters"],
            json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 5e5 })
        );
        assert!(json.get("rope_theta").is_none() && json.get("rope_scaling").is_none());
    }

    #[test]
    fn keys_of_the_loaded_file_keep_place_and_value() {
        let mut config = CheckpointConfig::new(OtterConfig::otter_9b());
        config.original = serde_json::from_value(json!({
            "special_tokens": { "a": 1 }, "model_type": "otter", "max_num_frames": 3, "_name_or_path": "here",
            "text_config": { "top_k": 7, "hidden_size": 1 }, "vision_config": {}
        }))
        .unwrap();
        let written = config.to_json();
        let keys: Vec<&String> = written.as_object().unwrap().keys().collect();
        assert_eq!(keys[..3], ["special_tokens", "model_type", "_name_or_path"]);
        assert_eq!(written["text_config"]["top_k"], 7);
        assert_eq!(written["text_config"]["hidden_size"], 4096);
        assert!(written.get("max_num_frames").is_none());
    }
}
