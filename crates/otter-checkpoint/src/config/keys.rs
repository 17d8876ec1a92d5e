//! The keys that writers of `config.json` are known to produce, and the nearest one to a misspelling.
//!
//! Keys that change numbers here are read where the model is; those that change them in other models are in
//! `config_foreign.rs`. The next release of a writer may add others, which are warned of.

use strsim::levenshtein;

/// Keys that every Hugging Face configuration object may carry. None of them changes this model's numbers.
pub(crate) const GENERIC: &[&str] = &[
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_composition",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Keys of the top level.
pub(crate) const TOP: &[&str] = &[
    "cross_attention_config",
    "cross_attn_every_n_layers",
    "endofchunk_token_id",
    "image_token_id",
    "lora_config",
    "max_num_frames",
    "only_attend_previous",
    "otter_input",
    "perceiver_config",
    "quantization_config",
    "special_tokens",
    "text_config",
    "train_full_model",
    "train_lang_encoder",
    "train_vision_encoder",
    "training",
    "use_media_placement_augmentation",
    "vision_config",
];

/// Keys of the `text_config` of a LLaMA.
pub(crate) const LLAMA: &[&str] = &[
    "attention_bias",
    "attention_dropout",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "max_sequence_length",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pretraining_tp",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "vocab_size",
];

/// Keys of the `text_config` of an MPT.
pub(crate) const MPT: &[&str] = &[
    "attn_config",
    "d_model",
    "emb_pdrop",
    "embedding_fraction",
    "expansion_ratio",
    "fc_type",
    "ffn_config",
    "hidden_size",
    "init_config",
    "init_config_defaults",
    "init_device",
    "layer_norm_epsilon",
    "learned_pos_emb",
    "logit_scale",
    "max_seq_len",
    "n_heads",
    "n_layers",
    "no_bias",
    "norm_eps",
    "norm_type",
    "quantization_config",
    "resid_pdrop",
    "tokenizer_name",
    "use_pad_tok_in_ffn",
    "verbose",
    "vocab_size",
];

/// Keys of an MPT's `attn_config`.
pub(crate) const MPT_ATTENTION: &[&str] = &[
    "alibi",
    "alibi_bias_max",
    "attn_impl",
    "attn_pdrop",
    "attn_type",
    "attn_uses_sequence_id",
    "clip_qkv",
    "fused_qkv",
    "kv_n_heads",
    "prefix_lm",
    "qk_ln",
    "rope_dail_config",
    "rope_hf_config",
    "rope_impl",
    "rope_theta",
    "sliding_window_size",
    "softmax_scale",
];

/// Keys of the `text_config` of a MosaicGPT.
pub(crate) const MOSAIC_GPT: &[&str] = &[
    "alibi",
    "alibi_bias_max",
    "attn_clip_qkv",
    "attn_impl",
    "attn_pdrop",
    "attn_qk_ln",
    "attn_uses_sequence_id",
    "d_model",
    "emb_init_std",
    "emb_init_uniform_lim",
    "emb_pdrop",
    "embedding_fraction",
    "fan_mode",
    "hidden_size",
    "init_device",
    "init_div_is_residual",
    "init_gain",
    "init_nonlinearity",
    "init_std",
    "logit_scale",
    "low_precision_layernorm",
    "max_seq_len",
    "mlp_ratio",
    "n_heads",
    "n_layers",
    "no_bias",
    "param_init_fn",
    "prefix_lm",
    "quantization_config",
    "resid_pdrop",
    "softmax_scale",
    "tokenizer_name",
    "verbose",
    "vocab_size",
];

/// Keys of the `text_config` of a GPT-NeoX.
pub(crate) const GPT_NEOX: &[&str] = &[
    "attention_bias",
    "attention_dropout",
    "classifier_dropout",
    "hidden_act",
    "hidden_dropout",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "partial_rotary_factor",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "use_parallel_residual",
    "vocab_size",
];

/// Keys of the `text_config` of an OPT.
pub(crate) const OPT: &[&str] = &[
    "_remove_final_layer_norm",
    "activation_dropout",
    "activation_function",
    "attention_dropout",
    "do_layer_norm_before",
    "dropout",
    "enable_bias",
    "ffn_dim",
    "hidden_size",
    "init_std",
    "layer_norm_elementwise_affine",
    "layerdrop",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "quantization_config",
    "vocab_size",
    "word_embed_proj_dim",
];

/// Keys of the `text_config` of a Falcon, the older names of its own code included.
pub(crate) const FALCON: &[&str] = &[
    "activation",
    "alibi",
    "apply_residual_connection_post_layernorm",
    "attention_dropout",
    "bias",
    "ffn_hidden_size",
    "hidden_dropout",
    "hidden_size",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "multi_query",
    "n_embed",
    "n_head",
    "n_head_kv",
    "n_layer",
    "new_decoder_architecture",
    "num_attention_heads",
    "num_hidden_layers",
    "num_kv_heads",
    "num_ln_in_parallel_attn",
    "parallel_attn",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "vocab_size",
];

/// Keys of `rope_scaling` and `rope_parameters`.
pub(crate) const ROPE: &[&str] = &[
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "type",
];

/// Keys of `vision_config`.
pub(crate) const VISION: &[&str] = &[
    "attention_dropout",
    "dropout",
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
    "projection_dim",
    "quantization_config",
];

/// Keys of `perceiver_config`, an object of this project for sizes that differ from the published ones.
pub(crate) const PERCEIVER: &[&str] =
    &["depth", "dim_head", "ff_mult", "heads", "max_num_frames", "max_num_media", "num_latents"];

/// Keys of `cross_attention_config`, as above.
pub(crate) const CROSS_ATTENTION: &[&str] = &["dim_head", "ff_mult", "heads"];

/// The known key with the smallest edit distance to `key`.
pub(crate) fn nearest<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> &'k str {
    // A key is short; what is longer is compared by its beginning only.
    let key: String = key.chars().take(64).collect();
    known.min_by_key(|candidate| levenshtein(&key, candidate)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_their_key() {
        let known = || LLAMA.iter().chain(GENERIC).copied();
        assert_eq!(nearest("hiden_size", known()), "hidden_size");
        assert_eq!(nearest("num_atention_heads", known()), "num_attention_heads");
        assert_eq!(nearest("rms_norm_epsilon", known()), "rms_norm_eps");
    }
}
