//! Tests of whole models, in one binary, so that it is linked once.

mod small_models;

mod generation;
mod packed;
mod whole_model;
