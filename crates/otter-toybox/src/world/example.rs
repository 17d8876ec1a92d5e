//! A question with its answer, and how it is phrased.

use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;

use super::language::QuestionKind;
use super::scene::{Concept, Scene};

/// A question about one or two scenes, with its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Kind of the question.
    pub kind: QuestionKind,
    /// One scene per picture.
    pub scenes: Vec<Scene>,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// What the pictures show, in words: stands in for them when a language model is pre-trained.
    pub description: String,
    /// Answers to choose from; the right one is among them.
    pub candidates: Vec<String>,
    /// The concept asked for, then the others of the episode (binding only).
    pub concepts: Vec<Concept>,
}

impl Example {
    /// Whether the description is one object, so that the order of its words does not matter: it
    /// can then be given to a language model as a sum of word vectors.
    pub fn shows_one_object(&self) -> bool {
        self.scenes.len() == 1 && self.scenes[0].objects.len() == 1
    }
}

/// A phrasing of the kind with its blanks filled.
pub(crate) fn phrase(kind: QuestionKind, blanks: &[(&str, &str)], random: &mut ChaCha8Rng) -> String {
    let phrasing = kind.table().phrasings.choose(random).copied().unwrap_or_default();
    blanks.iter().fold(phrasing.to_string(), |text, (blank, word)| text.replace(blank, word))
}
