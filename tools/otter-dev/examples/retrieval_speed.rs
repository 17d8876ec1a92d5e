//! Time and recall@10 of the two indices, every item a query:
//!
//! ```text
//! cargo run --release -p otter-dev --example retrieval_speed -- vectors 1000000 32
//! cargo run --release -p otter-dev --example retrieval_speed -- texts 200000 32
//! ```
//!
//! (`vectors` of width 384 from clusters on a surface of few dimensions, or TF-IDF of made-up instructions; items; lists looked
//! into. The exact answer is computed for some queries and its time scaled up.)

use std::time::Instant;

use otter_mimicit::retrieve::{
    Ivf, IvfOptions, SearchPlan, TFIDF_WIDTH, TfIdf, Vectors, normalize_rows, search_exactly, to_f16_bytes,
};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

/// Neighbors whose recall is measured.
const K: usize = 10;
/// Neighbors searched, as `otter data retrieve --k 10` does.
const SEARCHED: usize = 36;
/// Queries of which the exact answer is computed.
const CHECKED: usize = 2048;
/// Queries of a block, as in a run.
const BLOCK: usize = 1 << 14;
/// Width of the random vectors, and dimensions of the surface they lie near.
const WIDTH: usize = 384;
const DIMENSIONS: usize = 24;
/// Items around each center, on average.
const PER_CENTER: usize = 40;
/// Deviation of an item from its center on the surface, and from the surface.
const SPREAD: f32 = 0.7;
const OFF_SURFACE: f32 = 0.8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (kind, items, probes) = match &arguments[..] {
        [kind, items, probes] => (kind.as_str(), items.parse().unwrap_or(0), probes.parse().unwrap_or(0)),
        _ => ("", 0, 0),
    };
    let started = Instant::now();
    let vectors = match kind {
        "vectors" if items > 0 => clustered(items),
        "texts" if items > 0 => texts(items),
        _ => {
            eprintln!("`vectors` or `texts`, the number of items and that of lists looked into are expected");
            std::process::exit(2);
        }
    };
    println!("{items} {kind}: vectors made in {:.1} s", started.elapsed().as_secs_f64());
    println!("{}", SearchPlan::new(items, items, vectors.width(), SEARCHED, None, None, Some(probes)));

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

/// Unit vectors near a surface, in clusters.
fn clustered(items: usize) -> Vectors {
    let centers = (items / PER_CENTER).max(1);
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let surface: Vec<f32> = (0..DIMENSIONS * WIDTH).map(|_| noise(&mut random)).collect();
    let scale = (DIMENSIONS as f32).sqrt();
    let blocks: Vec<u8> = (0..items)
        .into_par_iter()
        .flat_map_iter(|item| {
            let mut own = ChaCha8Rng::seed_from_u64(item as u64 + (1 << 40));
            let mut center = ChaCha8Rng::seed_from_u64(own.next_u64() % centers as u64);
            let mut row: Vec<f32> = (0..WIDTH).map(|_| OFF_SURFACE * noise(&mut own)).collect();
            for direction in surface.chunks_exact(WIDTH) {
                let place = (noise(&mut center) + SPREAD * noise(&mut own)) / scale;
                row.iter_mut().zip(direction).for_each(|(value, &d)| *value += place * d);
            }
            normalize_rows(&mut row, WIDTH);
            to_f16_bytes(&row)
        })
        .collect();
    Vectors::from_bytes(blocks, WIDTH)
}

/// TF-IDF of instructions from templates, their words as rare as words are.
fn texts(items: usize) -> Vectors {
    const TEMPLATES: [&str; 12] = [
        "What is the * * doing near the *?",
        "How many * are there on the * *?",
        "Describe the * of the * in detail.",
        "Why might the * be * in this scene?",
        "What would happen if the * fell on the *?",
        "Can you tell where the * is, relative to the * *?",
        "Based on the image, what can be said about the * and its *?",
        "Is the * person holding a * or a *?",
        "What colour is the * next to the *?",
        "Which steps should I follow to * the * before I *?",
        "What are the differences between the * * and the * *?",
        "Write a short story about a * that meets a * *.",
    ];
    const WORDS: f64 = 8000.0;
    const SYLLABLES: [&str; 16] =
        ["ba", "ro", "ti", "ne", "su", "mo", "la", "ke", "du", "vi", "pa", "ro", "gen", "tor", "lin", "as"];
    let instructions: Vec<String> = (0..items)
        .into_par_iter()
        .map(|item| {
            let mut random = ChaCha8Rng::seed_from_u64(item as u64);
            let mut unit = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let template = TEMPLATES[(unit() * TEMPLATES.len() as f64) as usize];
            let mut text = String::new();
            for part in template.split_inclusive('*') {
                text.push_str(part.trim_end_matches('*'));
                if part.ends_with('*') {
                    // Zipf: the rank is log-uniform.
                    let mut rank = WORDS.powf(unit()) as usize * 31 + 17;
                    while rank > 0 {
                        text.push_str(SYLLABLES[rank % SYLLABLES.len()]);
                        rank /= SYLLABLES.len();
                    }
                }
            }
            text
        })
        .collect();
    let mut encoder = TfIdf::new(TFIDF_WIDTH);
    instructions.iter().for_each(|text| encoder.count(text));
    let bytes = instructions.par_iter().flat_map_iter(|text| to_f16_bytes(&encoder.encode(text))).collect();
    Vectors::from_bytes(bytes, TFIDF_WIDTH)
}

/// About normal, deviation 1: the sum of twelve uniform numbers, less six.
fn noise(random: &mut ChaCha8Rng) -> f32 {
    (0..6)
        .map(|_| random.next_u64())
        .map(|bits| (bits >> 32) as f32 + (bits & 0xffff_ffff) as f32)
        .sum::<f32>()
        / u32::MAX as f32
        - 6.0
}
