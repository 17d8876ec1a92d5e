//! Which continuations a beam search keeps, when it ends, and which answers win (`spec/model.md` 10.2). Knows no model:
//! it is given scored candidates, step by step.

use super::{FinishReason, Generated, GenerationOptions};

/// How beams are searched.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamOptions {
    /// Beams of each prompt.
    pub num_beams: usize,
    /// An answer's score is its sum of log-probabilities over its length (prompt included) to this power: above 0 longer
    /// answers gain, below 0 shorter ones.
    pub length_penalty: f64,
    /// When to end with as many finished answers as beams.
    pub early_stopping: EarlyStopping,
}

/// When a search ends that has as many finished answers as beams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best open beam, at its present length, scores no better than the worst finished answer (`False` in the
    /// reference).
    #[default]
    Heuristic,
    /// At once (`True`).
    AtOnce,
    /// When no open beam can score better at any length it may still reach (`"never"`).
    Never,
}

/// A beam with one more token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// The beam it continues.
    pub(super) beam: usize,
    pub(super) token: u32,
    /// Of the whole sequence: the beam's score and that of the token.
    pub(super) score: f32,
}

/// An unfinished sequence.
#[derive(Clone, Debug)]
pub(super) struct Beam {
    /// Prompt with padding and everything generated.
    pub(super) ids: Vec<u32>,
    /// Sum of the scores of its tokens.
    pub(super) score: f32,
}

/// The search of one prompt.
pub(super) struct BeamSearch {
    options: BeamOptions,
    stop_tokens: Vec<u32>,
    prompt: usize,
    longest: usize,
    beams: Vec<Beam>,
    finished: Hypotheses,
    done: bool,
}

/// Score of the second, third, … beam before the first token, when all beams are equal: a search must not take the
/// same continuation from several of them.
const SAME_AS_THE_FIRST: f32 = -1e9;

impl BeamSearch {
    /// The search behind the prompt `ids`, padding included.
    pub(super) fn new(
        ids: &[u32],
        new_tokens: usize,
        options: &BeamOptions,
        generation: &GenerationOptions,
    ) -> Self {
        // Drawn continuations may be the same: all beams start alike, as in the reference.
        let others = if generation.sampling.is_random() { 0.0 } else { SAME_AS_THE_FIRST };
        let score = |beam: usize| if beam == 0 { 0.0 } else { others };
        let beams =
            (0..options.num_beams).map(|beam| Beam { ids: ids.to_vec(), score: score(beam) }).collect();
        Self {
            options: options.clone(),
            stop_tokens: generation.stop_tokens.clone(),
            prompt: ids.len(),
            longest: ids.len() + new_tokens,
            beams,
            finished: Hypotheses { most: options.num_beams, kept: Vec::new() },
            done: false,
        }
    }

    /// The open beams, best first.
    pub(super) fn beams(&self) -> &[Beam] {
        &self.beams
    }

    /// How many candidates a step needs, so that enough go on even if every beam has all stop tokens among them.
    pub(super) fn candidates(&self) -> usize {
        (1 + self.stop_tokens.len()).max(2) * self.options.num_beams
    }

    /// Whether nothing can get better.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes a step's candidates, best first: a stop token among the first `num_beams` finishes an answer, and the first
    /// `num_beams` others are the new beams, which are returned.
    pub(super) fn advance(&mut self, candidates: &[Candidate]) -> Vec<Candidate> {
        let num_beams = self.options.num_beams;
        let mut chosen = Vec::with_capacity(num_beams);
        for (rank, candidate) in candidates.iter().enumerate() {
            if !self.stop_tokens.contains(&candidate.token) {
                chosen.push(*candidate);
            } else if rank < num_beams {
                let ids = &self.beams[candidate.beam].ids;
                let score = self.normalised(candidate.score, ids.len());
                self.finished.add(Hypothesis { ids: ids.clone(), stop: Some(candidate.token), score });
            }
            if chosen.len() == num_beams {
                break;
            }
        }
        let best = candidates.first().map_or(f32::NEG_INFINITY, |candidate| candidate.score);
        let next = |candidate: &Candidate| {
            let mut ids = self.beams[candidate.beam].ids.clone();
            ids.push(candidate.token);
            Beam { ids, score: candidate.score }
        };
        self.beams = chosen.iter().map(next).collect();
        self.done = self.ends(best);
        chosen
    }

    /// Whether no answer can still replace a finished one, by the rule asked for. `best` is the best score of a candidate.
    fn ends(&self, best: f32) -> bool {
        let Some(worst) = self.finished.worst_of_enough() else { return false };
        let length = self.beams.first().map_or(self.longest, |beam| beam.ids.len());
        let attainable = match self.options.early_stopping {
            EarlyStopping::AtOnce => return true,
            EarlyStopping::Never if self.options.length_penalty > 0.0 => self.longest,
            EarlyStopping::Heuristic | EarlyStopping::Never => length,
        };
        worst >= self.normalised(best, attainable)
    }

    fn normalised(&self, sum: f32, length: usize) -> f64 {
        let score = f64::from(sum) / (length as f64).powf(self.options.length_penalty);
        if score.is_nan() { f64::NEG_INFINITY } else { score }
    }

    /// The best `count` answers, best first. Open beams count too, unless the search is done without them.
    pub(super) fn finish(mut self, count: usize) -> Vec<Generated> {
        if !self.done {
            for beam in std::mem::take(&mut self.beams) {
                let score = self.normalised(beam.score, beam.ids.len());
                self.finished.add(Hypothesis { ids: beam.ids, stop: None, score });
            }
        }
        let prompt = self.prompt;
        self.finished.best(count).map(|hypothesis| hypothesis.into_generated(prompt)).collect()
    }
}

/// A finished answer.
struct Hypothesis {
    /// Prompt and answer without stop token.
    ids: Vec<u32>,
    stop: Option<u32>,
    score: f64,
}

/// The best finished answers so far, in the order in which they came.
struct Hypotheses {
    most: usize,
    kept: Vec<Hypothesis>,
}

impl Hypotheses {
    /// Adds an answer; beyond `most`, the worst goes, the oldest among equals. One no better than the worst is not added.
    fn add(&mut self, hypothesis: Hypothesis) {
        match self.worst_of_enough() {
            Some(worst) if hypothesis.score <= worst => return,
            Some(worst) => {
                if let Some(index) = self.kept.iter().position(|kept| kept.score == worst) {
                    self.kept.remove(index);
                }
            }
            None => {}
        }
        self.kept.push(hypothesis);
    }

    /// The worst score, once there are as many answers as are kept.
    fn worst_of_enough(&self) -> Option<f64> {
        let enough = self.kept.len() >= self.most;
        self.kept.iter().map(|kept| kept.score).min_by(f64::total_cmp).filter(|_| enough)
    }

    /// The best first; the youngest among equals.
    fn best(mut self, count: usize) -> impl Iterator<Item = Hypothesis> {
        self.kept.sort_by(|a, b| a.score.total_cmp(&b.score));
        self.kept.into_iter().rev().take(count)
    }
}

impl Hypothesis {
    fn into_generated(self, prompt: usize) -> Generated {
        let mut token_ids = self.ids[prompt..].to_vec();
        token_ids.extend(self.stop);
        let finish_reason = if self.stop.is_some() { FinishReason::Stop } else { FinishReason::Length };
        Generated { token_ids, finish_reason, score: Some(self.score) }
    }
}
