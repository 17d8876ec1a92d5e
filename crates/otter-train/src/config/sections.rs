//! One TOML file describes a training run completely. Relative paths are relative to the file, except
//! `train.run_dir`, which is an output and relative to the working directory. The resolved configuration, with
//! every default filled in and every path absolute, is written into the run directory and repeats the run.

use std::path::PathBuf;

use otter_data::{DataConfig, Packing};
use otter_nn::{DType, QuantizedFormat};
use serde::{Deserialize, Serialize};

use crate::optim::{AdamWOptions, DecayRule, MomentPrecision, ScheduleName};
use crate::run::device::products;

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
    /// Keep only the input of each decoder layer and run it again in the backward pass: less memory, about a third
    /// more time. Default: false.
    #[serde(default)]
    pub recompute: bool,
    /// Keep large frozen matrices in blocks of 8 bits (`q8_0`) or 4 (`q4_k`), quantized as they are read; what is trained stays
    /// in 32 bits, and tables of tokens, vision tower and resampler have at least 8. Default: as the file has them, or what
    /// `train.memory` needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<QuantizedFormat>,
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
    /// Memory that the run may take, of the GPU where it computes on one, for example `"22GiB"`. What does not fit is made smaller, the cheapest change first:
    /// `model.recompute`, `train.moments`, and `model.quantize` as far as it is not given. Default: no limit.
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
    /// What a checkpoint's model folder holds. Default: `full`; `trainable` when the frozen part is quantized or larger than
    /// 4 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<SaveWeights>,
    /// Metrics every so many steps. Default: 1.
    #[serde(default = "one_step")]
    pub log_every: u64,
    /// Where the run computes: `cpu`, `cuda`, or `cuda:N` of several GPUs. Default: `cpu`.
    #[serde(default = "cpu", skip_serializing_if = "is_cpu")]
    pub device: String,
    /// `f32`, or on a GPU `bf16`: products of factors rounded to bfloat16, everything else in f32. Default: `f32`.
    #[serde(default = "f32_products", deserialize_with = "products", skip_serializing_if = "is_f32")]
    pub dtype: DType,
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
fn f32_products() -> DType {
    DType::F32
}
fn is_f32(dtype: &DType) -> bool {
    *dtype == DType::F32
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
