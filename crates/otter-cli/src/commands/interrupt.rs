//! Signals that ask a command to end: SIGINT (Ctrl-C), SIGTERM (schedulers, `kill`, `docker stop`) and SIGHUP (a terminal
//! that closes). The first asks the command to stop at its next safe point, a second one ends it at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result};
use otter_hub::HubError;
use otter_mimicit::retrieve::RetrieveError;
use otter_toybox::quickstart::QuickstartError;

/// The first signal received; 0 before.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Shells report the end by a signal as this plus its number.
const ENDED_BY_SIGNAL: u8 = 128;

/// A flag that the first signal sets. `what_happens` is told then, such as `stopping after this step`.
pub fn flag(what_happens: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    listen(Arc::clone(&flag), what_happens).context("cannot listen for signals")?;
    Ok(flag)
}

/// Whether a command ended because a signal asked it to.
pub fn is_stop(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(HubError::Stopped { .. }))
        || matches!(error.downcast_ref(), Some(RetrieveError::Stopped { .. }))
        || matches!(error.downcast_ref(), Some(QuickstartError::Interrupted { .. }))
}

/// The exit status of a command that stopped before its work was done: 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, as
/// if the signal had ended it. Scripts must not go on with half a result.
pub fn status() -> ExitCode {
    match u8::try_from(RECEIVED.load(Ordering::Relaxed)) {
        Ok(signal @ 1..) => ExitCode::from(ENDED_BY_SIGNAL + signal),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(unix)]
fn listen(flag: Arc<AtomicBool>, what_happens: &'static str) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let at_once = Arc::new(AtomicBool::new(false));
    // In the handler itself, so that it acts whatever the threads wait for. A second SIGHUP says nothing new: terminal and
    // shell both send one.
    for signal in [SIGINT, SIGTERM] {
        let status = i32::from(ENDED_BY_SIGNAL) + signal;
        signal_hook::flag::register_conditional_shutdown(signal, status, Arc::clone(&at_once))?;
    }
    let mut caught = vec![SIGINT, SIGTERM];
    if !hang_up_is_ignored() {
        caught.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(caught)?;
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        RECEIVED.store(signal, Ordering::Relaxed);
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        // Before anything is printed, which may wait for a reader. Some senders, such as `timeout`, signal the process and at
        // once its whole group: that is one request.
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            at_once.store(true, Ordering::Relaxed);
        });
        flag.store(true, Ordering::Relaxed);
        eprintln!("received {name}: {what_happens} (a second SIGINT or SIGTERM ends at once)");
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

#[cfg(not(unix))]
fn listen(flag: Arc<AtomicBool>, what_happens: &'static str) -> Result<()> {
    const INTERRUPT: i32 = 2;
    Ok(ctrlc::set_handler(move || {
        if RECEIVED.swap(INTERRUPT, Ordering::Relaxed) != 0 {
            std::process::exit(i32::from(ENDED_BY_SIGNAL) + INTERRUPT);
        }
        flag.store(true, Ordering::Relaxed);
        eprintln!("received Ctrl-C: {what_happens} (a second one ends at once)");
    })?)
}

/// Whether the command was started to outlive its terminal, as `nohup` does.
#[cfg(unix)]
fn hang_up_is_ignored() -> bool {
    // SAFETY: a null action only asks for the present one, which is written into the zeroed structure.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut present) == 0
            && present.sa_sigaction == libc::SIG_IGN
    }
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
