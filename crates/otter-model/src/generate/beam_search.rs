//! Which continuations a beam search keeps, when it ends, and which answers win. Knows no model:
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
    /// Prompt and everything generated.
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
    /// The search behind the prompt `ids`.
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
                let score = self.normalized(candidate.score, ids.len());
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
        worst >= self.normalized(best, attainable)
    }

    fn normalized(&self, sum: f32, length: usize) -> f64 {
        let score = f64::from(sum) / (length as f64).powf(self.options.length_penalty);
        if score.is_nan() { f64::NEG_INFINITY } else { score }
    }

    /// The best `count` answers, best first. Open beams count too, unless the search is done without them.
    pub(super) fn finish(mut self, count: usize) -> Vec<Generated> {
        if !self.done {
            for beam in std::mem::take(&mut self.beams) {
                let score = self.normalized(beam.score, beam.ids.len());
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

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha8Rng;
    use rand::{Rng, SeedableRng};

    use super::super::sampler::largest;
    use super::*;

    const PROMPT: [u32; 2] = [0, 1];
    const STOP: u32 = 2;

    /// A language of a few tokens in which every beginning has its own probabilities.
    struct Language {
        seed: u64,
        vocabulary: usize,
    }

    impl Language {
        fn log_probabilities(&self, ids: &[u32]) -> Vec<f32> {
            let number = ids.iter().fold(self.seed, |n, &id| n * 31 + u64::from(id) + 1);
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let logits: Vec<f64> =
                (0..self.vocabulary).map(|_| 4.0 * f64::from(rng.next_u32()) / f64::from(u32::MAX)).collect();
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            logits.iter().map(|logit| (logit - sum.ln()) as f32).collect()
        }

        fn search(&self, new_tokens: usize, options: &BeamOptions, stop_tokens: &[u32]) -> BeamSearch {
            let stop_tokens = stop_tokens.to_vec();
            let generation = GenerationOptions { stop_tokens, ..GenerationOptions::greedy(new_tokens, STOP) };
            let mut search = BeamSearch::new(&PROMPT, new_tokens, options, &generation);
            for _ in 0..new_tokens {
                let mut scores = Vec::new();
                for beam in search.beams() {
                    scores.extend(self.log_probabilities(&beam.ids).iter().map(|score| score + beam.score));
                }
                let candidates: Vec<Candidate> = largest(&scores, search.candidates())
                    .into_iter()
                    .map(|index| Candidate {
                        beam: index / self.vocabulary,
                        token: (index % self.vocabulary) as u32,
                        score: scores[index],
                    })
                    .collect();
                search.advance(&candidates);
                if search.is_done() {
                    break;
                }
            }
            search
        }
    }

    fn options(num_beams: usize, length_penalty: f64, early_stopping: EarlyStopping) -> BeamOptions {
        BeamOptions { num_beams, length_penalty, early_stopping }
    }

    /// Every answer of at most `left` more tokens with the sum of its log-probabilities.
    fn all_answers(language: &Language, ids: &[u32], sum: f64, left: usize, out: &mut Vec<(Vec<u32>, f64)>) {
        if left == 0 || ids.last() == Some(&STOP) {
            out.push((ids.to_vec(), sum));
            return;
        }
        for (token, score) in language.log_probabilities(ids).into_iter().enumerate() {
            let ids = [ids, &[token as u32]].concat();
            all_answers(language, &ids, sum + f64::from(score), left - 1, out);
        }
    }

    /// With a beam for every sequence nothing is lost, so the winners are the best of all possible answers. (Ending at
    /// once would not do: the spare beams' answers, worse than any, are as many as beams too soon.)
    #[test]
    fn with_enough_beams_the_best_of_all_answers_win() {
        for seed in 0..40 {
            let language = Language { seed, vocabulary: 3 };
            for length_penalty in [-2.0, -0.5, 0.0, 1.0, 2.0] {
                let mut all = Vec::new();
                all_answers(&language, &PROMPT, 0.0, 3, &mut all);
                let normalized = |(ids, sum): &(Vec<u32>, f64)| {
                    let length = ids.len() - usize::from(ids.last() == Some(&STOP));
                    sum / (length as f64).powf(length_penalty)
                };
                all.sort_by(|a, b| normalized(b).total_cmp(&normalized(a)));
                for early_stopping in [EarlyStopping::Heuristic, EarlyStopping::Never] {
                    let search = language.search(3, &options(27, length_penalty, early_stopping), &[STOP]);
                    let found = search.finish(6);
                    for (found, expected) in found.iter().zip(&all) {
                        assert_eq!(found.token_ids, expected.0[2..], "seed {seed} penalty {length_penalty}");
                        let score = found.score.unwrap_or(f64::NAN);
                        assert!((score - normalized(expected)).abs() < 1e-4 * score.abs().max(1.0));
                        let stopped = found.token_ids.last() == Some(&STOP);
                        assert_eq!(found.finish_reason == FinishReason::Stop, stopped);
                    }
                    assert_eq!(found.len(), 6);
                }
            }
        }
    }

    /// The pseudo-code of the specification, step by step, on plain vectors.
    fn plain_search(
        language: &Language,
        new_tokens: usize,
        options: &BeamOptions,
        stop_tokens: &[u32],
    ) -> Vec<(Vec<u32>, f64)> {
        let k = options.num_beams;
        let mut open: Vec<(Vec<u32>, f32)> =
            (0..k).map(|beam| (PROMPT.to_vec(), if beam == 0 { 0.0 } else { -1e9 })).collect();
        let mut hypotheses: Vec<(f64, Vec<u32>, Option<u32>)> = Vec::new();
        let mut worst = 1e9;
        let divide = |sum: f32, length: usize| f64::from(sum) / (length as f64).powf(options.length_penalty);
        let add = |hypotheses: &mut Vec<_>, worst: &mut f64, ids: &[u32], sum: f32, stop: Option<u32>| {
            let score = divide(sum, ids.len());
            if hypotheses.len() < k || score > *worst {
                hypotheses.push((score, ids.to_vec(), stop));
                let mut order: Vec<(f64, usize)> =
                    hypotheses.iter().map(|h: &(f64, Vec<u32>, Option<u32>)| h.0).zip(0..).collect();
                order.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
                if hypotheses.len() > k {
                    hypotheses.remove(order[0].1);
                    *worst = order[1].0;
                } else {
                    *worst = worst.min(score);
                }
            }
        };
        let mut done = false;
        while !done && open[0].0.len() < PROMPT.len() + new_tokens {
            let mut all = Vec::new();
            for (beam, (ids, sum)) in open.iter().enumerate() {
                for (token, score) in language.log_probabilities(ids).into_iter().enumerate() {
                    all.push((score + sum, beam, token as u32));
                }
            }
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            all.truncate((1 + stop_tokens.len()).max(2) * k);
            let length = open[0].0.len() + 1;
            let mut next = Vec::new();
            for (rank, &(sum, beam, token)) in all.iter().enumerate() {
                if stop_tokens.contains(&token) {
                    if rank < k {
                        add(&mut hypotheses, &mut worst, &open[beam].0, sum, Some(token));
                    }
                } else if next.len() < k {
                    next.push(([&open[beam].0[..], &[token]].concat(), sum));
                    if next.len() == k {
                        break;
                    }
                }
            }
            open = next;
            done = hypotheses.len() >= k
                && match options.early_stopping {
                    EarlyStopping::AtOnce => true,
                    EarlyStopping::Heuristic => worst >= divide(all[0].0, length),
                    EarlyStopping::Never if options.length_penalty > 0.0 => {
                        worst >= divide(all[0].0, PROMPT.len() + new_tokens)
                    }
                    EarlyStopping::Never => worst >= divide(all[0].0, length),
                };
        }
        if !done {
            for (ids, sum) in &open {
                add(&mut hypotheses, &mut worst, ids, *sum, None);
            }
        }
        hypotheses.sort_by(|a, b| a.0.total_cmp(&b.0));
        let with_stop = |(score, ids, stop): (f64, Vec<u32>, Option<u32>)| {
            (ids.into_iter().skip(PROMPT.len()).chain(stop).collect(), score)
        };
        hypotheses.into_iter().rev().map(with_stop).collect()
    }

    #[test]
    fn the_search_follows_the_pseudo_code() {
        let (mut ended_early, mut ran_on) = (0, 0);
        for seed in 0..60 {
            let language = Language { seed, vocabulary: 5 };
            for num_beams in 1..5 {
                for length_penalty in [-2.0, 0.0, 0.7, 1.0, 3.0] {
                    for early_stopping in
                        [EarlyStopping::Heuristic, EarlyStopping::AtOnce, EarlyStopping::Never]
                    {
                        for stop_tokens in [&[STOP][..], &[STOP, 4], &[]] {
                            let options = options(num_beams, length_penalty, early_stopping);
                            let search = language.search(6, &options, stop_tokens);
                            ended_early += usize::from(search.is_done() && search.beams[0].ids.len() < 8);
                            ran_on += usize::from(!search.is_done());
                            let found: Vec<(Vec<u32>, f64)> = search
                                .finish(num_beams)
                                .into_iter()
                                .map(|found| (found.token_ids, found.score.unwrap_or(f64::NAN)))
                                .collect();
                            let expected = plain_search(&language, 6, &options, stop_tokens);
                            assert_eq!(found, expected, "seed {seed} {options:?} {stop_tokens:?}");
                        }
                    }
                }
            }
        }
        assert!(ended_early > 1000 && ran_on > 1000, "{ended_early} {ran_on}");
    }

    fn candidate(beam: usize, token: u32, score: f32) -> Candidate {
        Candidate { beam, token, score }
    }

    fn started(options: &BeamOptions) -> BeamSearch {
        BeamSearch::new(&PROMPT, 10, options, &GenerationOptions::greedy(10, STOP))
    }

    #[test]
    fn a_stop_token_counts_among_the_first_candidates_only() {
        let mut search = started(&options(2, 0.0, EarlyStopping::AtOnce));
        let candidates = [
            candidate(0, 3, -1.0),
            candidate(0, STOP, -2.0),
            candidate(1, STOP, -3.0),
            candidate(1, 4, -4.0),
        ];
        let chosen = search.advance(&candidates);
        assert_eq!(chosen, [candidates[0], candidates[3]]);
        assert!(!search.is_done());
        assert_eq!(search.finished.kept.len(), 1);
        // The second finished answer ends the search, and the open beams do not count any more.
        search.advance(&[candidate(0, STOP, -5.0), candidate(0, 0, -1.0), candidate(1, 0, -1.0)]);
        assert!(search.is_done());
        let answers = search.finish(2);
        assert_eq!(answers[0].token_ids, [STOP]);
        assert_eq!(answers[1].token_ids, [3, STOP]);
    }

    #[test]
    fn the_rules_of_ending_differ_with_the_length_penalty() {
        let done = |length_penalty: f64, early_stopping: EarlyStopping| {
            let mut search = started(&options(1, length_penalty, early_stopping));
            search.advance(&[candidate(0, STOP, -2.0), candidate(0, 3, -2.5)]);
            search.is_done()
        };
        // Finished: -2 / 2. Open, by the best candidate: -2 / 3 now, -2 / 12 at the end.
        assert!(!done(1.0, EarlyStopping::Heuristic) && !done(1.0, EarlyStopping::Never));
        assert!(done(0.0, EarlyStopping::Heuristic) && done(0.0, EarlyStopping::Never));
        assert!(done(-1.0, EarlyStopping::Heuristic) && done(-1.0, EarlyStopping::Never));
        assert!(done(1.0, EarlyStopping::AtOnce));
        // Worst finished -1; the best open one is -4.5 / 3 at its length and -4.5 / 12 at the longest.
        let later = |early_stopping: EarlyStopping| {
            let mut search = started(&options(1, 1.0, early_stopping));
            search.advance(&[candidate(0, STOP, -2.0), candidate(0, 3, -2.5)]);
            search.advance(&[candidate(0, 3, -4.5), candidate(0, 4, -5.0)]);
            search.is_done()
        };
        assert!(later(EarlyStopping::Heuristic));
        assert!(!later(EarlyStopping::Never));
    }

    #[test]
    fn the_oldest_of_the_worst_goes_and_the_youngest_of_the_best_wins() {
        let hypothesis = |id: u32, score: f64| Hypothesis { ids: vec![id], stop: None, score };
        let mut kept = Hypotheses { most: 3, kept: Vec::new() };
        for (id, score) in [(0, -2.0), (1, -2.0), (2, -1.0), (3, -2.0), (4, -1.0), (5, f64::NEG_INFINITY)] {
            kept.add(hypothesis(id, score));
        }
        let ids: Vec<u32> = kept.best(3).map(|hypothesis| hypothesis.ids[0]).collect();
        assert_eq!(ids, [4, 2, 1]);
    }
}
