//! The layers, one a file.

pub mod attention;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod gate;
pub mod linear;
pub mod media_attention;
pub mod norm;
pub mod rotary;
pub mod rows;
