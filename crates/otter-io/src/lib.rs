//! Small helpers of files, text and pages that every other crate may use; this one uses none of them.

pub mod atomic_file;
pub mod hash;
pub mod html;
mod progress;
pub mod text;

pub use atomic_file::{AtomicFile, write_whole};
pub use progress::Progress;
