//! Where layers compute: the operations of a GPU (`card`) and the host's kernels (`cpu`).

pub mod card;
pub mod cpu;
