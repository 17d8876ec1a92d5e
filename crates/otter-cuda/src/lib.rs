//! Otter's kernels on NVIDIA GPUs.
//!
//! Kernels are CUDA C++ in `kernels/`. With the feature `cuda` nvcc makes machine code of them when the crate is built, and the
//! GPU's driver, found at run time, is all that a machine needs. With the feature `emulate` the same sources are compiled for
//! the host and run there thread by thread, so that every kernel is tested against the host's own kernels
//! ([`otter_nn::backend::cpu`]) on machines without a GPU. Without either there is no [`Gpu`] to be had, only an error that says
//! what to build.
//!
//! Layers use a GPU through [`open`]. Arithmetic is f32, or with [`Precision::Bf16`] products of many rows are those of
//! bfloat16 factors. Sums have a fixed order, so that results do not depend on the run or on the size of the GPU.

mod backend;
mod device;
mod driver;
mod error;
mod memory;
pub mod ops;

#[cfg(feature = "emulate")]
pub use device::emulated as emulated_device;
pub use device::{device, open};
pub use driver::gpu::{Argument, Buffer, Constant, Element, Gpu, Launch};
pub use error::GpuError;
pub use ops::matrix::{Matrix, Precision};
pub use ops::{
    adamw, attention, copy, cross_entropy, elementwise, embedding, matmul, media, norm, quantized, rotary,
    skinny_gemm,
};

/// What calls on a GPU give.
pub type Result<T> = std::result::Result<T, GpuError>;
