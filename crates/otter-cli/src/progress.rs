//! Bars on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use otter_io::Progress;

/// The look of a bar with a message, counts, rate and remaining time.
pub const COUNTS: &str = "{msg} {bar:24} {human_pos}/{human_len} {per_sec} eta {eta}";

/// A bar of unknown length that looks as the template says.
pub fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Shows progress under a message; with a new one, rate and remaining time begin anew.
pub fn show(bar: &ProgressBar, message: &str, progress: Progress<'_>) {
    if bar.message() != message {
        bar.reset();
        bar.set_message(message.to_owned());
    }
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}
