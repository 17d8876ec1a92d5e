//! Tests of a GPU's kernels against the host's, in one binary, so that it is linked once.
#![cfg(any(feature = "cuda", feature = "emulate"))]

mod common;

mod adamw;
mod attention;
mod copy;
mod elementwise;
mod layers;
mod matmul_bf16;
mod media;
mod quantized;
mod skinny_gemm;
#[path = "../../../otter-model/tests/it/small_models/mod.rs"]
mod small_models;
mod whole_model;
