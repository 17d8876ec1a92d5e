//! A parameter's values: in the type the model computes with, or a matrix left in the half precision or the blocks of its file.
//!
//! Such a matrix is never widened as a whole by reading it: kernels take a [`WeightView`] and widen in registers or a tile
//! at a time. What needs plain elements says so ([`Weight::values`], [`Weight::make_full`]).

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::backend::cpu::half::widened;
use crate::tensor::quantized::{QuantizedMatrix, QuantizedView};
use crate::{Device, Float, Tensor};

/// Values of one parameter.
#[derive(Clone)]
pub enum Weight<T = f32> {
    /// In the type of the arithmetic.
    Full(Tensor<T>),
    /// IEEE 754 half precision.
    F16(Tensor<f16>),
    /// The upper half of an f32.
    Bf16(Tensor<bf16>),
    /// Blocks of 8 or 4 bits.
    Quantized(QuantizedMatrix),
}

/// Borrowed elements of a [`Weight`], or of consecutive rows of it.
#[derive(Clone, Copy, Debug)]
pub enum WeightView<'a, T> {
    /// In the type of the arithmetic.
    Full(&'a [T]),
    /// IEEE 754 half precision.
    F16(&'a [f16]),
    /// The upper half of an f32.
    Bf16(&'a [bf16]),
    /// Whole rows in blocks of 8 or 4 bits.
    Quantized(QuantizedView<'a>),
}

/// A borrowed [`Weight`], wherever it is, as operations of a backend take it.
#[derive(Clone, Copy)]
pub enum Matrix<'a, T> {
    /// In the type of the arithmetic.
    Full(&'a Tensor<T>),
    /// IEEE 754 half precision.
    F16(&'a Tensor<f16>),
    /// The upper half of an f32.
    Bf16(&'a Tensor<bf16>),
    /// Blocks of 8 or 4 bits.
    Quantized(&'a QuantizedMatrix),
}

impl<'a, T: Float> Matrix<'a, T> {
    /// The elements for a kernel of the host, as they are.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn view(self) -> WeightView<'a, T> {
        match self {
            Self::Full(tensor) => WeightView::Full(tensor.data()),
            Self::F16(tensor) => WeightView::F16(tensor.data()),
            Self::Bf16(tensor) => WeightView::Bf16(tensor.data()),
            Self::Quantized(matrix) => WeightView::Quantized(matrix.view()),
        }
    }

    /// Where the elements live.
    pub fn device(self) -> Device {
        match self {
            Self::Full(tensor) => tensor.device(),
            Self::F16(tensor) => tensor.device(),
            Self::Bf16(tensor) => tensor.device(),
            Self::Quantized(matrix) => matrix.device(),
        }
    }
}

macro_rules! for_tensor {
    ($weight:expr, $tensor:ident => $result:expr) => {
        match $weight {
            Weight::Full($tensor) => $result,
            Weight::F16($tensor) => $result,
            Weight::Bf16($tensor) => $result,
            Weight::Quantized($tensor) => $result,
        }
    };
}

impl<T: Float> Weight<T> {
    /// Sizes of the dimensions, slowest first.
    pub fn shape(&self) -> &[usize] {
        for_tensor!(self, tensor => tensor.shape())
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        for_tensor!(self, tensor => tensor.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last dimension's size (1 for a scalar).
    pub fn width(&self) -> usize {
        for_tensor!(self, tensor => tensor.width())
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        for_tensor!(self, tensor => tensor.device())
    }

    /// Whether the elements are borrowed from a mapped file.
    pub fn is_shared(&self) -> bool {
        for_tensor!(self, tensor => tensor.is_shared())
    }

    /// Whether the elements are 16 bits wide.
    pub fn is_half(&self) -> bool {
        matches!(self, Self::F16(_) | Self::Bf16(_))
    }

    /// Whether the elements are in the type of the arithmetic.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// The blocks, of a quantized matrix.
    pub fn quantized(&self) -> Option<&QuantizedMatrix> {
        match self {
            Self::Quantized(matrix) => Some(matrix),
            _ => None,
        }
    }

    /// Gives the pages of elements that are borrowed from a mapped file back; they stay readable. Does nothing to others.
    pub fn give_back(&self) {
        for_tensor!(self, tensor => tensor.give_back());
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Full(tensor) => (size_of::<T>() * tensor.len()) as u64,
            Self::F16(_) | Self::Bf16(_) => 2 * self.len() as u64,
            Self::Quantized(matrix) => matrix.byte_len() as u64,
        }
    }

    /// The elements for an operation of a backend, as they are.
    pub fn matrix(&self) -> Matrix<'_, T> {
        match self {
            Self::Full(tensor) => Matrix::Full(tensor),
            Self::F16(tensor) => Matrix::F16(tensor),
            Self::Bf16(tensor) => Matrix::Bf16(tensor),
            Self::Quantized(matrix) => Matrix::Quantized(matrix),
        }
    }

    /// The same elements on another device, in the precision they have.
    pub fn to_device(&self, device: Device) -> Self {
        match self {
            Self::Full(tensor) => Self::Full(tensor.to_device(device)),
            Self::F16(tensor) => Self::F16(halves_to_device(tensor, device)),
            Self::Bf16(tensor) => Self::Bf16(halves_to_device(tensor, device)),
            Self::Quantized(matrix) => Self::Quantized(matrix.to_device(device)),
        }
    }

    /// The elements for a kernel of the host, as they are.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn view(&self) -> WeightView<'_, T> {
        self.matrix().view()
    }

    /// The tensor, if it is in the type of the arithmetic.
    pub fn full(&self) -> Option<&Tensor<T>> {
        match self {
            Self::Full(tensor) => Some(tensor),
            Self::F16(_) | Self::Bf16(_) | Self::Quantized(_) => None,
        }
    }

    /// All elements in row-major order; those in low precision become f32 in new memory, and those of a GPU copied to the host.
    pub fn values(&self) -> Cow<'_, [T]> {
        if self.device() != Device::Cpu {
            return Cow::Owned(self.to_device(Device::Cpu).values().into_owned());
        }
        match self.view() {
            WeightView::Full(data) => Cow::Borrowed(data),
            low_precision => Cow::Owned(low_precision.to_vec()),
        }
    }

    /// The tensor, writable; elements in low precision become f32 for good first.
    pub fn make_full(&mut self) -> &mut Tensor<T> {
        if !self.is_full() {
            let widened = Tensor::from_vec(self.values().into_owned(), self.shape(), Device::Cpu);
            let device = self.device();
            self.give_back();
            *self = Self::Full(if device == Device::Cpu { widened } else { widened.to_device(device) });
        }
        match self {
            Self::Full(tensor) => tensor,
            Self::F16(_) | Self::Bf16(_) | Self::Quantized(_) => unreachable!("elements were widened above"),
        }
    }

    /// Converts the elements to another type; those in low precision stay as they are.
    pub fn cast<U: Float>(&self) -> Weight<U> {
        match self {
            Self::Full(tensor) => Weight::Full(tensor.cast()),
            Self::F16(tensor) => Weight::F16(tensor.clone()),
            Self::Bf16(tensor) => Weight::Bf16(tensor.clone()),
            Self::Quantized(matrix) => Weight::Quantized(matrix.clone()),
        }
    }
}

fn halves_to_device<H>(tensor: &Tensor<H>, device: Device) -> Tensor<H>
where
    H: Copy + Default,
    [H]: HalfFloatSliceExt,
{
    match (device, tensor.device()) {
        (Device::Cpu, Device::Gpu(gpu)) => {
            let mut elements = vec![H::default(); tensor.len()];
            gpu.download_halves(tensor.on_gpu(), elements.reinterpret_cast_mut());
            Tensor::from_vec(elements, tensor.shape(), device)
        }
        (Device::Gpu(gpu), Device::Cpu) => {
            Tensor::from_gpu(gpu.upload_halves(tensor.data().reinterpret_cast()), tensor.shape(), gpu)
        }
        _ => tensor.clone(),
    }
}

impl<'a, T: Float> WeightView<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Full(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::Quantized(rows) => rows.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `at` elements and the rest.
    ///
    /// # Panics
    /// When there are fewer, or `at` is inside a row of a quantized matrix.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Full(data) => {
                let (head, tail) = data.split_at(at);
                (Self::Full(head), Self::Full(tail))
            }
            Self::F16(data) => {
                let (head, tail) = data.split_at(at);
                (Self::F16(head), Self::F16(tail))
            }
            Self::Bf16(data) => {
                let (head, tail) = data.split_at(at);
                (Self::Bf16(head), Self::Bf16(tail))
            }
            Self::Quantized(rows) => {
                let (head, tail) = rows.split_at(at);
                (Self::Quantized(head), Self::Quantized(tail))
            }
        }
    }

    /// Writes the elements from `start` on to `out`.
    ///
    /// # Panics
    /// When there are fewer than `out` takes.
    pub fn read(self, start: usize, out: &mut [T]) {
        let range = start..start + out.len();
        match self {
            Self::Full(data) => out.copy_from_slice(&data[range]),
            Self::F16(data) => widened(out, &data[range]),
            Self::Bf16(data) => widened(out, &data[range]),
            Self::Quantized(rows) => {
                crate::backend::cpu::quantized::dequantize(rows.format(), rows.bytes(), start, out)
            }
        }
    }

    /// Consecutive parts of `size` elements (the last may be shorter); those in low precision become f32 part by part.
    pub fn chunks(self, size: usize) -> impl Iterator<Item = Cow<'a, [T]>> {
        (0..self.len()).step_by(size.max(1)).map(move |start| {
            let count = size.min(self.len() - start);
            match self {
                Self::Full(data) => Cow::Borrowed(&data[start..start + count]),
                low_precision => {
                    let mut values = vec![T::ZERO; count];
                    low_precision.read(start, &mut values);
                    Cow::Owned(values)
                }
            }
        })
    }

    fn to_vec(self) -> Vec<T> {
        let mut values = vec![T::ZERO; self.len()];
        self.read(0, &mut values);
        values
    }
}

impl<T> From<Tensor<T>> for Weight<T> {
    fn from(tensor: Tensor<T>) -> Self {
        Self::Full(tensor)
    }
}

impl<'a, T> From<QuantizedView<'a>> for WeightView<'a, T> {
    fn from(rows: QuantizedView<'a>) -> Self {
        Self::Quantized(rows)
    }
}

impl<'a, T> From<&'a Vec<T>> for WeightView<'a, T> {
    fn from(data: &'a Vec<T>) -> Self {
        Self::Full(data)
    }
}

impl<'a, T> From<&'a [T]> for WeightView<'a, T> {
    fn from(data: &'a [T]) -> Self {
        Self::Full(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, ParameterSpecs, Parameters};

    fn f16_weight() -> Weight<f32> {
        let values = [1.5, -0.25, 3.0, 0.0, 65504.0, -2e-7].map(f16::from_f32);
        Weight::F16(Tensor::from_vec(values.to_vec(), &[2, 3], Device::Cpu))
    }

    #[test]
    fn a_half_matrix_is_read_in_parts_and_widened_only_when_asked() {
        let mut weight = f16_weight();
        assert_eq!((weight.shape(), weight.bytes(), weight.is_half()), (&[2, 3][..], 12, true));
        assert!(weight.full().is_none());
        let (head, tail) = weight.view().split_at(3);
        let mut row = [0.0; 2];
        head.read(1, &mut row);
        assert_eq!((head.len(), tail.len(), row), (3, 3, [-0.25, 3.0]));
        let values = weight.values().into_owned();
        let parts: Vec<f32> = weight.view().chunks(4).flat_map(Cow::into_owned).collect();
        assert_eq!(parts, values);
        assert_eq!(values[4], 65504.0);
        assert_eq!(weight.make_full().data(), values);
        assert_eq!((weight.bytes(), weight.is_half()), (24, false));
    }

    #[test]
    fn a_cast_keeps_half_precision_and_its_values() {
        let cast: Weight<f64> = f16_weight().cast();
        assert!(cast.is_half());
        let widened: Vec<f64> = f16_weight().values().iter().map(|&v| f64::from(v)).collect();
        assert_eq!(cast.values(), widened);
    }

    #[test]
    fn training_widens_what_is_trained() {
        let mut specs = ParameterSpecs::default();
        let (a, b) = (specs.add_matrix("a", [2, 3], Init::Zeros), specs.add_matrix("b", [2, 3], Init::Zeros));
        let mut parameters =
            Parameters::build(&specs, Device::Cpu, |_| Ok::<_, std::convert::Infallible>(f16_weight()))
                .unwrap_or_else(|never| match never {});
        assert_eq!(parameters.half_count(), 12);
        assert_eq!(parameters.set_trainable(|name| name == "b"), 6);
        assert_eq!(parameters.set_trainable(|name| name == "b"), 0);
        assert_eq!(parameters.half_count(), 6);
        assert!(parameters.get(a).is_half());
        assert_eq!(parameters.data(b), &parameters.get(a).values()[..]);
    }

    #[test]
    #[should_panic(expected = "vector must be in full precision")]
    fn what_layers_read_whole_is_not_kept_half() {
        let mut specs = ParameterSpecs::default();
        specs.add("vector", &[2, 3], Init::Zeros);
        let _ = Parameters::<f32>::build(&specs, Device::Cpu, |_| Ok::<_, ()>(f16_weight()));
    }
}
