//! Small helpers of files and text that every other crate may use; this one uses none of them.

mod atomic_file;

pub use atomic_file::AtomicFile;
