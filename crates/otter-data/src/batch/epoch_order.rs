//! Which samples an epoch gives out, in which order, and to which rank.
//!
//! The order depends on the seed, the epoch and the sizes of the sets, never on threads or on the data. What is held
//! is four bytes a sample of one epoch.

use std::ops::Range;

use crate::config::Sampling;
use crate::error::{DataError, Result};
use crate::sample::python_random::PythonRandom;

/// The sets of a data set as runs of sample indices, with the share of an epoch each of them gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mixture {
    /// Samples of each set.
    sets: Vec<Range<u32>>,
    /// Samples an epoch takes of each set; `None`: every sample once, which needs no sets.
    quotas: Option<Vec<usize>>,
}

impl Mixture {
    /// `weights`: one a set, in any unit; `None` for every sample once. `epoch`: samples of an epoch with weights (default:
    /// as many as there are).
    ///
    /// # Errors
    /// When a weight is negative or not finite, all are zero, a set is too small a share to get a single sample, or a set
    /// without samples has a weight.
    pub fn new(sets: Vec<(String, Range<u32>, Option<f64>)>, epoch: Option<usize>) -> Result<Self> {
        let ranges: Vec<Range<u32>> = sets.iter().map(|(_, range, _)| range.clone()).collect();
        if sets.iter().all(|(_, _, weight)| weight.is_none()) {
            return match epoch {
                None => Ok(Self { sets: ranges, quotas: None }),
                Some(_) => Err(DataError::Config(
                    "samples_per_epoch needs a `weight` in every set; give the weights, or leave it away"
                        .into(),
                )),
            };
        }
        let mut weights = Vec::with_capacity(sets.len());
        for (name, range, weight) in &sets {
            let bad = |problem: &str| Err(DataError::Config(format!("set {name}: {problem}")));
            match *weight {
                None => return bad("no `weight`, but another set has one; give one to every set"),
                Some(weight) if !weight.is_finite() || weight < 0.0 => {
                    return bad(&format!("weight {weight}; give a number of at least 0"));
                }
                Some(weight) if weight > 0.0 && range.is_empty() => {
                    return bad("it has a weight but no sample; check its files");
                }
                Some(weight) => weights.push(weight),
            }
        }
        let total = epoch.unwrap_or_else(|| ranges.iter().map(|range| range.len()).sum());
        let quotas = shares(&weights, total).ok_or_else(|| {
            DataError::Config("all weights of the sets are 0; give one of them more".into())
        })?;
        for ((name, _, _), (quota, weight)) in sets.iter().zip(quotas.iter().zip(&weights)) {
            if *quota == 0 && *weight > 0.0 {
                return Err(DataError::Config(format!(
                    "set {name}: its weight {weight} is less than one of the {total} samples of an epoch; raise \
                     samples_per_epoch, or the weight"
                )));
            }
        }
        Ok(Self { sets: ranges, quotas: Some(quotas) })
    }

    /// Samples of an epoch.
    pub fn epoch_len(&self) -> usize {
        match &self.quotas {
            None => self.sets.iter().map(|set| set.len()).sum(),
            Some(quotas) => quotas.iter().sum(),
        }
    }

    /// Sample indices in the order of an epoch; the same for the same seed, epoch and sets.
    ///
    /// With weights, a set is walked through in one permutation after another, which go on from epoch to epoch: whatever
    /// its share, none of its samples comes a second time more often than another, but for one.
    pub fn order(&self, sampling: Sampling, seed: u64, epoch: u64) -> Vec<u32> {
        let mut random = random(&[seed, epoch]);
        let Some(quotas) = &self.quotas else {
            return epoch_order_with(&mut random, self.epoch_len(), sampling);
        };
        let mut order = Vec::with_capacity(self.epoch_len());
        for (number, (set, &quota)) in self.sets.iter().zip(quotas).enumerate() {
            if sampling == Sampling::WithReplacement {
                order.extend((0..quota).map(|_| set.start + random.below(set.len()) as u32));
                continue;
            }
            let first = epoch * quota as u64;
            let mut walk =
                Walk { set: set.clone(), number, seed, sampling, pass: u64::MAX, order: Vec::new() };
            order.extend((first..first + quota as u64).map(|position| walk.at(position)));
        }
        if sampling != Sampling::Sequential {
            random.shuffle(&mut order);
        }
        order
    }
}

/// A set walked through again and again.
struct Walk {
    set: Range<u32>,
    number: usize,
    seed: u64,
    sampling: Sampling,
    /// The pass that `order` holds.
    pass: u64,
    order: Vec<u32>,
}

impl Walk {
    fn at(&mut self, position: u64) -> u32 {
        let len = self.set.len() as u64;
        if self.sampling == Sampling::Sequential {
            return self.set.start + (position % len) as u32;
        }
        if self.pass != position / len {
            self.pass = position / len;
            self.order = self.set.clone().collect();
            random(&[self.seed, self.pass, self.number as u64 + 1]).shuffle(&mut self.order);
        }
        self.order[(position % len) as usize]
    }
}

/// Whole shares of `total` in proportion to the weights, by largest remainder; `None` if all weights are zero.
fn shares(weights: &[f64], total: usize) -> Option<Vec<usize>> {
    // Divided first, so that no sum of large weights overflows.
    let largest = weights.iter().copied().fold(0.0, f64::max);
    if largest <= 0.0 {
        return None;
    }
    let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / largest / sum * total as f64).collect();
    let mut shares: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).filter(|&set| weights[set] > 0.0).collect();
    by_remainder.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())));
    let missing = total.saturating_sub(shares.iter().sum());
    by_remainder.into_iter().cycle().take(missing).for_each(|set| shares[set] += 1);
    Some(shares)
}

fn random(words: &[u64]) -> PythonRandom {
    let words: Vec<[u32; 2]> = words.iter().map(|&word| [word as u32, (word >> 32) as u32]).collect();
    PythonRandom::from_key(words.as_flattened())
}

fn epoch_order_with(random: &mut PythonRandom, samples: usize, sampling: Sampling) -> Vec<u32> {
    let mut order: Vec<u32> = (0..samples as u32).collect();
    match sampling {
        Sampling::Sequential => {}
        Sampling::WithoutReplacement => random.shuffle(&mut order),
        Sampling::WithReplacement => order.fill_with(|| random.below(samples) as u32),
    }
    order
}

/// Sample indices in the order of an epoch of one set without weights.
pub fn epoch_order(samples: usize, sampling: Sampling, seed: u64, epoch: u64) -> Vec<u32> {
    epoch_order_with(&mut random(&[seed, epoch]), samples, sampling)
}

/// One of several processes that train together. A run is one process so far and takes the default; a run on several
/// machines gives each its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// From 0.
    pub rank: usize,
    /// Number of processes.
    pub world: usize,
}

impl Default for Rank {
    fn default() -> Self {
        Self { rank: 0, world: 1 }
    }
}

impl Rank {
    /// The part of an epoch's order that is this rank's: of each `world * batch_size` samples its own `batch_size`. What
    /// is left at the end for less than a batch for everybody is given to nobody.
    pub fn part(self, order: Vec<u32>, batch_size: usize) -> Vec<u32> {
        if self.world == 1 {
            return order;
        }
        let batches = order.len() / (self.world * batch_size);
        let of_all = order.chunks_exact(self.world * batch_size).take(batches);
        of_all.flat_map(|all| &all[self.rank * batch_size..(self.rank + 1) * batch_size]).copied().collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mixture(sets: &[(u32, Option<f64>)], epoch: Option<usize>) -> Result<Mixture> {
        let mut start = 0;
        let named = sets.iter().enumerate().map(|(number, &(len, weight))| {
            let range = start..start + len;
            start += len;
            (format!("SET{number}"), range, weight)
        });
        Mixture::new(named.collect(), epoch)
    }

    #[test]
    fn without_weights_an_epoch_is_one_permutation() {
        let plain = mixture(&[(5, None), (4, None)], None).unwrap();
        assert_eq!(
            plain.order(Sampling::WithoutReplacement, 7, 3),
            epoch_order(9, Sampling::WithoutReplacement, 7, 3)
        );
        let mut sorted = plain.order(Sampling::WithoutReplacement, 7, 3);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..9));
    }

    #[test]
    fn weights_are_shares_of_an_epoch() {
        let mixed = mixture(&[(10, Some(1.0)), (1000, Some(3.0))], Some(100)).unwrap();
        let order = mixed.order(Sampling::WithoutReplacement, 1, 0);
        assert_eq!(order.len(), 100);
        assert_eq!(order.iter().filter(|&&sample| sample < 10).count(), 25);
        // The small set comes two and a half times, evenly; the large one goes on where it was.
        let mut small = [0; 10];
        order.iter().filter(|&&sample| sample < 10).for_each(|&sample| small[sample as usize] += 1);
        assert!(small.iter().all(|&times| times == 2 || times == 3), "{small:?}");
        let mut large: Vec<u32> = (0..13)
            .flat_map(|epoch| mixed.order(Sampling::WithoutReplacement, 1, epoch))
            .filter(|&sample| sample >= 10)
            .collect();
        assert_eq!(large.len(), 975);
        large.sort_unstable();
        large.dedup();
        assert_eq!(large.len(), 975, "no sample twice before all others came once");
        let sequential = mixed.order(Sampling::Sequential, 1, 0);
        assert_eq!(sequential[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        assert_eq!(sequential[25], 10);
    }

    #[test]
    fn weights_that_make_no_sense_are_refused() {
        let message = |sets: &[(u32, Option<f64>)], epoch| mixture(sets, epoch).unwrap_err().to_string();
        assert!(message(&[(5, Some(1.0)), (5, None)], None).contains("SET1: no `weight`"));
        assert!(message(&[(5, Some(-1.0))], None).contains("-1"));
        assert!(message(&[(5, Some(f64::NAN))], None).contains("NaN"));
        assert!(message(&[(5, Some(0.0))], None).contains("all weights"));
        assert!(message(&[(0, Some(1.0))], None).contains("no sample"));
        assert!(message(&[(5, Some(1.0)), (5, Some(1e9))], Some(10)).contains("SET0"));
        assert!(message(&[(5, None)], Some(10)).contains("samples_per_epoch"));
        // A set can be switched off.
        assert_eq!(mixture(&[(5, Some(0.0)), (5, Some(2.0))], Some(10)).unwrap().epoch_len(), 10);
    }

    proptest! {
        #[test]
        fn ranks_share_what_one_alone_would_get(
            samples in 0usize..200, world in 1usize..5, batch_size in 1usize..6, epoch in 0u64..3,
        ) {
            let whole = epoch_order(samples, Sampling::WithoutReplacement, 5, epoch);
            let parts: Vec<Vec<u32>> = (0..world)
                .map(|rank| Rank { rank, world }.part(whole.clone(), batch_size))
                .collect();
            if world > 1 {
                prop_assert!(parts.iter().all(|part| part.len() == samples / (world * batch_size) * batch_size));
            }
            // Step by step, the ranks' batches side by side are the global batch.
            let mut together: Vec<u32> = Vec::new();
            for step in 0..parts[0].len().div_ceil(batch_size) {
                for part in &parts {
                    together.extend(part.iter().skip(step * batch_size).take(batch_size));
                }
            }
            prop_assert_eq!(&together[..], &whole[..together.len()]);
        }

        #[test]
        fn shares_add_up(weights in proptest::collection::vec(0.0f64..1e12, 1..8), total in 0usize..100_000) {
            if let Some(shares) = shares(&weights, total) {
                prop_assert_eq!(shares.iter().sum::<usize>(), total);
                let sum: f64 = weights.iter().sum();
                for (share, weight) in shares.iter().zip(&weights) {
                    prop_assert!((*share as f64 - weight / sum * total as f64).abs() < 1.001);
                }
            }
        }
    }
}
