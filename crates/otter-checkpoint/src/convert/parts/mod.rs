//! The parts of a new Otter, each from the source that holds it, and the whole assembled from them.

pub(in crate::convert) mod assemble;
pub(in crate::convert) mod bridge;
pub(in crate::convert) mod language;
pub(in crate::convert) mod tokens;
pub(in crate::convert) mod vision;
