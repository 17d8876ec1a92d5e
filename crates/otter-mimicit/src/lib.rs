//! Makers of MIMIC-IT data sets (arXiv 2306.05425).
//!
//! [`sources`] converts the data sets that MIMIC-IT was made of, and tables of one's own; [`retrieve`] picks in-context
//! examples.

pub mod retrieve;
pub mod sources;
