//! What is made smaller for a run to fit its memory: `train.memory`.
//!
//! Every combination of what the configuration leaves open is planned, the cheapest first, and the first that fits is taken.
//! What costs only time comes before what changes the numbers a little, and that before what changes them more:
//! recompute, 8-bit moments, frozen matrices in 8 bits, in 4 bits.

use std::fmt;

use otter_nn::QuantizedFormat;

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::memory::{MemoryPlan, show_bytes};
use crate::optim::MomentPrecision;

/// What can be made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Run decoder layers again in the backward pass instead of keeping their activations.
    pub recompute: bool,
    /// How AdamW keeps its moments.
    pub moments: MomentPrecision,
    /// Blocks that large frozen matrices are kept in.
    pub quantize: Option<QuantizedFormat>,
}

impl Choice {
    /// What the configuration says, with the largest form of what it leaves open.
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            recompute: config.model.recompute,
            moments: config.train.moments.unwrap_or_default(),
            quantize: config.model.quantize,
        }
    }

    /// What a run chose, from its saved configuration.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn saved(config: &str) -> Result<Self> {
        let saved: TrainConfig = toml::from_str(config)
            .map_err(|error| TrainError::config("saved configuration", error.to_string().trim()))?;
        Ok(Self::of(&saved))
    }

    /// Writes the choice into a configuration.
    pub fn apply(self, config: &mut TrainConfig) {
        config.model.recompute = self.recompute;
        config.train.moments = Some(self.moments);
        config.model.quantize = self.quantize;
    }

    /// All that the configuration leaves open, the cheapest first.
    fn candidates(config: &TrainConfig) -> Vec<Self> {
        let moments = match config.train.moments {
            Some(given) => vec![given],
            None => vec![MomentPrecision::Full, MomentPrecision::EightBit],
        };
        let recompute = if config.model.recompute { vec![true] } else { vec![false, true] };
        let quantize = match config.model.quantize {
            Some(given) => vec![Some(given)],
            None => vec![None, Some(QuantizedFormat::Q8_0), Some(QuantizedFormat::Q4K)],
        };
        let mut all = Vec::new();
        for &quantize in &quantize {
            for &moments in &moments {
                all.extend(recompute.iter().map(|&recompute| Self { recompute, moments, quantize }));
            }
        }
        all
    }

    /// What changed against `before`, as keys of the configuration.
    fn changes(self, before: Self) -> Vec<&'static str> {
        let mut changes = Vec::new();
        if self.recompute != before.recompute {
            changes.push("model.recompute = true");
        }
        if self.moments != before.moments {
            changes.push("train.moments = \"8bit\"");
        }
        match self.quantize {
            _ if self.quantize == before.quantize => {}
            Some(QuantizedFormat::Q8_0) => changes.push("model.quantize = \"q8_0\""),
            Some(QuantizedFormat::Q4K) => changes.push("model.quantize = \"q4_k\""),
            None => {}
        }
        changes
    }
}

/// A choice, its plan, and the plan of what the configuration alone says.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// What was chosen.
    pub choice: Choice,
    /// What it takes.
    pub plan: MemoryPlan,
    before: (Choice, u64),
    limit: u64,
}

/// Takes the first choice whose plan fits `limit` bytes.
///
/// # Errors
/// When none does; the message names the shortfall and the largest items of the smallest plan.
pub fn fit(config: &TrainConfig, limit: u64, plan_of: impl Fn(Choice) -> MemoryPlan) -> Result<Fitted> {
    let largest = Choice::of(config);
    let mut smallest: Option<(Choice, MemoryPlan)> = None;
    for choice in Choice::candidates(config) {
        let plan = plan_of(choice);
        if plan.total() <= limit {
            let before = (largest, plan_of(largest).total());
            return Ok(Fitted { choice, plan, before, limit });
        }
        if smallest.as_ref().is_none_or(|(_, found)| plan.total() < found.total()) {
            smallest = Some((choice, plan));
        }
    }
    let Some((choice, plan)) = smallest else {
        return Err(TrainError::config("train.memory", "nothing can be chosen".to_owned()));
    };
    let mut items: Vec<_> = plan.items.iter().collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    let items: Vec<String> =
        items.iter().take(4).map(|item| format!("{} {}", item.name, show_bytes(item.bytes))).collect();
    let changes = choice.changes(largest);
    let with = if changes.is_empty() { String::new() } else { format!(" with {}", changes.join(", ")) };
    Err(TrainError::config(
        "train.memory",
        format!(
            "the run needs {}{with}, {} more than the {} given ({}). Give more, or lower train.batch_size or \
             data.max_seq_len, or train less (model.freeze, model.trainable)",
            show_bytes(plan.total()),
            show_bytes(plan.total() - limit),
            show_bytes(limit),
            items.join(", ")
        ),
    ))
}

impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, total) = (show_bytes(self.limit), show_bytes(self.plan.total()));
        let changes = self.choice.changes(self.before.0);
        if changes.is_empty() {
            return write!(
                f,
                "memory: at most {total} of {limit} are needed; nothing has to be made smaller"
            );
        }
        write!(
            f,
            "memory: {} do not fit {limit}; {} fit with {}",
            show_bytes(self.before.1),
            total,
            changes.join(", ")
        )
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::memory::PlanItem;
    use std::path::Path;

    fn config(overrides: &[&str]) -> TrainConfig {
        let text = "[model]\ninit_from = '/m'\n[train]\nrun_dir = '/r'\nsteps = 20\n";
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        TrainConfig::parse(text, "run.toml", Path::new("/"), &overrides).unwrap()
    }

    /// 100, 60 or 30 for weights, 80 or 20 for moments, 50 or 10 for activations.
    fn plan(choice: Choice) -> MemoryPlan {
        let moments = if choice.moments == MomentPrecision::Full { 80 } else { 20 };
        let weights = match choice.quantize {
            None => 100,
            Some(QuantizedFormat::Q8_0) => 60,
            Some(QuantizedFormat::Q4K) => 30,
        };
        let items = [
            ("weights", weights),
            ("optimizer moments", moments),
            ("activations", if choice.recompute { 10 } else { 50 }),
        ];
        MemoryPlan { items: items.map(|(name, bytes)| PlanItem::new(name, bytes, "")).into() }
    }

    #[test]
    fn the_cheapest_change_that_fits_is_taken() {
        let chosen = |overrides: &[&str], limit| {
            let fitted = fit(&config(overrides), limit, plan).unwrap();
            (fitted.choice.recompute, fitted.choice.moments, fitted.plan.total())
        };
        use MomentPrecision::{EightBit, Full};
        assert_eq!(chosen(&[], 230), (false, Full, 230));
        assert_eq!(chosen(&[], 229), (true, Full, 190));
        assert_eq!(chosen(&[], 189), (false, EightBit, 170));
        assert_eq!(chosen(&[], 169), (true, EightBit, 130));
        let quantized = |limit| fit(&config(&[]), limit, plan).unwrap().choice.quantize;
        assert_eq!(
            [130, 129, 90, 89, 60].map(quantized),
            [
                None,
                Some(QuantizedFormat::Q8_0),
                Some(QuantizedFormat::Q8_0),
                Some(QuantizedFormat::Q4K),
                Some(QuantizedFormat::Q4K)
            ]
        );
        // What is given stays.
        assert_eq!(chosen(&["train.moments=8bit"], 230), (false, EightBit, 170));
        assert_eq!(chosen(&["model.recompute=true"], 229), (true, Full, 190));
        assert!(fit(&config(&["train.moments=f32"]), 119, plan).is_err());
    }

    #[test]
    fn what_was_chosen_and_why_is_said() {
        let text = |limit| fit(&config(&[]), limit, plan).unwrap().to_string();
        assert!(text(1000).contains("nothing has to be made smaller"));
        let both = text(130);
        for expected in ["230 B do not fit 130 B", "model.recompute = true", "train.moments = \"8bit\""] {
            assert!(both.contains(expected), "{both}");
        }
        assert!(text(60).contains("model.quantize = \"q4_k\""), "{}", text(60));
        let error = fit(&config(&["model.quantize=q8_0"]), 80, plan).unwrap_err().to_string();
        for expected in ["train.memory", "90 B", "10 B more", "80 B given", "weights 60 B", "batch_size"] {
            assert!(error.contains(expected), "{error}");
        }
    }
}
