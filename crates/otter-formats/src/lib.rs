//! Files that hold tensors and tokenizers. Nothing here knows a model.
//!
//! ```text
//! safetensors ─┐
//! torch ───────┼─► TensorEntry (a range of a mapped file) ─► mapped, or converted to f32
//! gguf ────────┘
//! tokenizer: sentencepiece, vocabulary and merges ─► the text of a tokenizer.json
//! ```
//!
//! Every reader treats its file as hostile: nothing is executed, nothing is allocated from a claimed size.
//! Writers put their bytes into a file that the caller opened and replaces whole.

mod dtype;
mod encode;
mod error;
pub mod gguf;
mod mapped;
pub mod safetensors;
mod stored_tensor;
pub mod tokenizer;
pub mod torch;

pub use dtype::StoredDType;
pub use encode::{EncodeError, check_finite, encode};
pub use error::{FormatError, Result};
pub use mapped::{Location, give_back, map_file};
pub use stored_tensor::{NewTensor, RowOrder, TensorEntry, checked_elements, row_major_strides};

/// Tensors under their names, in the order of the file, and sentences about what else was found.
pub type Content = (Vec<(String, TensorEntry)>, Vec<String>);
