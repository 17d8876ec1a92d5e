//! The `otter` command: reads its arguments, calls one function, prints.

// First: what follows prints with its macros.
#[macro_use]
mod output;
mod arguments;
mod commands;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) if error.is::<output::Closed>() => ExitCode::from(output::CLOSED_STATUS),
        Err(error) if commands::interrupt::is_stop(&error) => {
            eprintln!("{}", output::chain(&error));
            commands::interrupt::status()
        }
        Err(error) => {
            eprintln!("error: {}", output::chain(&error));
            ExitCode::FAILURE
        }
    }
}
