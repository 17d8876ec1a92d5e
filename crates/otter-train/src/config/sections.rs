//! One TOML file describes a training run completely. Relative paths are relative to the file, except
//! `train.run_dir`, which is an output and relative to the working directory. The resolved configuration, with
//! every default filled in and every path absolute, is written into the run directory and repeats the run.

use std::path::{Path, PathBuf};

use otter_data::{DataConfig, Packing, Preset};
use otter_nn::QuantisedFormat;
use serde::{Deserialize, Serialize};

use crate::device::Dtype;
use crate::error::{Result, TrainError};
use crate::memory_plan::parse_bytes;
use crate::optimizer::{AdamWOptions, DecayRule, MomentPrecision};
use crate::overrides;
use crate::schedule::{Schedule, ScheduleName};

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Which model, and which of its parameters are trained.
    pub model: ModelSection,
    /// AdamW.
    #[serde(default)]
    pub optimizer: OptimizerSection,
    /// Learning rate over time.
    #[serde(default)]
    pub schedule: ScheduleSection,
    /// Length, batches, checkpoints, output.
    pub train: TrainSection,
    /// Training data.
    #[serde(default)]
    pub data: DataConfig,
    /// Held-out data; without it nothing is evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<EvalSection>,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Checkpoint directory to start from.
    pub init_from: PathBuf,
    /// Which parameters are trained. Default: `head`.
    #[serde(default)]
    pub freeze: Freeze,
    /// Parts of parameter names, with `freeze = "patterns"`: trained is what contains one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trainable: Vec<String>,
    /// Keep only the input of each decoder layer and run it again in the reverse pass: less memory, about a third
    /// more time. Default: false.
    #[serde(default)]
    pub recompute: bool,
    /// Keep large frozen matrices in blocks of 8 bits (`q8_0`) or 4 (`q4_k`), quantised as they are read; what is trained stays
    /// in 32 bits, and tables of tokens, vision tower and resampler have at least 8. Default: as the file has them, or what
    /// `train.memory` needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantise: Option<Quantise>,
}

/// Formats of frozen matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quantise {
    /// 8.5 bits an element.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4.5 bits an element.
    #[serde(rename = "q4_k")]
    Q4K,
}

impl From<Quantise> for QuantisedFormat {
    fn from(choice: Quantise) -> Self {
        match choice {
            Quantise::Q8_0 => Self::Q8_0,
            Quantise::Q4K => Self::Q4K,
        }
    }
}

impl From<QuantisedFormat> for Quantise {
    fn from(format: QuantisedFormat) -> Self {
        match format {
            QuantisedFormat::Q8_0 => Self::Q8_0,
            QuantisedFormat::Q4K => Self::Q4K,
        }
    }
}

/// Which parameters are trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freeze {
    /// The last public rule: Perceiver, gated cross-attention, input and output embeddings, and what the model's
    /// own configuration asks for.
    #[default]
    Head,
    /// The first release: the same without the output embeddings.
    V01,
    /// What `model.trainable` says.
    Patterns,
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSection {
    /// Peak learning rate. Default: 1e-5.
    pub learning_rate: f64,
    /// Decay rates of the moments. Default: [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the root of the second moment. Default: 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay. Default: 0.1.
    pub weight_decay: f64,
    /// Which parameters are decayed. Default: `matrices`.
    pub decay_rule: DecayRule,
    /// Clipping threshold of the global gradient norm; 0 switches clipping off. Default: 1.
    pub max_grad_norm: f64,
}

impl Default for OptimizerSection {
    fn default() -> Self {
        let options = AdamWOptions::default();
        Self {
            learning_rate: 1e-5,
            betas: [options.betas.0, options.betas.1],
            epsilon: options.epsilon,
            weight_decay: options.weight_decay,
            decay_rule: options.decay_rule,
            max_grad_norm: 1.0,
        }
    }
}

/// `[schedule]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSection {
    /// `constant`, `linear` or `cosine`. Default: `cosine`.
    pub name: ScheduleName,
    /// Warm-up in optimizer steps. Default: none. The first step of a warm-up has rate 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Warm-up as a part of all steps, instead of `warmup_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
}

/// How micro-batches are weighted within one optimizer step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccumulationLoss {
    /// Mean over all target tokens of the step: each token counts the same.
    #[default]
    Tokens,
    /// Mean of the means of the micro-batches, as the original: tokens of short answers count more.
    MicroBatches,
}

/// Which rows of the token tables are trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EmbeddingRows {
    /// `"all"`
    Word(AllRows),
    /// Only the rows of these tokens.
    Tokens(Vec<String>),
}

/// The word `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllRows {
    /// Every row.
    All,
}

/// What a checkpoint's model folder holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveWeights {
    /// A complete model.
    #[default]
    #[serde(alias = "whole")]
    Full,
    /// The trained parameters only, and where the model is that they belong to, `model.init_from`; it is needed to resume and
    /// to open them.
    #[serde(alias = "trained")]
    Trainable,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Where everything is written.
    pub run_dir: PathBuf,
    /// Length in optimizer steps. Give either this or `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Length in passes over the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Stop after this step with a checkpoint; the schedule still spans the whole run. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<u64>,
    /// Samples of a micro-batch, packed or not. Default: 1.
    #[serde(default = "one")]
    pub batch_size: usize,
    /// `batch`: the samples of a micro-batch stand one after another in as few rows as hold them, each seeing only
    /// itself, instead of every one in a row padded to the longest; losses and gradients are the same but for
    /// rounding. `off`: a row each. Default: `batch`; `off` with `data.preset = "reference"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// Longest packed row in tokens; a longer sample has a row to itself. Default: none, all samples of a micro-batch
    /// in one row, which needs no padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack_length: Option<usize>,
    /// Folder that keeps the features of the frozen vision tower in half precision, so that a picture is encoded once and
    /// not in every epoch; runs can share it. Relative to the working directory. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision_cache: Option<PathBuf>,
    /// Size up to which that folder grows, for one tower. Default: 50.
    #[serde(default = "default_vision_cache_gib")]
    pub vision_cache_gib: f64,
    /// Memory that the run may take, of the card where it computes on one, for example `"22GiB"`. What does not fit is made smaller, the cheapest change first:
    /// `model.recompute`, `train.moments`, and `model.quantise` as far as it is not given. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// How AdamW keeps its moments: `f32`, 8 bytes a trained parameter, or `8bit`, 2 bytes. Default: `f32`, or what
    /// `train.memory` needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<MomentPrecision>,
    /// Micro-batches of an optimizer step. Default: 1.
    #[serde(default = "one")]
    pub gradient_accumulation: usize,
    /// How micro-batches are weighted. Default: `tokens`.
    #[serde(default)]
    pub accumulation_loss: AccumulationLoss,
    /// `"all"` or a list of tokens such as `["<answer>"]`. Default: `"all"`.
    #[serde(default = "all_rows")]
    pub train_embedding_rows: EmbeddingRows,
    /// Seed of everything random; also of the data, unless `data.seed` is given. Default: 42.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Evaluate every so many steps and at the end; 0: only at the end. Default: 0.
    #[serde(default)]
    pub eval_every: u64,
    /// Checkpoint every so many steps and at the end; 0: only at the end. Default: 0.
    #[serde(default)]
    pub checkpoint_every: u64,
    /// How many of the newest checkpoints stay; 0: all. Default: 2.
    #[serde(default = "default_keep")]
    pub keep_checkpoints: usize,
    /// What a checkpoint's model folder holds. Default: `full`; `trainable` when the frozen part is quantised or larger than
    /// 4 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<SaveWeights>,
    /// Metrics every so many steps. Default: 1.
    #[serde(default = "one_step")]
    pub log_every: u64,
    /// Where the run computes: `cpu`, `cuda`, or `cuda:N` of several cards. Default: `cpu`.
    #[serde(default = "cpu", skip_serializing_if = "is_cpu")]
    pub device: String,
    /// `f32`, or on a card `bf16`: products of factors rounded to bfloat16, everything else in f32. Default: `f32`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dtype: Dtype,
    /// Computing threads; 0: one a core. Default: 0.
    #[serde(default)]
    pub threads: usize,
    /// Threads that prepare samples ahead. Default: 2.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Samples that may wait finished. Default: 16.
    #[serde(default = "default_prefetch")]
    pub prefetch: usize,
    /// Stop when a trained parameter receives no gradient although nothing excuses it. Default: true.
    #[serde(default = "yes")]
    pub require_gradients: bool,
}

/// `[eval]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalSection {
    /// Held-out data, read in order. `alpha` and `gray16` are by default those of `data`.
    pub data: DataConfig,
    /// Samples of a batch. Default: 1.
    #[serde(default = "one")]
    pub batch_size: usize,
    /// At most so many batches. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batches: Option<usize>,
}

fn one() -> usize {
    1
}
fn cpu() -> String {
    "cpu".to_owned()
}
fn is_cpu(device: &str) -> bool {
    device == "cpu"
}
fn is_default(dtype: &Dtype) -> bool {
    *dtype == Dtype::default()
}
fn one_step() -> u64 {
    1
}
fn default_seed() -> u64 {
    42
}
fn default_keep() -> usize {
    2
}
fn default_workers() -> usize {
    2
}
fn default_prefetch() -> usize {
    16
}
fn default_vision_cache_gib() -> f64 {
    50.0
}
fn yes() -> bool {
    true
}
fn all_rows() -> EmbeddingRows {
    EmbeddingRows::Word(AllRows::All)
}

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
            ("model.quantise=q5_k", "quantise"),
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
