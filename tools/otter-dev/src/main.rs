//! The `otter-dev` command: tools for those who work on this project. It is built and tested in the workspace and is no part of
//! what is shipped.

mod arguments;
mod bench;
mod integer_peak;
mod peak;
mod pretrain_base;
mod synthesize;
mod synthetic;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    otter_cli::exit_code(run(&arguments).map(|()| ExitCode::SUCCESS))
}

fn run(arguments: &Arguments) -> Result<()> {
    otter_cli::commands::begin(arguments.threads)?;
    match &arguments.command {
        Command::Bench(arguments) => bench::run(arguments),
        Command::Synthesize(arguments) => synthesize::run(arguments),
        Command::PretrainBase(arguments) => pretrain_base::run(arguments),
    }
}
