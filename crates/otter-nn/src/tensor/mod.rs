//! What layers compute with: elements and their shape, matrices in the types of files, the parameters of a model and their
//! gradients.

mod dense;
mod finite;
mod float;
mod gradients;
mod parameters;
pub mod quantized;
mod weight;

pub use dense::{Device, DeviceError, SharedSlice, Tensor};
pub use finite::{NotFinite, all_finite};
pub use float::Real;
pub use gradients::Gradients;
pub use parameters::{Init, Parameter, ParameterId, ParameterSpec, ParameterSpecs, Parameters, WeightMemory};
pub use quantized::{QuantisedFormat, QuantisedMatrix, QuantisedView};
pub use weight::{Weight, WeightView};
