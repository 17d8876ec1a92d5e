//! What a repository and its files are called, and which of them a model needs.

pub(crate) mod glob;
pub(crate) mod remote_path;
pub(crate) mod repository;
pub(crate) mod selection;
