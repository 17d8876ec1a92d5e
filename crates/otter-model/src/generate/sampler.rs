//! Choice of the next token: greedy, or random after temperature, top-k and top-p.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// How tokens are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The most probable token.
    #[default]
    Greedy,
    /// A random token.
    Random {
        /// Divides the logits; 1 leaves them.
        temperature: f32,
        /// Keeps this many tokens; 0 keeps all.
        top_k: usize,
        /// Keeps the smallest set of tokens with at least this probability; 1 keeps all.
        top_p: f32,
        /// Start of the random stream.
        seed: u64,
    },
}

impl Sampling {
    /// Whether chance decides. At temperature 0 it does not.
    pub fn is_random(&self) -> bool {
        matches!(self, Self::Random { temperature, .. } if *temperature > 0.0)
    }

    /// The random stream with a number.
    fn stream(&self, number: usize) -> ChaCha8Rng {
        let seed = if let Self::Random { seed, .. } = self { *seed } else { 0 };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number as u64);
        rng
    }

    /// Tokens that temperature, top-k and top-p leave, with their new scores, the most probable first; at least `keep`
    /// of those whose score is finite.
    fn warped(&self, scores: &[f32], keep: usize) -> Vec<(u32, f32)> {
        let Self::Random { temperature, top_k, top_p, .. } = *self else { return Vec::new() };
        let mut tokens: Vec<(u32, f32)> = scores
            .iter()
            .enumerate()
            .filter(|(_, s)| s.is_finite())
            .map(|(i, &s)| (i as u32, s / temperature))
            .collect();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if top_k > 0 {
            tokens.truncate(top_k.max(keep));
        }
        let weights = weights(&tokens);
        let whole: f64 = weights.iter().sum();
        let mut total = 0.0;
        let last = weights.iter().position(|weight| {
            total += weight;
            total >= f64::from(top_p) * whole
        });
        if let Some(last) = last {
            tokens.truncate((last + 1).max(keep));
        }
        tokens
    }
}

/// Probabilities up to a factor, given scores of which the first is the largest.
fn weights(tokens: &[(u32, f32)]) -> Vec<f64> {
    let largest = tokens.first().map_or(0.0, |token| token.1);
    tokens.iter().map(|token| f64::from(token.1 - largest).exp()).collect()
}

/// The choice for one answer, with its own random stream.
pub(super) struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// The sampler of answer `number` to a prompt: not of the batch, so that no neighbor changes what it draws.
    pub(super) fn new(sampling: &Sampling, number: usize) -> Self {
        Self { sampling: sampling.clone(), rng: sampling.stream(number) }
    }

    /// Chooses a token. Ties, and a row in which every token is banned, go to the lowest id.
    pub(super) fn choose(&mut self, scores: &[f32]) -> u32 {
        if !self.sampling.is_random() {
            return greedy(scores);
        }
        let tokens = self.sampling.warped(scores, 1);
        let Some(&(first, _)) = tokens.first() else { return greedy(scores) };
        let weights = weights(&tokens);
        let target = unit(&mut self.rng) * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let chosen = weights.iter().position(|weight| {
            sum += weight;
            sum > target
        });
        chosen.map_or(first, |index| tokens[index].0)
    }
}

/// The draws of one prompt's beams, with their own random stream.
pub(super) struct BeamSampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    keep: usize,
}

impl BeamSampler {
    /// The sampler of a prompt's beams, the same for every prompt; `None` when nothing is drawn.
    pub(super) fn new(sampling: &Sampling, stop_tokens: usize) -> Option<Self> {
        let rng = sampling.stream(0);
        // One more than the stop tokens, so that every beam can go on.
        let keep = (1 + stop_tokens).max(2);
        sampling.is_random().then(|| Self { sampling: sampling.clone(), rng, keep })
    }

    /// Applies temperature, top-k and top-p to the scores of one beam.
    pub(super) fn warp(&self, scores: &mut [f32]) {
        let kept = self.sampling.warped(scores, self.keep);
        scores.fill(f32::NEG_INFINITY);
        for (token, score) in kept {
            scores[token as usize] = score;
        }
    }

    /// Draws `count` different indices with probabilities proportional to the exponentials of `scores`, and orders them
    /// by score, the largest first.
    pub(super) fn draw(&mut self, scores: &[f32], count: usize) -> Vec<usize> {
        // The largest of scores with Gumbel noise are a draw without replacement.
        let noisy: Vec<f32> = scores
            .iter()
            .map(|&score| match score.is_finite() {
                true => score - (-(1.0 - unit(&mut self.rng)).ln()).ln() as f32,
                false => f32::NEG_INFINITY,
            })
            .collect();
        let mut drawn = largest(&noisy, count);
        drawn.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        drawn
    }
}

/// Indices of the `count` largest of scores without NaN, the largest first, the lowest index first among equals.
pub(super) fn largest(scores: &[f32], count: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(count + 1);
    for (index, &score) in scores.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|&last| scores[last] >= score) {
            continue;
        }
        best.insert(best.partition_point(|&other| scores[other] >= score), index);
        best.truncate(count);
    }
    best
}

fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The largest score's id, the lowest among equals.
fn greedy(scores: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &score) in scores.iter().enumerate() {
        if score > best.1 {
            best = (id as u32, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: &Sampling, scores: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, 0);
        (0..count).map(|_| sampler.choose(scores)).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(draws(&Sampling::Greedy, &[1.0, 3.0, 3.0], 1), [1]);
    }

    #[test]
    fn random_draws_follow_the_probabilities_and_the_seed() {
        let sampling = |seed| Sampling::Random { temperature: 1.0, top_k: 0, top_p: 1.0, seed };
        let scores = [0.0, 1.0f32.exp().ln() + 0.098_612_3, f32::NEG_INFINITY]; // odds 1 : 3
        let a = draws(&sampling(1), &scores, 4000);
        let share = a.iter().filter(|&&t| t == 1).count() as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
        assert!(!a.contains(&2));
        assert_eq!(a, draws(&sampling(1), &scores, 4000));
        assert_ne!(a, draws(&sampling(2), &scores, 4000));
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let top_k = Sampling::Random { temperature: 5.0, top_k: 2, top_p: 1.0, seed: 3 };
        assert!(draws(&top_k, &[1.0, 0.9, 0.8], 200).iter().all(|&t| t < 2));
        let top_p = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.5, seed: 3 };
        assert!(draws(&top_p, &[2.0, 1.0, 0.0], 200).iter().all(|&t| t == 0));
    }

    #[test]
    fn the_largest_come_in_order_and_the_first_of_equals_first() {
        assert_eq!(largest(&[1.0, 3.0, 2.0, 3.0, 0.0], 3), [1, 3, 2]);
        assert_eq!(largest(&[1.0, f32::NEG_INFINITY], 5), [0, 1]);
        assert_eq!(largest(&[f32::NEG_INFINITY; 3], 2), [0, 1]);
        assert!(largest(&[1.0], 0).is_empty());
    }

    fn beam_sampler(top_k: usize, top_p: f32) -> BeamSampler {
        let sampling = Sampling::Random { temperature: 2.0, top_k, top_p, seed: 1 };
        BeamSampler::new(&sampling, 1).unwrap_or_else(|| unreachable!("the temperature is above 0"))
    }

    #[test]
    fn a_beam_keeps_a_token_that_goes_on_besides_the_stop_token() {
        let infinite = f32::NEG_INFINITY;
        for (top_k, top_p, expected) in [
            (1, 1.0, [infinite, 4.0, 2.0, infinite]),
            (0, 0.01, [infinite, 4.0, 2.0, infinite]),
            (3, 1.0, [1.0, 4.0, 2.0, infinite]),
            (0, 1.0, [1.0, 4.0, 2.0, 0.5]),
        ] {
            let mut scores = [2.0, 8.0, 4.0, 1.0];
            beam_sampler(top_k, top_p).warp(&mut scores);
            assert_eq!(scores, expected, "{top_k} {top_p}");
        }
        assert!(BeamSampler::new(&Sampling::Greedy, 1).is_none());
    }

    #[test]
    fn draws_are_without_replacement_and_in_order() {
        let probabilities = [0.5f64, 0.3, 0.2, 0.0];
        let scores = probabilities.map(|p| p.ln() as f32);
        let mut sampler = beam_sampler(0, 1.0);
        let mut counts = [0; 4];
        for _ in 0..20_000 {
            let drawn = sampler.draw(&scores, 2);
            assert!(drawn[0] < drawn[1], "the more probable first: {drawn:?}");
            drawn.iter().for_each(|&index| counts[index] += 1);
        }
        for (index, p) in probabilities.into_iter().enumerate() {
            let second = |(other, q): (usize, f64)| if other == index { 0.0 } else { q * p / (1.0 - q) };
            let expected: f64 = p + probabilities.into_iter().enumerate().map(second).sum::<f64>();
            let share = f64::from(counts[index]) / 20_000.0;
            assert!((share - expected).abs() < 0.015, "{index}: {share} {expected}");
        }
        // When chance leaves too few, improbable ones fill up.
        assert_eq!(sampler.draw(&scores, 4), [0, 1, 2, 3]);
    }
}
