//! What tests of layers and models share.

pub mod gradient_check;
