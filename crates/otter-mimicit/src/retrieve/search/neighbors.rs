//! The nearest items of every item: an index, and the file of what it found.

use std::path::Path;

use memmap2::Mmap;

use super::exact;
use super::ivf::{Ivf, IvfOptions};
use super::plan::{APPROXIMATE_ROWS, IndexKind, SearchPlan};
use super::top_k::Neighbor;
use crate::retrieve::error::Result;
use crate::retrieve::row_file::{RowFile, map_rows};
use crate::retrieve::select::records::NO_ITEM;
use crate::retrieve::vectors::Vectors;
use crate::retrieve::work::write_file;

/// Bytes of a neighbor in the file.
const NEIGHBOR: usize = 8;

/// Finds the nearest items of vectors.
pub enum Index {
    /// All items.
    Exact,
    /// Those in the nearest lists.
    Approximate(Box<Ivf>),
}

impl Index {
    /// What the plan chose, read from `path` or built and written there; `None` when `progress` stopped it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(
        vectors: &Vectors,
        plan: &SearchPlan,
        seed: u64,
        path: &Path,
        progress: &mut dyn FnMut(f64) -> bool,
    ) -> Result<Option<Self>> {
        if plan.index == IndexKind::Exact {
            return Ok(Some(Self::Exact));
        }
        let stored = std::fs::read(path).ok();
        if let Some(ivf) = stored.and_then(|bytes| Ivf::from_bytes(&bytes, vectors.width(), vectors.len())) {
            return Ok(Some(Self::Approximate(Box::new(ivf))));
        }
        let options = IvfOptions { lists: plan.lists, probes: plan.probes, seed };
        let Some(ivf) = Ivf::build(vectors, &options, progress) else { return Ok(None) };
        write_file(path, &ivf.to_bytes())?;
        Ok(Some(Self::Approximate(Box::new(ivf))))
    }

    /// The `k` nearest items of each row of `queries` (rows, width), nearest first.
    pub fn search(&self, vectors: &Vectors, queries: &[f32], k: usize) -> Vec<Vec<Neighbor>> {
        match self {
            Self::Exact => exact::search(vectors, queries, k),
            Self::Approximate(ivf) => ivf.search(vectors, queries, k),
        }
    }

    /// The usable items in the order in which they are asked for.
    fn order(&self, vectors: &Vectors) -> Vec<u32> {
        match self {
            Self::Exact => {
                (0..vectors.len()).filter(|&item| vectors.is_usable(item)).map(|item| item as u32).collect()
            }
            Self::Approximate(ivf) => ivf.order().to_vec(),
        }
    }

    /// The same, without those that nobody asks for.
    fn queries(&self, vectors: &Vectors, wanted: Option<&[bool]>) -> (Vec<u32>, usize) {
        let mut order = self.order(vectors);
        let usable = order.len();
        if let Some(wanted) = wanted {
            order.retain(|&item| wanted[item as usize]);
        }
        (order, usable)
    }

    fn block(&self) -> usize {
        match self {
            Self::Exact => exact::QUERY_ROWS,
            Self::Approximate(_) => APPROXIMATE_ROWS,
        }
    }
}

/// The neighbors of every item that is asked for, itself among them.
pub struct Neighbors {
    map: Option<Mmap>,
    per_item: usize,
    /// Row of each item, or [`NO_ITEM`].
    row_of: Vec<u32>,
    usable: usize,
}

impl Neighbors {
    /// Searches what is not yet in the file: all items, or those of `wanted` (one flag an item). `None` when `progress`
    /// stopped it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn search(
        index: &Index,
        vectors: &Vectors,
        per_item: usize,
        wanted: Option<&[bool]>,
        path: &Path,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Self>> {
        let (order, usable) = index.queries(vectors, wanted);
        let block = index.block();
        let mut file = RowFile::open(path, per_item * NEIGHBOR, order.len(), block)?;
        let mut queries = Vec::new();
        while file.done() < order.len() {
            if !progress(file.done(), order.len()) {
                return Ok(None);
            }
            let items = &order[file.done()..(file.done() + block).min(order.len())];
            vectors.gather(items, &mut queries);
            let mut bytes = Vec::with_capacity(items.len() * per_item * NEIGHBOR);
            for found in index.search(vectors, &queries, per_item) {
                let found = found.into_iter().filter(|neighbor| vectors.is_usable(neighbor.item as usize));
                let none = Neighbor { item: NO_ITEM, similarity: 0.0 };
                for neighbor in found.chain(std::iter::repeat(none)).take(per_item) {
                    bytes.extend(neighbor.item.to_le_bytes());
                    bytes.extend(neighbor.similarity.to_le_bytes());
                }
            }
            file.append(&bytes)?;
        }
        file.finish()?;
        progress(order.len(), order.len());
        let mut row_of = vec![NO_ITEM; vectors.len()];
        for (row, &item) in (0..).zip(&order) {
            row_of[item as usize] = row;
        }
        let map = map_rows(path, per_item * NEIGHBOR)?;
        Ok(Some(Self { map, per_item, row_of, usable }))
    }

    /// Items that can be neighbors.
    pub fn usable(&self) -> usize {
        self.usable
    }

    /// Neighbors of an item, nearest first; none where it has no vector.
    pub fn of(&self, item: usize) -> Vec<Neighbor> {
        let (row, Some(map)) = (self.row_of[item], &self.map) else { return Vec::new() };
        if row == NO_ITEM {
            return Vec::new();
        }
        let bytes = &map[row as usize * self.per_item * NEIGHBOR..][..self.per_item * NEIGHBOR];
        let pairs = bytes.as_chunks::<NEIGHBOR>().0.iter();
        pairs
            .map(|&[a, b, c, d, e, f, g, h]| Neighbor {
                item: u32::from_le_bytes([a, b, c, d]),
                similarity: f32::from_le_bytes([e, f, g, h]),
            })
            .take_while(|neighbor| neighbor.item != NO_ITEM)
            .collect()
    }
}
