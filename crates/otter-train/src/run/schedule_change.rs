//! What a resumed run would change in its learning rate: schedules span a whole run, so another length is another schedule.

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::optim::{Schedule, ScheduleName};
use crate::run::directory::Resumable;

/// What `total` steps change in the learning rate of a run that was begun with the same configuration but for its length; `None`
/// when every step to come has the rate that it had.
///
/// # Errors
/// When more steps are made than the run is to have.
pub fn change(config: &TrainConfig, found: &Resumable, total: u64) -> Result<Option<String>> {
    let (made, before) = (found.state.step, found.state.total_steps);
    if made > total {
        let problem =
            format!("step {made} is made, and the run is to have {total}; raise train.steps or train.epochs");
        return Err(TrainError::checkpoint(&found.path, problem));
    }
    let (old, new) = (config.learning_rates(before), config.learning_rates(total));
    if total == before || same_from(&old, &new, made) {
        return Ok(None);
    }
    let rate =
        |schedule: &Schedule, step: u64| format!("{:.3e}", schedule.learning_rate(step.saturating_sub(1)));
    let next = (made + 1).min(total);
    let planned =
        if made < before { format!(" ({} as it was begun)", rate(&old, next)) } else { String::new() };
    Ok(Some(format!(
        "the run was begun for {before} steps and now has {total}, which is another schedule of the learning rate: step {made} had \
         {}, step {next} would have {}{planned}, and step {total}, the last, {}",
        rate(&old, made),
        rate(&new, next),
        rate(&new, total),
    )))
}

/// Whether two schedules with the same peak and shape agree in all steps after `made`, however far they go.
fn same_from(old: &Schedule, new: &Schedule, made: u64) -> bool {
    let warm = |schedule: &Schedule| made as f64 >= schedule.warmup;
    old.name == ScheduleName::Constant && (old.warmup == new.warmup || warm(old) && warm(new))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use otter_data::LoaderState;

    use super::*;
    use crate::run::trainer_state::TrainerState;

    /// What a run of `before` steps with so many made would change with `total`.
    fn found(schedule: &str, before: u64, made: u64, total: u64) -> Result<Option<String>> {
        let text = format!(
            "[model]\ninit_from = '/m'\n[train]\nrun_dir = '/r'\nsteps = {total}\n[schedule]\n{schedule}\n"
        );
        let config = TrainConfig::parse(&text, "run.toml", Path::new("/"), &[]).unwrap();
        let loader = LoaderState { epoch: 0, position: 0, seed: 1, samples: 1, batches: 0 };
        let state = TrainerState::new(&config, made, before, loader, 1).unwrap();
        change(&config, &Resumable { path: "/r/checkpoints/step".into(), state }, total)
    }

    #[test]
    fn another_length_is_another_schedule_unless_the_rate_stays() {
        let changes = |schedule, before, made, total| found(schedule, before, made, total).unwrap().is_some();
        for schedule in ["name = 'cosine'", "name = 'linear'", "warmup_steps = 2", "warmup_ratio = 0.1"] {
            assert!(!changes(schedule, 10, 4, 10), "{schedule}");
            assert!(changes(schedule, 10, 10, 20), "{schedule}: raised when it was finished");
            assert!(changes(schedule, 10, 4, 8), "{schedule}: lowered");
        }
        assert!(!changes("name = 'constant'", 10, 10, 20));
        assert!(!changes("name = 'constant'\nwarmup_steps = 6", 10, 4, 20));
        let part = "name = 'constant'\nwarmup_ratio = 0.5";
        assert!(changes(part, 10, 4, 20), "the warm-up goes on longer");
        assert!(changes(part, 10, 6, 20), "it begins again");
        assert!(!changes(part, 10, 10, 20), "it is over in both");
        assert!(found("", 10, 5, 4).unwrap_err().to_string().contains("step 5 is made"));
    }

    #[test]
    fn old_and_new_rates_are_told() {
        let told = found("name = 'linear'", 4, 2, 8).unwrap().unwrap();
        // 1e-5 falls by a quarter, then by an eighth a step.
        for part in [
            "step 2 had 7.500e-6",
            "step 3 would have 7.500e-6 (5.000e-6 as it was begun)",
            "step 8, the last, 1.250e-6",
        ] {
            assert!(told.contains(part), "no '{part}': {told}");
        }
        let told = found("name = 'linear'", 4, 4, 8).unwrap().unwrap();
        assert!(told.contains("step 4 had 2.500e-6, step 5 would have 5.000e-6, and"), "{told}");
    }
}
