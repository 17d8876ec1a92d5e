//! Otter's kernels on NVIDIA cards.
//!
//! Kernels are CUDA C++ in `kernels/`. With the feature `cuda` nvcc makes machine code of them when the crate is built, and the
//! card's driver, found at run time, is all that a machine needs. With the feature `emulate` the same sources are compiled for
//! the host and run there thread by thread, so that every kernel is tested against the host's own kernels
//! ([`otter_nn::kernels`]) on machines without a card. Without either there is no [`Gpu`] to be had, only an error that says
//! what to build.
//!
//! Layers use a card through [`open`]. Arithmetic is f32, or with [`Precision::Bf16`] products of many rows are those of
//! bfloat16 factors. Sums have a fixed order, so that results do not depend on the run or on the size of the card.

pub mod adamw;
pub mod attention;
pub mod copy;
pub mod cross_entropy;
mod device;
mod elements;
pub mod elementwise;
pub mod embedding;
mod error;
pub mod few_rows;
mod gpu;
pub mod matmul;
mod matrix;
pub mod media;
pub mod norm;
mod operations;
pub mod quantised;
pub mod rotary;

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "emulate")]
mod counted;
#[cfg(feature = "emulate")]
mod emulated;
#[cfg(any(feature = "cuda", test))]
mod ring;
#[cfg(feature = "cuda")]
mod staging;

#[cfg(feature = "emulate")]
pub use device::emulated as emulated_device;
pub use device::{device, open};
pub use error::GpuError;
pub use gpu::{Argument, Buffer, Constant, Element, Gpu, Launch};
pub use matrix::{Matrix, Precision};

/// What calls on a card give.
pub type Result<T> = std::result::Result<T, GpuError>;
