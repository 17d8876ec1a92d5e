//! Gradient checks by central finite differences in `f64`.
//!
//! Every layer's backward pass is compared with the differences of its own forward pass, for its inputs and for its
//! parameters. The loss is the sum of the output weighted by fixed random numbers.

use half::{bf16, f16};

use crate::{Device, Float, Gradients, Init, ParameterSpecs, Parameters, Tensor, Weight};

/// Largest accepted difference, relative to the largest gradient of the tensor.
const TOLERANCE: f64 = 1e-6;
/// Largest gradients below this count as this: what is left of smaller ones after the subtraction is rounding.
const SMALLEST_SCALE: f64 = 1e-2;
const STEP: f64 = 1e-5;
/// Elements checked per tensor; larger tensors are sampled evenly.
const ELEMENTS: usize = 48;

/// A tensor of reproducible numbers from N(0, 1), different for every `name`.
pub fn random_tensor(name: &str, shape: &[usize]) -> Tensor<f64> {
    let mut specs = ParameterSpecs::default();
    let id = specs.add(name, shape, Init::Normal(1.0));
    let parameters = Parameters::<f64>::initialize(&specs, 11, Device::Cpu);
    Tensor::from_vec(parameters.data(id).to_vec(), shape, Device::Cpu)
}

/// Parameters of `specs` with values away from their special starting points (zeros, ones).
pub fn random_parameters(specs: &ParameterSpecs) -> Parameters<f64> {
    let mut parameters = Parameters::<f64>::initialize(specs, 3, Device::Cpu);
    for parameter in parameters.iter_mut() {
        let noise = random_tensor(&format!("{}.noise", parameter.name), parameter.tensor.shape());
        for (value, noise) in parameter.tensor.make_full().data_mut().iter_mut().zip(noise.data()) {
            *value += 0.3 * noise;
        }
    }
    parameters.set_trainable(|_| true);
    parameters
}

/// Checks the gradients of `forward` with respect to `inputs` and all parameters of `specs`.
///
/// `backward` receives the parameters, the inputs and the output's gradient; it returns one gradient per input and
/// adds the parameter gradients.
///
/// # Panics
/// When a gradient differs; the message names tensor and element.
pub fn check(
    specs: &ParameterSpecs,
    inputs: &[Tensor<f64>],
    forward: impl Fn(&Parameters<f64>, &[Tensor<f64>]) -> Tensor<f64>,
    backward: impl Fn(&Parameters<f64>, &[Tensor<f64>], &Tensor<f64>, &mut Gradients<f64>) -> Vec<Tensor<f64>>,
) {
    check_parameters(random_parameters(specs), inputs, forward, backward);
}

/// As [`check`], with frozen half-precision values in every matrix that may be kept so: once f16, once bf16.
///
/// # Panics
/// As [`check`].
pub fn check_half(
    specs: &ParameterSpecs,
    inputs: &[Tensor<f64>],
    forward: impl Fn(&Parameters<f64>, &[Tensor<f64>]) -> Tensor<f64>,
    backward: impl Fn(&Parameters<f64>, &[Tensor<f64>], &Tensor<f64>, &mut Gradients<f64>) -> Vec<Tensor<f64>>,
) {
    for brain in [false, true] {
        let mut parameters = random_parameters(specs);
        let may_be_half: Vec<bool> = specs.iter().map(|s| s.low_precision).collect();
        for (parameter, _) in parameters.iter_mut().zip(&may_be_half).filter(|(_, half)| **half) {
            let (values, shape) = (parameter.tensor.values().into_owned(), parameter.tensor.shape().to_vec());
            parameter.trainable = false;
            parameter.tensor = if brain {
                Weight::Bf16(Tensor::from_vec(
                    values.into_iter().map(bf16::from_f64).collect(),
                    &shape,
                    Device::Cpu,
                ))
            } else {
                Weight::F16(Tensor::from_vec(
                    values.into_iter().map(f16::from_f64).collect(),
                    &shape,
                    Device::Cpu,
                ))
            };
        }
        check_parameters(parameters, inputs, &forward, &backward);
    }
}

/// Checks the gradients of the inputs and of the trained ones of `parameters`.
fn check_parameters(
    mut parameters: Parameters<f64>,
    inputs: &[Tensor<f64>],
    forward: impl Fn(&Parameters<f64>, &[Tensor<f64>]) -> Tensor<f64>,
    backward: impl Fn(&Parameters<f64>, &[Tensor<f64>], &Tensor<f64>, &mut Gradients<f64>) -> Vec<Tensor<f64>>,
) {
    let mut inputs = inputs.to_vec();
    let weights = {
        let y = forward(&parameters, &inputs);
        random_tensor("loss weights", y.shape())
    };
    let loss = |parameters: &Parameters<f64>, inputs: &[Tensor<f64>]| -> f64 {
        let y = forward(parameters, inputs);
        y.data().iter().zip(weights.data()).map(|(a, b)| a * b).sum()
    };
    let mut gradients = Gradients::new(&parameters);
    let input_gradients = backward(&parameters, &inputs, &weights, &mut gradients);
    assert_eq!(input_gradients.len(), inputs.len(), "one gradient per input");
    for (index, gradient) in input_gradients.iter().enumerate() {
        assert_eq!(gradient.shape(), inputs[index].shape(), "shape of the gradient of input {index}");
        for element in sampled(gradient.len()) {
            let value = inputs[index].data()[element];
            inputs[index].data_mut()[element] = value + STEP;
            let above = loss(&parameters, &inputs);
            inputs[index].data_mut()[element] = value - STEP;
            let below = loss(&parameters, &inputs);
            inputs[index].data_mut()[element] = value;
            compare(&format!("input {index}"), element, gradient.data(), (above - below) / (2.0 * STEP));
        }
    }
    let names: Vec<String> = parameters.iter().map(|p| p.name.clone()).collect();
    for (name, range) in names.iter().zip(gradients.ranges()) {
        let Some(range) = range.clone() else { continue };
        let gradient = &gradients.flat()[range];
        for element in sampled(gradient.len()) {
            let mut at = |delta: f64| {
                if let Some(parameter) = parameters.by_name_mut(name) {
                    parameter.tensor.make_full().data_mut()[element] += delta;
                }
                loss(&parameters, &inputs)
            };
            let above = at(STEP);
            let below = at(-2.0 * STEP);
            at(STEP);
            compare(name, element, gradient, (above - below) / (2.0 * STEP));
        }
    }
}

fn sampled(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(len.div_ceil(ELEMENTS).max(1))
}

fn compare(name: &str, element: usize, gradient: &[f64], numeric: f64) {
    let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs())).max(SMALLEST_SCALE);
    let analytic = gradient[element].to_f64();
    assert!(
        (analytic - numeric).abs() <= TOLERANCE * largest,
        "gradient of {name} element {element}: backward gives {analytic:e}, finite differences give {numeric:e}"
    );
}
