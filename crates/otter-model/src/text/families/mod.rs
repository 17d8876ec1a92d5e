//! The families of language models, one file each.

pub(crate) mod falcon;
pub(crate) mod gpt_neox;
pub(crate) mod llama;
pub(crate) mod mpt;
pub(crate) mod opt;

pub use falcon::{FalconBlock, FalconConfig};
pub use gpt_neox::GptNeoxConfig;
pub use llama::LlamaConfig;
pub use mpt::{MptConfig, MptStyle, NormKind, alibi_slopes};
pub use opt::OptConfig;
