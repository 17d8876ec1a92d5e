//! Products of a few rows, and rows of tables, of elements of 32 and 16 bits.

use crate::common::{assert_close, gpu, numbers, on};
use otter_cuda::quantized::QuantizedBuffer;
use otter_cuda::{Buffer, Gpu, Matrix, embedding, skinny_gemm};
use otter_nn::backend::cpu::half::f16_to_f32;
use otter_nn::{Device, QuantizedFormat, QuantizedMatrix};

/// How a matrix is stored.
#[derive(Clone, Copy, Debug)]
enum Kind {
    F32,
    F16,
    Bf16,
}

const KINDS: [Kind; 3] = [Kind::F32, Kind::F16, Kind::Bf16];

/// A matrix of a GPU, and its elements as f32.
struct Stored {
    kind: Kind,
    full: Buffer<f32>,
    bits: Buffer<u16>,
    values: Vec<f32>,
}

impl Stored {
    fn new(gpu: &Gpu, kind: Kind, count: usize, seed: u64) -> Self {
        let numbers = numbers(count, seed);
        // The bits of an f32 that make a number of 16 bits, the rest dropped.
        let bits: Vec<u16> = match kind {
            Kind::F16 => numbers.iter().map(|x| f16_near(*x)).collect(),
            _ => numbers.iter().map(|x| (x.to_bits() >> 16) as u16).collect(),
        };
        let values = match kind {
            Kind::F32 => numbers.clone(),
            Kind::F16 => bits.iter().map(|&bits| f16_to_f32(bits)).collect(),
            Kind::Bf16 => bits.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        };
        Self { kind, full: on(gpu, &numbers), bits: gpu.upload(&bits).expect("memory"), values }
    }

    fn matrix(&self) -> Matrix<'_> {
        match self.kind {
            Kind::F32 => (&self.full).into(),
            Kind::F16 => Matrix::F16(&self.bits),
            Kind::Bf16 => Matrix::Bf16(&self.bits),
        }
    }
}

/// A number of half precision towards zero; below the normal ones zero.
fn f16_near(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = (x.to_bits() & 0x7fff_ffff) >> 13;
    sign | magnitude.saturating_sub(112 << 10) as u16
}

/// Bit for bit, but for what kind of NaN it is.
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{what}, element {at}: {found}, expected {expected}");
    }
}

fn product(gpu: &Gpu, x: &[f32], w: &Stored, (inner, outer): (usize, usize)) -> Vec<f32> {
    let mut y = gpu.allocate(x.len() / inner * outer).expect("memory");
    skinny_gemm::matmul_nt(&mut y, &on(gpu, x), w.matrix(), (inner, outer), false).expect("a launch");
    y.download().expect("a download")
}

#[test]
fn products_are_those_of_the_widened_matrix() {
    let gpu = gpu();
    for kind in KINDS {
        for (inner, outer) in
            [(1, 1), (3, 37), (128, 4), (130, 5), (512, 16), (777, 3), (1300, 17), (4096, 2)]
        {
            let w = Stored::new(&gpu, kind, outer * inner, 3);
            for rows in 1..=skinny_gemm::MOST {
                let (x, before) = (numbers(rows * inner, 5), numbers(rows * outer, 9));
                for accumulate in [false, true] {
                    let mut expected = Vec::new();
                    for (x, before) in x.chunks_exact(inner).zip(before.chunks_exact(outer)) {
                        for (w, &before) in w.values.chunks_exact(inner).zip(before) {
                            let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                            expected.push(if accumulate { f64::from(before) + sum } else { sum } as f32);
                        }
                    }
                    let mut y = on(&gpu, &before);
                    skinny_gemm::matmul_nt(&mut y, &on(&gpu, &x), w.matrix(), (inner, outer), accumulate)
                        .expect("a launch");
                    let what = format!("{kind:?} {rows} x {inner} x {outer}, {accumulate}");
                    assert_close(&y, &expected, 2e-6, &what);
                }
            }
        }
    }
}

#[test]
fn results_of_a_row_do_not_depend_on_the_others() {
    let gpu = gpu();
    for kind in KINDS {
        for sizes @ (inner, outer) in [(768, 21), (501, 9)] {
            let (w, x) = (Stored::new(&gpu, kind, outer * inner, 3), numbers(8 * inner, 5));
            let all = product(&gpu, &x, &w, sizes);
            for rows in 1..8 {
                let some = product(&gpu, &x[..rows * inner], &w, sizes);
                assert_same(&some, &all[..rows * outer], &format!("{kind:?}, {rows} rows"));
            }
        }
    }
}

/// The last column alone: what is behind a row must not come in.
#[test]
fn numbers_that_are_not_finite_stay_visible_and_in_their_row() {
    let gpu = gpu();
    for kind in KINDS {
        for sizes @ (inner, outer) in [(512, 40), (510, 40)] {
            let w = Stored::new(&gpu, kind, outer * inner, 1);
            for (at, value) in [(inner, f32::NAN), (inner + 300, f32::INFINITY), (2 * inner - 1, f32::NAN)] {
                let mut x = numbers(3 * inner, 2);
                x[at] = value;
                let y = product(&gpu, &x, &w, sizes);
                for (row, y) in y.chunks(outer).enumerate() {
                    assert!(y.iter().all(|y| y.is_finite() != (row == 1)), "{kind:?}, {value} at {at}");
                }
            }
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let gpu = gpu();
    assert!(product(&gpu, &[], &Stored::new(&gpu, Kind::F16, 12, 1), (4, 3)).is_empty());
}

#[test]
#[should_panic(expected = "9 rows are more than few")]
fn more_rows_are_refused() {
    let gpu = gpu();
    product(&gpu, &[0.0; 36], &Stored::new(&gpu, Kind::F32, 12, 1), (4, 3));
}

#[test]
#[should_panic(expected = "a matrix of 5 x 4")]
fn matrices_of_another_size_are_refused() {
    let gpu = gpu();
    product(&gpu, &[0.0; 8], &Stored::new(&gpu, Kind::Bf16, 12, 1), (4, 5));
}

#[test]
fn rows_of_tables_are_exact() {
    let gpu = gpu();
    for kind in KINDS {
        for width in [1, 6, 300, 1028, 1031] {
            let table = Stored::new(&gpu, kind, 7 * width, 1);
            for ids in [&[3, 0, 3, 6, 3][..], &[]] {
                let expected: Vec<f32> = ids
                    .iter()
                    .flat_map(|&id| table.values[id as usize * width..][..width].to_vec())
                    .collect();
                let found = embedding::rows_of(table.matrix(), ids, width).expect("a launch");
                let what = format!("{kind:?}, rows of {width}");
                assert_same(&found.download().expect("a download"), &expected, &what);
            }
        }
    }
}

/// As rows of fours and one by one.
#[test]
fn every_number_of_sixteen_bits_widens_exactly() {
    let gpu = gpu();
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let on_gpu = gpu.upload(&bits).expect("memory");
    let f16: Vec<f32> = bits.iter().map(|&bits| f16_to_f32(bits)).collect();
    let bf16: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect();
    for (width, rows) in [(4096, 16), (13, 65536 / 13)] {
        let ids: Vec<u32> = (0..rows).collect();
        for (matrix, expected) in [(Matrix::F16(&on_gpu), &f16), (Matrix::Bf16(&on_gpu), &bf16)] {
            let found = embedding::rows_of(matrix, &ids, width).expect("a launch");
            let expected = &expected[..width * rows as usize];
            assert_same(&found.download().expect("a download"), expected, "all bits");
        }
    }
}

#[test]
#[should_panic(expected = "an id is outside a table of 3 rows")]
fn ids_outside_the_table_are_refused() {
    let gpu = gpu();
    let _ = embedding::rows_of(Stored::new(&gpu, Kind::F16, 12, 1).matrix(), &[0, 3], 4);
}

fn blocks(format: QuantizedFormat, rows: usize, width: usize) -> QuantizedMatrix {
    let values: Vec<f32> = numbers(rows * width, 1).iter().map(|v| v * 0.05 + 0.01).collect();
    QuantizedMatrix::from_values(format, &values, [rows, width], Device::Cpu).expect("ordinary numbers")
}

#[test]
fn rows_of_blocks_are_exactly_the_hosts() {
    let gpu = gpu();
    for format in QuantizedFormat::ALL {
        for width in [32, 96, 256, 2816].into_iter().filter(|&width| format.fits(width)) {
            let table = blocks(format, 9, width);
            let on_gpu = QuantizedBuffer::of(&gpu, &table).expect("memory");
            for ids in [&[8, 0, 3, 8, 1][..], &[5], &[]] {
                let mut expected = vec![0.0; ids.len() * width];
                for (row, &id) in expected.chunks_mut(width).zip(ids) {
                    table.view().read(id as usize * width, row);
                }
                let found = embedding::rows_of_blocks(&on_gpu, ids).expect("a launch");
                let what = format!("{}, rows of {width}", format.name());
                assert_same(&found.download().expect("a download"), &expected, &what);
            }
        }
    }
}

#[test]
#[should_panic(expected = "an id is outside a table of 9 rows")]
fn ids_outside_blocks_are_refused() {
    let gpu = gpu();
    let table = QuantizedBuffer::of(&gpu, &blocks(QuantizedFormat::Q8_0, 9, 32)).expect("memory");
    let _ = embedding::rows_of_blocks(&table, &[9]);
}
