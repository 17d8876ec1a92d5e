//! How far some work is, as the work tells and a person sees it.

/// How far some work is. Functions that take long call back with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done: a stage of the work, a file, a tensor. The functions that report say which.
    pub stage: &'a str,
    /// What is done of this stage, in the units of the work.
    pub done: u64,
    /// All of this stage.
    pub total: u64,
}

impl<'a> Progress<'a> {
    /// `done` of `total` items.
    pub fn of_items(stage: &'a str, done: usize, total: usize) -> Self {
        Self { stage, done: done as u64, total: total as u64 }
    }
}
