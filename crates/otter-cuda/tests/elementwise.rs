//! Activations, sums and gates against the host's.
#![cfg(any(feature = "cuda", feature = "emulate"))]

mod common;

use common::{assert_close, gpu, numbers, on};
use otter_cuda::GpuError;
use otter_cuda::elementwise::{self as gpu_elementwise, Activation};
use otter_nn::kernels::elementwise::{self, Gelu, GeluTanh, QuickGelu, Relu};

const LENGTHS: [usize; 4] = [1, 31, 257, 3001];

fn activations_agree<A: elementwise::Activation>(kind: Activation) {
    let gpu = gpu();
    for len in LENGTHS {
        let x: Vec<f32> = numbers(len, 1).iter().map(|v| v * 3.0).collect();
        let dy = numbers(len, 2);
        let on_card = on(&gpu, &x);
        let y = gpu_elementwise::activate(&on_card, kind).expect("a launch");
        assert_close(&y, &elementwise::activate::<A, f32>(&x), 1e-6, &format!("{kind:?}"));
        let mut d = on(&gpu, &dy);
        gpu_elementwise::activate_backward(&mut d, &on_card, kind).expect("a launch");
        let mut expected = dy.clone();
        elementwise::activate_backward::<A, f32>(&mut expected, &x);
        assert_close(&d, &expected, 1e-6, &format!("{kind:?}, backward"));
    }
}

#[test]
fn activations_and_their_slopes() {
    activations_agree::<Gelu>(Activation::Gelu);
    activations_agree::<GeluTanh>(Activation::GeluTanh);
    activations_agree::<QuickGelu>(Activation::QuickGelu);
    activations_agree::<Relu>(Activation::Relu);
}

#[test]
fn sums_and_scales() {
    let gpu = gpu();
    for len in LENGTHS {
        let (a, b) = (numbers(len, 1), numbers(len, 2));
        let mut y = on(&gpu, &a);
        gpu_elementwise::add_scaled(&mut y, &on(&gpu, &b), 0.5).expect("a launch");
        gpu_elementwise::scale(&mut y, -3.0).expect("a launch");
        let mut expected = elementwise::sum_scaled(&a, &b, 0.5);
        elementwise::scale(&mut expected, -3.0);
        assert_close(&y, &expected, 1e-6, "sum and scale");
        let found = gpu_elementwise::sum_of_squares(&y).expect("a launch");
        let squares = elementwise::sum_of_squares(&expected);
        assert!((found - squares).abs() < 1e-5 * squares, "{found}, expected {squares}");
    }
    let (rows, bias) = (numbers(5 * 33, 3), numbers(33, 4));
    let mut y = on(&gpu, &rows);
    gpu_elementwise::add_bias(&mut y, &on(&gpu, &bias)).expect("a launch");
    let expected: Vec<f32> = rows.iter().enumerate().map(|(i, x)| x + bias[i % 33]).collect();
    assert_close(&y, &expected, 1e-6, "bias");
}

#[test]
fn gated_feed_forwards() {
    let gpu = gpu();
    for len in LENGTHS {
        let (gate, up, dy) = (numbers(len, 1), numbers(len, 2), numbers(len, 3));
        let (on_gate, on_up) = (on(&gpu, &gate), on(&gpu, &up));
        let y = gpu_elementwise::silu_product(&on_gate, &on_up).expect("a launch");
        assert_close(&y, &elementwise::silu_product(&gate, &up), 1e-6, "silu product");
        let mut d_up = on(&gpu, &dy);
        let d_gate = gpu_elementwise::silu_product_backward(&on_gate, &on_up, &mut d_up).expect("a launch");
        let mut expected_up = dy.clone();
        let expected_gate = elementwise::silu_product_backward(&gate, &up, &mut expected_up);
        assert_close(&d_gate, &expected_gate, 1e-6, "gradient of the gate");
        assert_close(&d_up, &expected_up, 1e-6, "gradient of the other factor");
    }
}

#[test]
fn tanh_gates() {
    let gpu = gpu();
    for len in LENGTHS {
        let (residual, branch, dy, gate) = (numbers(len, 1), numbers(len, 2), numbers(len, 3), 0.7f32);
        let (on_branch, on_gate) = (on(&gpu, &branch), on(&gpu, &[gate]));
        let mut y = on(&gpu, &residual);
        gpu_elementwise::gate_add(&mut y, &on_branch, &on_gate).expect("a launch");
        let factor = gate.tanh();
        assert_close(&y, &elementwise::sum_scaled(&residual, &branch, factor), 1e-6, "gate");
        let mut d_gate = on(&gpu, &[2.0]);
        let d_branch =
            gpu_elementwise::gate_backward(&on_branch, &on_gate, &on(&gpu, &dy), Some(&mut d_gate));
        let mut expected = dy.clone();
        elementwise::scale(&mut expected, factor);
        assert_close(&d_branch.expect("a launch"), &expected, 1e-6, "gradient of the branch");
        let dot = elementwise::dot(&dy, &branch) * (1.0 - factor * factor);
        assert_close(&d_gate, &[2.0 + dot], 1e-4, "gradient of the gate");
    }
}

#[test]
fn memory_is_counted_and_limited() {
    let gpu = gpu();
    let a = gpu.zeros::<f32>(1000).expect("memory");
    assert_eq!(a.download().expect("a download"), vec![0.0; 1000]);
    let b = a.duplicate().expect("memory");
    assert_eq!((gpu.used(), gpu.peak()), (8000, 8000));
    drop(b);
    gpu.limit(6000);
    let error = gpu.allocate::<f32>(1000).err().expect("too much");
    assert!(matches!(error, GpuError::OutOfMemory { wanted: 4000, used: 4000, limit: 6000, .. }), "{error}");
    gpu.allocate::<f32>(500).expect("what fits");
    assert_eq!((gpu.used(), gpu.peak()), (4000, 8000));
}
