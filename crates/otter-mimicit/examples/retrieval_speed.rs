//! Time and recall@10 of the two indices on clustered random vectors, every item a query:
//! `cargo run --release -p otter-mimicit --example retrieval_speed -- 200000 384 64`
//! (items, width, lists looked into; the exact answer is measured on some queries and scaled up).

use std::time::Instant;

use otter_mimicit::retrieve::{Ivf, IvfOptions, SearchPlan, Vectors, normalise_rows, search_exactly};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

/// Neighbours whose recall is measured.
const K: usize = 10;
/// Neighbours searched, as `otter data retrieve --k 10` does.
const SEARCHED: usize = 36;
/// Queries of which the exact answer is computed.
const CHECKED: usize = 4096;
/// Queries of a block, as in a run.
const BLOCK: usize = 1 << 14;
/// Items around each centre, on average.
const PER_CENTRE: usize = 40;
/// Standard deviation of an item against that of its centre.
const SPREAD: f32 = 0.7;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let &[items, width, probes] = &numbers[..] else {
        eprintln!("three numbers are expected: items, width, lists looked into");
        std::process::exit(2);
    };
    let vectors = clustered(items, width);
    println!("{}", SearchPlan::new(items, width, SEARCHED, None, None, Some(probes)));

    let step = (items / CHECKED).max(1);
    let checked: Vec<u32> = (0..items).step_by(step).take(CHECKED).map(|item| item as u32).collect();
    let mut rows = Vec::new();
    vectors.gather(&checked, &mut rows);
    let started = Instant::now();
    let exact = search_exactly(&vectors, &rows, SEARCHED);
    let seconds = started.elapsed().as_secs_f64();
    let whole = seconds * items as f64 / checked.len() as f64;
    println!("exact: {} queries in {seconds:.2} s, so all in {whole:.0} s", checked.len());

    let options = IvfOptions { lists: IvfOptions::lists_for(items), probes, seed: 0 };
    let started = Instant::now();
    let Some(index) = Ivf::build(&vectors, &options, &mut |_| true) else { return };
    println!("approximate: built in {:.1} s, {} lists", started.elapsed().as_secs_f64(), options.lists);
    let started = Instant::now();
    for block in index.order().chunks(BLOCK) {
        vectors.gather(block, &mut rows);
        std::hint::black_box(index.search(&vectors, &rows, SEARCHED));
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("approximate: all searched in {seconds:.1} s, {:.0} queries/s", items as f64 / seconds);
    vectors.gather(&checked, &mut rows);
    let found = index.search(&vectors, &rows, SEARCHED);
    let hits: usize = exact
        .iter()
        .zip(&found)
        .map(|(exact, found)| exact[..K].iter().filter(|e| found.iter().any(|f| f.item == e.item)).count())
        .sum();
    println!("recall@{K}: {:.4}", hits as f64 / (K * checked.len()) as f64);
}

/// Unit vectors around random centres.
fn clustered(items: usize, width: usize) -> Vectors {
    let centres = (items / PER_CENTRE).max(1);
    let mut rows = vec![0.0; items * width];
    rows.par_chunks_mut(width).enumerate().for_each(|(item, row)| {
        let mut own = ChaCha8Rng::seed_from_u64(item as u64 + (1 << 40));
        let mut centre = ChaCha8Rng::seed_from_u64(own.next_u64() % centres as u64);
        row.iter_mut().for_each(|value| *value = noise(&mut centre) + SPREAD * noise(&mut own));
    });
    normalise_rows(&mut rows, width);
    Vectors::from_rows(&rows, width)
}

/// About normal, deviation 1: the sum of twelve uniform numbers, less six.
fn noise(random: &mut ChaCha8Rng) -> f32 {
    (0..6).map(|_| random.next_u64()).map(|bits| (bits >> 32) as f32 + (bits & 0xffff_ffff) as f32).sum::<f32>()
        / u32::MAX as f32
        - 6.0
}
