//! The commands, one a file.

mod bench;
mod bench_floor;
mod bench_inference;
mod bench_loader;
mod bench_model;
mod bench_table;
mod chat;
pub(crate) mod convert;
mod data_convert;
mod data_import;
mod data_retrieve;
mod data_shards;
mod data_show;
mod data_source;
mod data_stats;
mod data_synthesise;
mod data_verify;
mod eval;
mod generate;
mod generation;
mod hub;
pub(crate) mod init;
mod inspect;
pub(crate) mod interrupt;
mod model;
mod parity;
mod pictures;
mod pretrain_base;
mod pull;
mod quickstart;
mod score;
mod toybox;
mod train;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::arguments::{Arguments, Command, Data};

/// Runs the command that the arguments name.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    keep_large_buffers();
    interrupt::keep_running_at_file_size_limit();
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start the thread pool")?;
    }
    match arguments.command {
        Command::Generate(arguments) => generate::run(&arguments)?,
        Command::Score(arguments) => score::run(&arguments)?,
        Command::Parity(arguments) => return parity::run(&arguments),
        Command::Init(arguments) => init::run(&arguments)?,
        Command::Inspect(arguments) => inspect::run(&arguments)?,
        Command::Convert(arguments) => convert::run(&arguments)?,
        Command::Chat(arguments) => chat::run(&arguments)?,
        Command::Data(Data::Import(arguments)) => return data_import::run(&arguments),
        Command::Data(Data::Shards(arguments)) => data_shards::run(&arguments)?,
        Command::Data(Data::Show(arguments)) => data_show::run(&arguments)?,
        Command::Data(Data::Retrieve(arguments)) => data_retrieve::run(&arguments)?,
        Command::Data(Data::Convert(arguments)) => data_convert::run(&arguments)?,
        Command::Data(Data::Synthesise(arguments)) => data_synthesise::run(&arguments)?,
        Command::Data(Data::Verify(arguments)) => return data_verify::run(&arguments),
        Command::Data(Data::Stats(arguments)) => data_stats::run(&arguments)?,
        Command::Bench(arguments) => bench::run(&arguments)?,
        Command::PretrainBase(arguments) => pretrain_base::run(&arguments)?,
        Command::Quickstart(arguments) => quickstart::run(&arguments)?,
        Command::Toybox(arguments) => toybox::run(&arguments)?,
        Command::Pull(arguments) => pull::run(&arguments)?,
        Command::Train(arguments) => return train::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
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
