//! What was published: one table of models, their sizes and releases, and which of them a directory is.

mod matching;
mod table;

pub use matching::ReleaseMatch;
pub(crate) use matching::{Candidate, matching};
pub use table::{NAMED_MODELS, NamedModel, Release};
