//! Activations, sums and gates against the host's.

use crate::common::{assert_close, gpu, numbers, on};
use otter_cuda::elementwise::{self as gpu_elementwise, Activation};
use otter_cuda::{Buffer, GpuError};
use otter_nn::backend::cpu::elementwise::{self, Gelu, GeluTanh, QuickGelu, Relu};

const LENGTHS: [usize; 4] = [1, 31, 257, 3001];

fn activations_agree<A: elementwise::Activation>(kind: Activation) {
    let gpu = gpu();
    for len in LENGTHS {
        let x: Vec<f32> = numbers(len, 1).iter().map(|v| v * 3.0).collect();
        let dy = numbers(len, 2);
        let on_gpu = on(&gpu, &x);
        let y = gpu_elementwise::activate(&on_gpu, kind).expect("a launch");
        assert_close(&y, &elementwise::activate::<A, f32>(&x), 1e-6, &format!("{kind:?}"));
        let mut d = on(&gpu, &dy);
        gpu_elementwise::activate_backward(&mut d, &on_gpu, kind).expect("a launch");
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
fn limits() {
    let gpu = gpu();
    let same = |found: &Buffer<f32>, expected: &[f32]| {
        let found = found.download().expect("a download");
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(expected));
    };
    for (len, limit) in LENGTHS.into_iter().zip([0.5, 1.0, f32::INFINITY, 0.7]) {
        let mut x = numbers(len, 1);
        let special =
            [f32::NAN, limit, -limit, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, limit.next_down()];
        x.iter_mut().zip(special).for_each(|(x, value)| *x = value);
        let mut clamped = on(&gpu, &x);
        gpu_elementwise::clamp(&mut clamped, limit).expect("a launch");
        elementwise::clamp(&mut x, limit);
        same(&clamped, &x);
        let mut expected = numbers(len, 2);
        let mut d = on(&gpu, &expected);
        gpu_elementwise::clamp_backward(&mut d, &clamped, limit).expect("a launch");
        elementwise::clamp_backward(&mut expected, &x, limit);
        same(&d, &expected);
    }
}

#[test]
fn squares_of_several_at_once() {
    let gpu = gpu();
    assert!(gpu_elementwise::sums_of_squares(&[]).expect("nothing to do").is_empty());
    let all: Vec<Vec<f32>> =
        (0..).zip([0, 1, 31, 257, 3001, 100_003]).map(|(i, len)| numbers(len, i)).collect();
    let on_gpu: Vec<_> = all.iter().map(|values| on(&gpu, values)).collect();
    let squares = |of: &[&Buffer<f32>]| gpu_elementwise::sums_of_squares(of).expect("a launch");
    let found = squares(&on_gpu.iter().collect::<Vec<_>>());
    for ((found, values), alone) in found.into_iter().zip(&all).zip(&on_gpu) {
        let expected = elementwise::sum_of_squares(values);
        assert!((found - expected).abs() <= 1e-6 * expected, "{found}, expected {expected}");
        assert_eq!(squares(&[alone]), [found]);
    }
    let odd = [on(&gpu, &[1.0, f32::NAN]), on(&gpu, &[2.0]), on(&gpu, &[f32::NEG_INFINITY])];
    let [nan, four, infinite] = squares(&odd.each_ref())[..] else { panic!("three sums") };
    assert!(nan.is_nan() && four == 4.0 && infinite == f64::INFINITY);
}

#[test]
fn what_is_not_zero_is_found() {
    let gpu = gpu();
    let any = |x: &[f32]| gpu_elementwise::any_nonzero(&on(&gpu, x)).expect("a launch");
    assert!(!any(&[]));
    for len in LENGTHS {
        let mut x = vec![0.0; len];
        x[len / 2] = -0.0;
        assert!(!any(&x));
        for at in [0, len / 3, len - 1] {
            for value in [f32::NAN, -1.0, f32::from_bits(1), f32::INFINITY] {
                x[at] = value;
                assert!(any(&x), "{value} at {at} of {len}");
            }
            x[at] = 0.0;
        }
    }
}

#[test]
fn rows_that_are_kept() {
    let gpu = gpu();
    for (rows, width, kept) in
        [(5, 300, vec![3, 0, 3]), (1, 7, vec![]), (4, 1, vec![0, 1, 2, 3]), (0, 8, vec![]), (70, 4, vec![69])]
    {
        // What is not finite is zeroed too.
        let mut x = numbers(rows * width, 1);
        x.iter_mut().step_by(11).for_each(|x| *x = f32::INFINITY);
        let mut on_gpu = on(&gpu, &x);
        gpu_elementwise::keep_rows(&mut on_gpu, &kept, width).expect("a launch");
        for (row, values) in (0..).zip(x.chunks_mut(width)) {
            if !kept.contains(&row) {
                values.fill(0.0);
            }
        }
        assert_eq!(on_gpu.download().expect("a download"), x);
    }
}

#[test]
#[should_panic(expected = "row 3 of 3")]
fn rows_that_are_not_there_are_not_kept() {
    let gpu = gpu();
    let _ = gpu_elementwise::keep_rows(&mut on(&gpu, &[0.0; 12]), &[3], 4);
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
