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

/// The choice for one sequence, with its own random stream.
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// The sampler of sequence `row`.
    pub fn new(sampling: &Sampling, row: usize) -> Self {
        let seed = if let Sampling::Random { seed, .. } = sampling { *seed } else { 0 };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(row as u64);
        Self { sampling: sampling.clone(), rng }
    }

    /// Chooses a token from `scores` (changed in place). Ties and a NaN-only row go to the lowest id.
    pub fn choose(&mut self, scores: &mut [f32]) -> u32 {
        let Sampling::Random { temperature, top_k, top_p, .. } = self.sampling else {
            return greedy(scores);
        };
        if temperature <= 0.0 {
            return greedy(scores);
        }
        let mut candidates: Vec<(u32, f32)> = scores
            .iter()
            .enumerate()
            .filter(|(_, s)| s.is_finite())
            .map(|(i, &s)| (i as u32, s / temperature))
            .collect();
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if top_k > 0 {
            candidates.truncate(top_k);
        }
        let Some(&(first, max)) = candidates.first() else { return greedy(scores) };
        let mut total: f64 = 0.0;
        let mut weights: Vec<f64> = candidates.iter().map(|c| f64::from(c.1 - max).exp()).collect();
        let whole: f64 = weights.iter().sum();
        let keep = weights
            .iter()
            .position(|w| {
                total += w;
                total >= f64::from(top_p) * whole
            })
            .map_or(weights.len(), |last| last + 1);
        weights.truncate(keep);
        let target = unit(&mut self.rng) * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let chosen = weights.iter().position(|w| {
            sum += w;
            sum > target
        });
        chosen.map_or(first, |index| candidates[index].0)
    }
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
        (0..count).map(|_| sampler.choose(&mut scores.to_vec())).collect()
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
}
