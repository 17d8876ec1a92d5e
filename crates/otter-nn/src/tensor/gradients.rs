//! Gradients of the trained parameters, each in a buffer of its own.

use std::borrow::Cow;
use std::ops::Range;

use crate::{Device, Float, ParameterId, Parameters, Tensor};

/// Gradients of the trained parameters. Each has a buffer of its own, made of zeros when it is first asked for. By default
/// [`Gradients::clear`] gives buffers back, so that gradients take the memory that activations leave in the backward pass;
/// where activations are small beside them, [`Gradients::keep`] spares the system making the same pages again in every
/// step. Frozen parameters have none.
#[derive(Clone)]
pub struct Gradients<T = f32> {
    /// By parameter.
    parts: Vec<Part<T>>,
    ranges: Vec<Option<Range<usize>>>,
    keep: bool,
    device: Device,
}

/// The gradient of one parameter.
#[derive(Clone)]
struct Part<T> {
    /// `None` until it is first asked for.
    elements: Option<Tensor<T>>,
    /// Whether it was asked for since it was last zero; else the elements are those of an earlier step.
    current: bool,
    /// Whether only some rows are written, as of a token table: its other pages take no memory.
    by_rows: bool,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self { elements: None, current: false, by_rows: false }
    }
}

impl<T: Float> Part<T> {
    fn current(&self) -> Option<&Tensor<T>> {
        self.elements.as_ref().filter(|_| self.current)
    }

    fn make_current(&mut self, len: usize, device: Device) -> &mut Tensor<T> {
        if let (false, Some(earlier)) = (self.current, &mut self.elements) {
            earlier.backend().clear(earlier);
        }
        self.current = true;
        self.elements.get_or_insert_with(|| Tensor::zeros(&[len], device))
    }
}

impl<T: Float> Gradients<T> {
    /// Zero gradients for the trainable ones of `parameters`.
    pub fn new(parameters: &Parameters<T>) -> Self {
        let mut end = 0;
        let ranges: Vec<_> = parameters
            .iter()
            .map(|p| {
                p.trainable.then(|| {
                    end += p.tensor.len();
                    end - p.tensor.len()..end
                })
            })
            .collect();
        let parts = ranges.iter().map(|_| Part::default()).collect();
        Self { parts, ranges, keep: false, device: parameters.device() }
    }

    /// Whether [`Gradients::clear`] keeps the buffers, but for those of tables of which only rows were written.
    pub fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Whether parameter `id` receives a gradient.
    pub fn requires_grad(&self, id: ParameterId) -> bool {
        self.ranges[id.index()].is_some()
    }

    /// Where the gradients are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Gradient of parameter `id` on the host, to add to; `None` for a frozen one.
    ///
    /// # Panics
    /// When it is on a GPU; so do all functions here that give slices.
    pub fn get_mut(&mut self, id: ParameterId) -> Option<&mut [T]> {
        self.part_mut(id.index())
    }

    /// Gradient of parameter `id` to add to, wherever it is; `None` for a frozen one.
    pub fn tensor_mut(&mut self, id: ParameterId) -> Option<&mut Tensor<T>> {
        self.tensor_part_mut(id.index())
    }

    /// Gradient of the parameter at this place, in id order, to add to; `None` for a frozen one.
    pub fn part_mut(&mut self, index: usize) -> Option<&mut [T]> {
        Some(self.tensor_part_mut(index)?.data_mut())
    }

    /// As [`Gradients::part_mut`], wherever it is.
    pub fn tensor_part_mut(&mut self, index: usize) -> Option<&mut Tensor<T>> {
        let len = self.ranges[index].as_ref()?.len();
        Some(self.parts[index].make_current(len, self.device))
    }

    /// Gradient of the table `id`, of which only some rows are added to; `None` for a frozen one.
    pub fn rows_mut(&mut self, id: ParameterId) -> Option<&mut Tensor<T>> {
        let len = self.ranges[id.index()].as_ref()?.len();
        let part = &mut self.parts[id.index()];
        if part.elements.is_none() {
            let elements = Some(Tensor::fresh_zeros(&[len], self.device));
            *part = Part { elements, current: true, by_rows: true };
        }
        Some(part.make_current(len, self.device))
    }

    /// Gradient of the parameter at this place, in id order, copied where it is on a GPU; `None` for a frozen one.
    pub fn part(&self, index: usize) -> Option<Cow<'_, [T]>> {
        let len = self.ranges[index].as_ref()?.len();
        Some(match self.parts[index].current() {
            None => vec![T::ZERO; len].into(),
            Some(part) => part.host_data(),
        })
    }

    /// Gradient of the parameter at this place that something was added to.
    pub fn tensor_part(&self, index: usize) -> Option<&Tensor<T>> {
        self.parts[index].current()
    }

    /// Gradients that something was added to, in id order. The others are zero.
    pub fn parts(&self) -> impl Iterator<Item = &[T]> {
        self.tensors().map(Tensor::data)
    }

    /// As [`Gradients::parts`], wherever they are.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor<T>> {
        self.parts.iter().filter_map(Part::current)
    }

    /// Range of each parameter among all trained elements, in id order.
    pub fn ranges(&self) -> &[Option<Range<usize>>] {
        &self.ranges
    }

    /// Number of trained elements.
    pub fn len(&self) -> usize {
        self.ranges.iter().flatten().map(Range::len).sum()
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all gradients in the order of [`Gradients::ranges`]: for comparisons, not for training.
    pub fn flat(&self) -> Vec<T> {
        let mut flat = vec![T::ZERO; self.len()];
        for (index, range) in self.ranges.iter().enumerate() {
            if let (Some(range), Some(part)) = (range.clone(), self.part(index)) {
                flat[range].copy_from_slice(&part);
            }
        }
        flat
    }

    /// All elements in the order of [`Gradients::ranges`], writable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let device = self.device;
        let trained = self.parts.iter_mut().zip(&self.ranges).filter_map(move |(part, range)| {
            let len = range.as_ref()?.len();
            Some(part.make_current(len, device).data_mut())
        });
        trained.flatten()
    }

    /// Sets all gradients to zero.
    pub fn clear(&mut self) {
        for part in &mut self.parts {
            part.current = false;
            if !self.keep || part.by_rows {
                *part = Part::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, ParameterSpecs};

    /// Kept buffers are another step's memory, not its numbers; a table of which rows were written is given back.
    #[test]
    fn kept_gradients_begin_with_zeros() {
        let mut specs = ParameterSpecs::default();
        let [dense, table, unused] = ["dense", "table", "unused"]
            .map(|name| specs.add_matrix(format!("{name}.weight"), [3, 2], Init::Zeros));
        let mut parameters: Parameters<f64> = Parameters::initialize(&specs, 1, Device::Cpu);
        parameters.set_trainable(|_| true);
        for keep in [false, true] {
            let mut gradients = Gradients::new(&parameters);
            gradients.keep(keep);
            let mut addresses = Vec::new();
            for step in 0..3 {
                assert_eq!(gradients.parts().count(), 0, "nothing was added in step {step}");
                assert_eq!(gradients.flat(), [0.0; 18]);
                let add = |part: Option<&mut [f64]>| {
                    let part = part.expect("it is trained");
                    assert!(part.iter().all(|&g| g == 0.0), "step {step}, keep {keep}: {part:?}");
                    part[1] += 5.0;
                    part.as_ptr()
                };
                addresses.push(add(gradients.get_mut(dense)));
                add(gradients.rows_mut(table).map(Tensor::data_mut));
                assert_eq!(gradients.parts().count(), 2);
                assert_eq!(
                    gradients.get_mut(dense).map(|part| part[1]),
                    Some(5.0),
                    "asking again clears nothing"
                );
                assert_eq!(gradients.part(unused.index()).as_deref(), Some(&[0.0; 6][..]));
                gradients.clear();
                let held = [dense, table]
                    .map(|id| gradients.parts[id.index()].elements.as_ref().map_or(0, Tensor::len));
                assert_eq!(held, if keep { [6, 0] } else { [0, 0] });
            }
            assert!(!keep || addresses.iter().all(|&address| address == addresses[0]), "the same memory");
        }
    }
}
