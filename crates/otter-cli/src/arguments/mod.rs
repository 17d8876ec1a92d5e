//! The command line, as clap reads it.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are help texts and are printed as they stand")]

mod checkpoints;
mod comparing;
mod data;
mod data_import;
pub mod element_types;
mod generation;
mod image_rules;
mod making;
mod moved;

use clap::{Parser, Subcommand};

pub use checkpoints::*;
pub use comparing::*;
pub use data::*;
pub use data_import::*;
pub use generation::*;
pub use image_rules::*;
pub use making::*;
pub use moved::*;

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
  otter convert DIR --out model.gguf --quantize q4_k       one quantized file
  otter convert DIR --out DIRPY --transformers             with the Python module for Transformers
OpenFlamingo v1 or v2 (the trained part) to an Otter, and back:
  otter convert checkpoint.pt --base-lm mpt-7b --base-vision clip-vit-large-patch14 --out DIR
  otter convert DIR --to openflamingo --out checkpoint.pt
A plain language model to an Otter that is to be trained:
  otter convert --inject llama-2-7b --base-vision clip-vit-large-patch14 --cross-attn-every 4 --out DIR
  otter convert --inject mpt-7b-instruct --base-vision CLIP --overlay checkpoint.pt --out DIR
A partial checkpoint over its base, adapters, deltas, optimizer state:
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
    /// Instruction-tune a model as one TOML file describes.
    #[command(after_help = "Examples:
  otter train --config recipes/toybox.toml
  otter train --config recipes/toybox.toml train.steps=200 optimizer.learning_rate=3e-4
  otter train --config recipes/toybox.toml --device cuda --dtype bf16 --memory 24GiB
  otter train --config runs/x/config.toml --resume
  otter train --config runs/x/config.toml train.steps=3000 --resume --extend-schedule
SIGINT (Ctrl-C), SIGTERM and SIGHUP save the last complete step and end with status 130, 143 or 129; a second one ends at once.")]
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
  otter generate --model DIR --video clip.mp4 --frames 16 --prompt 'What happens?' --chat
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
    /// Moved to `otter-dev bench`.
    #[command(hide = true, disable_help_flag = true)]
    Bench(Moved),
    /// Moved to `otter-dev pretrain-base`.
    #[command(hide = true, disable_help_flag = true)]
    PretrainBase(Moved),
}
