//! CLIP tower, Perceiver resampler, gated cross-attention, language models, Otter, generation.
//!
//! Data flow of one pass (shapes; B sequences, T media items of a sequence, F frames of an item, N latents):
//!
//! ```text
//! pixels (frames, 3, S, S) ─ clip ─► features (frames, P, V) ─ perceiver ─► latents (items, N, V)
//! ids (B, L) ─ embedding ─► x (B, L, D) ─ [gated cross-attention over latents] ─ decoder layer ─ … ─► norm ─► logits
//! ```

pub mod clip;
pub mod config;
pub mod decoder;
mod error;
mod falcon;
mod feed_forward;
pub mod freeze;
pub mod gated_cross_attention;
pub mod generate;
mod gpt_neox;
mod key_value_projection;
pub mod language_model;
pub mod layer_cache;
pub mod llama;
pub mod mpt;
mod not_finite;
mod opt;
pub mod otter;
pub mod perceiver_resampler;
mod plain_feed_forward;
pub mod scratch;
mod self_attention;
pub mod text_config;
mod text_embedding;
mod text_output;
pub mod transformer_layer;

pub use error::ModelError;
pub use freeze::FreezeRule;
pub use not_finite::NotFiniteCause;
pub use otter::{LossScale, Otter, TextInput, Trace, VisionInput};
