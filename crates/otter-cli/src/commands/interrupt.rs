//! Signals. Ctrl-C: the first asks the command to stop at the next safe point, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// Exit status after a second Ctrl-C, as shells report it.
const INTERRUPTED: i32 = 130;

/// A flag that Ctrl-C sets.
pub fn flag() -> Result<Arc<AtomicBool>> {
    keep_running_at_file_size_limit();
    let flag = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if shared.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("stopping after this step (Ctrl-C again ends at once)");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}

/// Makes a write beyond the file size limit of the shell (`ulimit -f`) fail like one to a full disk, with a message that
/// names the file. Without this the system ends the process without a word.
pub fn keep_running_at_file_size_limit() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal installs no handler of ours and touches no memory.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
