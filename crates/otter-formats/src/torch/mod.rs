//! PyTorch files (`.bin`, `.pt`): the ZIP form of every current writer and the legacy form before PyTorch 1.6, read; the
//! ZIP form, written. Nothing of a pickle is executed: it may build tensors and plain values, and names nothing else.

mod names;
mod pickle;
mod read;
mod write;
mod zip;
mod zip_write;

pub(crate) use pickle::checked_name;
pub use pickle::printable;
pub use read::{is_zip, read};
pub use write::write;
