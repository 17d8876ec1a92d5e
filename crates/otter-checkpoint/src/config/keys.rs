//! The keys that writers of `config.json` are known to produce, and the nearest one to a misspelling.
//!
//! Keys that change numbers here are read where the model is; those that change them in other models are in
//! `otter_model::text::config_json::foreign`. The next release of a writer may add others, which are warned of.

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

/// Key of `config.json` that says that a model was tuned, and how long.
pub(crate) const TRAINING: &str = "training";

#[cfg(test)]
mod tests {
    use super::*;
    use otter_model::text::families::LLAMA;

    #[test]
    fn misspellings_find_their_key() {
        let known = || LLAMA.keys.iter().chain(GENERIC).copied();
        assert_eq!(nearest("hiden_size", known()), "hidden_size");
        assert_eq!(nearest("num_atention_heads", known()), "num_attention_heads");
        assert_eq!(nearest("rms_norm_epsilon", known()), "rms_norm_eps");
    }
}
