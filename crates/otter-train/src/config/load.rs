//! Reading a configuration, filling in its defaults, checking it.

use std::path::Path;

use otter_data::{Packing, Preset};

use super::{Freeze, TrainConfig, overrides};
use crate::error::{Result, TrainError};
use crate::optim::{AdamWOptions, Schedule};
use otter_io::text::parse_bytes;

impl TrainConfig {
    /// Reads a file and applies `key=value` overrides by dotted path (`train.steps=20`). Paths given as overrides
    /// are relative to the working directory.
    ///
    /// # Errors
    /// When the file cannot be read, or a key or value is not known.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = otter_checkpoint::read_text_file(path)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder).map_err(TrainError::io(folder, "resolve"))?;
        Self::parse(&text, &path.display().to_string(), &folder, overrides)
    }

    /// As [`TrainConfig::load`] for a text; `place` names it in messages, `folder` resolves its relative paths.
    ///
    /// # Errors
    /// As [`TrainConfig::load`].
    pub fn parse(text: &str, place: &str, folder: &Path, overrides: &[String]) -> Result<Self> {
        let mut table: toml::Table =
            toml::from_str(text).map_err(|error| TrainError::config(place, error.to_string().trim()))?;
        overrides::canonicalize(&mut table);
        overrides::apply(&mut table, overrides)?;
        inherit_seed(&mut table);
        let mut config: Self = overrides::deserialize(table, place)?;
        config.resolve(folder)?;
        config.validate(place)?;
        Ok(config)
    }

    /// The configuration as TOML, to be written into the run directory.
    ///
    /// # Errors
    /// When a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| TrainError::config("configuration", error.to_string()))
    }

    /// Bytes that the run may take.
    ///
    /// # Errors
    /// When `train.memory` is no size.
    pub fn memory_limit(&self) -> Result<Option<u64>> {
        let parse = |text: &String| {
            parse_bytes(text).map_err(|problem| {
                TrainError::config("train.memory", format!("`{text}`: {problem}; give one like \"22GiB\""))
            })
        };
        self.train.memory.as_ref().map(parse).transpose()
    }

    /// Whether rows are packed.
    pub fn packing(&self) -> Packing {
        self.train.packing.unwrap_or(match self.data.preset {
            Preset::Repaired => Packing::Batch,
            Preset::Reference => Packing::Off,
        })
    }

    /// Constants of the optimizer.
    pub fn adamw(&self) -> AdamWOptions {
        let section = &self.optimizer;
        AdamWOptions {
            betas: (section.betas[0], section.betas[1]),
            epsilon: section.epsilon,
            weight_decay: section.weight_decay,
            decay_rule: section.decay_rule,
            moments: self.train.moments.unwrap_or_default(),
        }
    }

    /// Optimizer steps of the whole run, for data of so many samples. A fraction of a step is made whole.
    pub fn total_steps(&self, samples: usize) -> u64 {
        if let Some(steps) = self.train.steps {
            return steps;
        }
        let batches = samples.div_ceil(self.train.batch_size) as f64;
        let steps = self.train.epochs.unwrap_or(1.0) * batches / self.train.gradient_accumulation as f64;
        (steps.ceil() as u64).max(1)
    }

    /// The learning-rate schedule over `total` optimizer steps.
    pub fn learning_rates(&self, total: u64) -> Schedule {
        let warmup = match (self.schedule.warmup_steps, self.schedule.warmup_ratio) {
            (Some(steps), _) => steps as f64,
            (None, Some(ratio)) => ratio * total as f64,
            (None, None) => 0.0,
        };
        Schedule { name: self.schedule.name, peak: self.optimizer.learning_rate, warmup, total }
    }

    fn resolve(&mut self, folder: &Path) -> Result<()> {
        self.model.init_from = folder.join(&self.model.init_from);
        self.data.resolve(folder);
        if let Some(eval) = &mut self.eval {
            eval.data.resolve(folder);
        }
        let run_dir = &self.train.run_dir;
        self.train.run_dir = std::path::absolute(run_dir).map_err(TrainError::io(run_dir, "resolve"))?;
        if let Some(folder) = &mut self.train.vision_cache {
            *folder = std::path::absolute(&*folder).map_err(TrainError::io(folder.as_path(), "resolve"))?;
        }
        Ok(())
    }

    fn validate(&self, place: &str) -> Result<()> {
        let wrong = |problem: String| Err(TrainError::config(place, problem));
        let (optimizer, schedule, train) = (&self.optimizer, &self.schedule, &self.train);
        self.memory_limit()?;
        for (key, value) in [
            ("optimizer.learning_rate", optimizer.learning_rate),
            ("optimizer.weight_decay", optimizer.weight_decay),
            ("optimizer.max_grad_norm", optimizer.max_grad_norm),
            ("schedule.warmup_ratio", schedule.warmup_ratio.unwrap_or(0.0)),
            ("train.vision_cache_gib", train.vision_cache_gib),
        ] {
            if !value.is_finite() || value < 0.0 {
                return wrong(format!("{key} is {value}; give a finite number that is not negative"));
            }
        }
        if !(optimizer.epsilon.is_finite() && optimizer.epsilon > 0.0) {
            return wrong(format!("optimizer.epsilon is {}; give a positive number", optimizer.epsilon));
        }
        if let Some(beta) = optimizer.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return wrong(format!("optimizer.betas contains {beta}; give numbers from 0 to below 1"));
        }
        if schedule.warmup_steps.is_some() && schedule.warmup_ratio.is_some() {
            return wrong("schedule.warmup_steps and schedule.warmup_ratio are both given; keep one".into());
        }
        match (train.steps, train.epochs) {
            (Some(_), Some(_)) => {
                return wrong("train.steps and train.epochs are both given; keep one".into());
            }
            (None, None) => return wrong("give the length of the run as train.steps or train.epochs".into()),
            (Some(0), None) => return wrong("train.steps is 0; give at least 1".into()),
            (None, Some(epochs)) if !(epochs.is_finite() && epochs > 0.0 && epochs <= 1e9) => {
                return wrong(format!("train.epochs is {epochs}; give a positive number"));
            }
            _ => {}
        }
        for (key, value, most) in [
            ("train.batch_size", train.batch_size, 1 << 20),
            ("train.gradient_accumulation", train.gradient_accumulation, 1 << 20),
            ("train.log_every", usize::try_from(train.log_every).unwrap_or(usize::MAX), usize::MAX),
            ("eval.batch_size", self.eval.as_ref().map_or(1, |eval| eval.batch_size), 1 << 20),
            ("eval.max_batches", self.eval.as_ref().and_then(|e| e.max_batches).unwrap_or(1), usize::MAX),
        ] {
            if value == 0 || value > most {
                return wrong(format!("{key} is {value}; give a number from 1 to {most}"));
            }
        }
        if let Some(length) = train.pack_length {
            if length == 0 || length > 1 << 24 {
                return wrong(format!("train.pack_length is {length}; give a number from 1 to {}", 1 << 24));
            }
            if self.packing() == Packing::Off {
                return wrong("train.pack_length is given, but rows are not packed; set train.packing = \"batch\" or remove it".into());
            }
        }
        let patterns = &self.model.trainable;
        match self.model.freeze {
            Freeze::Patterns if patterns.iter().all(String::is_empty) => wrong(
                "model.freeze is \"patterns\" but model.trainable lists none; add parts of parameter names"
                    .into(),
            ),
            Freeze::Head | Freeze::V01 if !patterns.is_empty() => wrong(
                "model.trainable is given but model.freeze is not \"patterns\"; set that or remove the list"
                    .into(),
            ),
            _ => Ok(()),
        }
    }
}

/// Without its own seed the data takes `train.seed`.
fn inherit_seed(table: &mut toml::Table) {
    let seed = table.get("train").and_then(|train| train.get("seed")).cloned();
    let Some(seed) = seed else { return };
    let data = table.entry("data").or_insert_with(|| toml::Table::new().into());
    if let Some(data) = data.as_table_mut() {
        data.entry("seed").or_insert(seed);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::EmbeddingRows;
    use crate::optim::ScheduleName;

    const TEXT: &str = r#"
        [model]
        init_from = "base"
        [train]
        run_dir = "runs/a"
        steps = 20
        [data]
        mimicit_yaml = "sets.yaml"
        [eval.data]
        mimicit_yaml = "/abs/eval.yaml"
    "#;

    fn parse(overrides: &[&str]) -> Result<TrainConfig> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        TrainConfig::parse(TEXT, "run.toml", Path::new("/configs"), &overrides)
    }

    fn message(overrides: &[&str]) -> String {
        parse(overrides).unwrap_err().to_string()
    }

    #[test]
    fn paths_are_resolved_and_defaults_filled_in() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.model.init_from, Path::new("/configs/base"));
        assert_eq!(config.data.mimicit_yaml.as_deref(), Some(Path::new("/configs/sets.yaml")));
        assert_eq!(config.eval.unwrap().data.mimicit_yaml.as_deref(), Some(Path::new("/abs/eval.yaml")));
        assert!(config.train.run_dir.is_absolute());
        assert_eq!(config.optimizer.weight_decay, 0.1);
        assert_eq!(config.model.freeze, Freeze::Head);
    }

    #[test]
    fn the_saved_configuration_repeats_the_run() {
        let config = parse(&[
            "train.train_embedding_rows=[\"<answer>\"]",
            "optimizer.learning_rate=3e-4",
            "schedule.warmup_ratio=0.03",
            "data.keep_symbols=true",
        ])
        .unwrap();
        let text = config.to_toml().unwrap();
        let again = TrainConfig::parse(&text, "saved", Path::new("/elsewhere"), &[]).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.train.train_embedding_rows, EmbeddingRows::Tokens(vec!["<answer>".into()]));
    }

    #[test]
    fn overrides_reach_every_section() {
        let config =
            parse(&["train.epochs=1.5", "train.batch_size=4", "model.init_from=/m", "schedule.name=linear"]);
        let config = config.unwrap();
        // A length given as override replaces the one in the file.
        assert_eq!((config.train.steps, config.train.epochs), (None, Some(1.5)));
        assert_eq!(config.model.init_from, Path::new("/m"));
        assert_eq!(config.total_steps(10), 5); // 3 batches an epoch, one and a half times
        assert_eq!(config.schedule.name, ScheduleName::Linear);
        let here = parse(&["model.init_from=m"]).unwrap().model.init_from;
        assert_eq!(here, std::env::current_dir().unwrap().join("m"));
    }

    #[test]
    fn the_seed_reaches_the_data() {
        assert_eq!(parse(&["train.seed=7"]).unwrap().data.seed, 7);
        assert_eq!(parse(&["train.seed=7", "data.seed=8"]).unwrap().data.seed, 8);
        assert_eq!(parse(&[]).unwrap().data.seed, 42);
    }

    #[test]
    fn rows_are_packed_unless_the_samples_are_the_originals() {
        assert_eq!(parse(&[]).unwrap().packing(), Packing::Batch);
        assert_eq!(parse(&["data.preset=reference"]).unwrap().packing(), Packing::Off);
        assert_eq!(parse(&["train.packing=off"]).unwrap().packing(), Packing::Off);
        let both = parse(&["data.preset=reference", "train.packing=batch", "train.pack_length=512"]).unwrap();
        assert_eq!((both.packing(), both.train.pack_length), (Packing::Batch, Some(512)));
        assert!(message(&["train.packing=off", "train.pack_length=512"]).contains("rows are not packed"));
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        let cases = [
            ("train.stepz=3", "train.stepz", "train.steps"),
            ("trian.steps=3", "trian", "train"),
            ("train.learning_rate=1", "train.learning_rate", "optimizer.learning_rate"),
            ("data.max_seq_length=3", "data.max_seq_length", "data.max_seq_len"),
            ("eval.max_batch=3", "eval.max_batch", "eval.max_batches"),
        ];
        for (given, key, nearest) in cases {
            let found = message(&[given]);
            assert!(found.contains(&format!("`{key}`")), "{found}");
            assert!(found.contains(&format!("nearest known key is `{nearest}`")), "{found}");
        }
        let in_file = TEXT.replace("steps = 20", "steps = 20\nlog_evry = 2");
        let error = TrainConfig::parse(&in_file, "run.toml", Path::new("/"), &[]).unwrap_err().to_string();
        assert!(error.contains("run.toml") && error.contains("`train.log_every`"), "{error}");
    }

    #[test]
    fn wrong_values_say_what_is_expected() {
        let cases = [
            ("train.batch_size=0", "train.batch_size is 0"),
            ("train.epochs=-1", "train.epochs is -1"),
            ("eval.max_batches=0", "eval.max_batches is 0"),
            ("optimizer.betas=[0.9, 1.0]", "betas contains 1"),
            ("optimizer.decay_rule=all", "decay_rule"),
            ("model.trainable=[\"perceiver\"]", "model.freeze is not \"patterns\""),
            ("model.freeze=patterns", "model.trainable lists none"),
            ("train.pack_length=0", "train.pack_length is 0"),
            ("train.packing=rows", "packing"),
            ("train.memory=22XiB", "no unit"),
            ("train.moments=4bit", "moments"),
            ("model.quantize=q5_k", "quantize"),
            ("train.steps=twenty", "train.steps"),
            ("steps", "key=value"),
        ];
        for (given, expected) in cases {
            let found = message(&[given]);
            assert!(found.contains(expected), "{given}: {found}");
        }
        assert!(message(&["schedule.warmup_steps=1", "schedule.warmup_ratio=0.1"]).contains("both given"));
    }
}
