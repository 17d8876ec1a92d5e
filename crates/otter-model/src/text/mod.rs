//! Language models: the families with their sizes and names, and the parts they are made of.

pub(crate) mod attention;
pub(crate) mod block;
pub mod cache;
pub mod decoder;
pub(crate) mod embedding;
pub mod families;
pub mod family;
pub(crate) mod head;
pub(crate) mod mlp;
pub mod rope;

pub use decoder::Rows;
pub use family::TextConfig;
