//! The operations, one file a `.cu` of `kernels/`: each checks lengths and launches its kernels.

pub mod adamw;
pub mod attention;
pub mod copy;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod matmul;
pub(crate) mod matrix;
pub mod media;
pub mod norm;
pub mod quantized;
pub mod rotary;
pub mod skinny_gemm;
