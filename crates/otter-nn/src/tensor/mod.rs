//! What layers compute with: elements and their shape, matrices in the types of files, the parameters of a model and their
//! gradients.

mod dense;
mod device;
mod dtype;
mod finite;
mod float;
mod gradients;
mod parameters;
pub mod quantized;
mod weight;

pub use dense::{SharedSlice, Tensor};
pub use device::{Device, DeviceError};
pub use dtype::{DType, UnknownDType};
pub use finite::{NotFinite, all_finite};
pub use float::Float;
pub use gradients::Gradients;
pub use parameters::{Init, Parameter, ParameterId, ParameterSpec, ParameterSpecs, Parameters, WeightMemory};
pub use quantized::{QuantizedFormat, QuantizedMatrix, QuantizedView};
pub use weight::{Matrix, Weight, WeightView};
