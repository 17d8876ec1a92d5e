//! Random streams by purpose and number: every part can be made on any thread.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// Stream `index` of a purpose (up to 8 characters count).
pub(super) fn stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    for (place, byte) in key[8..16].iter_mut().zip(purpose.bytes()) {
        *place = byte;
    }
    key[16..24].copy_from_slice(&index.to_le_bytes());
    key[24..].copy_from_slice(b"synth. 1");
    ChaCha8Rng::from_seed(key)
}
