//! What a search will cost, and which index it takes.

use std::fmt;
use std::time::Instant;

use otter_nn::backend::cpu::gemm;

use super::exact::{ITEM_ROWS, QUERY_ROWS};
use super::ivf::{DEFAULT_PROBES, IvfOptions};
use super::top_k::Neighbor;

/// Multiplications up to which the exact search is taken: 200,000 items of width 384, minutes on two cores. A fixed
/// number and no measured time, so that every machine takes the same index.
pub const EXACT_PRODUCTS: f64 = 1.6e13;
/// Queries of a block of the approximate search.
pub const APPROXIMATE_ROWS: usize = 1 << 14;
/// Passes over the training sample and its size for each list, as in the index.
const TRAINING_ROWS_PER_LIST: f64 = 256.0;
/// Parts of the rate of a product in the cache that the two searches reach, roughly, from runs on a busy machine: vectors are widened and best ones
/// kept; those of the approximate search are gathered, too, and its products small.
const EXACT_RATE: f64 = 0.5;
const GATHERED_RATE: f64 = 0.25;

/// Which index is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    /// Every query against every item.
    Exact,
    /// Lists around centroids.
    Approximate,
}

/// Time and memory of one way to search.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Cost {
    /// Seconds on this machine as it is now.
    pub seconds: f64,
    /// Memory in bytes, without the embeddings.
    pub bytes: u64,
}

/// The plan of a search.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SearchPlan {
    /// Items that are searched.
    pub items: usize,
    /// Items that are asked for.
    pub queries: usize,
    /// Length of a vector.
    pub width: usize,
    /// Neighbors of each item.
    pub neighbors: usize,
    /// Cost of the exact search.
    pub exact: Cost,
    /// Cost of the approximate search.
    pub approximate: Cost,
    /// Lists of the approximate index.
    pub lists: usize,
    /// Lists a query looks into.
    pub probes: usize,
    /// What is done.
    pub index: IndexKind,
    /// Whether the choice was made by an option.
    pub asked_for: bool,
    /// Bytes of the embeddings, in a mapped file that the system may drop from memory.
    pub embedding_bytes: u64,
    /// Bytes of the neighbors, in a file.
    pub neighbor_bytes: u64,
}

impl SearchPlan {
    /// Estimates both ways and chooses one, unless `asked_for` does.
    pub fn new(
        items: usize,
        queries: usize,
        width: usize,
        neighbors: usize,
        asked_for: Option<IndexKind>,
        lists: Option<usize>,
        probes: Option<usize>,
    ) -> Self {
        let lists = lists.unwrap_or_else(|| IvfOptions::lists_for(items)).clamp(1, items.max(1));
        let probes = probes.unwrap_or(DEFAULT_PROBES).clamp(1, lists);
        let (n, q, d, l) = (items as f64, queries as f64, width as f64, lists as f64);
        let rate = products_per_second();
        let exact = q * n * d;
        // Training, every item to its list, every query to its lists, and the members of those.
        let approximate = (TRAINING_ROWS_PER_LIST * l + n + q) * l * d + q * n * d * probes as f64 / l;
        let float = size_of::<f32>();
        let heaps = |rows: usize| rows * neighbors * size_of::<Neighbor>();
        let exact_bytes =
            float * (QUERY_ROWS * ITEM_ROWS + (QUERY_ROWS + ITEM_ROWS) * width) + heaps(QUERY_ROWS);
        let rows = APPROXIMATE_ROWS.min(items);
        let index = float * 3 * lists * width + 2 * size_of::<u32>() * items;
        let approximate_bytes = index + float * rows * width + heaps(rows) + rows * probes * 16;
        let chosen = if exact <= EXACT_PRODUCTS { IndexKind::Exact } else { IndexKind::Approximate };
        Self {
            items,
            queries,
            width,
            neighbors,
            exact: Cost { seconds: exact / (rate * EXACT_RATE), bytes: exact_bytes as u64 },
            approximate: Cost {
                seconds: approximate / (rate * GATHERED_RATE),
                bytes: approximate_bytes as u64,
            },
            lists,
            probes,
            index: asked_for.unwrap_or(chosen),
            asked_for: asked_for.is_some(),
            embedding_bytes: (items * width * crate::retrieve::vectors::ELEMENT) as u64,
            neighbor_bytes: (queries * neighbors * size_of::<Neighbor>()) as u64,
        }
    }
}

impl fmt::Display for SearchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "{} items of width {}: {:.0} MiB of embeddings and {:.0} MiB of neighbors on disk",
            self.items,
            self.width,
            mib(self.embedding_bytes),
            mib(self.neighbor_bytes)
        )?;
        for (kind, cost) in [(IndexKind::Exact, self.exact), (IndexKind::Approximate, self.approximate)] {
            let (mark, name) = match kind {
                IndexKind::Exact => (self.index == kind, "exact".to_owned()),
                IndexKind::Approximate => (
                    self.index == kind,
                    format!("approximate ({} lists, {} looked into)", self.lists, self.probes),
                ),
            };
            let mark = if mark { "->" } else { "  " };
            writeln!(
                f,
                "{mark} {name}: about {:.1} s and {:.0} MiB of memory",
                cost.seconds,
                mib(cost.bytes)
            )?;
        }
        write!(f, "   chosen {}", if self.asked_for { "by --index" } else { "by size" })
    }
}

/// Multiplications and additions a second of a product of the exact search's size, on all threads.
fn products_per_second() -> f64 {
    const ROWS: usize = 512;
    const WIDTH: usize = 256;
    let (x, w) = (vec![0.5_f32; ROWS * WIDTH], vec![0.25_f32; 2 * ROWS * WIDTH]);
    let mut y = vec![0.0; ROWS * 2 * ROWS];
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let started = Instant::now();
        gemm::matmul_nt(&mut y, &x, &w[..], WIDTH, 2 * ROWS, false);
        best = best.min(started.elapsed().as_secs_f64());
    }
    (ROWS * 2 * ROWS * WIDTH) as f64 / best.max(1e-9)
}
