//! Small models of every kind of language model, for tests in f64.

use otter_model::config::{
    CrossAttentionConfig, FalconConfig, GptNeoxConfig, HiddenActivation, LlamaConfig, MptConfig, OptConfig,
    OtterConfig, PerceiverConfig, TextConfig, VisionConfig,
};
/// Id of `<image>`.
pub const IMAGE: u32 = 3;

/// A LLaMA with everything around it.
pub fn config() -> OtterConfig {
    OtterConfig {
        vision: VisionConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            image_size: 4,
            patch_size: 2,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        perceiver: PerceiverConfig {
            depth: 1,
            heads: 2,
            dim_head: 4,
            num_latents: 3,
            ff_mult: 2,
            max_num_frames: Some(2),
            max_num_media: None,
        },
        cross_attention: CrossAttentionConfig { every_n_layers: 2, heads: 2, dim_head: 4, ff_mult: 2 },
        text: LlamaConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 4,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            ..LlamaConfig::llama_7b(11)
        }
        .into(),
        tie_word_embeddings: false,
        train_vision_encoder: true,
        train_lang_encoder: true,
        train_full_model: true,
    }
}

/// Language models other than the LLaMA of [`config`]: with everything that acts outside the decoder layers.
pub fn other_language_models() -> Vec<TextConfig> {
    let mpt = MptConfig {
        d_model: 8,
        n_heads: 2,
        key_heads: 2,
        n_layers: 2,
        expansion_ratio: 1,
        vocab_size: 11,
        max_seq_len: 10,
        ..MptConfig::mpt_7b()
    };
    let learned = MptConfig { alibi: false, logit_scale: Some(0.5), no_bias: false, ..mpt.clone() };
    // The style of the 1B: normalized queries and keys.
    let normalized = MptConfig { qk_ln: true, ..mpt.clone() };
    let neox = GptNeoxConfig {
        hidden_size: 8,
        intermediate_size: 6,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        vocab_size: 11,
        ..GptNeoxConfig::redpajama_incite_3b()
    };
    let opt = OptConfig {
        hidden_size: 8,
        ffn_dim: 6,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        vocab_size: 11,
        word_embed_proj_dim: 8,
        max_position_embeddings: 11,
        ..OptConfig::opt_125m()
    };
    // The shape of OPT 350M, with a smooth activation: differences across the rectifier's corner say nothing.
    let projected = OptConfig {
        word_embed_proj_dim: 6,
        do_layer_norm_before: false,
        final_layer_norm: false,
        activation: HiddenActivation::Gelu,
        ..opt.clone()
    };
    let falcon = FalconConfig {
        hidden_size: 12,
        ffn_hidden_size: 6,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        vocab_size: 11,
        bos_token_id: None,
        eos_token_id: None,
        ..FalconConfig::falcon_7b()
    };
    vec![
        mpt.into(),
        learned.into(),
        normalized.into(),
        neox.into(),
        opt.into(),
        projected.into(),
        falcon.into(),
    ]
}
