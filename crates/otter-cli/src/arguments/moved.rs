//! Commands that `otter` had once, and where they are now.

use clap::Args;

/// The arguments of a command that is a tool of developers now.
#[derive(Debug, Args)]
pub struct Moved {
    /// What followed its name.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

impl Moved {
    /// An error that says how `command` is called now, with the same arguments.
    pub fn error(&self, command: &str) -> anyhow::Error {
        let call = [&[command.to_owned()], self.rest.as_slice()].concat().join(" ");
        anyhow::anyhow!("this is a tool of developers now: cargo run --release -p otter-dev -- {call}")
    }
}
