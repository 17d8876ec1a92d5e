//! Directories and files to and from a model.

pub mod atomic;
mod config_file;
mod config_keys;
mod config_write;
mod error;
mod pickle;
mod safetensors_file;
mod tensor;
mod torch_file;
mod zip_archive;

pub use config_file::{CheckpointConfig, ModelFamily};
pub use error::{CheckpointError, Result};
pub use tensor::{Dtype, Location, TensorEntry};
