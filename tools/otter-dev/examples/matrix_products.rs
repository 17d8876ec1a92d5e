//! Times the matrix products of linear layers: `cargo run --release -p otter-dev --example matrix_products`.
//!
//! Prints, for every shape, G operations a second of forward (x W^T), input gradient (dy W) and weight gradient (dy^T x) by
//! otter-nn's kernels and by the `gemm` crate, in turn.

#[path = "../src/peak.rs"]
mod peak;

use std::time::Instant;

use ::gemm::Parallelism;
use otter_nn::backend::cpu::gemm;

/// Rows, inner and outer width: layers of CLIP ViT-L/14 with one image, then those of the mid-size benchmark.
const SHAPES: [(usize, usize, usize); 9] = [
    (257, 1024, 1024),
    (257, 1024, 4096),
    (257, 4096, 1024),
    (512, 768, 768),
    (512, 768, 2048),
    (512, 2048, 768),
    (256, 768, 3072),
    (452, 768, 512),
    (252, 768, 32004),
];

fn main() {
    let peak = peak::measured_peak();
    println!(
        "peak: {:.0} Gflop/s on one thread, {:.0} on all; memory {:.1} GB/s by one, {:.1} by all",
        peak.one_thread_flops * 1e-9,
        peak.flops * 1e-9,
        peak.one_thread_bytes * 1e-9,
        peak.bytes * 1e-9
    );
    println!("{:>20} {:>22} {:>22} {:>22}", "rows inner outer", "forward (gemm)", "dx (gemm)", "dw (gemm)");
    // Inside the pool: outside it this thread would sleep while others work.
    rayon::scope(|_| SHAPES.into_iter().for_each(line));
}

fn line((rows, inner, outer): (usize, usize, usize)) {
    let filled = |len: usize| (0..len).map(|i| (i % 1013) as f32 * 1e-3 - 0.5).collect::<Vec<f32>>();
    let (x, w, dy) = (filled(rows * inner), filled(outer * inner), filled(rows * outer));
    let (mut y, mut dx, mut dw) = (filled(rows * outer), filled(rows * inner), filled(outer * inner));
    let sizes = (rows, inner, outer);
    let forward = [
        rate(sizes, || gemm::matmul_nt(&mut y, &x, &w[..], inner, outer, false)),
        rate(sizes, || general(&mut y, (&x, inner, 1), (&w, 1, inner), (rows, inner, outer), false)),
    ];
    let input = [
        rate(sizes, || gemm::matmul_nn(&mut dx, &dy, &w[..], outer, inner, false)),
        rate(sizes, || general(&mut dx, (&dy, outer, 1), (&w, inner, 1), (rows, outer, inner), false)),
    ];
    let weight = [
        rate(sizes, || gemm::matmul_tn_add(&mut dw, &dy, &x, outer, inner)),
        rate(sizes, || general(&mut dw, (&dy, 1, outer), (&x, inner, 1), (outer, rows, inner), true)),
    ];
    let column = |[ours, gemm]: [f64; 2]| format!("{ours:.0} ({gemm:.0})");
    println!(
        "{:>20} {:>22} {:>22} {:>22}",
        format!("{rows} {inner} {outer}"),
        column(forward),
        column(input),
        column(weight)
    );
}

/// G operations a second of the fastest repetition: other work on the machine disturbs it least.
fn rate((rows, inner, outer): (usize, usize, usize), mut body: impl FnMut()) -> f64 {
    let operations = 2.0 * (rows * inner * outer) as f64;
    let repetitions = ((4e10 / operations) as usize).clamp(9, 50);
    let seconds = (0..repetitions).map(|_| {
        let start = Instant::now();
        body();
        start.elapsed().as_secs_f64()
    });
    operations / seconds.fold(f64::INFINITY, f64::min) * 1e-9
}

/// The `gemm` crate on a (m, k) and b (k, n), each with row and column stride.
fn general(
    c: &mut [f32],
    a: (&[f32], usize, usize),
    b: (&[f32], usize, usize),
    (m, k, n): (usize, usize, usize),
    accumulate: bool,
) {
    let end = |(_, row, column): (&[f32], usize, usize), rows: usize, columns: usize| {
        (rows - 1) * row + (columns - 1) * column + 1
    };
    assert!(c.len() == m * n && end(a, m, k) <= a.0.len() && end(b, k, n) <= b.0.len());
    // SAFETY: the sizes were just checked against the slices; `c` is borrowed mutably, so nothing overlaps.
    unsafe {
        ::gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.0.as_ptr(),
            a.2 as isize,
            a.1 as isize,
            b.0.as_ptr(),
            b.2 as isize,
            b.1 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}
