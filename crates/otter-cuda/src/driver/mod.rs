//! What drives a GPU: CUDA's driver, or for tests the host in its place, or a counter of memory alone.

#[cfg(feature = "emulate")]
pub(crate) mod counted;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "emulate")]
pub(crate) mod emulated;
pub(crate) mod gpu;
#[cfg(any(feature = "cuda", test))]
mod ring;
#[cfg(feature = "cuda")]
mod staging;
