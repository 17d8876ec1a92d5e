//! Fast binding: made-up words mean concepts only through the examples of one prompt.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;

use super::example::{Example, phrase};
use super::held_out::{MadeUpWord, concept_pairs, is_pair_held_out};
use super::language::QuestionKind;
use super::scene::{Concept, Object, Scene, Size, random_size};

/// Which concepts are called what, inside one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingEpisode {
    /// The concepts, all different.
    pub concepts: Vec<Concept>,
    /// Their words, in the same order; no two share a syllable.
    pub words: Vec<MadeUpWord>,
}

impl BindingEpisode {
    /// An episode of training: words and pairs of concepts that are not held out. `concepts` is
    /// between 1 and 8; larger numbers are taken as 8.
    pub fn training(concepts: usize, random: &mut ChaCha8Rng) -> Self {
        let concepts = training_concepts(concepts.clamp(1, 8), random);
        let words = words(concepts.len(), false, random);
        Self { concepts, words }
    }

    /// A two-way episode of evaluation, with held-out words and a held-out pair of concepts, or
    /// with neither.
    pub fn two_way(held_out: bool, random: &mut ChaCha8Rng) -> Self {
        let pairs = concept_pairs(held_out);
        let (one, other) =
            pairs.choose(random).copied().unwrap_or((Concept::from_index(0), Concept::from_index(1)));
        let concepts = if random.random_bool(0.5) { vec![one, other] } else { vec![other, one] };
        Self { concepts, words: words(2, held_out, random) }
    }

    /// Whether all words are held out.
    pub fn words_are_held_out(&self) -> bool {
        self.words.iter().all(|word| word.is_held_out())
    }

    /// Whether every pair of concepts is held out.
    pub fn pairs_are_held_out(&self) -> bool {
        let pairs = (0..self.concepts.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
        pairs
            .map(|(first, second)| (self.concepts[first], self.concepts[second]))
            .all(|(a, b)| is_pair_held_out(a, b))
    }

    /// A fresh picture of a concept (numbered, wrapping around) with the question for its word.
    /// Size, if not given, position, background and phrasing are drawn anew.
    pub fn turn(&self, concept: usize, size: Option<Size>, random: &mut ChaCha8Rng) -> Example {
        let number = concept % self.concepts.len();
        let size = size.unwrap_or_else(|| random_size(random));
        let scene = Scene::single(Object::anywhere(self.concepts[number], size, random));
        let mut concepts = self.concepts.clone();
        concepts.swap(0, number);
        Example {
            kind: QuestionKind::BoundWord,
            description: scene.description(),
            scenes: vec![scene],
            question: phrase(QuestionKind::BoundWord, &[], random),
            answer: self.words[number].text(),
            candidates: self.words.iter().map(|word| word.text()).collect(),
            concepts,
        }
    }
}

/// Different concepts of which no pair is held out.
fn training_concepts(count: usize, random: &mut ChaCha8Rng) -> Vec<Concept> {
    loop {
        let mut chosen: Vec<Concept> = Vec::with_capacity(count);
        // A started set can in principle be blocked by its pairs; then a new one is started.
        for _ in 0..64 * count {
            let concept = Concept::random(random);
            if chosen.iter().all(|&known| known != concept && !is_pair_held_out(known, concept)) {
                chosen.push(concept);
            }
            if chosen.len() == count {
                return chosen;
            }
        }
    }
}

/// Words of which no two share a syllable.
fn words(count: usize, held_out: bool, random: &mut ChaCha8Rng) -> Vec<MadeUpWord> {
    let list = MadeUpWord::list(held_out);
    loop {
        let mut chosen: Vec<MadeUpWord> = Vec::with_capacity(count);
        for _ in 0..64 * count {
            if let Some(&word) = list.choose(random)
                && chosen.iter().all(|known| !known.shares_syllable(word))
            {
                chosen.push(word);
            }
            if chosen.len() == count {
                return chosen;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::random_stream;

    #[test]
    fn training_episodes_hold_nothing_of_the_evaluation() {
        for index in 0..500 {
            let random = &mut random_stream(1, "episode", index);
            let episode = BindingEpisode::training(1 + index as usize % 8, random);
            assert_eq!(episode.concepts.len(), 1 + index as usize % 8);
            assert_eq!(episode.words.len(), episode.concepts.len());
            assert!(episode.words.iter().all(|word| !word.is_held_out()));
            for second in 0..episode.concepts.len() {
                for first in 0..second {
                    assert!(!is_pair_held_out(episode.concepts[first], episode.concepts[second]));
                    assert!(!episode.words[first].shares_syllable(episode.words[second]));
                }
            }
        }
    }

    #[test]
    fn a_turn_shows_its_concept() {
        let random = &mut random_stream(2, "episode", 0);
        let episode = BindingEpisode::two_way(true, random);
        assert!(episode.words_are_held_out() && episode.pairs_are_held_out());
        for number in 0..2 {
            let turn = episode.turn(number, Some(Size::Small), random);
            assert_eq!(turn.scenes[0].objects[0].concept(), episode.concepts[number]);
            assert_eq!(turn.concepts[0], episode.concepts[number]);
            assert_eq!(turn.answer, episode.words[number].text());
            assert_eq!(turn.candidates[number], turn.answer);
        }
    }
}
