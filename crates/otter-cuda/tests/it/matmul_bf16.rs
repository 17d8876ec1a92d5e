//! Products with matrices in half precision, and by tensor cores.

use crate::common::{assert_close, gpu, numbers, on};
use otter_cuda::quantized::{self, QuantizedBuffer};
use otter_cuda::{Buffer, Gpu, Matrix, Precision, matmul};
use otter_nn::backend::cpu::gemm as host_matmul;
use otter_nn::backend::cpu::half::f16_to_f32;
use otter_nn::{Device, QuantizedFormat, QuantizedMatrix};

/// The nearest bfloat16, of two equally near the even one.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let (kept, rest) = ((bits >> 16) as u16, bits & 0xffff);
    kept + u16::from(rest > 0x8000 || rest == 0x8000 && kept % 2 == 1)
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| bf16_to_f32(bf16_bits(value))).collect()
}

/// A matrix of one of the three kinds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    F32,
    F16,
    Bf16,
}

const KINDS: [Kind; 3] = [Kind::F32, Kind::F16, Kind::Bf16];

enum Stored {
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    Bf16(Buffer<u16>),
}

impl Stored {
    fn matrix(&self) -> Matrix<'_> {
        match self {
            Self::F32(elements) => elements.into(),
            Self::F16(bits) => Matrix::F16(bits),
            Self::Bf16(bits) => Matrix::Bf16(bits),
        }
    }
}

/// Ordinary numbers on the GPU, and what they are as f32.
fn matrix(gpu: &Gpu, kind: Kind, count: usize, seed: u64) -> (Stored, Vec<f32>) {
    let values = numbers(count, seed);
    match kind {
        Kind::F32 => (Stored::F32(on(gpu, &values)), values),
        Kind::F16 => {
            // Exponents from -3 to 0, the other bits as they come.
            let bits: Vec<u16> = values.iter().map(|v| v.to_bits() as u16 & 0x8fff | 0x3000).collect();
            let stored = Stored::F16(gpu.upload(&bits).expect("memory"));
            (stored, bits.into_iter().map(f16_to_f32).collect())
        }
        Kind::Bf16 => {
            let bits: Vec<u16> = values.iter().map(|&v| bf16_bits(v)).collect();
            (Stored::Bf16(gpu.upload(&bits).expect("memory")), rounded(&values))
        }
    }
}

/// `to += a b` in double precision, elements given by row and column.
fn reference(
    to: &[f32],
    columns: usize,
    depth: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let sum = |(at, &before): (usize, &f32)| {
        let (row, column) = (at / columns, at % columns);
        let products = (0..depth).map(|k| f64::from(a(row, k)) * f64::from(b(k, column)));
        (f64::from(before) + products.sum::<f64>()) as f32
    };
    to.iter().enumerate().map(sum).collect()
}

/// What was there, where it is added to.
fn before(accumulate: bool, values: &[f32]) -> Vec<f32> {
    if accumulate { values.to_vec() } else { vec![0.0; values.len()] }
}

/// Single elements, sizes of no tile, one row, whole tiles, several tiles with edges, lines of whole vectors with edges.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (5, 33, 7),
    (1, 96, 140),
    (130, 20, 70),
    (128, 128, 128),
    (256, 32, 128),
    (200, 150, 100),
    (140, 72, 136),
];

#[test]
fn matrices_in_half_precision_are_multiplied_as_if_widened() {
    let gpu = gpu();
    for (rows, inner, outer) in SHAPES {
        let (x, dy) = (numbers(rows * inner, 1), numbers(rows * outer, 3));
        let (on_x, on_dy) = (on(&gpu, &x), on(&gpu, &dy));
        for kind in KINDS {
            let (on_w, w) = matrix(&gpu, kind, outer * inner, 2);
            for accumulate in [false, true] {
                let what = format!("{rows} x {inner} x {outer}, {kind:?}, accumulate {accumulate}");
                let mut y = numbers(rows * outer, 4);
                let mut on_y = on(&gpu, &y);
                let (shape, precision) = ((inner, outer), Precision::F32);
                host_matmul::matmul_nt(&mut y, &x, &w[..], inner, outer, accumulate);
                matmul::matmul_nt(&mut on_y, &on_x, on_w.matrix(), shape, accumulate, precision)
                    .expect("a launch");
                assert_close(&on_y, &y, 1e-6, &what);
                let mut dx = numbers(rows * inner, 5);
                let mut on_dx = on(&gpu, &dx);
                host_matmul::matmul_nn(&mut dx, &dy, &w[..], outer, inner, accumulate);
                matmul::matmul_nn(&mut on_dx, &on_dy, on_w.matrix(), (outer, inner), accumulate, precision)
                    .expect("a launch");
                assert_close(&on_dx, &dx, 1e-6, &what);
            }
        }
    }
}

#[test]
fn tensor_cores_multiply_rounded_factors() {
    let gpu = gpu();
    let precision = Precision::Bf16;
    for (rows, inner, outer) in SHAPES {
        let (x, dy) = (numbers(rows * inner, 1), numbers(rows * outer, 3));
        let (on_x, on_dy) = (on(&gpu, &x), on(&gpu, &dy));
        let (x, dy) = (rounded(&x), rounded(&dy));
        for kind in KINDS {
            let (on_w, w) = matrix(&gpu, kind, outer * inner, 2);
            let w = rounded(&w);
            // Where results go does not depend on the kind: both ways for one of them.
            let ways: &[bool] = if kind == Kind::F32 { &[false, true] } else { &[kind == Kind::F16] };
            for &accumulate in ways {
                let what = format!("{rows} x {inner} x {outer}, {kind:?}, accumulate {accumulate}");
                let y = numbers(rows * outer, 4);
                let mut on_y = on(&gpu, &y);
                let shape = (inner, outer);
                matmul::matmul_nt(&mut on_y, &on_x, on_w.matrix(), shape, accumulate, precision)
                    .expect("a launch");
                let y = before(accumulate, &y);
                let y = reference(&y, outer, inner, |r, k| x[r * inner + k], |k, c| w[c * inner + k]);
                assert_close(&on_y, &y, 1e-6, &what);
                let dx = numbers(rows * inner, 5);
                let mut on_dx = on(&gpu, &dx);
                matmul::matmul_nn(&mut on_dx, &on_dy, on_w.matrix(), (outer, inner), accumulate, precision)
                    .expect("a launch");
                let dx = before(accumulate, &dx);
                let dx = reference(&dx, inner, outer, |r, k| dy[r * outer + k], |k, c| w[k * inner + c]);
                assert_close(&on_dx, &dx, 1e-6, &what);
            }
        }
        let dw = numbers(outer * inner, 6);
        let mut on_dw = on(&gpu, &dw);
        matmul::matmul_tn_add(&mut on_dw, &on_dy, &on_x, (outer, inner), precision).expect("a launch");
        let dw = reference(&dw, inner, rows, |r, k| dy[k * outer + r], |k, c| x[k * inner + c]);
        assert_close(&on_dw, &dw, 1e-6, &format!("{rows} x {inner} x {outer}, gradient of the matrix"));
    }
}

/// Whether lines are read element by element or by 16 bytes, and how they are stored, does not matter.
#[test]
fn results_do_not_depend_on_how_a_matrix_is_stored() {
    let gpu = gpu();
    // Lines of whole vectors of every kind, of f32 only, of none.
    for (rows, inner, outer) in [(9, 64, 40), (9, 68, 44), (9, 67, 43)] {
        let (x, dy) = (on(&gpu, &numbers(rows * inner, 1)), on(&gpu, &numbers(rows * outer, 3)));
        for (kind, precision) in [
            (Kind::F16, Precision::F32),
            (Kind::F16, Precision::Bf16),
            (Kind::Bf16, Precision::F32),
            (Kind::Bf16, Precision::Bf16),
        ] {
            let (stored, w) = matrix(&gpu, kind, outer * inner, 2);
            let widened = Stored::F32(on(&gpu, &w));
            let [found, expected] = [stored, widened].map(|w| {
                let mut y = gpu.allocate(rows * outer).expect("memory");
                let mut dx = gpu.allocate(rows * inner).expect("memory");
                matmul::matmul_nt(&mut y, &x, w.matrix(), (inner, outer), false, precision)
                    .expect("a launch");
                matmul::matmul_nn(&mut dx, &dy, w.matrix(), (outer, inner), false, precision)
                    .expect("a launch");
                (y.download().expect("a download"), dx.download().expect("a download"))
            });
            assert_eq!(found, expected, "{rows} x {inner} x {outer}, {kind:?}, {precision:?}");
        }
    }
}

/// w (outer, 1) times one: every element by itself.
fn alone(gpu: &Gpu, w: Matrix<'_>, precision: Precision) -> Vec<f32> {
    let (mut y, one) = (gpu.allocate(w.len()).expect("memory"), on(gpu, &[1.0]));
    matmul::matmul_nt(&mut y, &one, w, (1, w.len()), false, precision).expect("a launch");
    y.download().expect("a download")
}

/// Equal numbers (the sum makes one of the two zeros), or both none.
fn assert_same(found: &[f32], expected: impl Iterator<Item = f32>, what: &str) {
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = *found == expected || found.is_nan() && expected.is_nan();
        assert!(same, "{what}, element {at}: {found:e}, expected {expected:e}");
    }
}

#[test]
fn every_number_of_half_precision_is_exact() {
    let gpu = gpu();
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let bits = gpu.upload(&all).expect("memory");
    let f16 = alone(&gpu, Matrix::F16(&bits), Precision::F32);
    assert_same(&f16, all.iter().map(|&bits| f16_to_f32(bits)), "f16");
    let f16 = alone(&gpu, Matrix::F16(&bits), Precision::Bf16);
    assert_same(&f16, all.iter().map(|&bits| bf16_to_f32(bf16_bits(f16_to_f32(bits)))), "rounded f16");
    for precision in [Precision::F32, Precision::Bf16] {
        let bf16 = alone(&gpu, Matrix::Bf16(&bits), precision);
        assert_same(&bf16, all.iter().map(|&bits| bf16_to_f32(bits)), "bf16");
    }
}

#[test]
fn rounding_is_to_the_nearest_and_keeps_what_is_not_finite() {
    let gpu = gpu();
    // Around every upper half, also of infinities and NaNs: below, at and above the middle between two numbers.
    let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let values: Vec<f32> = (0..0x1_0000u32)
        .step_by(7)
        .flat_map(|upper| lower.map(|lower| upper << 16 | lower))
        .map(f32::from_bits)
        .collect();
    let special = [
        (f32::INFINITY, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (f32::from_bits(0x7f80_0001), f32::NAN),
        (f32::from_bits(0xffff_ffff), f32::NAN),
        (f32::MAX, f32::INFINITY),
        (f32::from_bits(0x7f7f_7fff), f32::from_bits(0x7f7f_0000)),
        (f32::from_bits(0x3f80_8000), 1.0),
        (f32::from_bits(0x3f81_8000), f32::from_bits(0x3f82_0000)),
    ];
    let found = alone(&gpu, Matrix::F32(&on(&gpu, &values)), Precision::Bf16);
    assert_same(&found, rounded(&values).into_iter(), "rounded");
    let (given, expected): (Vec<f32>, Vec<f32>) = special.into_iter().unzip();
    let found = alone(&gpu, Matrix::F32(&on(&gpu, &given)), Precision::Bf16);
    assert_same(&found, expected.into_iter(), "special numbers");
    // As the first factor: in its row alone.
    for value in [f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY] {
        let (mut x, w) = (numbers(3 * 40, 2), on(&gpu, &numbers(20 * 40, 3)));
        x[50] = value;
        let mut y = gpu.allocate(3 * 20).expect("memory");
        matmul::matmul_nt(&mut y, &on(&gpu, &x), (&w).into(), (40, 20), false, Precision::Bf16)
            .expect("a launch");
        let y = y.download().expect("a download");
        assert!(y.iter().enumerate().all(|(at, y)| y.is_finite() == (at / 20 != 1)), "{value}");
    }
}

/// Tiles of columns of the result and of the first factor, from any element on.
#[test]
fn dequantized_tiles_of_blocks_go_to_tensor_cores() {
    let gpu = gpu();
    let (outer, inner, precision) = (37, 256, Precision::Bf16);
    for format in QuantizedFormat::ALL {
        let values: Vec<f32> = numbers(outer * inner, 3).iter().map(|v| v * 0.05 + 0.01).collect();
        let host = QuantizedMatrix::from_values(format, &values, [outer, inner], Device::Cpu)
            .expect("ordinary numbers");
        let mut weights = vec![0.0; outer * inner];
        host.view().read(0, &mut weights);
        let w = rounded(&weights);
        // All rows at once, twelve at a time, ten at a time, one at a time.
        for tile in [outer * inner, 12 * inner, 10 * inner + 1, 0] {
            let most = if tile == outer * inner { 130 } else { 10 };
            let mut on_w = QuantizedBuffer::of(&gpu, &host).expect("memory");
            on_w.dequantize_at_a_time(tile);
            for (rows, accumulate) in [(9, false), (most, true), (1, true)] {
                let what = format!("{} {rows} rows, tiles of {tile}, accumulate {accumulate}", format.name());
                let (x, y) = (numbers(rows * inner, 5), numbers(rows * outer, 6));
                let mut on_y = on(&gpu, &y);
                quantized::matmul_nt(&mut on_y, &on(&gpu, &x), &on_w, accumulate, precision)
                    .expect("a launch");
                // Few rows are not rounded.
                let few = rows <= quantized::SKINNY_ROWS;
                let (x, of_w) = if few { (x, &weights) } else { (rounded(&x), &w) };
                let y = before(accumulate, &y);
                let y = reference(&y, outer, inner, |r, k| x[r * inner + k], |k, c| of_w[c * inner + k]);
                assert_close(&on_y, &y, 2e-6, &what);
                let (dy, dx) = (numbers(rows * outer, 7), numbers(rows * inner, 8));
                let mut on_dx = on(&gpu, &dx);
                quantized::matmul_nn(&mut on_dx, &on(&gpu, &dy), &on_w, accumulate, precision)
                    .expect("a launch");
                let (dy, dx) = (rounded(&dy), before(accumulate, &dx));
                let dx = reference(&dx, inner, outer, |r, k| dy[r * outer + k], |k, c| w[k * inner + c]);
                assert_close(&on_dx, &dx, 2e-6, &what);
            }
        }
    }
}

#[test]
#[should_panic(expected = "a matrix of 5 x 4")]
fn matrices_of_another_size_are_refused() {
    let gpu = gpu();
    let (mut y, x) = (gpu.zeros(3 * 5).expect("memory"), gpu.zeros(3 * 4).expect("memory"));
    let w = gpu.zeros(21).expect("memory");
    let _ = matmul::matmul_nt(&mut y, &x, Matrix::F16(&w), (4, 5), false, Precision::Bf16);
}
