//! Text: tokens, prompts, the positions that are trained, and what is cleaned before.

pub(crate) mod clean;
pub(crate) mod labels;
pub mod prompt;
pub(crate) mod token_check;
pub(crate) mod tokenizer;
