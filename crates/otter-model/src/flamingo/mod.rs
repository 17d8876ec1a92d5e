//! What Flamingo adds to a vision tower and a language model: the resampler that makes a fixed number of latents of a media
//! item, the gated cross-attention over them, and the language model wrapped with it.

mod feed_forward;
pub mod gated_cross_attention;
mod key_value_projection;
pub mod perceiver_resampler;
pub mod wrapped_language_model;

pub use gated_cross_attention::GatedCrossAttention;
pub use perceiver_resampler::PerceiverResampler;
pub use wrapped_language_model::{Context, LanguageCache, LanguageModel, causal_mask};
