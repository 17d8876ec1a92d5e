//! Where output goes: data to standard output, everything else to standard error.

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::Value;

pub use otter_io::text::count;

/// Standard output was closed by its reader, such as `head`: nothing more is wanted.
#[derive(Debug)]
pub struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output was closed by its reader")
    }
}

impl std::error::Error for Closed {}

/// Exit status then, that of a program that SIGPIPE ended.
pub const CLOSED_STATUS: u8 = 141;

/// Prints one JSON document.
///
/// # Errors
/// As [`text`].
pub fn json(value: &Value) -> Result<()> {
    text(&serde_json::to_string(value)?)
}

/// Prints one line of text.
///
/// # Errors
/// [`Closed`] when nobody reads any more, which `main` ends quietly; otherwise when it cannot be written.
pub fn text(line: &str) -> Result<()> {
    part(&format!("{line}\n"))
}

/// Prints a part of a line, so that it is seen at once.
///
/// # Errors
/// As [`text`].
pub fn part(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Closed.into()),
        other => other.context("standard output cannot be written"),
    }
}

/// The standard macro, except that a failure is passed over and does not panic: work goes on when nobody listens any more.
#[macro_export]
macro_rules! eprintln {
    ($($argument:tt)*) => { $crate::output::note(format_args!("{}\n", format_args!($($argument)*))) };
}

/// As [`eprintln`], without the end of the line.
#[macro_export]
macro_rules! eprint {
    ($($argument:tt)*) => { $crate::output::note(format_args!($($argument)*)) };
}

/// What both write with.
pub fn note(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// An error with its causes; a cause that the text before already tells is left out.
pub fn chain(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// Bytes in the unit a person would use.
pub fn bytes(value: u64) -> String {
    otter_io::text::bytes(value, 1)
}
