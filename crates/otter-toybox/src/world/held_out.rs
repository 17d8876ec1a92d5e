//! Made-up words, and what is kept for evaluation: about a fifth of the words and about a fifth of
//! the pairs of concepts. The split is a hash of the names, the same for every seed.

use super::language::{FIRST_SYLLABLES, HELD_OUT_ONE_IN, SECOND_SYLLABLES};
use super::scene::Concept;
use super::seeding::stable_hash;

/// A made-up word of two syllables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MadeUpWord {
    first: u8,
    second: u8,
}

impl MadeUpWord {
    /// All words.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..FIRST_SYLLABLES.len()).flat_map(|first| {
            (0..SECOND_SYLLABLES.len()).map(move |second| Self { first: first as u8, second: second as u8 })
        })
    }

    /// The words of training (`false`) or of evaluation only (`true`).
    pub fn list(held_out: bool) -> Vec<Self> {
        Self::all().filter(|word| word.is_held_out() == held_out).collect()
    }

    /// First syllable.
    pub fn first(self) -> &'static str {
        FIRST_SYLLABLES[usize::from(self.first)]
    }

    /// Second syllable.
    pub fn second(self) -> &'static str {
        SECOND_SYLLABLES[usize::from(self.second)]
    }

    /// The word as written, `wugpim`.
    pub fn text(self) -> String {
        format!("{}{}", self.first(), self.second())
    }

    /// Whether two words have a syllable in common.
    pub fn shares_syllable(self, other: Self) -> bool {
        self.first == other.first || self.second == other.second
    }

    /// Whether the word is for evaluation only.
    pub fn is_held_out(self) -> bool {
        stable_hash(&format!("word {}", self.text())).is_multiple_of(HELD_OUT_ONE_IN)
    }
}

/// Whether a pair of concepts is for evaluation only; the order of the two does not matter.
pub fn is_pair_held_out(one: Concept, other: Concept) -> bool {
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    stable_hash(&format!("pair {} {}", low.phrase(), high.phrase())).is_multiple_of(HELD_OUT_ONE_IN)
}

/// All unordered pairs of different concepts that are held out (`true`) or not (`false`).
pub fn concept_pairs(held_out: bool) -> Vec<(Concept, Concept)> {
    let pairs = (0..Concept::COUNT).flat_map(|second| (0..second).map(move |first| (first, second)));
    pairs
        .map(|(first, second)| (Concept::from_index(first), Concept::from_index(second)))
        .filter(|&(first, second)| is_pair_held_out(first, second) == held_out)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn about_a_fifth_is_held_out() {
        let (words, pairs) = (MadeUpWord::list(true).len(), concept_pairs(true).len());
        assert_eq!(words + MadeUpWord::list(false).len(), 256);
        assert_eq!(pairs + concept_pairs(false).len(), 48 * 47 / 2);
        assert!((40..=62).contains(&words), "{words}");
        assert!((190..=260).contains(&pairs), "{pairs}");
    }

    #[test]
    fn the_split_is_frozen() {
        // A changed split would let a trained model have seen what is evaluated.
        let words: String = MadeUpWord::list(true).into_iter().map(MadeUpWord::text).collect();
        let pairs: String =
            concept_pairs(true).into_iter().map(|(a, b)| format!("{} {};", a.phrase(), b.phrase())).collect();
        assert_eq!(
            (stable_hash(&words), stable_hash(&pairs)),
            (16_462_897_020_985_587_210, 1_655_748_890_982_304_232)
        );
    }

    #[test]
    fn every_syllable_and_concept_is_trained() {
        let training = MadeUpWord::list(false);
        assert_eq!(training.iter().map(|word| word.first()).collect::<BTreeSet<_>>().len(), 16);
        assert_eq!(training.iter().map(|word| word.second()).collect::<BTreeSet<_>>().len(), 16);
        let concepts: BTreeSet<Concept> =
            concept_pairs(false).into_iter().flat_map(|(a, b)| [a, b]).collect();
        assert_eq!(concepts.len(), Concept::COUNT);
    }

    #[test]
    fn the_order_of_a_pair_does_not_matter() {
        let (one, other) = (Concept::from_index(3), Concept::from_index(40));
        assert_eq!(is_pair_held_out(one, other), is_pair_held_out(other, one));
    }
}
