//! The k most similar items seen so far.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An item and its cosine similarity to the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// Number of the item.
    pub item: u32,
    /// Cosine similarity.
    pub similarity: f32,
}

/// Ordered so that the greatest is the worst: lower similarity, then the larger number. The order is total, so the best k
/// do not depend on the order in which they were offered.
#[derive(Clone, Copy, PartialEq)]
struct Worst(Neighbor);

impl Eq for Worst {}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.similarity.total_cmp(&self.0.similarity).then(self.0.item.cmp(&other.0.item))
    }
}

/// Scores looked at together: most groups hold none that counts.
const GROUP: usize = 16;

/// A bounded heap of the best neighbors.
pub struct TopK {
    k: usize,
    heap: BinaryHeap<Worst>,
}

impl TopK {
    /// Room for the best `k`.
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k.min(1 << 16)) }
    }

    /// Similarity below which an offer is in vain.
    fn threshold(&self) -> f32 {
        if self.heap.len() < self.k {
            return f32::NEG_INFINITY;
        }
        self.heap.peek().map_or(f32::INFINITY, |worst| worst.0.similarity)
    }

    /// Takes one neighbor if it is among the best.
    pub fn offer(&mut self, neighbor: Neighbor) {
        if self.heap.len() < self.k {
            self.heap.push(Worst(neighbor));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && Worst(neighbor) < *worst
        {
            *worst = Worst(neighbor);
        }
    }

    /// Offers a row of similarities; `item_of` numbers its columns.
    pub fn offer_row(&mut self, similarities: &[f32], item_of: impl Fn(usize) -> u32) {
        let mut threshold = self.threshold();
        for (group, values) in similarities.chunks(GROUP).enumerate() {
            // Branch-free, so that it vectorizes.
            if !values.iter().fold(false, |any, &value| any | (value >= threshold)) {
                continue;
            }
            for (column, &similarity) in values.iter().enumerate() {
                if similarity >= threshold {
                    self.offer(Neighbor { item: item_of(group * GROUP + column), similarity });
                    threshold = self.threshold();
                }
            }
        }
    }

    /// The neighbors, the most similar first; equal ones by number.
    pub fn into_sorted(self) -> Vec<Neighbor> {
        self.heap.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn equals_sorting(values in proptest::collection::vec(-3_i8..3, 0..90), k in 0_usize..20) {
            let row: Vec<f32> = values.iter().map(|&value| f32::from(value)).collect();
            let mut all: Vec<Neighbor> =
                row.iter().zip(0..).map(|(&similarity, item)| Neighbor { item, similarity }).collect();
            all.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.item.cmp(&b.item)));
            all.truncate(k);
            let mut forward = TopK::new(k);
            forward.offer_row(&row, |column| column as u32);
            proptest::prop_assert_eq!(forward.into_sorted(), all.clone());
            let mut backward = TopK::new(k);
            let reversed: Vec<f32> = row.iter().rev().copied().collect();
            backward.offer_row(&reversed, |column| (row.len() - 1 - column) as u32);
            proptest::prop_assert_eq!(backward.into_sorted(), all);
        }
    }
}
