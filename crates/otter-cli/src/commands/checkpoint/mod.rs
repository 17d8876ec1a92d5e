//! Commands about checkpoints: bring, make, look at, convert and compare them.

pub(crate) mod convert;
pub mod hub;
pub(crate) mod init;
pub(super) mod inspect;
pub(super) mod parity;
pub(super) mod pull;
