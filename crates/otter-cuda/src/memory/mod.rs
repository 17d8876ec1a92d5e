//! Memory of a GPU: what stands behind a layer's buffers.

pub(crate) mod elements;
