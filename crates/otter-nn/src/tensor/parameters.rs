//! Named parameters, and which of them are trained.
//!
//! A model is first described as a list of [`ParameterSpec`]s (names, shapes, initial values: no memory), from which
//! counts and memory plans follow. [`Parameters`] holds the tensors in the same order.

use std::borrow::Cow;
use std::collections::HashMap;

use otter_io::hash::{FNV_OFFSET, fnv1a};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::{Device, DeviceError, Float, Matrix, Tensor, Weight, WeightView};

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
    /// All one (norm weights).
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
    /// Whether the values may stay in low precision (half precision, blocks): they are then read by [`Parameters::weight`]
    /// only.
    pub low_precision: bool,
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

    /// The values that the elements from number `start` on begin with. They depend on seed, name, distribution and position
    /// only, so that any part can be made alone, in memory or on the way to a file.
    pub fn initial_values<T: Float>(&self, seed: u64, start: usize, out: &mut [T]) {
        // Words of the stream that an element takes.
        let words = match self.init {
            Init::Zeros => return out.fill(T::ZERO),
            Init::Ones => return out.fill(T::ONE),
            Init::Normal(_) => 4,
            Init::FanInUniform => 2,
        };
        let fan_in: usize = self.shape.iter().skip(1).product();
        let bound = (1.0 / fan_in.max(1) as f64).sqrt();
        out.par_chunks_mut(PART).enumerate().for_each(|(part, values)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(FNV_OFFSET, self.name.bytes()));
            rng.set_word_pos(words * (start + part * PART) as u128);
            values.iter_mut().for_each(|value| {
                *value = T::from_f64(match self.init {
                    Init::Normal(std) => std * standard_normal(&mut rng),
                    _ => bound * (2.0 * unit(&mut rng) - 1.0),
                });
            });
        });
    }
}

/// Elements that a thread draws at a time.
const PART: usize = 1 << 14;

/// The parameters of a model as a list, in the order of their ids. Costs no tensor memory.
#[derive(Clone, Debug, Default)]
pub struct ParameterSpecs {
    list: Vec<ParameterSpec>,
}

impl ParameterSpecs {
    /// Appends a parameter.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> ParameterId {
        self.list.push(ParameterSpec {
            name: name.into(),
            shape: shape.to_vec(),
            init,
            low_precision: false,
        });
        ParameterId(self.list.len() - 1)
    }

    /// Appends a matrix that may stay in half precision or blocks: its layer reads it by [`Parameters::weight`], never by
    /// [`Parameters::data`].
    pub fn add_matrix(&mut self, name: impl Into<String>, shape: [usize; 2], init: Init) -> ParameterId {
        self.list.push(ParameterSpec { name: name.into(), shape: shape.to_vec(), init, low_precision: true });
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

impl<T: Float> Parameters<T> {
    /// Builds the parameters by asking `values` for each spec in order. All start frozen.
    ///
    /// # Errors
    /// The first error of `values`.
    ///
    /// # Panics
    /// When a tensor's shape is not its spec's, or it is in low precision where the spec does not take that.
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
            assert!(spec.low_precision || tensor.is_full(), "{} must be in full precision", spec.name);
            by_name.insert(spec.name.clone(), list.len());
            list.push(Parameter { name: spec.name.clone(), tensor, trainable: false });
        }
        Ok(Self { list, by_name, device })
    }

    /// Draws all parameters from their initial distributions. Each has its own stream of `seed` and its name, so
    /// that the values of one do not depend on which others exist.
    pub fn initialize(specs: &ParameterSpecs, seed: u64, device: Device) -> Self {
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

    /// Parameter `id` for an operation of a backend, in whatever precision it is kept.
    pub fn matrix(&self, id: ParameterId) -> Matrix<'_, T> {
        self.list[id.0].tensor.matrix()
    }

    /// Elements of parameter `id`, one that was added by [`ParameterSpecs::add`] or is trained.
    ///
    /// # Panics
    /// When the parameter is kept in low precision, which only one added by [`ParameterSpecs::add_matrix`] can be: a
    /// mistake in the layer that reads it, whatever the input.
    pub fn data(&self, id: ParameterId) -> &[T] {
        let Parameter { name, tensor, .. } = &self.list[id.0];
        match tensor.view() {
            WeightView::Full(data) => data,
            _ => panic!("{name} is kept in low precision; its layer must read it by Parameters::weight"),
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
            None => panic!("{name} is kept in low precision; its layer must read it by Parameters::weight"),
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
                .map_err(|error| error.context(format!("copying {} to {device:?}", parameter.name)))?;
        }
        self.device = device;
        Ok(())
    }

    /// The parameters on the host: these, or copies of those on a GPU.
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

    /// Trains exactly the parameters whose name passes `rule`. Those kept in low precision become f32, because steps
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
    pub fn quantized_count(&self) -> u64 {
        self.list.iter().filter_map(|p| p.tensor.quantized()).map(|matrix| matrix.len() as u64).sum()
    }

    /// What the values take.
    pub fn memory(&self) -> WeightMemory {
        let mut memory = WeightMemory {
            half: self.half_count(),
            quantized: self.quantized_count(),
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
    pub fn cast<U: Float>(&self) -> Parameters<U> {
        let list = self
            .list
            .iter()
            .map(|p| Parameter { name: p.name.clone(), tensor: p.tensor.cast(), trainable: p.trainable })
            .collect();
        Parameters { list, by_name: self.by_name.clone(), device: self.device }
    }
}

/// What the values of parameters take, in bytes, and how many are kept in low precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightMemory {
    /// In mapped files: pages that the system loads when they are read, and may drop again.
    pub mapped: u64,
    /// In memory of their own.
    pub owned: u64,
    /// Elements kept in half precision.
    pub half: u64,
    /// Elements kept in blocks of 8 or 4 bits.
    pub quantized: u64,
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
        if self.quantized > 0 {
            write!(f, ", {} in blocks of 8 or 4 bits", self.quantized)?;
        }
        Ok(())
    }
}

fn initial_value<T: Float>(spec: &ParameterSpec, seed: u64, device: Device) -> Tensor<T> {
    let mut data = vec![T::ZERO; spec.len()];
    spec.initial_values(seed, 0, &mut data);
    Tensor::from_vec(data, &spec.shape, device)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the first release of this project, which shipped weights were made from.
    #[test]
    fn parts_are_those_of_the_whole_and_the_streams_are_the_old_ones() {
        for init in [Init::Normal(0.5), Init::FanInUniform] {
            let spec = ParameterSpec {
                name: "some.weight".to_owned(),
                shape: vec![300, 200],
                init,
                low_precision: true,
            };
            let mut whole = vec![0f64; spec.len()];
            spec.initial_values(7, 0, &mut whole);
            let mut rng = ChaCha8Rng::seed_from_u64(7 ^ fnv1a(FNV_OFFSET, *b"some.weight"));
            let bound = (1.0f64 / 200.0).sqrt();
            let one_by_one: Vec<f64> = (0..spec.len())
                .map(|_| match init {
                    Init::Normal(std) => std * standard_normal(&mut rng),
                    _ => bound * (2.0 * unit(&mut rng) - 1.0),
                })
                .collect();
            assert!(whole == one_by_one, "{init:?}");
            let start = PART + 77;
            let mut part = vec![0f64; 2 * PART];
            spec.initial_values(7, start, &mut part);
            assert!(part == whole[start..start + part.len()], "{init:?}");
        }
    }
}
