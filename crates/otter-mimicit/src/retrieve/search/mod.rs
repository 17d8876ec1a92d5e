//! The nearest rows of a query: an exact search, an inverted file, and the plan that chooses between them.

pub(super) mod exact;
pub(super) mod ivf;
pub(super) mod neighbors;
pub(super) mod plan;
pub(super) mod top_k;
