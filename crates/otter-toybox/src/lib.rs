//! The toybox: a small world with known truth, and the quickstart that tunes a model on it.
//!
//! [`world`] renders a seeded synthetic visual world and writes it as a MIMIC-IT data set; [`quickstart`] takes a small
//! base model from there to a tuned and evaluated one, in one run on a laptop.
//!
//! ```
//! use otter_toybox::world::{FamilyCounts, ToyboxOptions, write_toybox};
//!
//! let folder = tempfile::tempdir()?;
//! let options = ToyboxOptions {
//!     train: FamilyCounts::from_total(20),
//!     eval: FamilyCounts::from_total(10),
//!     ..ToyboxOptions::default()
//! };
//! let summary = write_toybox(folder.path(), &options, &mut |_| {})?;
//! assert!(folder.path().join("train/TOYATTR_instructions.json").exists());
//! assert!(summary.images > 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod quickstart;
pub mod world;
