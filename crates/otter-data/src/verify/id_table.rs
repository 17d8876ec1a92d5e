//! Which ids a file has, by 64-bit hash: 12 bytes an id and slot instead of the texts.
//!
//! Among ten million ids two different ones share a hash with a probability of about 3 in a million; such a pair would
//! be reported as a repeated id.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// The hash of an id; never zero, which marks an empty slot.
pub(crate) fn id_hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish().max(1)
}

/// Ids of one file with their entry numbers. Open addressing, at most three quarters full.
pub(crate) struct IdTable {
    hashes: Vec<u64>,
    entries: Vec<u32>,
    /// One bit an entry: something refers to it.
    used: Vec<AtomicU64>,
    len: usize,
}

impl IdTable {
    /// Room for `count` ids.
    pub(crate) fn new(count: usize) -> Self {
        let slots = (count + count / 3 + 1).next_power_of_two();
        Self {
            hashes: vec![0; slots],
            entries: vec![0; slots],
            used: (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            len: 0,
        }
    }

    fn slot(&self, hash: u64) -> usize {
        let mask = self.hashes.len() - 1;
        let mut slot = hash as usize & mask;
        while self.hashes[slot] != 0 && self.hashes[slot] != hash {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Notes an id. Returns the entry that had it before, which the new one replaces.
    pub(crate) fn insert(&mut self, hash: u64, entry: u32) -> Option<u32> {
        // A slot stays empty, so that every search ends.
        assert!(self.len < self.hashes.len() - 1 || self.find(hash).is_some(), "more ids than announced");
        let slot = self.slot(hash);
        let before = (self.hashes[slot] == hash).then_some(self.entries[slot]);
        self.hashes[slot] = hash;
        self.entries[slot] = entry;
        self.len += usize::from(before.is_none());
        before
    }

    /// The entry with this id.
    pub(crate) fn find(&self, hash: u64) -> Option<u32> {
        let slot = self.slot(hash);
        (self.hashes[slot] == hash).then_some(self.entries[slot])
    }

    /// Notes that something refers to an entry.
    pub(crate) fn mark_used(&self, entry: u32) {
        if let Some(word) = self.used.get(entry as usize / 64) {
            word.fetch_or(1 << (entry % 64), Ordering::Relaxed);
        }
    }

    /// Whether something refers to an entry.
    pub(crate) fn is_used(&self, entry: u32) -> bool {
        self.used
            .get(entry as usize / 64)
            .is_some_and(|word| word.load(Ordering::Relaxed) >> (entry % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_found_and_no_other() {
        for count in [0_u32, 1, 2, 3, 64, 1000, 3072] {
            let mut table = IdTable::new(count as usize);
            for entry in 0..count {
                assert_eq!(table.insert(id_hash(&format!("id {entry}")), entry), None);
            }
            for entry in 0..count {
                assert_eq!(table.find(id_hash(&format!("id {entry}"))), Some(entry));
                if entry % 3 == 0 {
                    table.mark_used(entry);
                }
            }
            assert!((0..count).all(|entry| table.is_used(entry) == (entry % 3 == 0)));
            assert_eq!(table.find(id_hash("another")), None);
            if count > 0 {
                assert_eq!(table.insert(id_hash("id 0"), 0), Some(0));
            }
        }
    }
}
