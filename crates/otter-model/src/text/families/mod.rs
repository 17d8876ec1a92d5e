//! The families of language models, one file each.

pub(crate) mod falcon;
pub(crate) mod gpt_neox;
pub(crate) mod llama;
pub(crate) mod mpt;
pub(crate) mod opt;

pub use falcon::{FALCON, FalconBlock, FalconConfig};
pub use gpt_neox::{GPT_NEOX, GptNeoxConfig};
pub use llama::{LLAMA, LlamaConfig};
pub use mpt::{MOSAIC_GPT, MPT, MptConfig, MptStyle, NormKind, alibi_slopes};
pub use opt::{OPT, OptConfig};
