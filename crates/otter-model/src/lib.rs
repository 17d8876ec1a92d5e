//! CLIP tower, Perceiver resampler, gated cross-attention, language models, Otter, generation.

pub mod config;
