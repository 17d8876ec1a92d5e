//! The `otter` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = otter_cli::arguments::Arguments::parse();
    otter_cli::exit_code(otter_cli::commands::run(arguments))
}
