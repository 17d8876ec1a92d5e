//! What names, shapes and settings say about a model, whether it can be loaded or not: its parts, kind and sizes, and the
//! names that other formats give to the same tensors.

pub(crate) mod kind;
pub(crate) mod model;
pub(crate) mod part;
pub mod rename;
pub mod tables;
pub(crate) mod tokens;
pub(crate) mod tower;
pub(crate) mod untrained;
