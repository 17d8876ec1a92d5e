//! Matrices in blocks of 8 and 4 bits against the host's.

use crate::common::{assert_close, gpu, numbers, on};
use otter_cuda::quantized::{self, QuantizedBuffer};
use otter_cuda::{Gpu, Precision};
use otter_nn::backend::cpu::gemm as host_matmul;
use otter_nn::{Device, QuantizedFormat, QuantizedMatrix, Tensor};

fn matrix(format: QuantizedFormat, outer: usize, inner: usize, seed: u64) -> QuantizedMatrix {
    let values: Vec<f32> = numbers(outer * inner, seed).iter().map(|v| v * 0.05 + 0.01).collect();
    QuantizedMatrix::from_values(format, &values, [outer, inner], Device::Cpu).expect("ordinary numbers")
}

fn of_bytes(format: QuantizedFormat, bytes: Vec<u8>, outer: usize, inner: usize) -> QuantizedMatrix {
    let shape = [outer, format.row_bytes(inner)];
    QuantizedMatrix::new(format, Tensor::from_vec(bytes, &shape, Device::Cpu), [outer, inner])
}

fn any_bytes(count: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Any bytes are a matrix; half-precision units are kept ordinary.
fn hostile(format: QuantizedFormat, outer: usize, inner: usize) -> QuantizedMatrix {
    let mut bytes = any_bytes(outer * format.row_bytes(inner));
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        block[1] = 0x1c | block[1] & 0x83;
        if format == QuantizedFormat::Q4K {
            block[3] = 0x1c | block[3] & 0x83;
        }
    }
    of_bytes(format, bytes, outer, inner)
}

fn dequantized(w: &QuantizedMatrix, first: usize, rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * w.width()];
    w.view().read(first * w.width(), &mut out);
    out
}

/// Bit for bit, but for what kind of NaN it is.
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{what}, element {at}: {found}, expected {expected}");
    }
}

fn widths(format: QuantizedFormat) -> Vec<usize> {
    [32, 96, 256, 512, 2816].into_iter().filter(|&width| format.fits(width)).collect()
}

#[test]
fn widened_rows_are_exactly_the_hosts() {
    let gpu = gpu();
    for format in QuantizedFormat::ALL {
        for inner in widths(format) {
            let any = of_bytes(format, any_bytes(7 * format.row_bytes(inner)), 7, inner);
            for w in [matrix(format, 7, inner, 1), hostile(format, 7, inner), any] {
                let on_gpu = QuantizedBuffer::of(&gpu, &w).expect("memory");
                assert_eq!((on_gpu.format(), on_gpu.shape()), (format, [7, inner]));
                for (first, rows) in [(0, 7), (3, 2), (6, 1), (7, 0)] {
                    let found = quantized::dequantize(&on_gpu, first, rows).expect("a launch");
                    let what = format!("{} of {inner}, {rows} from {first}", format.name());
                    assert_same(&found.download().expect("a download"), &dequantized(&w, first, rows), &what);
                }
            }
        }
    }
}

/// Every bit pattern of a scale, every code beside some of them.
#[test]
fn every_scale_and_every_code_widens_exactly() {
    let gpu = gpu();
    for format in QuantizedFormat::ALL {
        let mut bytes = any_bytes(65536 * format.block_bytes());
        for (bits, block) in bytes.chunks_exact_mut(format.block_bytes()).enumerate() {
            block[..2].copy_from_slice(&(bits as u16).to_le_bytes());
            if format == QuantizedFormat::Q4K {
                block[2..4].copy_from_slice(&(bits as u16).wrapping_mul(40503).to_le_bytes());
            }
        }
        let inner = 64 * format.block_len();
        let w = of_bytes(format, bytes, 1024, inner);
        let on_gpu = QuantizedBuffer::of(&gpu, &w).expect("memory");
        let found = quantized::dequantize(&on_gpu, 0, 1024).expect("a launch");
        assert_same(&found.download().expect("a download"), &dequantized(&w, 0, 1024), format.name());
    }
}

fn check_product(gpu: &Gpu, w: &QuantizedMatrix, rows: usize) {
    let &[outer, inner] = w.shape();
    let on_gpu = QuantizedBuffer::upload(gpu, w.view()).expect("memory");
    let weights = dequantized(w, 0, outer);
    let (x, before) = (numbers(rows * inner, 5), numbers(rows * outer, 9));
    for accumulate in [false, true] {
        let mut expected = Vec::new();
        for (x, before) in x.chunks_exact(inner).zip(before.chunks_exact(outer)) {
            for (w, &before) in weights.chunks_exact(inner).zip(before) {
                let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                expected.push(if accumulate { (f64::from(before) + sum) as f32 } else { sum as f32 });
            }
        }
        let mut y = on(gpu, &before);
        quantized::matmul_nt(&mut y, &on(gpu, &x), &on_gpu, accumulate, Precision::F32).expect("a launch");
        let what = format!("{} {rows} x {inner} x {outer}, {accumulate}", w.format().name());
        assert_close(&y, &expected, 2e-6, &what);
    }
}

#[test]
fn products_are_those_of_the_widened_matrix() {
    let gpu = gpu();
    for format in QuantizedFormat::ALL {
        for inner in widths(format) {
            for outer in [1, 4, 37] {
                for w in [matrix(format, outer, inner, 3), hostile(format, outer, inner)] {
                    for rows in 1..=8 {
                        check_product(&gpu, &w, rows);
                    }
                }
            }
        }
    }
}

#[test]
fn results_of_a_row_do_not_depend_on_the_others() {
    let gpu = gpu();
    for format in QuantizedFormat::ALL {
        let (outer, inner) = (21, 768);
        let w = QuantizedBuffer::of(&gpu, &matrix(format, outer, inner, 3)).expect("memory");
        let x = numbers(8 * inner, 5);
        let product = |rows: usize| {
            let mut y = gpu.allocate(rows * outer).expect("memory");
            quantized::matmul_nt(&mut y, &on(&gpu, &x[..rows * inner]), &w, false, Precision::F32)
                .expect("a launch");
            y.download().expect("a download")
        };
        let all = product(8);
        (1..8).for_each(|rows| assert_same(&product(rows), &all[..rows * outer], format.name()));
    }
}

#[test]
fn numbers_that_are_not_finite_stay_visible() {
    let gpu = gpu();
    for format in QuantizedFormat::ALL {
        let w = QuantizedBuffer::of(&gpu, &matrix(format, 40, 512, 1)).expect("memory");
        for value in [f32::NAN, f32::INFINITY] {
            let mut x = numbers(3 * 512, 2);
            x[300] = value;
            let mut y = gpu.allocate(3 * 40).expect("memory");
            quantized::matmul_nt(&mut y, &on(&gpu, &x), &w, false, Precision::F32).expect("a launch");
            let y = y.download().expect("a download");
            assert!(y[..40].iter().all(|y| !y.is_finite()) && y[40..].iter().all(|y| y.is_finite()));
        }
    }
}

#[test]
fn many_rows_and_input_gradients_go_through_widened_tiles() {
    let gpu = gpu();
    for format in QuantizedFormat::ALL {
        let (outer, inner) = (37, 256);
        let host = matrix(format, outer, inner, 3);
        let weights = dequantized(&host, 0, outer);
        // all rows at once, ten at a time, one at a time
        for tile in [outer * inner, 10 * inner + 1, 0] {
            let mut w = QuantizedBuffer::of(&gpu, &host).expect("memory");
            w.dequantize_at_a_time(tile);
            for (rows, accumulate) in [(9, false), (9, true), (130, false), (1, true)] {
                let what = format!("{} {rows} rows, tiles of {tile}, accumulate {accumulate}", format.name());
                let (x, mut y) = (numbers(rows * inner, 5), numbers(rows * outer, 6));
                let mut on_y = on(&gpu, &y);
                quantized::matmul_nt(&mut on_y, &on(&gpu, &x), &w, accumulate, Precision::F32)
                    .expect("a launch");
                host_matmul::matmul_nt(&mut y, &x, &weights[..], inner, outer, accumulate);
                assert_close(&on_y, &y, 2e-6, &what);
                let (dy, mut dx) = (numbers(rows * outer, 7), numbers(rows * inner, 8));
                let mut on_dx = on(&gpu, &dx);
                quantized::matmul_nn(&mut on_dx, &on(&gpu, &dy), &w, accumulate, Precision::F32)
                    .expect("a launch");
                host_matmul::matmul_nn(&mut dx, &dy, &weights[..], outer, inner, accumulate);
                assert_close(&on_dx, &dx, 2e-6, &what);
            }
        }
    }
}

#[test]
#[should_panic(expected = "a result of 3 x 32")]
fn results_of_another_length_are_refused() {
    let gpu = gpu();
    let w = QuantizedBuffer::of(&gpu, &matrix(QuantizedFormat::Q8_0, 37, 32, 1)).expect("memory");
    let (mut dx, dy) = (gpu.zeros(100).expect("memory"), gpu.zeros(3 * 37).expect("memory"));
    let _ = quantized::matmul_nn(&mut dx, &dy, &w, false, Precision::F32);
}
