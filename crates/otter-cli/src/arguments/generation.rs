//! Arguments of the commands that run a model: chat, generate, score.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use otter_nn::{DType, QuantizedFormat};

use super::{ImageRuleArguments, element_types};

/// How generated tokens see the media.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum DecodingChoice {
    /// They keep attending the last image.
    #[default]
    Keep,
    /// As the original by default: with `use_cache: false` in the text configuration (MPT) they attend the last image,
    /// otherwise (LLaMA) its cached decoding shows them none.
    Reference,
    /// As the original when told to use its cache: they see none, whatever the checkpoint.
    ReferenceUseCache,
}

/// When beam search ends, with the names that the original's options have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EarlyStoppingChoice {
    /// When the best open beam, at its present length, scores no better than the worst finished answer.
    False,
    /// As soon as there are as many finished answers as beams.
    True,
    /// When no open beam can score better, however long it gets.
    Never,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub struct SamplingArguments {
    /// Most new tokens [default: 64].
    #[arg(long)]
    pub max_new_tokens: Option<usize>,
    /// Most tokens of a sequence, its own prompt included; replaces --max-new-tokens.
    #[arg(long, conflicts_with = "max_new_tokens")]
    pub max_length: Option<usize>,
    /// No end of the answer before this many new tokens.
    #[arg(long)]
    pub min_new_tokens: Option<usize>,
    /// No end of the answer before this many tokens, its own prompt included.
    #[arg(long)]
    pub min_length: Option<usize>,
    /// Take the most probable token (the default unless a sampling option is given).
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p"])]
    pub greedy: bool,
    /// Sample with this temperature.
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Sample among this many tokens (0: all).
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Sample among the fewest tokens with this total probability.
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Seed of the sampling. In a batch each prompt gets what it gets alone, so a repeated prompt gets the same again;
    /// --num-return-sequences gives different answers.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Penalty on tokens that occurred before (1: none).
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// Never repeat a sequence of this many tokens (0: off).
    #[arg(long)]
    pub no_repeat_ngram_size: Option<usize>,
    /// Never complete this text; may be given several times. It is split into tokens as it stands, so that most
    /// tokenizers tell 'cat' from ' cat'.
    #[arg(long, value_name = "WORD")]
    pub bad_words: Vec<String>,
    /// Let every end-of-sequence token of tokenizer, config.json and generation_config.json end the answer too, not only
    /// <|endofchunk|> and the end tokens of a generation_config.json that somebody wrote.
    #[arg(long)]
    pub stop_at_eos: bool,
    /// Pass over the checkpoint's generation_config.json, which otherwise sets what no option does. (It is passed over
    /// where it was only made from config.json, and with --decoding reference, as in the original.)
    #[arg(long)]
    pub no_generation_config: bool,
    /// End the answer at this text; may be given several times.
    #[arg(long = "stop", value_name = "TEXT")]
    pub stop: Vec<String>,
    /// What generated tokens see of the images; all but keep also count the padding of a batch as tokens of its shorter
    /// prompts.
    #[arg(long, value_enum, default_value_t)]
    pub decoding: DecodingChoice,
}

/// How many answers, and how they are searched.
#[derive(Debug, Args)]
pub struct BeamArguments {
    /// Beams of the search [default: 1, none]. With a sampling option, beam sampling.
    #[arg(long, value_name = "N")]
    pub num_beams: Option<usize>,
    /// Answers are ranked by the sum of their log-probabilities over their length to this power (default: 1): above 0
    /// long answers gain, below 0 short ones.
    #[arg(long, value_name = "POWER", allow_negative_numbers = true)]
    pub length_penalty: Option<f64>,
    /// When to end with as many finished answers as beams (default: false; without a value: true).
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "true", value_name = "WHEN")]
    pub early_stopping: Option<EarlyStoppingChoice>,
    /// Answers to each prompt: the best beams, or independent samples [default: 1].
    #[arg(long, value_name = "N")]
    pub num_return_sequences: Option<usize>,
}

/// Where a command computes.
#[derive(Clone, Debug, Args)]
pub struct DeviceArguments {
    /// Where to compute: cpu, cuda, or cuda:N of several GPUs. A GPU needs a build with the feature `cuda`.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// On a GPU: products in f32, or of factors rounded to bfloat16 with sums in f32.
    #[arg(long, default_value_t = DType::F32, value_parser = element_types::products())]
    pub dtype: DType,
}

/// The model of a command that runs one.
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// Checkpoint directory, GGUF file, or org/name of a pulled model.
    #[arg(long = "model", value_name = "DIR")]
    pub path: PathBuf,
    /// Keep the large matrices in blocks of 8 or 4 bits: less memory, faster answers, slightly different ones. A GGUF file
    /// made by `otter convert --format gguf` starts faster and needs no option.
    #[arg(long = "quantize", alias = "quantise", value_name = "FORMAT", value_parser = element_types::blocks())]
    pub quantize: Option<QuantizedFormat>,
    /// Where it computes, and how.
    #[command(flatten)]
    pub device: DeviceArguments,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct Chat {
    /// The model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// How its images are shown.
    #[command(flatten)]
    pub rules: ImageRuleArguments,
    /// Image for the first question; may be given several times.
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArguments,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// The model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// How its images are shown.
    #[command(flatten)]
    pub rules: ImageRuleArguments,
    /// Image of the first, second, … <image>; for a video checkpoint and one <image>, the frames of the video.
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// A video for the one <image> of a video checkpoint: a video file (ffmpeg reads it), a GIF, or a folder of frames.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["images", "batch"])]
    pub video: Option<PathBuf>,
    /// Frames taken of the video, spread evenly (default: 32, or as many as the checkpoint has frame embeddings).
    #[arg(long, value_name = "N", requires = "video")]
    pub frames: Option<usize>,
    /// The prompt as the model sees it, or with --chat a plain instruction.
    #[arg(long, required_unless_present = "batch", conflicts_with = "batch")]
    pub prompt: Option<String>,
    /// Wrap the prompt in the Otter template, with one <image> per image in front.
    #[arg(long)]
    pub chat: bool,
    /// Continue many prompts at once: one JSON object a line, {"prompt": "…", "images": ["a.png"]}.
    #[arg(long, value_name = "FILE", conflicts_with = "images")]
    pub batch: Option<PathBuf>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArguments,
    /// How many answers, and how they are searched.
    #[command(flatten)]
    pub beams: BeamArguments,
    /// Print JSON, one object an answer: token_ids, text, finish_reason (stop, stop_string or length); with beams score;
    /// with several answers sequence, and with --batch prompt (both from 0); image_notes where images hold more than is shown.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct Score {
    /// The model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// How its images are shown.
    #[command(flatten)]
    pub rules: ImageRuleArguments,
    /// Image of the first, second, … <image>.
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// The prompt as the model sees it.
    #[arg(long)]
    pub prompt: String,
    /// The answer whose tokens are scored. Prompt and answer are read as one text; a token that stands for the end of the
    /// one and the beginning of the other is told and counts with the answer.
    #[arg(long)]
    pub answer: String,
    /// Wrap the prompt in the Otter template.
    #[arg(long)]
    pub chat: bool,
    /// Print JSON: token_ids, token_logprobs, sum, and border_token (whether the first token begins in the prompt).
    #[arg(long)]
    pub json: bool,
}
