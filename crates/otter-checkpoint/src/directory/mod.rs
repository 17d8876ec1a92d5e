//! A checkpoint directory: opening it, accounting for every tensor, making a model of it, and saving one.

pub(crate) mod account;
pub(crate) mod initialize;
pub(crate) mod load;
pub(crate) mod open;
pub(crate) mod save;
pub(crate) mod shards;
pub(crate) mod text_file;
pub(crate) mod trained_part;
pub(crate) mod weights;
pub(crate) mod wrappers;
