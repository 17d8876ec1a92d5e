//! Decoded, preprocessed frames, shared by the workers of a loader: an in-context image of several samples near each
//! other in the stream is decoded once.
//!
//! The least recently used frames give way when their bytes exceed the limit. Two workers that miss the same frame at
//! the same moment both decode it: that costs less than letting one wait for the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::sample::Frame;

/// How often frames were decoded, and how often found in the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameCounts {
    /// Frames read and decoded.
    pub decoded: u64,
    /// Frames that another sample had decoded before.
    pub cached: u64,
}

impl FrameCounts {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            decoded: self.decoded.saturating_sub(before.decoded),
            cached: self.cached.saturating_sub(before.cached),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.decoded += other.decoded;
        self.cached += other.cached;
    }
}

/// Frames by table and image id, at most `limit` bytes.
pub(crate) struct FrameCache {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By table, then by image id: the frame and when it was last used.
    tables: HashMap<usize, HashMap<String, (Frame, u64)>>,
    /// When last used to (table, image id); the first entry is the next to go.
    uses: BTreeMap<u64, (usize, String)>,
    clock: u64,
    bytes: usize,
    counts: FrameCounts,
}

/// Estimate of what an entry costs beside its pixels and its id: the two maps' nodes, three strings' and a slice's heads.
const OVERHEAD: usize = 256;

fn bytes_of(frame: &Frame) -> usize {
    size_of_val(&*frame.pixels) + 3 * frame.image_id.len() + OVERHEAD
}

impl FrameCache {
    /// An empty cache; with a limit of 0 it stays empty.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// A panic of another worker leaves no half-made entry behind that matters: the worst is a wrong count of bytes.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, table: usize, id: &str) -> Option<Frame> {
        if self.limit == 0 {
            return None;
        }
        let mut state = self.lock();
        let state = &mut *state;
        let (frame, used) = state.tables.get_mut(&table)?.get_mut(id)?;
        let key = state.uses.remove(used)?;
        state.clock += 1;
        *used = state.clock;
        state.uses.insert(state.clock, key);
        state.counts.cached += 1;
        Some(frame.clone())
    }

    /// Counts a decoded frame and keeps it if it fits.
    pub(crate) fn insert(&self, frame: &Frame) {
        let mut state = self.lock();
        state.counts.decoded += 1;
        let bytes = bytes_of(frame);
        if bytes > self.limit {
            return;
        }
        state.remove(frame.table, &frame.image_id);
        while state.bytes + bytes > self.limit {
            let Some((_, (table, id))) = state.uses.pop_first() else { break };
            state.remove(table, &id);
        }
        state.clock += 1;
        let now = state.clock;
        state.bytes += bytes;
        state.uses.insert(now, (frame.table, frame.image_id.clone()));
        state.tables.entry(frame.table).or_default().insert(frame.image_id.clone(), (frame.clone(), now));
    }

    pub(crate) fn counts(&self) -> FrameCounts {
        self.lock().counts
    }

    /// Bytes of the frames in the cache.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

impl State {
    fn remove(&mut self, table: usize, id: &str) {
        if let Some((frame, used)) = self.tables.get_mut(&table).and_then(|frames| frames.remove(id)) {
            self.bytes -= bytes_of(&frame);
            self.uses.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use otter_media::ImageNotes;

    use super::*;

    fn frame(table: usize, id: &str, pixels: usize) -> Frame {
        Frame {
            image_id: id.to_owned(),
            table,
            pixels: vec![table as f32; pixels].into(),
            original_size: (1, 1),
            notes: ImageNotes::default(),
        }
    }

    #[test]
    fn the_least_recently_used_frames_give_way() {
        let one = bytes_of(&frame(0, "a", 100));
        let cache = FrameCache::new(2 * one);
        for id in ["a", "b"] {
            cache.insert(&frame(0, id, 100));
        }
        assert!(cache.get(0, "a").is_some());
        cache.insert(&frame(0, "c", 100));
        assert_eq!(["a", "b", "c"].map(|id| cache.get(0, id).is_some()), [true, false, true]);
        assert_eq!(cache.counts(), FrameCounts { decoded: 3, cached: 3 });
    }

    #[test]
    fn tables_are_told_apart() {
        let cache = FrameCache::new(1 << 20);
        cache.insert(&frame(1, "a", 10));
        assert!(cache.get(0, "a").is_none());
        assert_eq!(cache.get(1, "a"), Some(frame(1, "a", 10)));
    }

    #[test]
    fn memory_stays_below_the_limit_and_is_counted_right() {
        let limit = 10_000;
        let cache = FrameCache::new(limit);
        for round in 0..500 {
            cache.insert(&frame(round % 3, &format!("{}", round % 7), 50 + round * 37 % 900));
            cache.get(round % 2, "3");
            let state = cache.lock();
            let frames = state.tables.values().flat_map(HashMap::values);
            let held: usize = frames.map(|(frame, _)| bytes_of(frame)).sum();
            assert!(held == state.bytes && held <= limit, "{held} bytes, counted {}", state.bytes);
            assert_eq!(state.uses.len(), state.tables.values().map(HashMap::len).sum::<usize>());
        }
        // What is larger than the whole cache is not kept, and empties nothing.
        let before = cache.lock().bytes;
        cache.insert(&frame(0, "large", limit));
        assert_eq!(cache.lock().bytes, before);
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing() {
        let cache = FrameCache::new(0);
        cache.insert(&frame(0, "a", 1));
        assert!(cache.get(0, "a").is_none());
        assert_eq!(cache.counts(), FrameCounts { decoded: 1, cached: 0 });
    }
}
