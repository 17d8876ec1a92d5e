//! Arguments of `data import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use otter_data::OutputForm;

use super::ImageRuleArguments;

pub(super) const IMPORT_EXAMPLES: &str = "Your own images and videos (columns: instruction, answer, image or images or video, id, context, language):
  otter data import own --annotations table.csv --images photos --out data/mine --name MINE
  otter data import own --annotations table.jsonl --videos clips --frames 16 --out data/clips
The sources of MIMIC-IT (docs/data-sources.md has their schemas):
  otter data import llava --annotations conversation_58k.json --images coco/train2017 --out data/LACONV
  otter data import sd --annotations train.json --images resized_images --out data/SD
  otter data import dc --annotations train.json --videos videos --fps 1 --out data/DC
  otter data import tvc --annotations tvc_train.jsonl --images frames --out data/TVC --to json
  otter data import e4d --annotations narrations.json --videos v2 --pairs replies.json --out data/E4D
As the original's converters wrote it: --to json --image-size 224 --alpha drop --gray16 clip
Stopped with Ctrl-C or killed, the same command goes on where it was.";

/// The sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ImportSource {
    /// A table of your own, CSV, TSV or one JSON object a line, with images or videos.
    Own,
    /// LLaVA's instructions over COCO images (LACONV, LADD, LACR).
    Llava,
    /// Spot-the-Difference.
    Sd,
    /// General differences of two pictures, CLEVR-Change.
    Cgd,
    /// VIST, visual storytelling.
    Vst,
    /// TV captions.
    Tvc,
    /// ActivityNet Captions, dense captions.
    Dc,
    /// Ego4D.
    E4d,
    /// ScanNet, scene navigation.
    Sn,
    /// FunQA.
    Funqa,
}

/// What a file of LLaVA holds.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LlavaFile {
    /// LACONV.
    Conversation,
    /// LADD.
    Detail,
    /// LACR.
    Complex,
}

/// How frames are stored.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum FrameFile {
    /// JPEG of quality 90.
    #[default]
    Jpeg,
    /// PNG, without loss.
    Png,
}

/// Arguments of `data import`.
#[derive(Debug, Args)]
pub struct DataImport {
    /// Which source.
    #[arg(value_enum)]
    pub source: ImportSource,
    /// Its annotation file, or the table of your own.
    #[arg(long, value_name = "FILE")]
    pub annotations: PathBuf,
    /// Folder of images.
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Folder of videos: video files, GIFs, or folders of frames.
    #[arg(long, value_name = "DIR")]
    pub videos: Option<PathBuf>,
    /// Replies of a chat model, [{"id", "results"}] or [{"id", "question", "answer"}], to take instead of the
    /// source's own sentences.
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<PathBuf>,
    /// Directory of the data set.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Form of the data set: otter-dataset, json, parquet, folder or tar.
    #[arg(long, default_value = "otter-dataset", value_name = "FORM", value_parser = parse_form)]
    pub to: OutputForm,
    /// Name of the data set; ids of own tables and of LLaVA begin with it (default: the source's code).
    #[arg(long)]
    pub name: Option<String>,
    /// What the file of LLaVA holds (default: told by its name).
    #[arg(long, value_enum)]
    pub kind: Option<LlavaFile>,
    /// Frames a second of videos (default: 1; below 1 is possible).
    #[arg(long, value_name = "RATE", group = "sampling")]
    pub fps: Option<f64>,
    /// Frames of a video, spread evenly, instead of a rate (TVC: 16 by default).
    #[arg(long, value_name = "N", group = "sampling")]
    pub frames: Option<usize>,
    /// Frames at which scenes change, with a score from 0 to 1 above this (0.3 is usual), instead of a rate.
    #[arg(long, value_name = "SCORE", group = "sampling")]
    pub scene: Option<f64>,
    /// Most frames of a video; more are thinned out evenly (0: no limit).
    #[arg(long, default_value_t = otter_data::video::DEFAULT_MAX_FRAMES, value_name = "N")]
    pub max_frames: usize,
    /// Images a second in folders of frames, from which their times follow.
    #[arg(long, default_value_t = 1.0, value_name = "RATE")]
    pub sequence_fps: f64,
    /// Squash every picture to this side with Lanczos and store it as PNG, as the original (224). By default JPEG and
    /// PNG files stay as they are, to the byte.
    #[arg(long, value_name = "SIDE", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub image_size: Option<u32>,
    /// Scale larger pictures down to this longest side.
    #[arg(long, value_name = "SIDE", conflicts_with = "image_size", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub max_side: Option<u32>,
    /// How its images are shown.
    #[command(flatten)]
    pub rules: ImageRuleArguments,
    /// How frames of videos and GIFs are stored.
    #[arg(long, value_enum, default_value_t)]
    pub frame_format: FrameFile,
    /// Write a context table: the pairs of the same item before each pair.
    #[arg(long)]
    pub contexts: bool,
    /// Of LLaVA's files, the entries without an image, as a set of group TEXT_ONLY; otherwise they are left out.
    #[arg(long)]
    pub text_only: bool,
    /// In a table where some rows have a `context`, make samples of the others, too. By default rows without a context
    /// serve only as examples (`example_only`).
    #[arg(long)]
    pub all_rows: bool,
    /// Items worked on at once (default: all cores).
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZeroUsize>,
    /// The ffmpeg to run (default: the variable OTTER_FFMPEG, then ffmpeg on PATH).
    #[arg(long, value_name = "PATH")]
    pub ffmpeg: Option<PathBuf>,
    /// Longest silence of ffmpeg in seconds.
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Stop at the first thing that would be left out.
    #[arg(long)]
    pub strict: bool,
    /// Forget what an interrupted import did.
    #[arg(long)]
    pub restart: bool,
    /// Replace a data set that is there.
    #[arg(long)]
    pub overwrite: bool,
    /// Print the account as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A form of data sets by its name.
///
/// # Errors
/// For any other name, with the known ones.
pub fn parse_form(text: &str) -> Result<OutputForm, String> {
    let known = OutputForm::ALL.map(OutputForm::name).join(", ");
    // The name that the form had at first.
    let text = if text == "layout" { "otter-dataset" } else { text };
    OutputForm::ALL.into_iter().find(|form| form.name() == text).ok_or(format!("use one of {known}"))
}
