//! Makers of MIMIC-IT data sets (arXiv 2306.05425; formats: data specification, section 1).
//!
//! The first maker is [`toybox`], a synthetic visual world that is rendered and written as a
//! genuine MIMIC-IT data set, small enough to train on a laptop and with known truth.
//!
//! ```
//! use otter_mimicit::toybox::{FamilyCounts, ToyboxOptions, write_toybox};
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

mod atomic_file;
pub mod retrieve;
pub mod toybox;
