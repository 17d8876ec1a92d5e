//! Layers with an explicit forward and backward, and the kernels under them.
//!
//! The backward pass is written by hand, layer by layer: `forward` keeps nothing, `forward_saved` returns what the
//! backward pass needs as a struct one can read, `backward` returns the input gradient and adds parameter gradients
//! to [`Gradients`]. Frozen parameters have no buffer there, so their weight gradient is never
//! computed. Layers hold [`ParameterId`]s, not weights: one set of layers serves `f32` work and the `f64` gradient
//! checks.
//!
//! ```
//! use otter_nn::{Device, Gradients, Init, Linear, Parameters, ParameterSpecs, Tensor};
//! let mut specs = ParameterSpecs::default();
//! let layer = Linear::new(&mut specs, "proj", 3, 2, true, Init::Normal(0.5));
//! let mut parameters = Parameters::<f32>::initialize(&specs, 7, Device::Cpu);
//! parameters.set_trainable(|_| true);
//! let mut gradients = Gradients::new(&parameters);
//! let x = Tensor::from_vec(vec![1.0, 2.0, 3.0], &[1, 3], Device::Cpu);
//! let y = layer.forward(&parameters, &x); // (1, 2)
//! let dx = layer.backward(&parameters, &x, &y, &mut gradients); // (1, 3)
//! assert_eq!((y.shape(), dx.shape()), (&[1, 2][..], &[1, 3][..]));
//! ```

pub mod backend;
pub mod layers;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
pub mod tensor;
pub mod testing;

pub use backend::ActivationKind;
pub use layers::attention::{AttentionMask, SelfAttentionCore};
pub use layers::cross_entropy::CrossEntropy;
pub use layers::embedding::Embedding;
pub use layers::gate::TanhGate;
pub use layers::linear::Linear;
pub use layers::media_attention::{MediaAttention, MediaRows, MediaTarget};
pub use layers::norm::{Norm, NormStatistics};
pub use layers::rotary::{Rotary, rotary_frequencies};
pub use otter_input::{IGNORE_INDEX, Segment, SegmentError, SegmentProblem, Segments};
pub use tensor::{
    DType, Device, DeviceError, Float, Gradients, Init, Matrix, NotFinite, Parameter, ParameterId,
    ParameterSpec, ParameterSpecs, Parameters, QuantizedFormat, QuantizedMatrix, QuantizedView, SharedSlice,
    Tensor, UnknownDType, Weight, WeightMemory, WeightView, all_finite,
};
