//! The `[data]` section of a training configuration.
//!
//! Defaults repair the defects of the original data path. Each
//! repair has a named switch, and `preset = "reference"` turns all of them back at once.

pub(crate) mod mixture_yaml;

use std::path::{Path, PathBuf};

use otter_media::{AlphaRule, Gray16Rule, ImageRules, ImageTransform, Orientation};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::files::json_text::one_or_many;
use crate::otter_dataset::{Manifest, dataset_directory};
use crate::streams::pretraining::StreamConfig;
use crate::text::labels::LabelRule;
use crate::text::prompt::InstructionFormat;

/// Task groups: the four of instruction tuning, where the group decides about placeholders and frames, and the two of
/// pre-training streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Group {
    /// Image placeholder in the first turn.
    ImageText,
    /// No image.
    TextOnly,
    /// Frames of one video, resampled to a fixed number.
    VideoText,
    /// Image placeholder in every turn.
    ImageTextInContext,
    /// Image–caption pairs of a pre-training stream.
    ImageCaption,
    /// Interleaved documents of a pre-training stream.
    Interleaved,
}

impl Group {
    /// The groups of instruction tuning in the order in which the original builds their loaders.
    pub const ALL: [Self; 4] = [Self::ImageText, Self::TextOnly, Self::VideoText, Self::ImageTextInContext];

    /// The name used in data lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageText => "IMAGE_TEXT",
            Self::TextOnly => "TEXT_ONLY",
            Self::VideoText => "VIDEO_TEXT",
            Self::ImageTextInContext => "IMAGE_TEXT_IN_CONTEXT",
            Self::ImageCaption => "IMAGE_CAPTION",
            Self::Interleaved => "INTERLEAVED",
        }
    }
}

/// One dataset: an instruction file with its images and, optionally, its contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// Name shown in messages.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Task group.
    pub group: Group,
    /// Directory of a data set in the format otter-dataset; then `instructions`, `images` and `train` are not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<PathBuf>,
    /// Instruction JSON, or an otter-dataset directory whose records are taken.
    #[serde(default, skip_serializing_if = "is_empty_path")]
    pub instructions: PathBuf,
    /// Image JSON, parquet file or folder of parts, tar archive or folder of them, otter-dataset directory, or a folder of image
    /// files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<PathBuf>,
    /// Train JSON, or an otter-dataset directory with contexts: which ids are samples, with which context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// Number of samples; 0 and -1 mean all.
    #[serde(default)]
    pub num_samples: i64,
    /// Share of an epoch, in any unit; all sets have one, or none. Without weights every sample comes once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Lines of which one may be put before a sample. A bare string is one description.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub task_description: Vec<String>,
    /// Only the samples whose records say one of these languages, by their codes such as `de`; empty: all.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
}

fn is_empty_path(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl SetConfig {
    /// Takes from an otter-dataset directory what it has, where `images` and `train` are not given.
    pub(crate) fn fill_from_dataset(&mut self, directory: &Path) -> Result<()> {
        let manifest = Manifest::read(directory)?;
        self.instructions = directory.to_owned();
        if manifest.images > 0 {
            self.images.get_or_insert_with(|| directory.to_owned());
        }
        if manifest.contexts > 0 {
            self.train.get_or_insert_with(|| directory.to_owned());
        }
        if self.name.is_empty() {
            self.name = manifest.name;
        }
        Ok(())
    }

    /// Replaces `dataset` by the paths that it stands for.
    fn resolve_dataset(&mut self) -> Result<()> {
        let named = |set: &Self| if set.name.is_empty() { String::new() } else { format!(" {}", set.name) };
        let Some(path) = self.dataset.take() else {
            if is_empty_path(&self.instructions) {
                return Err(DataError::Config(format!(
                    "set{} names no data; give `dataset` (an otter-dataset directory) or `instructions`",
                    named(self)
                )));
            }
            return Ok(());
        };
        if !is_empty_path(&self.instructions) || self.images.is_some() || self.train.is_some() {
            return Err(DataError::Config(format!(
                "set{} gives `dataset` and also `instructions`, `images` or `train`; keep one form",
                named(self)
            )));
        }
        let directory = dataset_directory(&path).ok_or_else(|| {
            DataError::format(
                &path,
                "`dataset` must be an otter-dataset directory with its manifest.json; make one with `otter data convert`, or give `instructions`",
            )
        })?;
        self.fill_from_dataset(&directory)
    }
}

/// Which set of switches is the starting point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The defects of the original are repaired.
    #[default]
    Repaired,
    /// Samples equal to those of the original.
    Reference,
}

/// Which images an in-context sample carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InContextImages {
    /// One media item per turn, made of the images of that turn's record.
    PerTurn,
    /// Only the images of the query record, although every turn has a placeholder.
    QueryOnly,
}

/// How several images of one record are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImagesOfRecord {
    /// Frames of one media item, one placeholder.
    Frames,
    /// One media item and one placeholder each.
    Media,
}

impl ImagesOfRecord {
    /// As configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Media => "media",
        }
    }
}

/// What happens to samples longer than `max_seq_len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// BOS and EOS count; the oldest in-context turns are dropped whole; a query turn that does
    /// not fit on its own is left out and counted.
    WholeTurns,
    /// Cut on the right, then add BOS and EOS.
    Reference,
}

/// How the text of a special token inside user text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpecialTokensInText {
    /// As ordinary characters.
    Plain,
    /// As the special token.
    Special,
}

/// How an epoch walks through the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// A new permutation in each epoch.
    WithoutReplacement,
    /// As many independent draws as there are samples.
    WithReplacement,
    /// In the order of the files.
    Sequential,
}

/// What an unusable sample does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadSample {
    /// Stops with an error that names it.
    Error,
    /// Is passed over and counted.
    Skip,
}

/// Where the random choice of a task description gets its seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemSeed {
    /// Seed, epoch and index.
    PerSample,
    /// The seed of epoch 0 for each sample of each epoch: always the same stream.
    Constant,
}

/// What a record without images does in an image group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordsWithoutImages {
    /// It is a bad sample.
    Error,
    /// It keeps its placeholder and has no media.
    Empty,
}

/// All switches, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Switches {
    /// See [`InContextImages`].
    pub in_context_images: InContextImages,
    /// See [`ImagesOfRecord`].
    pub images_of_record: ImagesOfRecord,
    /// Keep `-`, `/`, `:` and the like in questions and answers.
    pub keep_symbols: bool,
    /// Which positions are trained.
    pub label_rule: LabelRule,
    /// See [`Truncation`].
    pub truncation: Truncation,
    /// See [`SpecialTokensInText`].
    pub special_tokens_in_text: SpecialTokensInText,
    /// Resize and normalization.
    pub image_transform: ImageTransform,
    /// Stored orientation, transparency and gray of 16 bits.
    pub image_rules: ImageRules,
    /// See [`Sampling`].
    pub sampling: Sampling,
    /// See [`ItemSeed`].
    pub item_seed: ItemSeed,
    /// See [`RecordsWithoutImages`].
    pub records_without_images: RecordsWithoutImages,
    /// Put one of the set's task descriptions before each sample.
    pub with_task_description: bool,
}

impl Switches {
    fn of(preset: Preset) -> Self {
        match preset {
            Preset::Repaired => Self {
                in_context_images: InContextImages::PerTurn,
                images_of_record: ImagesOfRecord::Frames,
                keep_symbols: true,
                label_rule: LabelRule::Strict,
                truncation: Truncation::WholeTurns,
                special_tokens_in_text: SpecialTokensInText::Plain,
                image_transform: ImageTransform::Train,
                image_rules: ImageRules::default(),
                sampling: Sampling::WithoutReplacement,
                item_seed: ItemSeed::PerSample,
                records_without_images: RecordsWithoutImages::Error,
                with_task_description: true,
            },
            Preset::Reference => Self {
                in_context_images: InContextImages::QueryOnly,
                images_of_record: ImagesOfRecord::Frames,
                keep_symbols: false,
                label_rule: LabelRule::Reference,
                truncation: Truncation::Reference,
                special_tokens_in_text: SpecialTokensInText::Special,
                image_transform: ImageTransform::Train,
                image_rules: ImageRules::REFERENCE,
                sampling: Sampling::WithReplacement,
                item_seed: ItemSeed::Constant,
                records_without_images: RecordsWithoutImages::Empty,
                with_task_description: false,
            },
        }
    }
}

/// The `[data]` section. Give `mimicit_yaml` or `[[data.sets]]`, `[[data.streams]]`, or both kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Data list in the original's YAML form; its paths are relative to the YAML file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mimicit_yaml: Option<PathBuf>,
    /// Side length of the square images given to the vision tower.
    #[serde(default = "default_image_size")]
    pub image_size: usize,
    /// Longest sample in tokens.
    #[serde(default = "default_max_seq_len")]
    pub max_seq_len: usize,
    /// Prompt template.
    #[serde(default)]
    pub instruction_format: InstructionFormat,
    /// Frames per video.
    #[serde(default = "default_resample_frames")]
    pub resample_frames: usize,
    /// Without a train file: take `rel_ins_ids` as context instead of none.
    #[serde(default)]
    pub populate_rel_ins: bool,
    /// Seed of the order and of per-sample choices.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Samples of an epoch where the sets have weights (default: as many as there are).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_epoch: Option<usize>,
    /// What an unusable sample does.
    #[serde(default = "default_on_bad_sample")]
    pub on_bad_sample: OnBadSample,
    /// Memory for decompressed parquet pages, in MiB.
    #[serde(default = "default_parquet_cache_mib")]
    pub parquet_cache_mib: usize,
    /// Memory for decoded, preprocessed images that several samples share, in MiB; 0 keeps none.
    #[serde(default = "default_frame_cache_mib")]
    pub frame_cache_mib: usize,
    /// Starting point of the switches below.
    #[serde(default)]
    pub preset: Preset,
    /// Overrides [`Switches::in_context_images`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_context_images: Option<InContextImages>,
    /// Overrides [`Switches::images_of_record`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_of_record: Option<ImagesOfRecord>,
    /// Overrides [`Switches::keep_symbols`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_symbols: Option<bool>,
    /// Overrides [`Switches::label_rule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_rule: Option<LabelRule>,
    /// Overrides [`Switches::truncation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// Overrides [`Switches::special_tokens_in_text`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special_tokens_in_text: Option<SpecialTokensInText>,
    /// Overrides [`Switches::image_transform`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_transform: Option<ImageTransform>,
    /// Overrides [`ImageRules::orientation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orientation: Option<Orientation>,
    /// Overrides [`ImageRules::alpha`]. Default: `white`; `drop` with `preset = "reference"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<AlphaRule>,
    /// Overrides [`ImageRules::gray16`]. Default: `scale`; `clip` with `preset = "reference"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gray16: Option<Gray16Rule>,
    /// Overrides [`Switches::sampling`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// Overrides [`Switches::item_seed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_seed: Option<ItemSeed>,
    /// Overrides [`Switches::records_without_images`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records_without_images: Option<RecordsWithoutImages>,
    /// Overrides [`Switches::with_task_description`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_task_description: Option<bool>,
    /// The sets, where no YAML file is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetConfig>,
    /// Pre-training streams; their samples follow those of the sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamConfig>,
}

fn default_image_size() -> usize {
    224
}

fn default_max_seq_len() -> usize {
    2048
}

fn default_resample_frames() -> usize {
    32
}

fn default_seed() -> u64 {
    42
}

fn default_on_bad_sample() -> OnBadSample {
    OnBadSample::Error
}

fn default_parquet_cache_mib() -> usize {
    256
}

fn default_frame_cache_mib() -> usize {
    128
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            mimicit_yaml: None,
            image_size: default_image_size(),
            max_seq_len: default_max_seq_len(),
            instruction_format: InstructionFormat::default(),
            resample_frames: default_resample_frames(),
            populate_rel_ins: false,
            seed: default_seed(),
            samples_per_epoch: None,
            on_bad_sample: default_on_bad_sample(),
            parquet_cache_mib: default_parquet_cache_mib(),
            frame_cache_mib: default_frame_cache_mib(),
            preset: Preset::default(),
            in_context_images: None,
            images_of_record: None,
            keep_symbols: None,
            label_rule: None,
            truncation: None,
            special_tokens_in_text: None,
            image_transform: None,
            orientation: None,
            alpha: None,
            gray16: None,
            sampling: None,
            item_seed: None,
            records_without_images: None,
            with_task_description: None,
            sets: Vec::new(),
            streams: Vec::new(),
        }
    }
}

impl DataConfig {
    /// Makes relative paths absolute against the folder of the configuration file.
    pub fn resolve(&mut self, base_dir: &Path) {
        // `join` keeps absolute paths as they are.
        if let Some(path) = &mut self.mimicit_yaml {
            *path = base_dir.join(&*path);
        }
        for stream in &mut self.streams {
            stream.resolve(base_dir);
        }
        for set in &mut self.sets {
            if !is_empty_path(&set.instructions) {
                set.instructions = base_dir.join(&set.instructions);
            }
            for path in [&mut set.dataset, &mut set.images, &mut set.train].into_iter().flatten() {
                *path = base_dir.join(&*path);
            }
        }
    }

    /// The preset with the given switches on top.
    pub fn switches(&self) -> Switches {
        let base = Switches::of(self.preset);
        Switches {
            in_context_images: self.in_context_images.unwrap_or(base.in_context_images),
            images_of_record: self.images_of_record.unwrap_or(base.images_of_record),
            keep_symbols: self.keep_symbols.unwrap_or(base.keep_symbols),
            label_rule: self.label_rule.unwrap_or(base.label_rule),
            truncation: self.truncation.unwrap_or(base.truncation),
            special_tokens_in_text: self.special_tokens_in_text.unwrap_or(base.special_tokens_in_text),
            image_transform: self.image_transform.unwrap_or(base.image_transform),
            image_rules: ImageRules {
                orientation: self.orientation.unwrap_or(base.image_rules.orientation),
                alpha: self.alpha.unwrap_or(base.image_rules.alpha),
                gray16: self.gray16.unwrap_or(base.image_rules.gray16),
            },
            sampling: self.sampling.unwrap_or(base.sampling),
            item_seed: self.item_seed.unwrap_or(base.item_seed),
            records_without_images: self.records_without_images.unwrap_or(base.records_without_images),
            with_task_description: self.with_task_description.unwrap_or(base.with_task_description),
        }
    }

    /// The sets in group order, read from the YAML file where one is given.
    pub fn resolved_sets(&self) -> Result<Vec<SetConfig>> {
        let mut sets = match &self.mimicit_yaml {
            Some(_) if !self.sets.is_empty() => {
                return Err(DataError::Config(
                    "both mimicit_yaml and [[data.sets]] are given; keep one of them".into(),
                ));
            }
            Some(path) => mixture_yaml::read(path)?,
            None => self.sets.clone(),
        };
        if sets.is_empty() && self.streams.is_empty() {
            return Err(DataError::Config(
                "no data set is given; set mimicit_yaml, or add a [[data.sets]] or [[data.streams]] entry"
                    .into(),
            ));
        }
        for set in &mut sets {
            if !Group::ALL.contains(&set.group) {
                return Err(DataError::Config(format!(
                    "set {} is of group {}, which belongs under [[data.streams]]",
                    set.name,
                    set.group.name()
                )));
            }
            set.resolve_dataset()?;
            if set.name.is_empty() {
                set.name = set.instructions.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            }
            if set.group != Group::TextOnly && set.images.is_none() && self.preset == Preset::Repaired {
                return Err(DataError::Config(format!(
                    "set {} of group {} has no images; give `images` or use group TEXT_ONLY",
                    set.name,
                    set.group.name()
                )));
            }
        }
        sets.sort_by_key(|set| set.group);
        Ok(sets)
    }

    /// Checks the plain numbers.
    pub fn validate(&self) -> Result<()> {
        let limits = [
            ("image_size", self.image_size, 1, 4096),
            ("max_seq_len", self.max_seq_len, 1, 1 << 24),
            ("resample_frames", self.resample_frames, 1, 4096),
            ("frame_cache_mib", self.frame_cache_mib, 0, 1 << 24),
        ];
        for (name, value, low, high) in limits {
            if value < low || value > high {
                return Err(DataError::Config(format!(
                    "{name} is {value}; give a number from {low} to {high}"
                )));
            }
        }
        Ok(())
    }
}
