//! The command line, as clap reads it.
#![allow(rustdoc::invalid_html_tags, reason = "the comments are help texts and are printed as they stand")]

mod bench;
mod making;

use clap::{Parser, Subcommand};

pub use bench::*;
pub use making::*;

/// Tools for those who work on this project.
#[derive(Debug, Parser)]
#[command(name = "otter-dev", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// Threads for computation (default: all cores).
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Time answers, training steps and the loader of a model, each beside what the machine can do at most.
    #[command(after_help = "Examples:
  otter-dev bench --preset mid --json
  otter-dev bench --like otter-9b --quantize q4_k --only prefill,decode
  otter-dev bench --preset mid --lengths 128,61,90,37")]
    Bench(Bench),
    /// Make a large data set of random text and small images, for measuring.
    #[command(
        alias = "synthesise",
        after_help = "Examples:
  otter-dev synthesize --pairs 3000000 --out data/synthetic
  otter-dev synthesize --pairs 20000 --images 5000 --to json --out data/small --seed 7"
    )]
    Synthesize(Synthesize),
    /// Pre-train the small vision tower and language model that quickstart starts from (they ship with this project).
    #[command(after_help = "Example:
  otter-dev pretrain-base --out assets/toybox-base")]
    PretrainBase(PretrainBase),
}
