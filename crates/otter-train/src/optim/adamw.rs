//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), in the
//! order of operations of PyTorch. Moments live in flat buffers with the ranges of the gradients, in 32 bits or in 8.

use otter_nn::backend::AdamWStep;
use otter_nn::kernels::simd;
use otter_nn::{Device, Gradients, Parameters};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::optim::card_moments::CardMoments;
use crate::optim::eight_bit_moments::{self, EightBitMoments, Place, blocks_of};
use crate::run::tensors_file::{StateElements, StateElementsMut};

/// Elements updated by one task.
const BLOCK: usize = 1 << 14;

/// Which parameters are decayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayRule {
    /// The original's: everything in a gated cross-attention block but its gates, biases and parameters named
    /// "norm". The gain of the feed-forward's layer norm is decayed, because its name lacks that word.
    Reference,
    /// The same without that gain: weight matrices only.
    #[default]
    Matrices,
}

impl DecayRule {
    /// Whether the parameter with this name is decayed.
    pub fn decays(self, name: &str) -> bool {
        let in_group = name.contains("gated_cross_attn_layer")
            && !["ff_gate", "attn_gate", "norm", "bias"].iter().any(|part| name.contains(part));
        match self {
            Self::Reference => in_group,
            Self::Matrices => in_group && !name.contains("feed_forward.0."),
        }
    }
}

/// How the moments are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentPrecision {
    /// In 32 bits: 8 bytes a trained parameter.
    #[default]
    #[serde(rename = "f32")]
    Full,
    /// In 8 bits with a scale for each 256 of them, see [`eight_bit_moments`](crate::optim::eight_bit_moments): 2.03 bytes a
    /// trained parameter.
    #[serde(rename = "8bit")]
    EightBit,
}

impl MomentPrecision {
    /// Bytes of both moments of a parameter with so many elements.
    pub fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::Full => 8 * elements,
            Self::EightBit => eight_bit_moments::bytes_of(elements),
        }
    }
}

/// Constants of the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of the parameters in the decay group, times the learning rate.
    pub weight_decay: f64,
    /// Which parameters are in the decay group.
    pub decay_rule: DecayRule,
    /// How the moments are kept.
    pub moments: MomentPrecision,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay: 0.1,
            decay_rule: DecayRule::default(),
            moments: MomentPrecision::default(),
        }
    }
}

/// One trained parameter: where its moments lie and whether it is decayed.
struct Slot {
    name: String,
    shape: Vec<usize>,
    place: Place,
    decays: bool,
}

enum Moments {
    Full { first: Vec<f32>, second: Vec<f32> },
    EightBit(EightBitMoments),
    Card(CardMoments),
}

/// AdamW over the trained parameters of a model.
pub struct AdamW {
    options: AdamWOptions,
    slots: Vec<Slot>,
    moments: Moments,
    steps: u64,
}

/// Everything one step of one element needs, in f32 as PyTorch's kernels use it.
#[derive(Clone, Copy)]
pub(crate) struct StepConstants {
    pub gradient_factor: f32,
    pub keep: f32,
    pub beta2: f32,
    pub one_minus_beta1: f32,
    pub one_minus_beta2: f32,
    pub step_size: f32,
    pub root_correction2: f32,
    pub epsilon: f32,
}

impl AdamW {
    /// Zero moments for the trainable ones of `parameters`; `gradients` gives their ranges and their device.
    pub fn new(options: AdamWOptions, parameters: &Parameters, gradients: &Gradients) -> Self {
        Self::on(gradients.device(), options, parameters, gradients)
    }

    /// As [`AdamW::new`], with the moments on `device`, where parameters and gradients will be.
    pub fn on(device: Device, options: AdamWOptions, parameters: &Parameters, gradients: &Gradients) -> Self {
        let mut blocks = 0;
        let slots: Vec<Slot> = parameters
            .iter()
            .zip(gradients.ranges())
            .filter_map(|(parameter, range)| {
                let elements = range.clone()?;
                let first_block = blocks;
                blocks += blocks_of(elements.len());
                Some(Slot {
                    name: parameter.name.clone(),
                    shape: parameter.tensor.shape().to_vec(),
                    place: Place { elements, blocks: first_block..blocks },
                    decays: options.decay_rule.decays(&parameter.name),
                })
            })
            .collect();
        let length = gradients.len();
        if let Device::Card(card) = device {
            let moments = CardMoments::new(card, options.moments, slots.iter().map(|slot| &slot.place));
            return Self { options, slots, moments: Moments::Card(moments), steps: 0 };
        }
        let moments = match options.moments {
            MomentPrecision::Full => Moments::Full { first: vec![0.0; length], second: vec![0.0; length] },
            MomentPrecision::EightBit => Moments::EightBit(EightBitMoments::new(length, blocks)),
        };
        Self { options, slots, moments, steps: 0 }
    }

    /// Updates the parameters. Gradients are multiplied by `gradient_factor` (clipping) on the way.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        learning_rate: f64,
        gradient_factor: f64,
    ) {
        self.steps += 1;
        let (beta1, beta2) = self.options.betas;
        let exponent = self.steps as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(exponent), 1.0 - beta2.powf(exponent));
        let constants = StepConstants {
            gradient_factor: gradient_factor as f32,
            keep: 1.0,
            beta2: beta2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (learning_rate / correction1) as f32,
            root_correction2: correction2.sqrt() as f32,
            epsilon: self.options.epsilon as f32,
        };
        let decayed_keep = (1.0 - learning_rate * self.options.weight_decay) as f32;
        let trained = parameters.iter_mut().enumerate().filter(|(_, parameter)| parameter.trainable);
        for (number, ((index, parameter), slot)) in trained.zip(&self.slots).enumerate() {
            if let Moments::Card(moments) = &mut self.moments {
                let step = AdamWStep {
                    learning_rate,
                    betas: self.options.betas,
                    epsilon: self.options.epsilon,
                    decay: if slot.decays { self.options.weight_decay } else { 0.0 },
                    step: self.steps,
                    factor: gradient_factor,
                };
                let values = parameter.tensor.make_full();
                let zeros;
                let gradients = match gradients.tensor_part(index) {
                    Some(gradients) => gradients,
                    None => {
                        zeros = values.zeros_like();
                        &zeros
                    }
                };
                moments.update(number, &slot.place, values, gradients, &step);
                continue;
            }
            // A parameter that got no gradient has one of zeros; there is one for every slot.
            let gradients = gradients.part(index).unwrap_or_default();
            let constants = StepConstants { keep: if slot.decays { decayed_keep } else { 1.0 }, ..constants };
            let values = parameter.tensor.make_full().data_mut();
            let range = slot.place.elements.clone();
            match &mut self.moments {
                Moments::Full { first, second } => {
                    update_slice(
                        values,
                        &gradients,
                        &mut first[range.clone()],
                        &mut second[range],
                        constants,
                    );
                }
                Moments::EightBit(moments) => {
                    moments.update(values, &gradients, &slot.place, self.steps, constants);
                }
                Moments::Card(_) => unreachable!("moments on a card were updated above"),
            }
        }
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of steps made, after the moments were restored.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// The moments of every trained parameter by name, with their shapes: `first_moment.NAME` and `second_moment.NAME`; of
    /// 8-bit ones those are the codes, and `first_scale.NAME` and `second_scale.NAME` follow.
    pub fn state(&self) -> Vec<(String, Vec<usize>, StateElements<'_>)> {
        let mut state = Vec::with_capacity(4 * self.slots.len());
        for (number, slot) in self.slots.iter().enumerate() {
            let Slot { name, shape, place: Place { elements, blocks }, .. } = slot;
            let mut add = |kind: &str, shape: &[usize], values| {
                state.push((format!("{kind}.{name}"), shape.to_vec(), values));
            };
            match &self.moments {
                Moments::Full { first, second } => {
                    add("first_moment", shape, StateElements::F32(&first[elements.clone()]));
                    add("second_moment", shape, StateElements::F32(&second[elements.clone()]));
                }
                Moments::EightBit(moments) => {
                    let count = [blocks.len()];
                    add("first_moment", shape, StateElements::U8(&moments.first[elements.clone()]));
                    add("second_moment", shape, StateElements::U8(&moments.second[elements.clone()]));
                    add("first_scale", &count, StateElements::F32(&moments.first_scales[blocks.clone()]));
                    add("second_scale", &count, StateElements::F32(&moments.second_scales[blocks.clone()]));
                }
                Moments::Card(moments) => {
                    for (kind, elements) in moments.state(number) {
                        let scales = [blocks.len()];
                        add(kind, if kind.ends_with("scale") { &scales } else { shape }, elements);
                    }
                }
            }
        }
        state
    }

    /// Passes the parts of [`AdamW::state`] to `restore`, writable.
    ///
    /// # Errors
    /// The first error of `restore`.
    pub fn restore<E>(
        &mut self,
        mut restore: impl FnMut(&str, StateElementsMut<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (number, slot) in self.slots.iter().enumerate() {
            let Slot { name, place: Place { elements, blocks }, .. } = slot;
            if let Moments::Card(moments) = &mut self.moments {
                moments.restore(number, |kind, values| restore(&format!("{kind}.{name}"), values))?;
                continue;
            }
            let mut set = |kind: &str, values| restore(&format!("{kind}.{name}"), values);
            match &mut self.moments {
                Moments::Full { first, second } => {
                    set("first_moment", StateElementsMut::F32(&mut first[elements.clone()]))?;
                    set("second_moment", StateElementsMut::F32(&mut second[elements.clone()]))?;
                }
                Moments::EightBit(moments) => {
                    set("first_moment", StateElementsMut::U8(&mut moments.first[elements.clone()]))?;
                    set("second_moment", StateElementsMut::U8(&mut moments.second[elements.clone()]))?;
                    set("first_scale", StateElementsMut::F32(&mut moments.first_scales[blocks.clone()]))?;
                    set("second_scale", StateElementsMut::F32(&mut moments.second_scales[blocks.clone()]))?;
                }
                Moments::Card(_) => unreachable!("moments on a card were restored above"),
            }
        }
        Ok(())
    }

    /// Names of the parameters in the decay group.
    pub fn decayed(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().filter(|slot| slot.decays).map(|slot| slot.name.as_str())
    }
}

fn update_slice(
    values: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    constants: StepConstants,
) {
    if values.len() <= BLOCK {
        return simd(|| update_block(values, gradients, first, second, constants));
    }
    values
        .par_chunks_mut(BLOCK)
        .zip(gradients.par_chunks(BLOCK))
        .zip(first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK)))
        .for_each(|((values, gradients), (first, second))| {
            simd(|| update_block(values, gradients, first, second, constants));
        });
}

/// Elements that are left alone together when nothing ever reached them: a page of memory.
const PAGE: usize = 1 << 10;

/// Elementwise, so the result depends neither on blocks nor on threads. Pages whose gradients and moments are zero would
/// not change; they are not written, so that moments of tokens that never occur take no memory.
#[inline(always)]
fn update_block(
    values: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    c: StepConstants,
) {
    let all_zero = |x: &[f32]| x.iter().fold(0, |bits, x| bits | x.to_bits()) == 0;
    let moments = first.chunks_mut(PAGE).zip(second.chunks_mut(PAGE));
    for ((values, gradients), (first, second)) in
        values.chunks_mut(PAGE).zip(gradients.chunks(PAGE)).zip(moments)
    {
        let untouched = c.keep == 1.0 && all_zero(gradients) && all_zero(first) && all_zero(second);
        if !untouched {
            update_page(values, gradients, first, second, c);
        }
    }
}

#[inline(always)]
fn update_page(
    values: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    c: StepConstants,
) {
    let moments = first.iter_mut().zip(second.iter_mut());
    for ((value, &gradient), (first, second)) in values.iter_mut().zip(gradients).zip(moments) {
        let gradient = gradient * c.gradient_factor;
        *value *= c.keep;
        *first += (gradient - *first) * c.one_minus_beta1;
        *second = *second * c.beta2 + c.one_minus_beta2 * gradient * gradient;
        let denominator = second.sqrt() / c.root_correction2 + c.epsilon;
        *value -= c.step_size * (*first / denominator);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use otter_nn::{Device, Init, ParameterSpecs};

    const DECAYED: &str = "lang_encoder.model.layers.1.gated_cross_attn_layer.attn.to_q.weight";

    fn setup(names: &[(&str, usize)]) -> (Parameters, Gradients) {
        let mut specs = ParameterSpecs::default();
        for (name, length) in names {
            specs.add(*name, &[*length], Init::Ones);
        }
        let mut parameters = Parameters::initialise(&specs, 0, Device::Cpu);
        parameters.set_trainable(|name| !name.starts_with("frozen"));
        let gradients = Gradients::new(&parameters);
        (parameters, gradients)
    }

    /// Two steps worked out by hand in f64.
    #[test]
    fn two_steps_follow_the_formulas() {
        let (mut parameters, mut gradients) = setup(&[(DECAYED, 2), ("frozen", 3), ("perceiver.latents", 1)]);
        let options = AdamWOptions::default();
        let mut optimizer = AdamW::new(options, &parameters, &gradients);
        let (lr, decay, b1, b2, eps) = (1e-2, 0.1, 0.9, 0.999, 1e-8);
        let mut expected = [1f64; 3];
        let (mut m, mut v) = ([0f64; 3], [0f64; 3]);
        for (step, factor) in [(1, 1.0), (2, 0.5)] {
            gradients.iter_mut().zip([0.5, -2.0, 1e-3]).for_each(|(g, value)| *g = value);
            optimizer.step(&mut parameters, &gradients, lr, factor);
            for (i, g) in [0.5, -2.0, 1e-3].into_iter().enumerate() {
                let g = g * factor;
                if i < 2 {
                    expected[i] *= 1.0 - lr * decay;
                }
                m[i] = b1 * m[i] + (1.0 - b1) * g;
                v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                let m_hat = m[i] / (1.0 - f64::powi(b1, step));
                let v_hat = v[i] / (1.0 - f64::powi(b2, step));
                expected[i] -= lr * m_hat / (v_hat.sqrt() + eps);
            }
        }
        let found: Vec<f32> = parameters.iter().flat_map(|p| p.tensor.values().into_owned()).collect();
        let expected = [expected[0], expected[1], 1.0, 1.0, 1.0, expected[2]];
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-7, "{found} {expected}");
        }
        assert_eq!(optimizer.steps(), 2);
    }

    /// Elements with zero gradient keep their value, minus decay where it applies.
    #[test]
    fn zero_gradients_move_nothing_but_decay() {
        let (mut parameters, gradients) = setup(&[(DECAYED, 1), ("lang_encoder.lm_head.weight", 1)]);
        let mut optimizer = AdamW::new(AdamWOptions::default(), &parameters, &gradients);
        optimizer.step(&mut parameters, &gradients, 1e-3, 1.0);
        let found: Vec<f32> = parameters.iter().map(|p| p.tensor.values()[0]).collect();
        assert_eq!(found, [(1.0 - 1e-4) as f32, 1.0]);
    }

    #[test]
    fn decay_groups_follow_the_names() {
        let block = "lang_encoder.model.layers.3.gated_cross_attn_layer";
        let cases = [
            ("attn.to_q.weight", true, true),
            ("attn.to_kv.weight", true, true),
            ("attn.to_out.weight", true, true),
            ("feed_forward.0.weight", true, false),
            ("feed_forward.0.bias", false, false),
            ("feed_forward.1.weight", true, true),
            ("feed_forward.3.weight", true, true),
            ("attn.norm.weight", false, false),
            ("attn_gate", false, false),
            ("ff_gate", false, false),
        ];
        for (name, reference, matrices) in cases {
            let name = format!("{block}.{name}");
            assert_eq!(DecayRule::Reference.decays(&name), reference, "{name}");
            assert_eq!(DecayRule::Matrices.decays(&name), matrices, "{name}");
        }
        assert!(!DecayRule::Reference.decays("perceiver.layers.0.to_q.weight"));
        assert!(!DecayRule::Reference.decays("lang_encoder.model.embed_tokens.weight"));
    }

    fn options(moments: MomentPrecision) -> AdamWOptions {
        AdamWOptions { moments, ..AdamWOptions::default() }
    }

    fn values(parameters: &Parameters) -> Vec<f32> {
        parameters.iter().flat_map(|p| p.tensor.values().into_owned()).collect()
    }

    const BOTH: [MomentPrecision; 2] = [MomentPrecision::Full, MomentPrecision::EightBit];

    #[test]
    fn threads_do_not_change_the_result() {
        let run = |threads, moments| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut parameters, mut gradients) = setup(&[("perceiver.latents", 3 * BLOCK + 7)]);
                let mut optimizer = AdamW::new(options(moments), &parameters, &gradients);
                for (i, g) in gradients.iter_mut().enumerate() {
                    *g = ((i % 977) as f32 - 400.0) * 1e-3;
                }
                optimizer.step(&mut parameters, &gradients, 1e-3, 0.7);
                optimizer.step(&mut parameters, &gradients, 1e-3, 0.7);
                values(&parameters).into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            })
        };
        for moments in BOTH {
            assert_eq!(run(1, moments), run(3, moments));
        }
    }

    /// State written and read back continues bit for bit.
    #[test]
    fn restored_state_continues_exactly() {
        for moments in BOTH {
            let names = [("a", 700), ("frozen", 4), ("b", 1)];
            let (mut parameters, mut gradients) = setup(&names);
            let mut optimizer = AdamW::new(options(moments), &parameters, &gradients);
            let mut step = |optimizer: &mut AdamW, parameters: &mut Parameters| {
                let number = optimizer.steps();
                for (i, g) in gradients.iter_mut().enumerate() {
                    *g = ((i as u64 * 31 + number * 7) % 97) as f32 * 1e-2 - 0.5;
                }
                optimizer.step(parameters, &gradients, 1e-3, 1.0);
            };
            (0..3).for_each(|_| step(&mut optimizer, &mut parameters));
            let mut copy = parameters.clone();
            let mut other = AdamW::new(options(moments), &copy, &Gradients::new(&copy));
            let mut saved = optimizer.state().into_iter();
            let names: Vec<String> = optimizer.state().into_iter().map(|(name, ..)| name).collect();
            assert_eq!(names[..2], ["first_moment.a", "second_moment.a"]);
            other
                .restore(|name, elements| {
                    let (saved_name, _, saved) = saved.next().unwrap();
                    assert_eq!(name, saved_name);
                    match (elements, saved) {
                        (StateElementsMut::F32(out), StateElements::F32(saved)) => out.copy_from_slice(saved),
                        (StateElementsMut::U8(out), StateElements::U8(saved)) => out.copy_from_slice(saved),
                        _ => panic!("{name}: another type"),
                    }
                    Ok::<_, ()>(())
                })
                .unwrap();
            other.set_steps(optimizer.steps());
            (0..3).for_each(|_| step(&mut optimizer, &mut parameters));
            (0..3).for_each(|_| step(&mut other, &mut copy));
            assert_eq!(values(&parameters), values(&copy));
            let bits = |optimizer: &AdamW| format!("{:?}", optimizer.state());
            assert_eq!(bits(&optimizer), bits(&other));
        }
    }

    /// Minimises sum of (x - target)² with curvatures of 1e-2 to 1e2 beside each other, gradients with noise; the mean distance over
    /// the last steps, relative to the distance at the start.
    fn quadratic(moments: MomentPrecision, noise: f32) -> f64 {
        const LENGTH: usize = 1000;
        let (mut parameters, mut gradients) = setup(&[("x", LENGTH)]);
        let mut optimizer = AdamW::new(options(moments), &parameters, &gradients);
        let target = |i: usize| (i as f32 * 0.7).sin();
        let curvature = |i: usize| 10f32.powi((i % 5) as i32 - 2);
        let (mut state, mut sum) = (12345u32, 0.0);
        for step in 0..2000 {
            let x = values(&parameters);
            for (i, g) in gradients.iter_mut().enumerate() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let random = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
                *g = curvature(i) * (x[i] - target(i) + noise * random);
            }
            if step >= 1500 {
                sum += x.iter().enumerate().map(|(i, x)| f64::from((x - target(i)).powi(2))).sum::<f64>();
            }
            let rate = 1e-2 * (1.0 - step as f64 / 2000.0);
            optimizer.step(&mut parameters, &gradients, rate, 1.0);
        }
        let start: f64 = (0..LENGTH).map(|i| f64::from((1.0 - target(i)).powi(2))).sum();
        (sum / 500.0 / start).sqrt()
    }

    #[test]
    fn eight_bit_moments_reach_the_minimum_as_full_ones_do() {
        for noise in [0.0, 1.0] {
            let (full, eight) =
                (quadratic(MomentPrecision::Full, noise), quadratic(MomentPrecision::EightBit, noise));
            println!("noise {noise}: distance {full:.5} in 32 bits, {eight:.5} in 8");
            assert!(eight < 1.25 * full + 2e-3, "noise {noise}: {eight} against {full}");
        }
    }

    /// What was learned about an element fades when its gradient stays zero, also beside one whose gradient does not: with the
    /// nearest code it would stay for ever.
    #[test]
    fn second_moments_decay_on_average() {
        const LENGTH: usize = 256;
        let (mut parameters, mut gradients) = setup(&[("x", LENGTH)]);
        let mut optimizer = AdamW::new(options(MomentPrecision::EightBit), &parameters, &gradients);
        for step in 0..1400 {
            gradients.iter_mut().for_each(|g| *g = if step < 400 { 1.0 } else { 0.0 });
            gradients.iter_mut().take(1).for_each(|g| *g = 1.0);
            optimizer.step(&mut parameters, &gradients, 1e-3, 1.0);
        }
        let Moments::EightBit(moments) = &optimizer.moments else { panic!("8-bit moments were asked for") };
        let state = optimizer.state();
        assert_eq!(state.len(), 4);
        let mean = moments.decoded_second(1..LENGTH).sum::<f32>() / (LENGTH - 1) as f32;
        let expected = (1.0 - 0.999f32.powi(400)) * 0.999f32.powi(1000);
        assert!((mean / expected - 1.0).abs() < 0.1, "{mean}, expected {expected}");
        let first = moments.decoded_first(1..LENGTH).map(f32::abs).fold(0.0, f32::max);
        assert!(first < 1e-4, "{first}");
    }

    /// No gradient, however small or large beside the others, makes a step larger than Adam can make: about three times the
    /// learning rate for a gradient that comes at once after many zeros, and the rate for a steady one.
    #[test]
    fn steps_are_bounded_for_all_sizes_of_gradients() {
        let sizes = [0.0, 1e-30, 1e-12, 1e-7, 1e-5, 1e-3, 1.0, 1e6, 1e15, 3e38];
        let (mut parameters, mut gradients) = setup(&[("x", 300)]);
        let mut optimizer = AdamW::new(options(MomentPrecision::EightBit), &parameters, &gradients);
        let rate = 1e-3;
        let mut before = values(&parameters);
        for step in 0..300 {
            for (i, g) in gradients.iter_mut().enumerate() {
                let sign = if (i * 7 + step * 3) % 5 < 2 { -1.0 } else { 1.0 };
                *g = sign * sizes[(i + step / 50) % sizes.len()];
            }
            optimizer.step(&mut parameters, &gradients, rate, 1.0);
            let after = values(&parameters);
            for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                let moved = f64::from((after - before).abs());
                assert!(after.is_finite() && moved < 10.0 * rate, "step {step}, element {i}: {moved}");
            }
            before = after;
        }
    }

    /// Rows without a gradient beside rows with one never move.
    #[test]
    fn elements_without_gradient_keep_their_bits() {
        let (mut parameters, mut gradients) = setup(&[("embed", 512)]);
        let mut optimizer = AdamW::new(options(MomentPrecision::EightBit), &parameters, &gradients);
        for step in 0..20 {
            for (i, g) in gradients.iter_mut().enumerate() {
                *g = if i / 32 == 3 { (i + step) as f32 * 1e-3 } else { 0.0 };
            }
            optimizer.step(&mut parameters, &gradients, 1e-2, 1.0);
        }
        for (i, value) in values(&parameters).into_iter().enumerate() {
            assert_eq!(value == 1.0, i / 32 != 3, "{i}");
        }
    }

    #[test]
    fn eight_bit_moments_take_a_quarter() {
        assert_eq!(MomentPrecision::Full.bytes(1 << 20), 8 << 20);
        assert_eq!(MomentPrecision::EightBit.bytes(1 << 20), (2 << 20) + 8 * 4096);
    }
}
