//! Language models: the families with their sizes and names, and the parts they are made of.

pub mod attention;
pub mod block;
mod block_parts;
pub mod cache;
pub(crate) mod config;
pub mod config_json;
pub(crate) mod embedding;
pub mod families;
pub mod family;
pub mod gguf;
pub(crate) mod head;
pub mod mlp;
pub mod rope;

pub use block::{Rows, TransformerBlock};
pub use config::TextConfig;
pub use family::{FAMILIES, Family};
