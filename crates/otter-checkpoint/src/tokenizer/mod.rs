//! The tokenizer of a checkpoint: which of its files say it, which ids its structural tokens have, and writing it back.

pub(crate) mod files;
pub(crate) mod load;
pub(crate) mod write;
