//! Data that is read in its order: captions and interleaved documents for pre-training, in tar shards or JSON lines.

pub mod pretraining;
pub mod webdataset;
