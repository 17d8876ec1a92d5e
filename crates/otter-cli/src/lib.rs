//! The `otter` command: its arguments, its commands, and how they print. A command reads its arguments, calls one function of
//! the crates below, and prints.

// First: what follows prints with its macros.
#[macro_use]
pub mod output;
pub mod arguments;
pub mod commands;
pub mod progress;

use std::process::ExitCode;

/// The status with which a program ends after `result`; an error is printed first.
pub fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
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
