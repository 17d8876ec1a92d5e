//! Random examples, the baseline every heuristic is compared with.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

use super::records::Records;
use super::rules::Picked;
use crate::retrieve::search::ivf::below;
use otter_io::hash::mix;

/// Draws for each example that is wanted before all records are walked through.
const DRAWS: usize = 16;

/// Records walked through, should the draws not be enough: rules can leave very few.
const MOST_STEPS: usize = 1 << 16;

/// Offers records in a random order that depends on seed and query only, until the query has all it wants.
pub fn offer(records: &Records, seed: u64, query: usize, k: usize, picked: &mut Picked<'_>) {
    let mut random = ChaCha8Rng::seed_from_u64(mix(seed ^ mix(query as u64)));
    let mut take = |entry: usize| {
        picked.offer(entry);
        picked.is_full()
    };
    for _ in 0..DRAWS * k.max(1) {
        if take(below(&mut random, records.len())) {
            return;
        }
    }
    let start = below(&mut random, records.len());
    for step in 0..records.len().min(MOST_STEPS) {
        if take((start + step) % records.len()) {
            return;
        }
    }
}
