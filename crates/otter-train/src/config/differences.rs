//! In what two configurations differ, as far as it matters for continuing a run exactly.

use std::collections::{BTreeMap, BTreeSet};

use super::flat::flat;
use crate::error::Result;
use crate::run::image_rules;

/// Keys that may differ between a checkpoint and the run that resumes it: length, logging and speed, and what is
/// only measured. Everything under `eval.` too.
const FREE_ON_RESUME: &[&str] = &[
    "train.steps",
    "train.epochs",
    "train.stop_after",
    "train.run_dir",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.save",
    "train.memory",
    "train.log_every",
    "train.threads",
    "train.workers",
    "train.prefetch",
    "train.vision_cache_gib",
    "train.require_gradients",
    "model.recompute",
    "data.parquet_cache_mib",
    "data.frame_cache_mib",
];

/// Keys that `train.memory` chooses where they are not set: a resumed run keeps what was chosen.
const CHOSEN: &[&str] = &["train.moments", "model.quantize"];

/// Keys in which two configurations, written as TOML, differ and that matter for an exact continuation, as lines
/// `key: saved -> present`.
///
/// # Errors
/// When one is not TOML.
pub fn differences(saved: &str, present: &str) -> Result<Vec<String>> {
    let (mut old, new) = (flat(saved)?, flat(present)?);
    for (key, value) in image_rules::KEYS {
        let key = format!("data.{key}");
        match new.get(&key) {
            Some(_) => drop(old.entry(key).or_insert_with(|| value.to_owned())),
            // Filled in from the saved run.
            None => drop(old.remove(&key)),
        }
    }
    let chooses = new.contains_key("train.memory");
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |map: &BTreeMap<String, String>, key: &String| {
        map.get(key).cloned().unwrap_or_else(|| "not set".to_owned())
    };
    Ok(keys
        .into_iter()
        .filter(|key| !FREE_ON_RESUME.contains(&key.as_str()) && !key.starts_with("eval."))
        .filter(|key| old.get(*key) != new.get(*key))
        .filter(|key| !(CHOSEN.contains(&key.as_str()) && chooses && !new.contains_key(*key)))
        .map(|key| format!("{key}: {} -> {}", shown(&old, key), shown(&new, key)))
        .collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::TrainConfig;

    const TEXT: &str = "[model]\ninit_from = '/m'\n[train]\nrun_dir = '/r'\nsteps = 20\n";

    fn toml(overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        let config = TrainConfig::parse(TEXT, "run.toml", std::path::Path::new("/"), &overrides);
        config.unwrap().to_toml().unwrap()
    }

    #[test]
    fn only_keys_that_change_the_result_count_as_differences() {
        let base = toml(&[]);
        let found = |overrides: &[&str]| differences(&base, &toml(overrides)).unwrap();
        let free = ["train.steps=40", "train.log_every=5", "eval.data.max_seq_len=3"];
        assert_eq!(found(&free), Vec::<String>::new());
        let on = |device: &str| toml(&[&format!("train.device={device}")]);
        assert_eq!(differences(&on("cuda:1"), &on("cuda")).unwrap(), Vec::<String>::new());
        assert_eq!(found(&["train.device=cuda:1"]), ["train.device: not set -> \"cuda\""]);
        let changed = found(&["optimizer.learning_rate=2e-3", "schedule.warmup_steps=3"]);
        assert_eq!(
            changed,
            ["optimizer.learning_rate: 0.00001 -> 0.002", "schedule.warmup_steps: not set -> 3"]
        );
    }

    #[test]
    fn what_a_memory_limit_chose_is_no_difference() {
        let saved = toml(&["train.memory=1GiB", "train.moments=8bit"]);
        assert_eq!(differences(&saved, &toml(&["train.memory=2GiB"])).unwrap(), Vec::<String>::new());
        assert_eq!(differences(&saved, &toml(&[])).unwrap(), ["train.moments: \"8bit\" -> not set"]);
        let other = toml(&["train.memory=1GiB", "train.moments=f32"]);
        assert_eq!(differences(&saved, &other).unwrap(), ["train.moments: \"8bit\" -> \"f32\""]);
    }
}
