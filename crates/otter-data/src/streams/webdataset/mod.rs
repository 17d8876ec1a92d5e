//! WebDataset shards: tar archives in which consecutive files of one key form a sample.
//!
//! ```text
//! laion-{00000..00041}.tar ─► paths ─► headers read once ─► (shard, offset) of each sample ─► files of one sample
//! ```
//!
//! The table of places takes 16 bytes a sample. It makes a global order, shares of ranks and exact resume a matter of
//! positions, and nothing of the data is held. Files of JSON lines are read by the same table.

mod convert;
mod pattern;
mod shards;
mod writer;

pub use convert::{ShardReport, shard_captions, shard_documents};
pub(crate) use pattern::expand_paths;
pub(crate) use shards::{Item, Shards};
pub use writer::ShardLimits;
