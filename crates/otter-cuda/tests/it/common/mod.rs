//! What the tests of the kernels share: numbers, and comparisons with the host's kernels.

use otter_cuda::{Buffer, Gpu, Precision};
use otter_nn::Device;

/// The GPU whose number is in `OTTER_TEST_GPU`, else the host in its place.
pub fn gpu() -> Gpu {
    match std::env::var("OTTER_TEST_GPU") {
        Ok(number) => {
            Gpu::new(number.parse().expect("the number of a GPU")).expect("the GPU of OTTER_TEST_GPU")
        }
        Err(_) => emulated(),
    }
}

/// The same as a device for layers.
pub fn device(precision: Precision) -> Device {
    match std::env::var("OTTER_TEST_GPU") {
        Ok(number) => otter_cuda::open(number.parse().expect("the number of a GPU"), precision)
            .expect("the GPU of OTTER_TEST_GPU"),
        Err(_) => emulated_device(precision),
    }
}

#[cfg(feature = "emulate")]
fn emulated_device(precision: Precision) -> Device {
    otter_cuda::emulated_device(precision)
}

#[cfg(not(feature = "emulate"))]
fn emulated_device(_: Precision) -> Device {
    panic!("set OTTER_TEST_GPU to the number of a GPU, or build with the feature `emulate`")
}

#[cfg(feature = "emulate")]
fn emulated() -> Gpu {
    Gpu::emulated()
}

#[cfg(not(feature = "emulate"))]
fn emulated() -> Gpu {
    panic!("set OTTER_TEST_GPU to the number of a GPU, or build with the feature `emulate`")
}

/// Ordinary numbers between -2 and 2, the same for the same seed.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..4).map(|_| next()).sum::<f32>() - 2.0).collect()
}

/// On the GPU.
pub fn on(gpu: &Gpu, elements: &[f32]) -> Buffer<f32> {
    gpu.upload(elements).expect("memory")
}

/// Every element within `tolerance` of the largest expected one.
pub fn assert_close(found: &Buffer<f32>, expected: &[f32], tolerance: f32, what: &str) {
    let found = found.download().expect("a download");
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30f32, |largest, v| largest.max(v.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= tolerance * largest;
        assert!(near, "{what}, element {at}: {found}, expected {expected} (largest {largest})");
    }
}
