//! Makers of MIMIC-IT data sets (arXiv 2306.05425; formats: data specification, section 1).
//!
//! [`toybox`] is a synthetic visual world that is rendered and written as a genuine MIMIC-IT data
//! set, small enough to train on a laptop and with known truth. [`synthetic`] makes data sets of
//! millions of meaningless pairs, for measuring. [`sources`] converts the data sets that MIMIC-IT
//! was made of, and tables of one's own; [`retrieve`] picks in-context examples.
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
pub mod sources;
pub mod synthetic;
pub mod toybox;
