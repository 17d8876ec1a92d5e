//! Work on many things by several threads, results in order, never more than a few at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

struct State<R> {
    /// What the next free thread takes.
    next: usize,
    /// What the receiver waits for.
    wanted: usize,
    results: BTreeMap<usize, R>,
    stopped: bool,
}

struct Shared<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
}

impl<R> Shared<R> {
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops everybody when a thread ends by a panic, which would otherwise be waited for.
struct StopOnPanic<'s, R>(&'s Shared<R>);

impl<R> Drop for StopOnPanic<'_, R> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// Calls `work` for every index on `jobs` threads and `take` with the results in order. `take` returns whether to go on.
/// At most twice as many results as threads wait to be taken.
pub fn in_order<R: Send, E>(
    indices: Range<usize>,
    jobs: usize,
    work: impl Fn(usize) -> R + Sync,
    mut take: impl FnMut(R) -> Result<bool, E>,
) -> Result<(), E> {
    let jobs = jobs.max(1);
    let window = jobs * 2;
    let state =
        State { next: indices.start, wanted: indices.start, results: BTreeMap::new(), stopped: false };
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
    thread::scope(|scope| {
        for _ in 0..jobs.min(indices.len()) {
            scope.spawn(|| {
                let _guard = StopOnPanic(&shared);
                loop {
                    let mut state = shared.lock();
                    while !state.stopped && state.next < indices.end && state.next >= state.wanted + window {
                        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    if state.stopped || state.next >= indices.end {
                        return;
                    }
                    let index = state.next;
                    state.next += 1;
                    drop(state);
                    let result = work(index);
                    shared.lock().results.insert(index, result);
                    shared.changed.notify_all();
                }
            });
        }
        let _guard = StopOnPanic(&shared);
        for index in indices.clone() {
            let mut state = shared.lock();
            let result = loop {
                if state.stopped {
                    return Ok(());
                }
                if let Some(result) = state.results.remove(&index) {
                    break result;
                }
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            state.wanted = index + 1;
            drop(state);
            shared.changed.notify_all();
            match take(result) {
                Ok(true) => {}
                Ok(false) => {
                    shared.stop();
                    return Ok(());
                }
                Err(error) => {
                    shared.stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_order_and_few_wait() {
        let ahead = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        let mut taken = Vec::new();
        let result: Result<(), ()> = in_order(
            3..200,
            4,
            |index| {
                most.fetch_max(ahead.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(std::time::Duration::from_micros((index * 7919 % 500) as u64));
                index
            },
            |index| {
                ahead.fetch_sub(1, Ordering::SeqCst);
                taken.push(index);
                Ok(true)
            },
        );
        assert_eq!(result, Ok(()));
        assert_eq!(taken, (3..200).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 9, "{most:?}");
    }

    #[test]
    fn an_error_and_a_stop_end_it() {
        let error =
            in_order(0..1000, 3, |index| index, |index| if index == 5 { Err(index) } else { Ok(true) });
        assert_eq!(error, Err(5));
        let mut count = 0;
        let stopped: Result<(), ()> = in_order(
            0..1000,
            3,
            |index| index,
            |_| {
                count += 1;
                Ok(count < 7)
            },
        );
        assert_eq!((stopped, count), (Ok(()), 7));
        let empty: Result<(), ()> = in_order(0..0, 3, |index| index, |_| Ok(true));
        assert_eq!(empty, Ok(()));
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        let _: Result<(), ()> = in_order(0..10, 2, |index| assert!(index < 4, "the fifth"), |()| Ok(true));
    }
}
