//! What stands beside the weights for others: a page for people, and the module that Transformers loads.

pub(crate) mod model_card;
pub(crate) mod transformers_module;
