//! An approximate index: items in lists around centroids, a query compared with the members of the nearest lists only
//! (the inverted file of Jégou et al., "Product quantization for nearest neighbor search", 2011, without the quantization).
//!
//! Retrieval asks for the neighbors of all items at once, so the queries of a block that look into the same list are
//! multiplied with it as one matrix product. That is why this and no graph: a graph walks from vector to vector,
//! and building one over two million items takes longer than the whole search here.

use std::sync::Mutex;

use ::gemm::Parallelism;
use otter_nn::backend::cpu::gemm::{self, Layout};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use super::top_k::{Neighbor, TopK};
use crate::retrieve::vectors::{Vectors, normalize_rows};

/// Rows assigned to centroids at once.
const ASSIGN_ROWS: usize = 1024;
/// Items of the training sample for each list.
const SAMPLE_PER_LIST: usize = 32;
/// Passes of k-means.
const ITERATIONS: usize = 8;
/// Queries and members multiplied at once on one thread: the products stay in the cache.
const TILE_ROWS: usize = 256;
/// Most lists.
pub const MOST_LISTS: usize = 1 << 14;
/// Lists a query looks into unless told otherwise.
pub const DEFAULT_PROBES: usize = 64;

/// How the lists are made and searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IvfOptions {
    /// Number of lists.
    pub lists: usize,
    /// Lists a query looks into.
    pub probes: usize,
    /// Seed of the training sample.
    pub seed: u64,
}

impl IvfOptions {
    /// Lists for a number of items: four times its square root.
    pub fn lists_for(items: usize) -> usize {
        ((4.0 * (items as f64).sqrt()) as usize).clamp(1, MOST_LISTS).min(items.max(1))
    }
}

/// The index. Items without an embedding are in no list.
pub struct Ivf {
    width: usize,
    probes: usize,
    centroids: Vec<f32>, // (lists, width)
    /// Where each list begins in `members`, and the end.
    starts: Vec<usize>,
    members: Vec<u32>,
}

impl Ivf {
    /// Spherical k-means on a sample, then every item into the list of its nearest centroid. `progress` is told the
    /// fraction of the work that is done, and says whether to go on.
    pub fn build(
        vectors: &Vectors,
        options: &IvfOptions,
        progress: &mut dyn FnMut(f64) -> bool,
    ) -> Option<Self> {
        let usable: Vec<u32> = (0..vectors.len())
            .into_par_iter()
            .filter(|&item| vectors.is_usable(item))
            .map(|item| item as u32)
            .collect();
        let lists = options.lists.clamp(1, usable.len().max(1));
        let sample = sample(&usable, lists.saturating_mul(SAMPLE_PER_LIST), options.seed);
        let width = vectors.width();
        let mut centroids = Vec::new();
        vectors.gather(&sample[..lists.min(sample.len())], &mut centroids);
        centroids.resize(lists * width, 0.0);
        let total = (ITERATIONS * sample.len() + usable.len()).max(1) as f64;
        let mut done = 0;
        let mut random = ChaCha8Rng::seed_from_u64(options.seed ^ 0x9e37_79b9);
        for _ in 0..ITERATIONS {
            let mut sums = vec![0.0_f64; lists * width];
            let mut counts = vec![0_u32; lists];
            for block in sample.chunks(ASSIGN_ROWS) {
                let (rows, nearest) = assign(vectors, block, &centroids);
                for (row, &list) in rows.chunks_exact(width).zip(&nearest) {
                    counts[list] += 1;
                    let sum = &mut sums[list * width..][..width];
                    sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
                }
                done += block.len();
                if !progress(done as f64 / total) {
                    return None;
                }
            }
            for (list, centroid) in centroids.chunks_exact_mut(width).enumerate() {
                if counts[list] > 0 {
                    let sum = &sums[list * width..][..width];
                    centroid.iter_mut().zip(sum).for_each(|(c, &s)| *c = s as f32);
                } else if !sample.is_empty() {
                    // A list that lost all its items begins anew somewhere.
                    let item = sample[below(&mut random, sample.len())];
                    let mut row = Vec::new();
                    vectors.gather(&[item], &mut row);
                    centroid.copy_from_slice(&row);
                }
            }
            normalize_rows(&mut centroids, width);
        }
        let mut list_of = Vec::with_capacity(usable.len());
        for block in usable.chunks(ASSIGN_ROWS) {
            list_of.extend(assign(vectors, block, &centroids).1);
            done += block.len();
            if !progress(done as f64 / total) {
                return None;
            }
        }
        let (starts, positions) = buckets(lists, &list_of);
        let members = positions.into_iter().map(|position| usable[position as usize]).collect();
        Some(Self { width, probes: options.probes.clamp(1, lists), centroids, starts, members })
    }

    /// The index as bytes, for [`Ivf::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = [self.width, self.probes, self.starts.len() - 1, self.members.len()];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|&number| (number as u64).to_le_bytes()).collect();
        bytes.extend(self.centroids.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(self.starts.iter().flat_map(|&start| (start as u64).to_le_bytes()));
        bytes.extend(self.members.iter().flat_map(|item| item.to_le_bytes()));
        bytes
    }

    /// Reads what [`Ivf::to_bytes`] gave; `None` where the bytes are not that, or not for vectors of this width.
    pub fn from_bytes(bytes: &[u8], width: usize, items: usize) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(4 * 8)?;
        let numbers: Vec<usize> =
            head.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) as usize).collect();
        let (probes, lists, count) = (numbers[1], numbers[2], numbers[3]);
        if numbers[0] != width || probes == 0 || probes > lists || count > items || lists > bytes.len() {
            return None;
        }
        let (centroids, rest) = rest.split_at_checked(lists.checked_mul(width)?.checked_mul(4)?)?;
        let (starts, members) = rest.split_at_checked((lists + 1) * 8)?;
        let centroids = centroids.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let starts: Vec<usize> =
            starts.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) as usize).collect();
        let members: Vec<u32> = members.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let whole = members.len() == count && starts.first() == Some(&0) && starts.last() == Some(&count);
        let fits = starts.is_sorted() && members.iter().all(|&item| (item as usize) < items);
        (whole && fits).then_some(Self { width, probes, centroids, starts, members })
    }

    /// Items list by list: neighbors in this order look into the same lists.
    pub fn order(&self) -> &[u32] {
        &self.members
    }

    /// The `k` most similar items of each row of `queries` (rows, width) among the members of its nearest lists.
    pub fn search(&self, vectors: &Vectors, queries: &[f32], k: usize) -> Vec<Vec<Neighbor>> {
        let (width, lists) = (self.width, self.starts.len() - 1);
        let rows = queries.len() / width;
        let nearest: Vec<Vec<Neighbor>> = queries
            .par_chunks(TILE_ROWS * width)
            .flat_map_iter(|queries| {
                let mut products = vec![0.0; queries.len() / width * lists];
                product(&mut products, queries, &self.centroids, width);
                let rows: Vec<_> = products
                    .chunks_exact(lists)
                    .map(|row| {
                        let mut best = TopK::new(self.probes);
                        best.offer_row(row, |list| list as u32);
                        best.into_sorted()
                    })
                    .collect();
                rows.into_iter()
            })
            .collect();
        let probes: Vec<usize> = nearest.iter().flatten().map(|probe| probe.item as usize).collect();
        let (starts, askers) = buckets(lists, &probes);
        let best: Vec<Mutex<TopK>> = (0..rows).map(|_| Mutex::new(TopK::new(k))).collect();
        let probes_of_each = nearest.first().map_or(1, Vec::len);
        (0..lists).into_par_iter().for_each(|list| {
            let askers = &askers[starts[list]..starts[list + 1]];
            if askers.is_empty() {
                return;
            }
            let members = &self.members[self.starts[list]..self.starts[list + 1]];
            let (mut items, mut asked, mut products) = (Vec::new(), Vec::new(), Vec::new());
            for members in members.chunks(TILE_ROWS) {
                vectors.gather(members, &mut items);
                for askers in askers.chunks(TILE_ROWS) {
                    asked.clear();
                    for &asker in askers {
                        let row = asker as usize / probes_of_each;
                        asked.extend_from_slice(&queries[row * width..][..width]);
                    }
                    products.resize(askers.len() * members.len(), 0.0);
                    product(&mut products, &asked, &items, width);
                    for (&asker, row) in askers.iter().zip(products.chunks_exact(members.len())) {
                        if let Ok(mut best) = best[asker as usize / probes_of_each].lock() {
                            best.offer_row(row, |column| members[column]);
                        }
                    }
                }
            }
        });
        best.into_iter()
            .map(|best| best.into_inner().map_or_else(|_| Vec::new(), TopK::into_sorted))
            .collect()
    }
}

/// Rows of `items` and the list each belongs to.
fn assign(vectors: &Vectors, items: &[u32], centroids: &[f32]) -> (Vec<f32>, Vec<usize>) {
    let width = vectors.width();
    let lists = centroids.len() / width;
    let mut rows = Vec::new();
    vectors.gather(items, &mut rows);
    let nearest = rows
        .par_chunks(TILE_ROWS * width)
        .flat_map_iter(|rows| {
            let mut products = vec![0.0; rows.len() / width * lists];
            product(&mut products, rows, centroids, width);
            let nearest: Vec<usize> = products.chunks_exact(lists).map(largest).collect();
            nearest.into_iter()
        })
        .collect();
    (rows, nearest)
}

/// Position of the first of the largest values.
fn largest(row: &[f32]) -> usize {
    let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&value| value == best).unwrap_or(0)
}

/// `y = x w^T` on this thread; x (rows, width), w (columns, width).
fn product(y: &mut [f32], x: &[f32], w: &[f32], width: usize) {
    let (rows, columns) = (x.len() / width, w.len() / width);
    gemm::product(
        y,
        Layout::rows(columns),
        x,
        Layout::rows(width),
        w,
        Layout::columns(width),
        (rows, width, columns),
        1.0,
        false,
        Parallelism::None,
    );
}

/// Positions of `values` by value: where each of `count` values begins, and the positions.
pub(crate) fn buckets(count: usize, values: &[usize]) -> (Vec<usize>, Vec<u32>) {
    let mut starts = vec![0; count + 1];
    for &value in values {
        starts[value + 1] += 1;
    }
    for value in 0..count {
        starts[value + 1] += starts[value];
    }
    let mut next = starts.clone();
    let mut positions = vec![0; values.len()];
    for (position, &value) in (0..).zip(values) {
        positions[next[value]] = position;
        next[value] += 1;
    }
    (starts, positions)
}

/// Up to `count` items in random order, without repetition.
fn sample(items: &[u32], count: usize, seed: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut items = items.to_vec();
    let count = count.min(items.len());
    for position in 0..count {
        let other = position + below(&mut random, items.len() - position);
        items.swap(position, other);
    }
    items.truncate(count);
    items
}

/// Uniform below `bound`, to 2^-64.
pub(crate) fn below(random: &mut impl Rng, bound: usize) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}
