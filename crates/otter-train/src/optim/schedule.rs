//! Learning-rate schedules with warm-up.

use serde::{Deserialize, Serialize};

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Stays at the peak.
    Constant,
    /// Falls in a straight line to zero.
    Linear,
    /// Falls along half a cosine to zero.
    #[default]
    Cosine,
}

/// A learning-rate schedule over a known number of optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub name: ScheduleName,
    /// Learning rate at the end of warm-up.
    pub peak: f64,
    /// Warm-up in steps; a ratio of the total need not be a whole number.
    pub warmup: f64,
    /// Optimizer steps of the whole run.
    pub total: u64,
}

impl Schedule {
    /// Factor on the peak for a step, counted from 0. With warm-up, step 0 has factor 0.
    pub fn factor(&self, step: u64) -> f64 {
        let (step, total) = (step as f64, self.total as f64);
        if step < self.warmup {
            return step / self.warmup.max(1.0);
        }
        let falling = (total - self.warmup).max(1.0);
        match self.name {
            ScheduleName::Constant => 1.0,
            ScheduleName::Linear => ((total - step) / falling).max(0.0),
            ScheduleName::Cosine => {
                let progress = (step - self.warmup) / falling;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }

    /// Learning rate of a step, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(name: ScheduleName, warmup: f64, total: u64) -> Vec<f64> {
        let schedule = Schedule { name, peak: 1e-3, warmup, total };
        (0..total + 2).map(|step| schedule.learning_rate(step)).collect()
    }

    /// The rates of the golden run: cosine, two warm-up steps of eight.
    #[test]
    fn cosine_gives_the_rates_of_the_reference() {
        let expected = [
            0.0,
            0.0005,
            0.001,
            0.0009330127018922195,
            0.00075,
            0.0005,
            0.0002500000000000001,
            6.698729810778065e-05,
        ];
        assert_eq!(rates(ScheduleName::Cosine, 2.0, 8)[..8], expected);
    }

    #[test]
    fn linear_and_constant_follow_their_formulas() {
        assert_eq!(rates(ScheduleName::Linear, 0.0, 4), [0.001, 0.00075, 0.0005, 0.00025, 0.0, 0.0]);
        assert_eq!(rates(ScheduleName::Constant, 1.0, 2), [0.0, 0.001, 0.001, 0.001]);
        // Beyond the end of a linear schedule the rate stays at zero.
        assert_eq!(rates(ScheduleName::Linear, 0.0, 1)[2], 0.0);
    }

    #[test]
    fn a_warm_up_ratio_is_not_rounded() {
        let schedule = Schedule { name: ScheduleName::Constant, peak: 1.0, warmup: 2.5, total: 10 };
        assert_eq!(schedule.factor(1), 0.4);
        assert_eq!(schedule.factor(2), 0.8);
        assert_eq!(schedule.factor(3), 1.0);
    }
}
