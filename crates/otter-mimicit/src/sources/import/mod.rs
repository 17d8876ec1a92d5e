//! An import from its first item to the data set: items are processed on several threads ([`process`], [`picture`],
//! [`parallel`]), kept in a [`journal`], and replayed from it with their final ids ([`replay`]).

pub(super) mod journal;
pub(super) mod parallel;
pub(super) mod picture;
pub(super) mod process;
pub(super) mod replay;
pub(super) mod report;
pub(super) mod run;
