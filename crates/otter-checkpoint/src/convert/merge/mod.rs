//! Files that change a model that is already there: differences, tuned parts laid over it, LoRA adapters.

pub(in crate::convert) mod delta;
pub(in crate::convert) mod lora;
pub(in crate::convert) mod lora_config;
pub(in crate::convert) mod overlay;
