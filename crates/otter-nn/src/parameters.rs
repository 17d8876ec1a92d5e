//! Named parameters, which of them are trained, and their gradients in one flat buffer.
//!
//! A model is first described as a list of [`ParameterSpec`]s (names, shapes, initial values: no memory), from which
//! counts and memory plans follow. [`Parameters`] holds the tensors in the same order.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

use crate::{Device, DeviceError, Real, Tensor, Weight, WeightView, kernels};

/// Index of a parameter in the specs, the parameters and the gradients of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(usize);

impl ParameterId {
    /// Position in the list of parameters.
    pub fn index(self) -> usize {
        self.0
    }
}

/// How a parameter starts when no checkpoint gives its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero (biases, gates).
    Zeros,
    /// All one (norm gains).
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in plus or minus the square root of 1 / fan-in (PyTorch's default for linear layers).
    FanInUniform,
}

/// Name, shape and initial value of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// State-dict key.
    pub name: String,
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Initial values.
    pub init: Init,
    /// Whether the values may stay narrower than f32 (half precision, blocks): they are then read by [`Parameters::weight`]
    /// only.
    pub narrow: bool,
}

impl ParameterSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The parameters of a model as a list, in the order of their ids. Costs no tensor memory.
#[derive(Clone, Debug, Default)]
pub struct ParameterSpecs {
    list: Vec<ParameterSpec>,
}

impl ParameterSpecs {
    /// Appends a parameter.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> ParameterId {
        self.list.push(ParameterSpec { name: name.into(), shape: shape.to_vec(), init, narrow: false });
        ParameterId(self.list.len() - 1)
    }

    /// Appends a matrix that may stay in half precision or blocks: its layer reads it by [`Parameters::weight`], never by
    /// [`Parameters::data`].
    pub fn add_matrix(&mut self, name: impl Into<String>, shape: [usize; 2], init: Init) -> ParameterId {
        self.list.push(ParameterSpec { name: name.into(), shape: shape.to_vec(), init, narrow: true });
        ParameterId(self.list.len() - 1)
    }

    /// All parameters in id order.
    pub fn iter(&self) -> impl Iterator<Item = &ParameterSpec> {
        self.list.iter()
    }

    /// Number of parameters (tensors).
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Elements of all parameters whose name passes `filter`.
    pub fn count(&self, filter: impl Fn(&str) -> bool) -> u64 {
        self.list.iter().filter(|s| filter(&s.name)).map(|s| s.len() as u64).sum()
    }
}

/// One parameter.
#[derive(Clone)]
pub struct Parameter<T = f32> {
    /// State-dict key.
    pub name: String,
    /// Values; in full precision when trained.
    pub tensor: Weight<T>,
    /// Whether it receives a gradient.
    pub trainable: bool,
}

/// The parameters of a model.
#[derive(Clone)]
pub struct Parameters<T = f32> {
    list: Vec<Parameter<T>>,
    by_name: HashMap<String, usize>,
    device: Device,
}

impl<T: Real> Parameters<T> {
    /// Builds the parameters by asking `values` for each spec in order. All start frozen.
    ///
    /// # Errors
    /// The first error of `values`.
    ///
    /// # Panics
    /// When a tensor's shape is not its spec's, or it is narrower than f32 where the spec does not take that.
    pub fn build<E, W: Into<Weight<T>>>(
        specs: &ParameterSpecs,
        device: Device,
        mut values: impl FnMut(&ParameterSpec) -> Result<W, E>,
    ) -> Result<Self, E> {
        let mut list = Vec::with_capacity(specs.len());
        let mut by_name = HashMap::with_capacity(specs.len());
        for spec in specs.iter() {
            let tensor = values(spec)?.into();
            assert_eq!(tensor.shape(), spec.shape, "shape of {}", spec.name);
            assert!(spec.narrow || tensor.is_full(), "{} must be in full precision", spec.name);
            by_name.insert(spec.name.clone(), list.len());
            list.push(Parameter { name: spec.name.clone(), tensor, trainable: false });
        }
        Ok(Self { list, by_name, device })
    }

    /// Draws all parameters from their initial distributions. Each has its own stream of `seed` and its name, so
    /// that the values of one do not depend on which others exist.
    pub fn initialise(specs: &ParameterSpecs, seed: u64, device: Device) -> Self {
        let result = Self::build(specs, device, |spec| {
            Ok::<_, std::convert::Infallible>(initial_value(spec, seed, device))
        });
        match result {
            Ok(parameters) => parameters,
            Err(never) => match never {},
        }
    }

    /// Parameter `id`.
    pub fn get(&self, id: ParameterId) -> &Weight<T> {
        &self.list[id.0].tensor
    }

    /// Elements of parameter `id` for a matrix product or a row, in whatever precision they are kept.
    pub fn weight(&self, id: ParameterId) -> WeightView<'_, T> {
        self.list[id.0].tensor.view()
    }

    /// Elements of parameter `id`, one that was added by [`ParameterSpecs::add`] or is trained.
    ///
    /// # Panics
    /// When the parameter is kept narrower than f32, which only one added by [`ParameterSpecs::add_matrix`] can be: a
    /// mistake in the layer that reads it, whatever the input.
    pub fn data(&self, id: ParameterId) -> &[T] {
        let Parameter { name, tensor, .. } = &self.list[id.0];
        match tensor.view() {
            WeightView::Full(data) => data,
            _ => panic!("{name} is kept narrower than f32; its layer must read it by Parameters::weight"),
        }
    }

    /// Parameter `id`, in full precision: what [`Parameters::data`] gives of the host, of either device.
    ///
    /// # Panics
    /// As [`Parameters::data`].
    pub fn tensor(&self, id: ParameterId) -> &Tensor<T> {
        let Parameter { name, tensor, .. } = &self.list[id.0];
        match tensor.full() {
            Some(tensor) => tensor,
            None => panic!("{name} is kept narrower than f32; its layer must read it by Parameters::weight"),
        }
    }

    /// The same parameters on another device. Each is freed here as soon as it is there.
    ///
    /// # Errors
    /// When the device has no room for them.
    pub fn to_device(mut self, device: Device) -> Result<Self, DeviceError> {
        self.move_to(device)?;
        Ok(self)
    }

    /// As [`Parameters::to_device`], in place.
    ///
    /// # Errors
    /// As [`Parameters::to_device`]; the parameters are then of no more use.
    pub fn move_to(&mut self, device: Device) -> Result<(), DeviceError> {
        if device == self.device {
            return Ok(());
        }
        for parameter in &mut self.list {
            let there = parameter.tensor.to_device(device);
            parameter.tensor.give_back();
            parameter.tensor = there;
            device
                .check()
                .map_err(|error| DeviceError(format!("copying {} to {device:?}: {error}", parameter.name)))?;
        }
        self.device = device;
        Ok(())
    }

    /// The parameters on the host: these, or copies of those on a card.
    pub fn on_host(&self) -> Cow<'_, Self> {
        if self.device == Device::Cpu {
            return Cow::Borrowed(self);
        }
        let copied = |p: &Parameter<T>| Parameter {
            name: p.name.clone(),
            tensor: p.tensor.to_device(Device::Cpu),
            trainable: p.trainable,
        };
        let list = self.list.iter().map(copied).collect();
        Cow::Owned(Self { list, by_name: self.by_name.clone(), device: Device::Cpu })
    }

    /// Whether parameter `id` is trained.
    pub fn is_trainable(&self, id: ParameterId) -> bool {
        self.list[id.0].trainable
    }

    /// Parameter with this name.
    pub fn by_name(&self, name: &str) -> Option<&Parameter<T>> {
        self.by_name.get(name).map(|&i| &self.list[i])
    }

    /// Parameter with this name, writable.
    pub fn by_name_mut(&mut self, name: &str) -> Option<&mut Parameter<T>> {
        self.by_name.get(name).map(|&i| &mut self.list[i])
    }

    /// All parameters in id order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter<T>> {
        self.list.iter()
    }

    /// All parameters in id order, writable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter<T>> {
        self.list.iter_mut()
    }

    /// Trains exactly the parameters whose name passes `rule`. Those kept narrower are widened, because steps
    /// are smaller than they resolve; returns the number of elements widened.
    pub fn set_trainable(&mut self, rule: impl Fn(&str) -> bool) -> u64 {
        let mut widened = 0;
        for parameter in &mut self.list {
            parameter.trainable = rule(&parameter.name);
            if parameter.trainable && !parameter.tensor.is_full() {
                widened += parameter.tensor.make_full().len() as u64;
            }
        }
        widened
    }

    /// Elements of all trained parameters.
    pub fn trainable_count(&self) -> u64 {
        self.list.iter().filter(|p| p.trainable).map(|p| p.tensor.len() as u64).sum()
    }

    /// Elements of all parameters.
    pub fn total_count(&self) -> u64 {
        self.list.iter().map(|p| p.tensor.len() as u64).sum()
    }

    /// Elements kept in half precision.
    pub fn half_count(&self) -> u64 {
        self.list.iter().filter(|p| p.tensor.is_half()).map(|p| p.tensor.len() as u64).sum()
    }

    /// Elements kept in blocks.
    pub fn quantised_count(&self) -> u64 {
        self.list.iter().filter_map(|p| p.tensor.quantised()).map(|matrix| matrix.len() as u64).sum()
    }

    /// What the values take.
    pub fn memory(&self) -> WeightMemory {
        let mut memory = WeightMemory {
            half: self.half_count(),
            quantised: self.quantised_count(),
            total: self.total_count(),
            ..Default::default()
        };
        for parameter in &self.list {
            let part = if parameter.tensor.is_shared() { &mut memory.mapped } else { &mut memory.owned };
            *part += parameter.tensor.bytes();
        }
        memory
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The same parameters in another element type, all frozen flags kept.
    pub fn cast<U: Real>(&self) -> Parameters<U> {
        let list = self
            .list
            .iter()
            .map(|p| Parameter { name: p.name.clone(), tensor: p.tensor.cast(), trainable: p.trainable })
            .collect();
        Parameters { list, by_name: self.by_name.clone(), device: self.device }
    }
}

/// What the values of parameters take, in bytes, and how many are kept narrower than f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightMemory {
    /// In mapped files: pages that the system loads when they are read, and may drop again.
    pub mapped: u64,
    /// In memory of their own.
    pub owned: u64,
    /// Elements kept in half precision.
    pub half: u64,
    /// Elements kept in blocks of 8 or 4 bits.
    pub quantised: u64,
    /// All elements.
    pub total: u64,
}

impl std::fmt::Display for WeightMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "weights: {:.2} GiB read from the mapped file, {:.2} GiB copied to memory; {} of {} parameters in 16 bits",
            gib(self.mapped),
            gib(self.owned),
            self.half,
            self.total
        )?;
        if self.quantised > 0 {
            write!(f, ", {} in blocks of 8 or 4 bits", self.quantised)?;
        }
        Ok(())
    }
}

fn initial_value<T: Real>(spec: &ParameterSpec, seed: u64, device: Device) -> Tensor<T> {
    let mut data = vec![T::ZERO; spec.len()];
    match spec.init {
        Init::Zeros => {}
        Init::Ones => data.fill(T::ONE),
        Init::Normal(std) => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(&spec.name));
            data.iter_mut().for_each(|v| *v = T::from_f64(std * standard_normal(&mut rng)));
        }
        Init::FanInUniform => {
            let fan_in: usize = spec.shape.iter().skip(1).product();
            let bound = (1.0 / fan_in.max(1) as f64).sqrt();
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(&spec.name));
            data.iter_mut().for_each(|v| *v = T::from_f64(bound * (2.0 * unit(&mut rng) - 1.0)));
        }
    }
    Tensor::from_vec(data, &spec.shape, device)
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Uniform in [0, 1) with 53 random bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// One draw from N(0, 1) by Box-Muller.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

/// Gradients of the trained parameters. Each has a buffer of its own, made of zeros when it is first asked for. By default
/// [`Gradients::clear`] gives buffers back, so that gradients take the memory that activations leave in the reverse pass;
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

impl<T: Real> Part<T> {
    fn current(&self) -> Option<&Tensor<T>> {
        self.elements.as_ref().filter(|_| self.current)
    }

    fn make_current(&mut self, len: usize, device: Device) -> &mut Tensor<T> {
        if let (false, Some(earlier)) = (self.current, &mut self.elements) {
            match device {
                Device::Cpu => {
                    kernels::for_row_blocks(earlier.data_mut(), 1, 1, |_, block| block.fill(T::ZERO));
                }
                Device::Card(card) => card.clear(earlier.on_card_mut()),
            }
        }
        self.current = true;
        self.elements.get_or_insert_with(|| Tensor::zeros(&[len], device))
    }
}

impl<T: Real> Gradients<T> {
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
    pub fn wants(&self, id: ParameterId) -> bool {
        self.ranges[id.0].is_some()
    }

    /// Where the gradients are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Gradient of parameter `id` on the host, to add to; `None` for a frozen one.
    ///
    /// # Panics
    /// When it is on a card; so do all functions here that give slices.
    pub fn get_mut(&mut self, id: ParameterId) -> Option<&mut [T]> {
        self.part_mut(id.0)
    }

    /// Gradient of parameter `id` to add to, wherever it is; `None` for a frozen one.
    pub fn tensor_mut(&mut self, id: ParameterId) -> Option<&mut Tensor<T>> {
        self.tensor_part_mut(id.0)
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
        let len = self.ranges[id.0].as_ref()?.len();
        let part = &mut self.parts[id.0];
        if part.elements.is_none() && self.device == Device::Cpu {
            // Not `kernels::zeros`: fresh pages take no memory before they are written.
            let elements = Some(Tensor::from_vec(vec![T::ZERO; len], &[len], self.device));
            *part = Part { elements, current: true, by_rows: true };
        }
        Some(part.make_current(len, self.device))
    }

    /// Gradient of the parameter at this place, in id order, copied where it is on a card; `None` for a frozen one.
    pub fn part(&self, index: usize) -> Option<Cow<'_, [T]>> {
        let len = self.ranges[index].as_ref()?.len();
        Some(match self.parts[index].current() {
            None => vec![T::ZERO; len].into(),
            Some(part) if self.device == Device::Cpu => part.data().into(),
            Some(part) => part.to_host().into_vec().into(),
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

    /// Kept buffers are another step's memory, not its numbers; a table of which rows were written is given back.
    #[test]
    fn kept_gradients_begin_with_zeros() {
        let mut specs = ParameterSpecs::default();
        let [dense, table, unused] = ["dense", "table", "unused"]
            .map(|name| specs.add_matrix(format!("{name}.weight"), [3, 2], Init::Zeros));
        let mut parameters: Parameters<f64> = Parameters::initialise(&specs, 1, Device::Cpu);
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
                assert_eq!(gradients.part(unused.0).as_deref(), Some(&[0.0; 6][..]));
                gradients.clear();
                let held =
                    [dense, table].map(|id| gradients.parts[id.0].elements.as_ref().map_or(0, Tensor::len));
                assert_eq!(held, if keep { [6, 0] } else { [0, 0] });
            }
            assert!(!keep || addresses.iter().all(|&address| address == addresses[0]), "the same memory");
        }
    }
}
