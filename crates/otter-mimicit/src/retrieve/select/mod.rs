//! What may be picked for whom: the records, the rules, and the two heuristics that need no search.

pub(super) mod random;
pub(super) mod records;
pub(super) mod rules;
pub(super) mod scene;
