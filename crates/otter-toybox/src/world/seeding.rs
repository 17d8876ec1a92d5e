//! Random streams by name and number, so that every item can be made on any thread.

use otter_io::hash::{FNV_OFFSET, finalize, fnv1a};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// The random stream number `index` of the purpose `purpose` under `seed`. Streams that differ
/// in any of the three are independent.
pub fn random_stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&stable_hash(purpose).to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    key[24..].copy_from_slice(b"toybox 1");
    ChaCha8Rng::from_seed(key)
}

/// A 64-bit hash of a text that stays the same on every machine and in every version.
pub(crate) fn stable_hash(text: &str) -> u64 {
    finalize(fnv1a(FNV_OFFSET, text.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_depend_on_seed_purpose_and_index() {
        let first = |seed, purpose, index| random_stream(seed, purpose, index).next_u64();
        assert_eq!(first(1, "a", 2), first(1, "a", 2));
        assert_ne!(first(1, "a", 2), first(2, "a", 2));
        assert_ne!(first(1, "a", 2), first(1, "b", 2));
        assert_ne!(first(1, "a", 2), first(1, "a", 3));
    }
}
