//! Large data sets of made-up text and small pictures, for measuring: how fast millions of pairs open, stream, are checked
//! and searched. Sizes and repetition follow MIMIC-IT (arXiv 2306.05425); the words mean nothing.
//!
//! | property | value |
//! |---|---|
//! | unique instructions | about 0.79 of all (2.2 M of 2.8 M); the others come from a pool of popular ones, by Zipf's law |
//! | words of an instruction | log-normal, median 11, from 4 to 40 |
//! | words of an answer | log-normal, median 28, from 1 to 300 |
//! | scenes | 4 to 12 consecutive pairs about the same topic and the same pictures; they are each other's `rel_ins_ids` |
//! | pictures of a scene | 1 (70 %), 2 (15 %), 4 to 16 frames (15 %); 32 to 64 pixels wide, PNG or JPEG; shared by scenes |
//! | contexts | four of five pairs are samples, with 0 to 5 pairs of their scene as context |
//! | languages | English 58 %, and zh, es, ja, de, fr, ko, ar with 6 % each, by scene |

mod image;
mod language;
mod pairs;
mod random;
mod write;

pub use write::{SyntheticOptions, write_synthetic};
