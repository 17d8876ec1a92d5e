//! Options of the toybox writer, and their bounds.

use serde::{Deserialize, Serialize};

use super::error::ToyboxError;
use super::language::Family;

/// Most queries of one family; bounds the memory of a run.
pub const MAX_QUERIES: usize = 200_000;

/// A number for each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names of the families say it")]
pub struct FamilyCounts {
    pub attribute: usize,
    pub referring: usize,
    pub counting: usize,
    pub relation: usize,
    pub difference: usize,
    pub binding: usize,
}

impl FamilyCounts {
    /// A total split by the shares of [`Family::share`]; what rounding leaves goes to binding.
    pub fn from_total(total: usize) -> Self {
        let part = |family: Family| (total as u128 * family.share() as u128 / 100) as usize;
        let [attribute, referring, counting, relation, difference] =
            [Family::Attribute, Family::Referring, Family::Counting, Family::Relation, Family::Difference]
                .map(part);
        let binding = total - attribute - referring - counting - relation - difference;
        Self { attribute, referring, counting, relation, difference, binding }
    }

    /// The same number for every family.
    pub fn each(count: usize) -> Self {
        Self {
            attribute: count,
            referring: count,
            counting: count,
            relation: count,
            difference: count,
            binding: count,
        }
    }

    /// The numbers times a factor, rounded up and at most what [`ToyboxOptions::validate`] accepts.
    pub fn scaled(self, factor: f64) -> Self {
        let scale = |count: usize| ((count as f64 * factor).ceil() as usize).min(MAX_QUERIES);
        Self {
            attribute: scale(self.attribute),
            referring: scale(self.referring),
            counting: scale(self.counting),
            relation: scale(self.relation),
            difference: scale(self.difference),
            binding: scale(self.binding),
        }
    }

    /// The number of one family.
    pub fn of(&self, family: Family) -> usize {
        match family {
            Family::Attribute => self.attribute,
            Family::Referring => self.referring,
            Family::Counting => self.counting,
            Family::Relation => self.relation,
            Family::Difference => self.difference,
            Family::Binding => self.binding,
        }
    }
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToyboxOptions {
    /// Seed of everything but the held-out split, which is fixed.
    pub seed: u64,
    /// Side of the pictures in pixels, 32 to 64.
    pub image_size: u32,
    /// Training queries per family; a family with 0 is not written.
    pub train: FamilyCounts,
    /// Evaluation queries per family; binding is written twice, with everything held out and with
    /// nothing held out, and an odd number is rounded up to whole pairs.
    pub eval: FamilyCounts,
    /// Most in-context examples of a training query, 0 to 16; the number is drawn from 0 up.
    pub train_shots: usize,
    /// Most in-context examples of a training query of binding, 4 to 32. It holds at least one
    /// example of every concept.
    pub binding_turns: usize,
    /// Queries per training episode of binding, 1 to 64; more reuse the examples more often.
    pub binding_queries: usize,
    /// Shots of the evaluation, each 0 to 16: in-context examples, for binding of each concept.
    pub eval_shots: Vec<usize>,
    /// Also write the training queries without their in-context examples.
    pub no_context_twin: bool,
}

impl Default for ToyboxOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            image_size: 32,
            train: FamilyCounts::from_total(12_000),
            eval: FamilyCounts::each(400),
            train_shots: 4,
            binding_turns: 8,
            binding_queries: 4,
            eval_shots: vec![0, 1, 2, 4],
            no_context_twin: true,
        }
    }
}

impl ToyboxOptions {
    /// Refuses options out of their bounds.
    pub fn validate(&self) -> Result<(), ToyboxError> {
        let within = |option: &str, found: usize, low: usize, high: usize| {
            if (low..=high).contains(&found) {
                Ok(())
            } else {
                Err(ToyboxError::option(option, found, format!("{low} to {high}")))
            }
        };
        within("image_size", self.image_size as usize, 32, 64)?;
        for family in Family::ALL {
            within(&format!("train.{family:?}").to_lowercase(), self.train.of(family), 0, MAX_QUERIES)?;
            within(&format!("eval.{family:?}").to_lowercase(), self.eval.of(family), 0, MAX_QUERIES)?;
        }
        within("train_shots", self.train_shots, 0, 16)?;
        within("binding_turns", self.binding_turns, 4, 32)?;
        within("binding_queries", self.binding_queries, 1, 64)?;
        if self.eval_shots.is_empty() || self.eval_shots.len() > 8 {
            let found = format!("{:?}", self.eval_shots);
            return Err(ToyboxError::option("eval_shots", found, "a list of 1 to 8 numbers"));
        }
        for (place, &shots) in self.eval_shots.iter().enumerate() {
            within("eval_shots", shots, 0, 16)?;
            if self.eval_shots[..place].contains(&shots) {
                let found = format!("{:?}", self.eval_shots);
                return Err(ToyboxError::option("eval_shots", found, "different numbers"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_is_valid() {
        ToyboxOptions::default().validate().unwrap();
    }

    #[test]
    fn scaling_rounds_up_and_is_bounded() {
        assert_eq!(FamilyCounts::each(10).scaled(0.25), FamilyCounts::each(3));
        assert_eq!(FamilyCounts::each(10).scaled(f64::INFINITY), FamilyCounts::each(MAX_QUERIES));
        assert_eq!(FamilyCounts::each(10).scaled(-1.0), FamilyCounts::each(0));
    }

    proptest! {
        #[test]
        fn totals_are_kept(total in 0usize..2_000_000_000) {
            let counts = FamilyCounts::from_total(total);
            prop_assert_eq!(Family::ALL.iter().map(|&family| counts.of(family)).sum::<usize>(), total);
        }

        #[test]
        fn only_options_in_their_bounds_pass(
            image_size in 0u32..100, train_shots in 0usize..40, turns in 0usize..60, queries in 0usize..100,
            shots in prop::collection::vec(0usize..20, 0..10), binding in 0usize..1_000_000,
        ) {
            let options = ToyboxOptions {
                image_size, train_shots, binding_turns: turns, binding_queries: queries,
                eval_shots: shots.clone(), train: FamilyCounts { binding, ..FamilyCounts::each(1) },
                ..ToyboxOptions::default()
            };
            let distinct: std::collections::BTreeSet<usize> = shots.iter().copied().collect();
            let valid = (32..=64).contains(&image_size) && train_shots <= 16 && (4..=32).contains(&turns)
                && (1..=64).contains(&queries) && binding <= MAX_QUERIES && (1..=8).contains(&shots.len())
                && distinct.len() == shots.len() && shots.iter().all(|&s| s <= 16);
            prop_assert_eq!(options.validate().is_ok(), valid);
        }
    }
}
