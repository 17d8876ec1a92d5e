//! A text embedding without a checkpoint: TF-IDF of words, word pairs and character n-grams, projected to a short vector.
//!
//! It knows letters, not meaning: "How many cats?" is near "How many dogs are there?", and far from "Count the animals."
//! A sentence-transformers checkpoint does better wherever one is at hand.

use otter_io::hash::{FNV_OFFSET, fnv1a, mix};
use otter_io::text::hex;
use sha2::{Digest, Sha256};

use crate::retrieve::vectors::normalize_rows;

/// Slots of the table of document frequencies; features that share a slot share a frequency.
const SLOTS: usize = 1 << 18;
/// Places of the vector that a feature is added to, with random signs: the random projection of Achlioptas, "Database-friendly
/// random projections" (2003), with the matrix drawn from the feature's hash.
const PLACES: usize = 4;
/// Length of a vector unless told otherwise.
pub const DEFAULT_WIDTH: usize = 384;
/// Characters of a text that are looked at.
const LONGEST: usize = 4096;
/// Weight of a character n-gram against a word: a word has several.
const CHARACTERS_WEIGHT: f32 = 0.35;
/// Weight of a pair of words against a word.
const PAIR_WEIGHT: f32 = 0.7;

/// Document frequencies, counted over the texts that will be embedded.
pub struct TfIdf {
    width: usize,
    texts: u64,
    frequencies: Vec<u32>,
}

impl TfIdf {
    /// An encoder of vectors of `width` that has seen nothing.
    pub fn new(width: usize) -> Self {
        Self { width: width.max(PLACES), texts: 0, frequencies: vec![0; SLOTS] }
    }

    /// Counts a text.
    pub fn count(&mut self, text: &str) {
        self.texts += 1;
        let mut slots: Vec<usize> = Vec::new();
        features(text, |hash, _| slots.push(slot(hash)));
        slots.sort_unstable();
        slots.dedup();
        slots.into_iter().for_each(|slot| self.frequencies[slot] += 1);
    }

    /// Length of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Changes when the vectors of any text may change.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.texts.to_le_bytes());
        self.frequencies.iter().for_each(|count| hasher.update(count.to_le_bytes()));
        format!("tfidf-1 {} {}", self.width, hex(&hasher.finalize()))
    }

    /// The unit vector of a text; zero where it has no letter or digit.
    pub fn encode(&self, text: &str) -> Vec<f32> {
        let mut weights: Vec<(u64, f32)> = Vec::new();
        features(text, |hash, weight| weights.push((hash, weight)));
        weights.sort_unstable_by_key(|(hash, _)| *hash);
        let mut row = vec![0.0; self.width];
        for run in weights.chunk_by(|a, b| a.0 == b.0) {
            let (hash, weight) = run[0];
            let seen = f64::from(self.frequencies[slot(hash)]) + 1.0;
            let inverse = ((self.texts as f64 + 1.0) / seen).ln() as f32 + 1.0;
            let value = weight * inverse * (1.0 + (run.len() as f32).ln());
            let mut bits = hash;
            for _ in 0..PLACES {
                bits = mix(bits);
                let place = ((u128::from(bits) * self.width as u128) >> 64) as usize;
                row[place] += if bits & 1 == 0 { value } else { -value };
            }
        }
        normalize_rows(&mut row, self.width);
        row
    }
}

/// Calls `visit(hash, weight)` for the words, pairs of consecutive words and character n-grams of a text. Words are runs of
/// letters and digits, in lower case; a character of a script without spaces is a word of its own by its n-grams.
fn features(text: &str, mut visit: impl FnMut(u64, f32)) {
    let text: String = text.chars().take(LONGEST).flat_map(char::to_lowercase).collect();
    let mut previous: Option<&str> = None;
    for word in text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()) {
        visit(hash(b'w', &[word]), 1.0);
        if let Some(previous) = previous {
            visit(hash(b'p', &[previous, word]), PAIR_WEIGHT);
        }
        previous = Some(word);
        let ends: Vec<usize> = word.char_indices().map(|(at, _)| at).chain([word.len()]).collect();
        let lengths = if word.is_ascii() { 3..=4 } else { 1..=2 };
        for length in lengths {
            for window in ends.windows(length + 1) {
                visit(hash(b'c', &[&word[window[0]..window[length]]]), CHARACTERS_WEIGHT);
            }
        }
    }
}

fn slot(hash: u64) -> usize {
    (hash >> (64 - SLOTS.trailing_zeros())) as usize
}

/// A hash of a feature's parts, which end with a zero byte each; every bit depends on all of them.
fn hash(kind: u8, parts: &[&str]) -> u64 {
    mix(fnv1a(FNV_OFFSET ^ u64::from(kind), parts.iter().flat_map(|part| part.bytes().chain([0]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_wording_is_near() {
        let texts = [
            "How many cats are there?",
            "how many dogs are there",
            "Describe the colour of the boat.",
            "Où est le café?",
            "图片里有几只猫?",
            "图片里有几只狗?",
            "?!",
        ];
        let mut encoder = TfIdf::new(384);
        texts.iter().for_each(|text| encoder.count(text));
        let rows: Vec<Vec<f32>> = texts.iter().map(|text| encoder.encode(text)).collect();
        let cosine = |a: usize, b: usize| -> f32 { rows[a].iter().zip(&rows[b]).map(|(a, b)| a * b).sum() };
        assert!((cosine(0, 0) - 1.0).abs() < 1e-5);
        assert!(cosine(0, 1) > 0.3, "{}", cosine(0, 1));
        assert!(cosine(4, 5) > 0.3, "{}", cosine(4, 5));
        assert!(cosine(0, 2) < 0.3 && cosine(0, 3) < 0.3);
        assert_eq!(cosine(6, 6), 0.0);
    }
}
