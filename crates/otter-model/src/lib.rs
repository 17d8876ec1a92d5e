//! CLIP tower, Perceiver resampler, gated cross-attention, language models, Otter, generation.
//!
//! Data flow of one pass (shapes; B sequences, T media items of a sequence, F frames of an item, N latents):
//!
//! ```text
//! pixels (frames, 3, S, S) ─ clip ─► features (frames, P, V) ─ perceiver ─► latents (items, N, V)
//! ids (B, L) ─ embedding ─► x (B, L, D) ─ [gated cross-attention over latents] ─ decoder layer ─ … ─► norm ─► logits
//! ```

pub mod config;
mod error;
pub mod flamingo;
pub mod freeze;
pub mod generate;
mod input;
mod input_checks;
mod not_finite;
pub mod otter;
pub mod text;
pub mod vision;
pub mod workspace;

pub use error::ModelError;
pub use freeze::FreezeRule;
pub use input::{TextInput, VisionInput};
pub use not_finite::NotFiniteCause;
pub use otter::{LossScale, Otter, Trace};
