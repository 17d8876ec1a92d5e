//! The command line, as clap reads it.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are help texts and are printed as they stand")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Multi-modal in-context instruction tuning: make data, tune, evaluate, chat.
#[derive(Debug, Parser)]
#[command(name = "otter", version, about, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    /// Threads for computation (default: all cores).
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  otter quickstart                                    make data, tune, evaluate, report: about 6 minutes on 2 cores
  otter chat --model runs/quickstart/model            talk to the result
  otter generate --model DIR --image cat.jpg --prompt 'What is this?' --chat
  otter pull org/name                                 bring a model from the hub
  otter inspect DIR                                   what is in a checkpoint, what is odd about it";

const CONVERT_EXAMPLES: &str = "What SOURCE is, is told from its tensors. Every tensor is written, or dropped with a reason, or an error names it.

Another form of the same model:
  otter convert DIR --out DIR16 --dtype bf16 --keep-f32 norms,gates
  otter convert DIR --out DIR1 --shard-size 100GB          one file
  otter convert DIR --out DIRBIN --format bin              what torch.load opens
  otter convert DIR --out model.gguf --quantize q4_k       one quantised file
  otter convert DIR --out DIRPY --transformers             with the Python module for Transformers
OpenFlamingo v1 or v2 (the trained part) to an Otter, and back:
  otter convert checkpoint.pt --base-lm mpt-7b --base-vision clip-vit-large-patch14 --out DIR
  otter convert DIR --to openflamingo --out checkpoint.pt
A plain language model to an Otter that is to be trained:
  otter convert --inject llama-2-7b --base-vision clip-vit-large-patch14 --cross-attn-every 4 --out DIR
  otter convert --inject mpt-7b-instruct --base-vision CLIP --overlay checkpoint.pt --out DIR
A partial checkpoint over its base, adapters, deltas, optimiser state:
  otter convert BASE --overlay final_weights.pt --out DIR
  otter convert DIR --merge-lora --out MERGED
  otter convert llama-7b --delta vicuna-7b-delta --out vicuna-7b
  otter convert checkpoint_steps_2000.pt --out weights.safetensors";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a small data set, tune a small Otter on it in context, show that it learned, leave a model to chat with.
    #[command(after_help = "Examples:
  otter quickstart
  otter quickstart --out runs/second --seed 7
Then:
  otter chat --model runs/quickstart/model")]
    Quickstart(Quickstart),
    /// Render the synthetic toybox world as a MIMIC-IT data set.
    #[command(after_help = "Examples:
  otter toybox --out data/toybox
  otter toybox --out data/toybox --seed 3 --image-size 48 --scale 0.1")]
    Toybox(Toybox),
    /// Pre-train the small vision tower and language model that quickstart starts from (they ship with this project).
    #[command(after_help = "Example:
  otter pretrain-base --out assets/toybox-base")]
    PretrainBase(PretrainBase),
    /// Instruction-tune a model as one TOML file describes.
    #[command(after_help = "Examples:
  otter train --config recipes/toybox.toml
  otter train --config recipes/toybox.toml train.steps=200 optimizer.learning_rate=3e-4
  otter train --config runs/x/config.toml --resume")]
    Train(Train),
    /// Evaluate a model on a toybox evaluation set, by shots.
    #[command(after_help = "Example:
  otter eval --model runs/quickstart/model --data runs/quickstart/data")]
    Eval(Eval),
    /// Talk to a model about your images.
    #[command(after_help = "Example:
  otter chat --model runs/quickstart/model --image photo.jpg
Inside:
  /image FILE   show an image with the next question     /reset   forget the conversation     /quit")]
    Chat(Chat),
    /// Continue a prompt.
    #[command(after_help = "Examples:
  otter generate --model DIR --image a.png --prompt '<image>User:What is this? GPT:<answer>'
  otter generate --model DIR --image a.png --prompt 'What is this?' --chat
  otter generate --model DIR --image a.png --image b.png --json \\
    --prompt '<image>User:What? GPT:<answer>A cup.<|endofchunk|><image>User:What? GPT:<answer>'
  otter generate --model DIR --image a.png --prompt 'Describe it.' --chat --num-beams 3 --no-repeat-ngram-size 3
  otter generate --model DIR --image a.png --prompt 'What is it?' --chat --num-beams 5 --length-penalty -2 \\
    --early-stopping --num-return-sequences 5 --json
  otter generate --model DIR --image a.png --prompt 'Tell a story.' --chat --temperature 0.8 --top-p 0.9 \\
    --num-return-sequences 4 --bad-words ' cat'")]
    Generate(Generate),
    /// Log-probability of an answer.
    #[command(after_help = "Example:
  otter score --model DIR --image a.png --prompt '<image>User:What is this? GPT:<answer>' --answer 'a cup<|endofchunk|>' --json")]
    Score(Score),
    /// Compare a checkpoint with tensors recorded from the original.
    #[command(after_help = "Example:
  otter parity --model tests/golden/llama/checkpoint --golden tests/golden/llama/forward.safetensors \\
    --gradients tests/golden/llama/grads.safetensors")]
    Parity(Parity),
    /// Look at data.
    #[command(subcommand)]
    Data(Data),
    /// Bring a model from a hub or a mirror onto this machine; every command then takes its name.
    #[command(after_help = "Examples:
  otter pull luodian/OTTER-Image-MPT7B                 into the cache that Python's tools use too
  otter pull luodian/OTTER-Image-MPT7B --revision v1.0 --out models/otter
  otter pull org/name --dry-run                        list the files and their sizes
  otter pull org/name --include '*.json' --include 'model-*.safetensors'
Then:
  otter inspect luodian/OTTER-Image-MPT7B
Environment: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HTTPS_PROXY, SSL_CERT_FILE,
and OTTER_MIRROR, a folder laid out as org/name/files.")]
    Pull(Pull),
    /// Say what a checkpoint directory or weight file is and holds, and what is missing or odd.
    #[command(after_help = "Examples:
  otter inspect tests/golden/llama/checkpoint --json
  otter inspect final_weights.pt
  otter inspect OTTER-Image-MPT7B --scan")]
    Inspect(Inspect),
    /// Write a checkpoint of random values: the sizes of a published model, or of another checkpoint.
    #[command(after_help = "Examples:
  otter init --list
  otter init --like otter-mpt7b --dtype f16 --out DIR --tokenizer OTTER-Image-MPT7B
  otter init --like runs/quickstart/model --out DIR --seed 3")]
    Init(Init),
    /// Turn any checkpoint into an Otter directory, another form, or an OpenFlamingo file.
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(Box<Convert>),
    /// Time training steps and greedy decoding of a model of given sizes with random weights.
    #[command(after_help = "Example:
  otter bench --preset mid --json")]
    Bench(Bench),
}

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Run directory.
    #[arg(long, default_value = "runs/quickstart", value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of data and tuning.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Base model to start from, a directory or org/name (default: the one that ships with this project).
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Fraction of the usual data and steps, for a fast look (results then mean little).
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `toybox`.
#[derive(Debug, Args)]
pub struct Toybox {
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of the world.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Side of the images in pixels (32 to 64).
    #[arg(long, default_value_t = 32)]
    pub image_size: usize,
    /// Factor on the number of records.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
    /// Print the manifest as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pretrain-base`.
#[derive(Debug, Args)]
pub struct PretrainBase {
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of weights and data.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Factor on the number of steps.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The run's description.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Go on from the newest complete checkpoint of the run directory.
    #[arg(long)]
    pub resume: bool,
    /// Print the memory plan and stop.
    #[arg(long)]
    pub plan: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Overrides such as `train.steps=200`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Name of a published model (see --list), or a checkpoint directory whose config.json is taken.
    #[arg(long, value_name = "NAME|DIR", required_unless_present = "list")]
    pub like: Option<String>,
    /// Directory to write.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub out: Option<PathBuf>,
    /// Element type.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: InitDtype,
    /// Seed of the values.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Directory whose tokenizer files are copied; without them the checkpoint cannot read prompts.
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Rows of the token tables (default: those of the model it is like).
    #[arg(long, value_name = "N")]
    pub vocab_size: Option<usize>,
    /// Most bytes of a weight file, for example 5GB or 512MiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = crate::commands::convert::parse_size)]
    pub shard_size: u64,
    /// Print the published models with their numbers of parameters.
    #[arg(long, conflicts_with_all = ["like", "out"])]
    pub list: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Element type of a new checkpoint.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum InitDtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// IEEE half precision.
    F16,
    /// Brain floats.
    Bf16,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// Checkpoint directory, or org/name of a pulled model.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Toybox data directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Most queries in all, spread evenly over tasks and numbers of shots (default: all).
    #[arg(long)]
    pub limit: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

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
    /// Most new tokens.
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Most tokens, prompt included; replaces --max-new-tokens.
    #[arg(long, conflicts_with = "max_new_tokens")]
    pub max_length: Option<usize>,
    /// No end of the answer before this many new tokens.
    #[arg(long, default_value_t = 0)]
    pub min_new_tokens: usize,
    /// No end of the answer before this many tokens, prompt included.
    #[arg(long, default_value_t = 0)]
    pub min_length: usize,
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
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Penalty on tokens that occurred before (1: none).
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Never repeat a sequence of this many tokens (0: off).
    #[arg(long, default_value_t = 0)]
    pub no_repeat_ngram_size: usize,
    /// Never complete this text; may be given several times. It is split into tokens as it stands, so that most
    /// tokenizers tell 'cat' from ' cat'.
    #[arg(long, value_name = "WORD")]
    pub bad_words: Vec<String>,
    /// Let the language model's end-of-sequence token end the answer too, not only <|endofchunk|>.
    #[arg(long)]
    pub stop_at_eos: bool,
    /// End the answer at this text; may be given several times.
    #[arg(long = "stop", value_name = "TEXT")]
    pub stop: Vec<String>,
    /// What generated tokens see of the images.
    #[arg(long, value_enum, default_value_t)]
    pub decoding: DecodingChoice,
}

/// How many answers, and how they are searched.
#[derive(Debug, Args)]
pub struct BeamArguments {
    /// Beams of the search (1: none). With a sampling option, beam sampling.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub num_beams: usize,
    /// Answers are ranked by the sum of their log-probabilities over their length to this power (default: 1): above 0
    /// long answers gain, below 0 short ones.
    #[arg(long, value_name = "POWER", allow_negative_numbers = true)]
    pub length_penalty: Option<f64>,
    /// When to end with as many finished answers as beams (default: false; without a value: true).
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "true", value_name = "WHEN")]
    pub early_stopping: Option<EarlyStoppingChoice>,
    /// Answers to each prompt: the best beams, or independent samples.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub num_return_sequences: usize,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct Chat {
    /// Checkpoint directory, or org/name of a pulled model.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
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
    /// Checkpoint directory, or org/name of a pulled model.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Image of the first, second, … <image>; for a video checkpoint and one <image>, the frames of the video.
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
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
    /// with several answers sequence, and with --batch prompt (both from 0).
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct Score {
    /// Checkpoint directory, or org/name of a pulled model.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Image of the first, second, … <image>.
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// The prompt as the model sees it.
    #[arg(long)]
    pub prompt: String,
    /// The answer whose tokens are scored.
    #[arg(long)]
    pub answer: String,
    /// Wrap the prompt in the Otter template.
    #[arg(long)]
    pub chat: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `parity`.
#[derive(Debug, Args)]
pub struct Parity {
    /// Checkpoint directory, or org/name of a pulled model.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Golden forward results.
    #[arg(long, value_name = "FILE")]
    pub golden: PathBuf,
    /// Golden gradients.
    #[arg(long, value_name = "FILE")]
    pub gradients: Option<PathBuf>,
    /// One scenario only.
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// Which parameters are trained: head, v0.1, or patterns separated by commas.
    #[arg(long, default_value = "head")]
    pub trainable: String,
    /// Recompute decoder layers in the reverse pass.
    #[arg(long)]
    pub recompute: bool,
    /// Largest absolute difference of vision features, Perceiver output, hidden states and loss.
    #[arg(long, default_value_t = 1e-4)]
    pub tolerance: f64,
    /// Largest absolute difference of logits.
    #[arg(long, default_value_t = 2e-4)]
    pub logits_tolerance: f64,
    /// Largest difference of a gradient, relative to the tensor's largest entry.
    #[arg(long, default_value_t = 1e-3)]
    pub gradient_tolerance: f64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Commands about data.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// One sample as the model sees it.
    #[command(after_help = "Example:
  otter data show --config recipes/toybox.toml --index 3")]
    Show(DataShow),
}

/// Arguments of `data show`.
#[derive(Debug, Args)]
pub struct DataShow {
    /// A training configuration, or an original YAML data list together with --model.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which sample, from 0.
    #[arg(long)]
    pub index: usize,
    /// Checkpoint directory whose tokenizer is used (default: the configuration's model).
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Overrides such as `data.max_seq_len=512`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The model: org/name, or org/name@revision.
    #[arg(value_name = "ORG/NAME")]
    pub model: String,
    /// Branch, tag or commit (default: main).
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Put the files into this directory instead of the cache.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Take only files that match; may be given several times. `*` also matches `/`.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave files that match; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Take the files from DIR/org/name instead of the hub.
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
    /// Use no network: succeed if the cache has the model.
    #[arg(long)]
    pub offline: bool,
    /// Read files that are there already and compare them with their checksums.
    #[arg(long)]
    pub verify: bool,
    /// List the files and sizes and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Files at a time.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub jobs: u8,
    /// Print the record as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Checkpoint directory, org/name of a pulled model, or a single weight file (.safetensors, .bin, .pt, .gguf).
    pub dir: PathBuf,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    /// Which parameters count as trainable: head, v0.1, or patterns separated by commas.
    #[arg(long, default_value = "head")]
    pub trainable: String,
    /// Read every element and report NaN and infinity.
    #[arg(long)]
    pub scan: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `convert` makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ConvertTo {
    /// An Otter directory, or the source in another form.
    #[default]
    Otter,
    /// The trained part under OpenFlamingo's names (v2).
    Openflamingo,
}

/// Element type of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeChoice {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754; a value they cannot hold is an error.
    F16,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FormatChoice {
    /// model.safetensors and shards.
    #[default]
    Safetensors,
    /// pytorch_model.bin and shards.
    Bin,
    /// model.gguf, for quantised storage (this program's own keys).
    Gguf,
}

/// Type of the large matrices of a GGUF file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum QuantizeChoice {
    /// 32-bit floats: exact.
    F32,
    /// 16-bit floats.
    #[default]
    F16,
    /// Brain floats.
    Bf16,
    /// 8.5 bits an element.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits an element, one scale for 32.
    #[value(name = "q4_0")]
    Q4_0,
    /// 4.5 bits an element, scale and minimum for 32.
    #[value(name = "q4_k")]
    Q4K,
}

/// Order of the tokens that are added to a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenOrderChoice {
    /// <|endofchunk|>, <image>, <answer>, <PAD>: the Otter class.
    Otter,
    /// <|endofchunk|>, <image>, <PAD>, <answer>: OpenFlamingo and the Flamingo class.
    Flamingo,
}

/// How new rows of the tables begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NewRowsChoice {
    /// Normal, with the configuration's initializer_range (0.02 where it says nothing).
    #[default]
    Normal,
    /// The mean of the rows of the base.
    Mean,
}

/// Tensors that stay 32-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeepChoice {
    /// Layer norms and RMS norms.
    Norms,
    /// The gates of the cross-attention.
    Gates,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Checkpoint directory or weight file.
    #[arg(required_unless_present = "inject", conflicts_with = "inject")]
    pub source: Option<PathBuf>,
    /// Directory to write, or one file ending in .safetensors, .bin, .pt or .gguf.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// What to make.
    #[arg(long, value_enum, default_value_t)]
    pub to: ConvertTo,
    /// Put this plain language model into an Otter, with fresh parts between unless --overlay gives them.
    #[arg(long, value_name = "LM_DIR")]
    pub inject: Option<PathBuf>,
    /// The whole Otter that a partial SOURCE completes.
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Language model that an OpenFlamingo checkpoint was trained on (a plain one, or an Otter).
    #[arg(long, value_name = "DIR")]
    pub base_lm: Option<PathBuf>,
    /// CLIP model: a Hugging Face directory, an open_clip file or directory, or an Otter.
    #[arg(long, value_name = "PATH")]
    pub base_vision: Option<PathBuf>,
    /// Partial checkpoint to put over SOURCE.
    #[arg(long, value_name = "FILE")]
    pub overlay: Option<PathBuf>,
    /// Difference to add to SOURCE, as Vicuna was published.
    #[arg(long, value_name = "DIR")]
    pub delta: Option<PathBuf>,
    /// Merge LoRA adapters into their matrices.
    #[arg(long)]
    pub merge_lora: bool,
    /// Directory of the tokenizer (default: that of the language model).
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Order of the added tokens; a model must be used with the order it was trained with (default: flamingo for an
    /// OpenFlamingo checkpoint, otter otherwise).
    #[arg(long, value_enum)]
    pub token_order: Option<TokenOrderChoice>,
    /// Gated cross-attention before every N-th layer (default: as the source has it, else 4).
    #[arg(long, value_name = "N")]
    pub cross_attn_every: Option<usize>,
    /// Frame embeddings of a fresh resampler, for video.
    #[arg(long, value_name = "N")]
    pub max_num_frames: Option<usize>,
    /// How rows of the tables begin that no source holds.
    #[arg(long, value_enum, default_value_t)]
    pub new_rows: NewRowsChoice,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Element type of all floats (default: each as it is).
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeChoice>,
    /// With --dtype: kinds that stay 32-bit floats.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS")]
    pub keep_f32: Vec<KeepChoice>,
    /// How the weights of a directory are stored.
    #[arg(long, value_enum, default_value_t)]
    pub format: FormatChoice,
    /// Type of the large matrices of a GGUF file; norms, gates and small tensors stay 32-bit floats.
    #[arg(long, value_enum, default_value_t)]
    pub quantize: QuantizeChoice,
    /// Add the Python module with which Transformers opens the directory (trust_remote_code=True).
    #[arg(long)]
    pub transformers: bool,
    /// Largest weight file, e.g. 5GB, 500MB, 2GiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = crate::commands::convert::parse_size)]
    pub shard_size: u64,
    /// OpenFlamingo: put `module.` in front of every name.
    #[arg(long)]
    pub module_prefix: bool,
    /// OpenFlamingo: keep this many rows of the embedding tables (it wants as many as its tokenizer has entries).
    #[arg(long, value_name = "N")]
    pub embedding_rows: Option<usize>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Sizes of a benchmark model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BenchPreset {
    /// ViT-B/32-size tower, 12 layers of width 768.
    #[default]
    Mid,
    /// The quickstart model.
    Toybox,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Sizes of the model.
    #[arg(long, value_enum, default_value_t)]
    pub preset: BenchPreset,
    /// What to time: train or decode (default: both).
    #[arg(long, value_name = "WHAT")]
    pub only: Option<String>,
    /// Timed repetitions after one warm-up.
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
    /// Sequences of a training batch.
    #[arg(long, default_value_t = 4)]
    pub batch: usize,
    /// Tokens of a training sequence.
    #[arg(long, default_value_t = 128)]
    pub length: usize,
    /// New tokens of a decode.
    #[arg(long, default_value_t = 64)]
    pub new_tokens: usize,
    /// Recompute decoder layers in the reverse pass.
    #[arg(long)]
    pub recompute: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
