use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, WeightShape};
use crate::tensor::quantized::QuantizedMatrix;
use crate::{Device, Matrix, Tensor};

/// The instruction sets that this processor has.
#[track_caller]
fn available() -> Vec<Instructions> {
    let mut found = vec![Instructions::Plain];
    #[cfg(target_arch = "x86_64")]
    {
        let best = Instructions::best();
        for (part, with, has) in [
            ("avx2", Instructions::Avx2, best != Instructions::Plain),
            ("avx512", Instructions::Avx512, best == Instructions::Avx512),
        ] {
            if has {
                found.push(with);
            } else {
                crate::skip::skipped(part, "products with blocks are tested without it");
            }
        }
    }
    found
}

/// Numbers of an ordinary weight matrix or row of activations.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..4).map(|_| next()).sum::<f32>() - 2.0).collect()
}

fn matrix(format: QuantizedFormat, outer: usize, inner: usize, seed: u64) -> QuantizedMatrix {
    let values: Vec<f32> = numbers(outer * inner, seed).iter().map(|v| v * 0.05 + 0.01).collect();
    QuantizedMatrix::from_values(format, &values, [outer, inner], Device::Cpu).expect("ordinary numbers")
}

/// Any bytes are a matrix; half-precision units are kept ordinary.
fn hostile(format: QuantizedFormat, outer: usize, inner: usize) -> QuantizedMatrix {
    let mut state = 7u64;
    let mut bytes: Vec<u8> = (0..outer * format.row_bytes(inner))
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        block[1] = 0x1c | block[1] & 0x83;
        if format == QuantizedFormat::Q4K {
            block[3] = 0x1c | block[3] & 0x83;
        }
    }
    let shape = [outer, format.row_bytes(inner)];
    QuantizedMatrix::new(format, Tensor::from_vec(bytes, &shape, Device::Cpu), [outer, inner])
}

fn product_with(w: &QuantizedMatrix, x: &[f32], accumulate: bool, with: Instructions) -> Vec<f32> {
    let mut activations = Activations::default();
    activations.set(x, w.width(), w.format());
    let mut y = numbers(activations.rows() * w.shape()[0], 9);
    product(&mut y, &activations, w.view(), accumulate, with);
    y
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let largest = expected.iter().fold(1e-30f32, |largest, v| largest.max(v.abs()));
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= tolerance * largest, "{what}, element {at}: {found}, expected {expected}");
    }
}

/// Every instruction set against the plain one: integers are exact, so only the last sums round differently.
#[test]
fn every_instruction_set_gives_the_plain_numbers() {
    let available = available();
    for format in QuantizedFormat::ALL {
        let unit = format.block_len();
        for (outer, blocks) in [(1, 1), (3, 3), (32, 1), (37, 2), (70, 9), (257, 3)] {
            let inner = blocks * unit;
            for w in [matrix(format, outer, inner, 3), hostile(format, outer, inner)] {
                for rows in [1, 2, 3, 4, 5, 6, 7, 12, 13, 41] {
                    let x = numbers(rows * inner, 5);
                    for accumulate in [false, true] {
                        let plain = product_with(&w, &x, accumulate, Instructions::Plain);
                        for &with in &available {
                            let found = product_with(&w, &x, accumulate, with);
                            let what = format!("{with:?} {} {rows} x {inner} x {outer}", format.name());
                            assert_close(&found, &plain, 2e-6, &what);
                        }
                    }
                }
            }
        }
    }
}

/// Extremes of codes and activations: no sum may wrap.
#[test]
fn no_sum_overflows() {
    let available = available();
    for format in QuantizedFormat::ALL {
        let (outer, inner) = (33, 512);
        let mut bytes = vec![0xffu8; outer * format.row_bytes(inner)];
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            block[..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
            match format {
                QuantizedFormat::Q4K => block[2..4].copy_from_slice(&half::f16::from_f32(0.25).to_le_bytes()),
                QuantizedFormat::Q8_0 => block[2..].fill(0x80),
            }
        }
        let bytes = Tensor::from_vec(bytes, &[outer, format.row_bytes(inner)], Device::Cpu);
        let w = QuantizedMatrix::new(format, bytes, [outer, inner]);
        let mut dequantized = vec![0.0f32; inner];
        w.view().read(0, &mut dequantized);
        for sign in [1.0f32, -1.0] {
            for rows in [1, 8] {
                let x = vec![sign * 2.0; rows * inner];
                let expected: f32 = dequantized.iter().map(|w| sign * 2.0 * w).sum();
                for &with in &available {
                    let found = product_with(&w, &x, false, with);
                    assert_close(
                        &found,
                        &vec![expected; rows * outer],
                        1e-5,
                        &format!("{with:?} {format:?}"),
                    );
                }
            }
        }
    }
}

/// Against the product of the dequantized matrix: what rounding activations to bytes costs.
#[test]
fn products_are_near_those_of_the_widened_matrix() {
    for (format, tolerance) in [(QuantizedFormat::Q8_0, 0.006), (QuantizedFormat::Q4K, 0.008)] {
        let (outer, inner) = (96, 1024);
        let w = matrix(format, outer, inner, 3);
        let mut dequantized = vec![0.0f32; outer * inner];
        w.view().read(0, &mut dequantized);
        for rows in [1, 4, 40] {
            let x = numbers(rows * inner, 5);
            let mut exact = vec![0.0f32; rows * outer];
            gemm::matmul_nt(&mut exact, &x, &dequantized[..], inner, outer, false);
            let mut found = vec![0.0f32; rows * outer];
            matmul_nt(&mut found, &x, w.view(), false);
            let error: f64 = exact.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let size: f64 = exact.iter().map(|a| f64::from(*a).powi(2)).sum();
            let relative = (error / size).sqrt();
            assert!(relative < tolerance, "{} {rows}: {relative}", format.name());
            assert!(relative > 1e-5, "{} {rows}: {relative} is too exact for bytes", format.name());
        }
    }
}

#[test]
fn reading_any_part_gives_the_same_numbers() {
    for format in QuantizedFormat::ALL {
        let w = hostile(format, 3, 512);
        let mut whole = vec![0.0f32; 3 * 512];
        w.view().read(0, &mut whole);
        for (start, count) in [(0, 1), (5, 300), (31, 2), (512, 512), (1000, 536), (255, 257), (7, 0)] {
            let mut part = vec![0.0f32; count];
            w.view().read(start, &mut part);
            assert_eq!(part, whole[start..start + count], "{} from {start}", format.name());
        }
        let mut wide = vec![0.0f64; 512];
        dequantize(format, w.bytes(), 512, &mut wide);
        assert!(wide.iter().zip(&whole[512..1024]).all(|(a, b)| *a == f64::from(*b)));
    }
}

#[test]
fn the_input_gradient_is_that_of_the_widened_matrix() {
    for format in QuantizedFormat::ALL {
        // more than one tile of weight rows
        for (rows, outer, inner) in [(1, 40, 256), (5, 1100, 1024)] {
            let w = matrix(format, outer, inner, 1);
            let mut dequantized = vec![0.0f32; outer * inner];
            w.view().read(0, &mut dequantized);
            let dy = numbers(rows * outer, 2);
            for accumulate in [false, true] {
                let mut expected = numbers(rows * inner, 3);
                let mut found = expected.clone();
                gemm::matmul_nn(&mut expected, &dy, &dequantized[..], outer, inner, accumulate);
                gemm::matmul_nn(&mut found, &dy, w.view(), outer, inner, accumulate);
                assert_close(&found, &expected, 1e-6, format.name());
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_stay_visible() {
    let available = available();
    for format in QuantizedFormat::ALL {
        let w = matrix(format, 40, 512, 1);
        for rows in [1, 9] {
            for value in [f32::NAN, f32::INFINITY] {
                let mut x = numbers(rows * 512, 2);
                x[300] = value;
                for &with in &available {
                    let y = product_with(&w, &x, false, with);
                    assert!(y[..40].iter().all(|y| y.is_nan()), "{with:?}");
                    assert!(y[40..].iter().all(|y| y.is_finite()), "{with:?}");
                }
            }
            for value in [0.0, 1e-42, 1e30] {
                let x = vec![value; rows * 512];
                for &with in &available {
                    assert!(product_with(&w, &x, false, with).iter().all(|y| y.is_finite()), "{with:?}");
                }
            }
        }
    }
}

#[test]
fn scales_that_are_not_finite_stay_visible() {
    for format in QuantizedFormat::ALL {
        let w = matrix(format, 40, 512, 1);
        let units = if format == QuantizedFormat::Q4K { 2 } else { 1 };
        for unit in 0..units {
            for value in [half::f16::NAN, half::f16::INFINITY] {
                let mut bytes = w.bytes().to_vec();
                let at = 17 * format.row_bytes(512) + 2 * unit;
                bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
                let bytes = Tensor::from_vec(bytes, &[40, format.row_bytes(512)], Device::Cpu);
                let bad = QuantizedMatrix::new(format, bytes, [40, 512]);
                for rows in [1, 2, 3, 4, 9] {
                    let x = numbers(rows * 512, 2);
                    for with in available() {
                        for (at, y) in product_with(&bad, &x, false, with).into_iter().enumerate() {
                            assert_eq!(
                                y.is_finite(),
                                at % 40 != 17,
                                "{} {with:?} {rows} {at}",
                                format.name()
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for format in QuantizedFormat::ALL {
        let w = matrix(format, 700, 512, 1);
        for rows in [1, 3, 9] {
            let x = numbers(rows * 512, 2);
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| {
                    let mut y = vec![0.0f32; rows * 700];
                    matmul_nt(&mut y, &x, w.view(), false);
                    y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                })
            };
            let one = run(1);
            assert_eq!(one, run(2));
            assert_eq!(one, run(3));
        }
    }
}

#[test]
fn products_of_several_matrices_are_those_of_each() {
    let (a, b) = (matrix(QuantizedFormat::Q4K, 40, 512, 1), matrix(QuantizedFormat::Q4K, 7, 512, 2));
    let c = matrix(QuantizedFormat::Q8_0, 9, 512, 3);
    for (rows, last) in [(1, &a), (6, &a), (1, &c), (6, &c)] {
        let x = numbers(rows * 512, 4);
        let matrices = [&a, &b, last];
        let x = Tensor::from_vec(x, &[rows, 512], Device::Cpu);
        let mut outs = matrices.map(|matrix| {
            let count = rows * matrix.view().rows();
            Tensor::from_vec(vec![f32::NAN; count], &[rows, count / rows], Device::Cpu)
        });
        let mut at = 0;
        let mut projections = outs.each_mut().map(|y| {
            let (weight, outer) = (Matrix::Quantized(matrices[at]), matrices[at].view().rows());
            at += 1;
            Projection { y, weight, bias: None, shape: WeightShape { outer, inner: 512 } }
        });
        Cpu.linear_each(&x, &mut projections);
        for (found, matrix) in outs.iter().zip(matrices) {
            let mut alone = vec![0.0f32; found.len()];
            matmul_nt(&mut alone, x.data(), matrix.view(), false);
            assert_eq!(found.data(), alone);
        }
    }
}
