//! The toybox: a seeded synthetic visual world written as a MIMIC-IT data set.
//!
//! Pictures of a few colored shapes come with six families of tasks: attributes, referring, counting,
//! relations, spotting the difference between two pictures, and fast binding, where a made-up
//! word means a concept (a color and a shape) only through the in-context examples of one prompt.
//! Some words and some pairs of concepts never occur in training, so that binding can be measured
//! on words that have no meaning but the one given in the prompt.
//!
//! Reading order: [`language`] (all words, phrasings and mixture ratios), [`scene`], [`mod@render`],
//! [`example`], [`question`], [`binding`], [`held_out`], then [`vocabulary`] and [`write_toybox`].

pub mod binding;
mod dataset;
mod error;
pub mod example;
pub mod held_out;
pub mod language;
mod options;
pub mod patch_labels;
pub mod question;
pub mod render;
pub mod scene;
mod seeding;
pub mod vocabulary;
mod write;

pub use binding::BindingEpisode;
pub use error::ToyboxError;
pub use example::Example;
pub use held_out::MadeUpWord;
pub use options::{FamilyCounts, ToyboxOptions};
pub use patch_labels::{PatchLabel, patch_labels};
pub use question::make_example;
pub use render::render;
pub use scene::{Color, Concept, Object, Scene, Shape, Size};
pub use seeding::random_stream;
pub use vocabulary::Vocabulary;
pub use write::{Summary, write_toybox};
