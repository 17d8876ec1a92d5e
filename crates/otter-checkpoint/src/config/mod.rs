//! What a checkpoint says about itself: `config.json` with the settings of its language model, how its inputs are
//! prepared, how it answers, and how pictures are scaled.

pub(crate) mod checkpoint_config;
pub(crate) mod generation;
pub(crate) mod input_rules;
pub(crate) mod keys;
pub(crate) mod preprocessor;
pub(crate) mod section;
pub(crate) mod text;
pub(crate) mod write;
