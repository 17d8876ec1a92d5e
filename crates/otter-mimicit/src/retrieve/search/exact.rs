//! The exact nearest neighbors: every query against every item, as matrix products of blocks.

use otter_nn::backend::cpu::gemm;
use rayon::prelude::*;

use super::top_k::{Neighbor, TopK};
use crate::retrieve::vectors::Vectors;

/// Queries multiplied at once.
pub const QUERY_ROWS: usize = 1024;
/// Items multiplied at once: with the queries, 16 MiB of products.
pub const ITEM_ROWS: usize = 4096;

/// The `k` most similar items of each row of `queries` (rows, width).
pub fn search(vectors: &Vectors, queries: &[f32], k: usize) -> Vec<Vec<Neighbor>> {
    let width = vectors.width();
    let mut found = Vec::with_capacity(queries.len() / width.max(1));
    let mut items = Vec::new();
    let mut products = Vec::new();
    for queries in queries.chunks((QUERY_ROWS * width).max(1)) {
        let rows = queries.len() / width;
        let mut best: Vec<TopK> = (0..rows).map(|_| TopK::new(k)).collect();
        for first in (0..vectors.len()).step_by(ITEM_ROWS) {
            let count = ITEM_ROWS.min(vectors.len() - first);
            items.resize(count * width, 0.0);
            vectors.read(first, &mut items);
            products.resize(rows * count, 0.0);
            gemm::matmul_nt(&mut products, queries, &items[..], width, count, false);
            best.par_iter_mut().zip(products.par_chunks(count)).for_each(|(best, row)| {
                best.offer_row(row, |column| (first + column) as u32);
            });
        }
        found.extend(best.into_iter().map(TopK::into_sorted));
    }
    found
}
