//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101; spec: training, section 3), in the
//! order of operations of PyTorch. Moments live in flat buffers with the ranges of the gradients.

use std::ops::Range;

use otter_nn::kernels::simd;
use otter_nn::{Gradients, Parameters};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

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
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), epsilon: 1e-8, weight_decay: 0.1, decay_rule: DecayRule::default() }
    }
}

/// One trained parameter: where its moments lie and whether it is decayed.
struct Slot {
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
    decays: bool,
}

/// AdamW over the trained parameters of a model.
pub struct AdamW {
    options: AdamWOptions,
    slots: Vec<Slot>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    steps: u64,
}

/// Everything one step of one element needs, in f32 as PyTorch's kernels use it.
#[derive(Clone, Copy)]
struct StepConstants {
    gradient_factor: f32,
    keep: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction2: f32,
    epsilon: f32,
}

impl AdamW {
    /// Zero moments for the trainable ones of `parameters`; `gradients` gives their ranges.
    pub fn new(options: AdamWOptions, parameters: &Parameters, gradients: &Gradients) -> Self {
        let slots: Vec<Slot> = parameters
            .iter()
            .zip(gradients.ranges())
            .filter_map(|(parameter, range)| {
                range.clone().map(|range| Slot {
                    name: parameter.name.clone(),
                    shape: parameter.tensor.shape().to_vec(),
                    range,
                    decays: options.decay_rule.decays(&parameter.name),
                })
            })
            .collect();
        let length = gradients.len();
        Self { options, slots, first_moment: vec![0.0; length], second_moment: vec![0.0; length], steps: 0 }
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
        for ((index, parameter), slot) in trained.zip(&self.slots) {
            // A parameter that got no gradient has one of zeros; there is one for every slot.
            let gradients = gradients.part(index).unwrap_or_default();
            let constants = StepConstants { keep: if slot.decays { decayed_keep } else { 1.0 }, ..constants };
            let range = slot.range.clone();
            update_slice(
                parameter.tensor.make_full().data_mut(),
                &gradients,
                &mut self.first_moment[range.clone()],
                &mut self.second_moment[range],
                constants,
            );
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

    /// Name, shape, first and second moment of every trained parameter, in id order.
    pub fn moments(&self) -> impl Iterator<Item = (&str, &[usize], &[f32], &[f32])> {
        self.slots.iter().map(|slot| {
            let range = slot.range.clone();
            let moments = (&self.first_moment[range.clone()], &self.second_moment[range]);
            (slot.name.as_str(), slot.shape.as_slice(), moments.0, moments.1)
        })
    }

    /// As [`AdamW::moments`], writable.
    pub fn moments_mut(&mut self) -> impl Iterator<Item = (&str, &mut [f32], &mut [f32])> {
        // Ranges are consecutive, so the buffers split from the front.
        let (mut first, mut second) = (self.first_moment.as_mut_slice(), self.second_moment.as_mut_slice());
        self.slots.iter().map(move |slot| {
            let (head_first, rest_first) = std::mem::take(&mut first).split_at_mut(slot.range.len());
            let (head_second, rest_second) = std::mem::take(&mut second).split_at_mut(slot.range.len());
            (first, second) = (rest_first, rest_second);
            (slot.name.as_str(), head_first, head_second)
        })
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

    #[test]
    fn threads_do_not_change_the_result() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut parameters, mut gradients) = setup(&[("perceiver.latents", 3 * BLOCK + 7)]);
                let mut optimizer = AdamW::new(AdamWOptions::default(), &parameters, &gradients);
                for (i, g) in gradients.iter_mut().enumerate() {
                    *g = ((i % 977) as f32 - 400.0) * 1e-3;
                }
                optimizer.step(&mut parameters, &gradients, 1e-3, 0.7);
                optimizer.step(&mut parameters, &gradients, 1e-3, 0.7);
                let bits: Vec<u32> =
                    parameters.iter().next().unwrap().tensor.values().iter().map(|v| v.to_bits()).collect();
                bits
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn moments_are_reachable_by_name() {
        let (mut parameters, mut gradients) = setup(&[("a", 2), ("frozen", 4), ("b", 1)]);
        let mut optimizer = AdamW::new(AdamWOptions::default(), &parameters, &gradients);
        gradients.iter_mut().zip([1.0, 2.0, 3.0]).for_each(|(g, value)| *g = value);
        optimizer.step(&mut parameters, &gradients, 1e-3, 1.0);
        let saved: Vec<_> =
            optimizer.moments().map(|(n, _, m, v)| (n.to_owned(), m.to_vec(), v.to_vec())).collect();
        assert_eq!(saved.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let mut other = AdamW::new(AdamWOptions::default(), &parameters, &gradients);
        for ((name, m, v), (saved_name, saved_m, saved_v)) in other.moments_mut().zip(&saved) {
            assert_eq!(name, saved_name);
            m.copy_from_slice(saved_m);
            v.copy_from_slice(saved_v);
        }
        assert_eq!(other.first_moment, optimizer.first_moment);
        assert_eq!(other.second_moment, optimizer.second_moment);
    }
}
