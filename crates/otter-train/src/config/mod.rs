//! The TOML file that describes a run: its sections, how it is read and checked, overrides on the command line, and what may
//! differ when a run goes on.

pub(crate) mod differences;
pub(crate) mod flat;
mod load;
pub(crate) mod overrides;
mod sections;

pub use sections::*;
