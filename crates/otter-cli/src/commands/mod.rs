//! The commands: about data, about checkpoints, answers of a model, tuning and evaluation.

pub mod checkpoint;
pub mod data;
pub mod generate;
pub mod interrupt;
mod train;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::arguments::{Arguments, Command, Data};

/// Runs the command that the arguments name.
///
/// # Errors
/// Whatever the command cannot do.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    begin(arguments.threads)?;
    match arguments.command {
        Command::Generate(arguments) => generate::command::run(&arguments)?,
        Command::Score(arguments) => generate::score::run(&arguments)?,
        Command::Parity(arguments) => return checkpoint::parity::run(&arguments),
        Command::Init(arguments) => checkpoint::init::run(&arguments)?,
        Command::Inspect(arguments) => checkpoint::inspect::run(&arguments)?,
        Command::Convert(arguments) => checkpoint::convert::run(&arguments)?,
        Command::Chat(arguments) => generate::chat::run(&arguments)?,
        Command::Data(Data::Import(arguments)) => return data::import::run(&arguments),
        Command::Data(Data::Shards(arguments)) => data::shards::run(&arguments)?,
        Command::Data(Data::Show(arguments)) => data::show::run(&arguments)?,
        Command::Data(Data::Retrieve(arguments)) => data::retrieve::run(&arguments)?,
        Command::Data(Data::Convert(arguments)) => data::convert::run(&arguments)?,
        Command::Data(Data::Synthesize(arguments)) => return Err(arguments.error("synthesize")),
        Command::Data(Data::Verify(arguments)) => return data::verify::run(&arguments),
        Command::Data(Data::Stats(arguments)) => data::stats::run(&arguments)?,
        Command::Bench(arguments) => return Err(arguments.error("bench")),
        Command::PretrainBase(arguments) => return Err(arguments.error("pretrain-base")),
        Command::Quickstart(arguments) => train::quickstart::run(&arguments)?,
        Command::Toybox(arguments) => data::toybox::run(&arguments)?,
        Command::Pull(arguments) => checkpoint::pull::run(&arguments)?,
        Command::Train(arguments) => return train::command::run(&arguments),
        Command::Eval(arguments) => train::eval::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What a program does before its command: the allocator, limits, the number of threads for computation.
///
/// # Errors
/// When the threads cannot be started.
pub fn begin(threads: Option<usize>) -> Result<()> {
    keep_large_buffers();
    interrupt::keep_running_at_file_size_limit();
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start the thread pool")?;
    }
    Ok(())
}

/// Lets the allocator keep large freed buffers: every step asks for the same ones again, and handing them back to the
/// system costs a page fault per 4 KiB each time.
fn keep_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator; it is called before any other thread of ours runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
