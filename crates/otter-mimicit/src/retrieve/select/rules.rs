//! Which records may be examples of a query, and the examples of one query.

use super::records::{NO_ITEM, Records};
use crate::retrieve::search::top_k::Neighbor;
use otter_io::hash::mix;

/// Records of one item that are looked at for one query: thousands may share an instruction.
const MOST_MEMBERS: usize = 256;

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Examples of a query.
    pub k: usize,
    /// Whether an example may show an image that the query or another example shows.
    pub allow_same_image: bool,
    /// Most examples of one item (an instruction text, a picture).
    pub per_item: usize,
    /// Seed of the choice among records of the same item.
    pub seed: u64,
}

/// Candidates that a rule turned away, by rule. Each look at a candidate counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TurnedAway {
    /// Another answer to an image of the query or of an example.
    pub same_image: u64,
    /// The same instruction and answer as the query or an example.
    pub duplicate: u64,
}

impl TurnedAway {
    /// Adds the counts of another part of the run.
    pub fn add(&mut self, other: Self) {
        self.same_image += other.same_image;
        self.duplicate += other.duplicate;
    }
}

/// The examples of one query while they are picked.
pub struct Picked<'a> {
    records: &'a Records,
    rules: &'a Rules,
    query: usize,
    /// Records, the most similar first.
    pub entries: Vec<u32>,
    /// Sum of the similarities of those that have one.
    pub similarity: f64,
    /// What was not taken.
    pub turned_away: TurnedAway,
}

impl<'a> Picked<'a> {
    /// Nothing yet.
    pub fn new(records: &'a Records, rules: &'a Rules, query: usize) -> Self {
        Self {
            records,
            rules,
            query,
            entries: Vec::new(),
            similarity: 0.0,
            turned_away: TurnedAway::default(),
        }
    }

    /// Forgets all that was picked.
    pub fn reset(&mut self) {
        *self = Self::new(self.records, self.rules, self.query);
    }

    /// Whether all are found.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.rules.k
    }

    /// Takes a record unless a rule is against it: never the query itself, no second record with the same instruction
    /// and answer, no image that is already shown.
    pub fn offer(&mut self, candidate: usize) -> bool {
        let records = self.records;
        if candidate == self.query || records.item[candidate] == NO_ITEM || self.is_full() {
            return false;
        }
        if self.entries.contains(&(candidate as u32)) {
            return false;
        }
        let others = || std::iter::once(self.query).chain(self.entries.iter().map(|&entry| entry as usize));
        if others().any(|other| records.pair[other] == records.pair[candidate]) {
            self.turned_away.duplicate += 1;
            return false;
        }
        if !self.rules.allow_same_image && others().any(|other| records.share_image(other, candidate)) {
            self.turned_away.same_image += 1;
            return false;
        }
        self.entries.push(candidate as u32);
        true
    }

    /// Takes records of neighboring items, nearest first. `skip_own` leaves out the query's own item. Records of an
    /// item are looked at from a place that depends on seed and query, so that a common instruction does not always
    /// bring the same examples.
    pub fn offer_items(&mut self, neighbors: &[Neighbor], skip_own: bool) {
        let own = self.records.item[self.query];
        for neighbor in neighbors {
            if self.is_full() {
                return;
            }
            if skip_own && neighbor.item == own {
                continue;
            }
            let members = self.records.members(neighbor.item as usize);
            let start = mix(self.rules.seed ^ mix(self.query as u64 ^ (u64::from(neighbor.item) << 32)));
            let start = ((u128::from(start) * members.len() as u128) >> 64) as usize;
            let mut taken = 0;
            for &candidate in members[start..].iter().chain(&members[..start]).take(MOST_MEMBERS) {
                if self.offer(candidate as usize) {
                    taken += 1;
                    self.similarity += f64::from(neighbor.similarity);
                }
                if taken >= self.rules.per_item || self.is_full() {
                    break;
                }
            }
        }
    }
}
