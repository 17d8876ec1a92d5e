//! What the base language model reads: text only, no picture.
//!
//! A turn of the chat template stands where a picture will stand later, with a *description* in its place. The path to
//! in-context binding goes over rungs, because the whole task at once stays at chance:
//!
//! 1. copying repeated random sequences, until an induction head has formed;
//! 2. the *soft* description: the sum of the embeddings of its words is added to every token of the turn, which is what
//!    gated cross-attention before the first layer will be able to do; then its weight on the tokens after `<image>` is
//!    taken away step by step;
//! 3. the description as ordinary words after `<image>`, first supported by the soft one, then alone.

use std::collections::{HashMap, HashSet};

use crate::world::language::QuestionKind;
use crate::world::{BindingEpisode, Example, MadeUpWord, Vocabulary, make_example};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// What a trained token belongs to, for the progress figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A token of a repeated sequence.
    Copy,
    /// The first token of a bound word, description added to the embeddings.
    BindSoft,
    /// The first token of a bound word, description in words.
    BindWords,
    /// The first token of any other answer.
    Answer,
    /// Any other trained token.
    Rest,
}

/// A sequence of the base language model.
#[derive(Clone, Debug, Default)]
pub struct TextSample {
    /// Token ids, `<s>` first.
    pub ids: Vec<u32>,
    /// What each token is trained as, if at all.
    pub parts: Vec<Option<Part>>,
    /// Embeddings added to tokens: position, token whose embedding is added, weight.
    pub soft: Vec<(usize, u32, f32)>,
}

/// How far the curriculum has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rungs {
    /// 0: copying; from 1: soft descriptions with less and less spread.
    pub soft: u32,
    /// From 0: descriptions in words with less and less soft support.
    pub words: u32,
}

/// The last rung of soft descriptions.
pub const LAST_SOFT_RUNG: u32 = 7;
/// The last rung of descriptions in words.
pub const LAST_WORDS_RUNG: u32 = 4;

/// Token ids of the template.
struct Template {
    bos: u32,
    eos: u32,
    image: u32,
    end_of_chunk: u32,
    before_question: Vec<u32>,
    before_answer: Vec<u32>,
    ordinary: Vec<u32>,
}

/// Draws sequences.
pub struct Curriculum {
    pieces: HashMap<String, u32>,
    template: Template,
    /// Syllables of the words kept for evaluation.
    held_out: HashSet<(u32, u32)>,
}

/// How a description enters the text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Description {
    Soft,
    Words,
}

/// One question about one picture, in tokens.
struct Turn {
    question: Vec<u32>,
    answer: Vec<u32>,
    description: Vec<u32>,
    /// Whether the sum of the description's words says all: one object, order does not matter.
    summable: bool,
    part: Part,
    trained: bool,
}

impl Curriculum {
    /// The curriculum in the toybox's language.
    pub fn new() -> Self {
        let vocabulary = Vocabulary::new();
        let pieces: HashMap<String, u32> =
            vocabulary.pieces().iter().enumerate().map(|(id, piece)| (piece.clone(), id as u32)).collect();
        let id = |piece: &str| pieces.get(piece).copied().unwrap_or(0);
        let is_word =
            |piece: &&String| piece.trim_start_matches("##").len() > 1 && !Vocabulary::is_special(piece);
        let ordinary = vocabulary.pieces().iter().filter(is_word).map(|piece| id(piece)).collect();
        let template = Template {
            bos: id("<s>"),
            eos: id("</s>"),
            image: id("<image>"),
            end_of_chunk: id("<|endofchunk|>"),
            before_question: vec![id("user"), id(":")],
            before_answer: vec![id("gpt"), id(":"), id("<answer>")],
            ordinary,
        };
        let held_out = MadeUpWord::list(true)
            .into_iter()
            .map(|word| (id(word.first()), id(&format!("##{}", word.second()))))
            .collect();
        Self { pieces, template, held_out }
    }

    /// Ids of words and punctuation separated by spaces; a made-up word is its two syllables.
    fn words(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for word in text.split_whitespace() {
            match self.pieces.get(word) {
                Some(&id) => ids.push(id),
                None => {
                    let halves = (1..word.len()).filter(|&at| word.is_char_boundary(at)).find_map(|at| {
                        let first = self.pieces.get(&word[..at]).filter(|_| at > 1)?;
                        let second = self.pieces.get(&format!("##{}", &word[at..]))?;
                        Some([*first, *second])
                    });
                    ids.extend(halves.into_iter().flatten());
                }
            }
        }
        ids
    }

    /// A sequence for the given rungs, with at least one trained token.
    pub fn sample(&self, rungs: Rungs, random: &mut ChaCha8Rng) -> TextSample {
        loop {
            let sample = self.draw(rungs, random);
            if sample.parts.iter().any(Option::is_some) {
                return sample;
            }
        }
    }

    fn draw(&self, rungs: Rungs, random: &mut ChaCha8Rng) -> TextSample {
        let draw: f32 = random.random();
        if rungs.soft == 0 {
            return match draw {
                d if d < 0.5 => self.repeated(random),
                d if d < 0.8 => self.bare_binding(random),
                _ => {
                    let spread = if random.random_bool(0.5) { 1.0 } else { 0.0 };
                    let turns = random.random_range(3..7);
                    self.assemble(&self.other_turns(turns, rungs, random), Description::Soft, spread)
                }
            };
        }
        if draw < 0.12 {
            return if draw < 0.07 { self.repeated(random) } else { self.bare_binding(random) };
        }
        let in_words = match (rungs.soft, rungs.words) {
            (0..=3, _) => 0.0,
            (_, words) if words < LAST_WORDS_RUNG => 0.5,
            _ => 0.4,
        };
        let form = if random.random_bool(in_words) { Description::Words } else { Description::Soft };
        let spread = match form {
            Description::Soft => soft_spread(rungs.soft, random),
            Description::Words => words_support(rungs.words, random),
        };
        let turns = if draw < 0.65 {
            self.binding_turns(rungs, random)
        } else {
            let turns = random.random_range(2..6);
            self.other_turns(turns, rungs, random)
        };
        self.assemble(&turns, form, spread)
    }

    /// A two-way binding question with held-out words and concepts, after `shots` examples of each concept; with the
    /// right answer first.
    pub fn two_way(&self, shots: usize, in_words: bool, random: &mut ChaCha8Rng) -> [TextSample; 2] {
        let episode = BindingEpisode::two_way(true, random);
        let mut order: Vec<usize> = (0..2 * shots).map(|i| i % 2).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.random_range(0..=i));
        }
        let asked = random.random_range(0..2usize);
        order.push(asked);
        let mut turns: Vec<Turn> =
            order.iter().map(|&c| self.turn(&episode.turn(c, None, random), Part::BindSoft, false)).collect();
        let form = if in_words { Description::Words } else { Description::Soft };
        let mut with_answer = |concept: usize| {
            if let Some(last) = turns.last_mut() {
                last.answer = self.words(&episode.words[concept].text());
                last.trained = true;
            }
            self.assemble(&turns, form, 0.0)
        };
        [with_answer(asked), with_answer(1 - asked)]
    }

    /// A random sequence, several times over. Held-out words do not occur even by accident.
    fn repeated(&self, random: &mut ChaCha8Rng) -> TextSample {
        let n = random.random_range(3..20usize);
        let times = random.random_range(2..=4usize).min(48 / n).max(2);
        let mut pattern: Vec<u32> = (0..n).map(|_| self.any_word(random)).collect();
        while (0..n).any(|i| self.held_out.contains(&(pattern[i], pattern[(i + 1) % n]))) {
            pattern = (0..n).map(|_| self.any_word(random)).collect();
        }
        let mut ids = vec![self.template.bos];
        ids.extend(pattern.iter().cycle().take(n * times));
        // The first token of the second round cannot be known.
        let parts = (0..ids.len()).map(|i| (i > n + 1).then_some(Part::Copy)).collect();
        TextSample { ids, parts, soft: Vec::new() }
    }

    /// Binding without the template: `<image>` with a soft description, then the word, many times.
    fn bare_binding(&self, random: &mut ChaCha8Rng) -> TextSample {
        let concepts = random.random_range(2..=6usize);
        let turns = random.random_range(2 * concepts..15.max(2 * concepts + 1));
        let episode = if random.random_bool(0.5) {
            distinct_episode(concepts, random)
        } else {
            BindingEpisode::training(concepts, random)
        };
        let mut seen = vec![false; concepts];
        let mut sample = TextSample { ids: vec![self.template.bos], parts: vec![None], soft: Vec::new() };
        for _ in 0..turns {
            let concept = random.random_range(0..concepts);
            let turn = self.turn(&episode.turn(concept, None, random), Part::Copy, seen[concept]);
            seen[concept] = true;
            let place = sample.ids.len();
            let skip = random.random_range(0..2usize);
            sample.soft.extend(turn.description.iter().skip(skip).map(|&word| (place, word, 1.0)));
            sample.ids.push(self.template.image);
            sample.parts.push(None);
            sample.ids.extend(&turn.answer);
            sample.parts.extend(turn.answer.iter().map(|_| turn.trained.then_some(Part::Copy)));
        }
        sample
    }

    fn binding_turns(&self, rungs: Rungs, random: &mut ChaCha8Rng) -> Vec<Turn> {
        let concepts = [2, 2, 3, 4][random.random_range(0..4usize)];
        let distinct = rungs.soft <= 1 || random.random_bool(0.3);
        let episode = if distinct {
            distinct_episode(concepts, random)
        } else {
            BindingEpisode::training(concepts, random)
        };
        let least = if rungs.soft < 6 { 5 } else { 2 };
        let turns = random.random_range(least..11usize);
        let mut seen = vec![false; concepts];
        (0..turns)
            .map(|_| {
                let concept = random.random_range(0..concepts);
                let trained = std::mem::replace(&mut seen[concept], true);
                self.turn(&episode.turn(concept, None, random), Part::BindSoft, trained)
            })
            .collect()
    }

    /// Turns of the other task families; half of the time all of one kind.
    fn other_turns(&self, turns: usize, rungs: Rungs, random: &mut ChaCha8Rng) -> Vec<Turn> {
        let single = random.random_bool(0.5);
        let mut kind = other_kind(rungs, random);
        (0..turns)
            .map(|_| {
                if !single {
                    kind = other_kind(rungs, random);
                }
                let rank = random.random_range(0..1_000_000usize);
                self.turn(&make_example(kind, rank, random), Part::Answer, true)
            })
            .collect()
    }

    fn turn(&self, example: &Example, part: Part, trained: bool) -> Turn {
        Turn {
            question: self.words(&example.question),
            answer: self.words(&example.answer),
            description: self.words(&example.description),
            summable: example.scenes.len() == 1 && example.scenes[0].objects.len() == 1,
            part,
            trained,
        }
    }

    fn assemble(&self, turns: &[Turn], form: Description, spread: f32) -> TextSample {
        let template = &self.template;
        let mut sample = TextSample { ids: vec![template.bos], parts: vec![None], soft: Vec::new() };
        for turn in turns {
            let start = sample.ids.len();
            sample.ids.push(template.image);
            let soft = form == Description::Soft && turn.summable;
            if !soft {
                sample.ids.extend(&turn.description);
            }
            let after_description = sample.ids.len();
            sample
                .ids
                .extend(template.before_question.iter().chain(&turn.question).chain(&template.before_answer));
            sample.parts.resize(sample.ids.len(), None);
            let first = match (turn.part, soft) {
                (Part::BindSoft, false) => Part::BindWords,
                (part, _) => part,
            };
            for (i, &token) in turn.answer.iter().chain([&template.end_of_chunk]).enumerate() {
                sample.ids.push(token);
                let part = if i == 0 { first } else { Part::Rest };
                sample.parts.push(turn.trained.then_some(part));
            }
            if soft {
                sample.soft.extend(turn.description.iter().map(|&word| (start, word, 1.0)));
            }
            if spread > 0.0 && turn.summable {
                for place in after_description..sample.ids.len() {
                    sample.soft.extend(turn.description.iter().map(|&word| (place, word, spread)));
                }
            }
        }
        sample.ids.push(template.eos);
        sample.parts.push(None);
        sample
    }

    fn any_word(&self, random: &mut ChaCha8Rng) -> u32 {
        self.template.ordinary[random.random_range(0..self.template.ordinary.len())]
    }
}

impl Default for Curriculum {
    fn default() -> Self {
        Self::new()
    }
}

/// An episode whose concepts share neither color nor shape, where that is easy to draw.
fn distinct_episode(concepts: usize, random: &mut ChaCha8Rng) -> BindingEpisode {
    for _ in 0..1000 {
        let episode = BindingEpisode::training(concepts, random);
        let list = &episode.concepts;
        let clash = (0..list.len()).any(|i| {
            list[..i].iter().any(|other| other.color == list[i].color || other.shape == list[i].shape)
        });
        if !clash {
            return episode;
        }
    }
    BindingEpisode::training(concepts, random)
}

/// Weight of a soft description on the tokens after `<image>`.
fn soft_spread(rung: u32, random: &mut ChaCha8Rng) -> f32 {
    match rung {
        0 | 1 => 1.0,
        2 => random.random_range(0.5..1.0),
        3 => random.random_range(0.2..0.7),
        4 => random.random_range(0.0..0.4),
        _ if random.random_bool(0.5) => 0.0,
        _ => random.random(),
    }
}

/// Weight of the soft support of a description in words.
fn words_support(rung: u32, random: &mut ChaCha8Rng) -> f32 {
    match rung {
        0 => random.random_range(0.5..1.0),
        1 => random.random_range(0.2..0.7),
        2 => random.random_range(0.0..0.4),
        3 => random.random_range(0.0..0.2),
        _ if random.random_bool(0.7) => 0.0,
        _ => random.random(),
    }
}

/// A kind of question other than binding; only single objects on the first rungs.
fn other_kind(rungs: Rungs, random: &mut ChaCha8Rng) -> QuestionKind {
    use QuestionKind as K;
    let single = [(K::Color, 6), (K::Shape, 6), (K::Size, 4), (K::Describe, 4)];
    let several = [
        (K::ColorOfShape, 7),
        (K::ShapeOfColor, 7),
        (K::CountAll, 4),
        (K::CountColor, 1),
        (K::CountShape, 1),
        (K::RelatedObject, 6),
        (K::RelationHolds, 3),
        (K::Change, 4),
        (K::ColorInPicture, 2),
        (K::ShapeInPicture, 2),
        (K::MoreObjects, 2),
    ];
    let kinds: Vec<(K, u32)> =
        if rungs.soft <= 2 { single.to_vec() } else { single.into_iter().chain(several).collect() };
    let mut left = random.random_range(0..kinds.iter().map(|k| k.1).sum::<u32>());
    for (kind, weight) in kinds {
        if left < weight {
            return kind;
        }
        left -= weight;
    }
    K::Color
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::random_stream;

    #[test]
    fn samples_are_consistent_on_every_rung() {
        let curriculum = Curriculum::new();
        for soft in 0..=LAST_SOFT_RUNG {
            for words in 0..=LAST_WORDS_RUNG {
                for index in 0..40 {
                    let random = &mut random_stream(5, "curriculum", index);
                    let sample = curriculum.sample(Rungs { soft, words }, random);
                    assert_eq!(sample.ids.len(), sample.parts.len());
                    assert!(sample.parts.iter().any(Option::is_some), "something is trained");
                    assert!(sample.soft.iter().all(|s| s.0 < sample.ids.len()));
                    assert!(!sample.ids.contains(&0), "every word is in the vocabulary: {:?}", sample.ids);
                }
            }
        }
    }

    #[test]
    fn held_out_words_never_occur_in_training() {
        let curriculum = Curriculum::new();
        let held_out: Vec<Vec<u32>> =
            MadeUpWord::list(true).iter().map(|word| curriculum.words(&word.text())).collect();
        assert!(held_out.len() > 20 && held_out.iter().all(|word| word.len() == 2));
        for index in 0..3000 {
            let random = &mut random_stream(6, "curriculum", index);
            let soft = index as u32 % 8;
            let sample = curriculum.sample(Rungs { soft, words: 4 }, random);
            for pair in sample.ids.windows(2) {
                assert!(!held_out.iter().any(|word| word == pair));
            }
        }
    }

    #[test]
    fn the_two_candidates_differ_only_in_the_last_answer() {
        let curriculum = Curriculum::new();
        let [right, wrong] = curriculum.two_way(2, false, &mut random_stream(1, "eval", 0));
        assert_eq!(right.ids.len(), wrong.ids.len());
        let differing = right.ids.iter().zip(&wrong.ids).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 2);
        assert_eq!(right.parts.iter().flatten().count(), 3);
    }
}
