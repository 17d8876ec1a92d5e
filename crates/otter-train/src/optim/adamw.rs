//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) over the trained parameters of a model. Moments
//! are where the parameters are, in 32 bits or in 8.

use otter_nn::backend::cpu::adamw_eight_bit;
use otter_nn::backend::{AdamWStep, MomentKind, Moments};
use otter_nn::{Device, Gradients, Parameters, Tensor};
use serde::{Deserialize, Serialize};

use crate::run::tensors_file::{StateElements, StateElementsMut};

/// Which parameters are decayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayRule {
    /// The original's: everything in a gated cross-attention block but its gates, biases and parameters named
    /// "norm". The weight of the feed-forward's layer norm is decayed, because its name lacks that word.
    Reference,
    /// The same without the norm's weight: matrices only.
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
    /// In 8 bits with a scale for each 256 of them, see [`adamw_eight_bit`]: 2.03 bytes a
    /// trained parameter.
    #[serde(rename = "8bit")]
    EightBit,
}

impl MomentPrecision {
    /// Bytes of both moments of a parameter with so many elements.
    pub fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::Full => 8 * elements,
            Self::EightBit => adamw_eight_bit::bytes_of(elements),
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

/// One trained parameter: its moments and whether it is decayed.
struct Slot {
    name: String,
    shape: Vec<usize>,
    moments: Moments,
    decays: bool,
}

/// Names of both moments in a saved state, of 8-bit ones those of their codes.
const MOMENTS: [&str; 2] = ["first_moment", "second_moment"];
/// Names of the scales of 8-bit moments.
const SCALES: [&str; 2] = ["first_scale", "second_scale"];

/// AdamW over the trained parameters of a model.
pub struct AdamW {
    options: AdamWOptions,
    slots: Vec<Slot>,
    steps: u64,
}

impl AdamW {
    /// Zero moments for the trainable ones of `parameters`; `gradients` gives their ranges and their device.
    pub fn new(options: AdamWOptions, parameters: &Parameters, gradients: &Gradients) -> Self {
        Self::on(gradients.device(), options, parameters, gradients)
    }

    /// As [`AdamW::new`], with the moments on `device`, where parameters and gradients will be.
    pub fn on(device: Device, options: AdamWOptions, parameters: &Parameters, gradients: &Gradients) -> Self {
        let trained = parameters.iter().zip(gradients.ranges());
        let slots = trained.filter_map(|(parameter, range)| {
            let elements = range.clone()?;
            let kind = match options.moments {
                MomentPrecision::Full => MomentKind::Full,
                MomentPrecision::EightBit => MomentKind::EightBit { position: elements.start as u64 },
            };
            Some(Slot {
                name: parameter.name.clone(),
                shape: parameter.tensor.shape().to_vec(),
                moments: Moments::zeros(kind, elements.len(), device),
                decays: options.decay_rule.decays(&parameter.name),
            })
        });
        Self { options, slots: slots.collect(), steps: 0 }
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
        let trained = parameters.iter_mut().enumerate().filter(|(_, parameter)| parameter.trainable);
        for ((index, parameter), slot) in trained.zip(&mut self.slots) {
            let step = AdamWStep {
                learning_rate,
                betas: self.options.betas,
                epsilon: self.options.epsilon,
                decay: if slot.decays { self.options.weight_decay } else { 0.0 },
                step: self.steps,
                factor: gradient_factor,
            };
            let values = parameter.tensor.make_full();
            // A parameter that got no gradient has one of zeros.
            let zeros;
            let gradients = match gradients.tensor_part(index) {
                Some(gradients) => gradients,
                None => {
                    zeros = Tensor::fresh_zeros(values.shape(), values.device());
                    &zeros
                }
            };
            values.device().optimizer().adamw(values, gradients, &mut slot.moments, &step);
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
        for Slot { name, shape, moments, .. } in &self.slots {
            let mut add = |kind: &str, shape: &[usize], values| {
                state.push((format!("{kind}.{name}"), shape.to_vec(), values));
            };
            match moments {
                Moments::Full(moments) => {
                    for (kind, moment) in MOMENTS.into_iter().zip(moments) {
                        add(kind, shape, StateElements::F32(moment));
                    }
                }
                Moments::EightBit { codes, scales, .. } => {
                    for (kind, codes) in MOMENTS.into_iter().zip(codes) {
                        add(kind, shape, StateElements::U8(codes));
                    }
                    for (kind, scales) in SCALES.into_iter().zip(scales) {
                        add(kind, &[scales.len()], StateElements::F32(scales));
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
        for Slot { name, moments, .. } in &mut self.slots {
            let floats = |restore: &mut dyn FnMut(&str, StateElementsMut<'_>) -> Result<(), E>,
                          kind: &str,
                          to: &mut Tensor| {
                to.fill_by(|values| restore(&format!("{kind}.{name}"), StateElementsMut::F32(values)))
            };
            match moments {
                Moments::Full(moments) => {
                    MOMENTS
                        .into_iter()
                        .zip(moments)
                        .try_for_each(|(kind, to)| floats(&mut restore, kind, to))?;
                }
                Moments::EightBit { codes, scales, .. } => {
                    for (kind, to) in MOMENTS.into_iter().zip(codes) {
                        to.fill_bytes_by(|codes| {
                            restore(&format!("{kind}.{name}"), StateElementsMut::U8(codes))
                        })?;
                    }
                    for (kind, to) in SCALES.into_iter().zip(scales) {
                        floats(&mut restore, kind, to)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Names of the parameters in the decay group.
    pub fn decayed(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().filter(|slot| slot.decays).map(|slot| slot.name.as_str())
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
        let mut parameters = Parameters::initialize(&specs, 0, Device::Cpu);
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
                let (mut parameters, mut gradients) = setup(&[("perceiver.latents", (3 << 14) + 7)]);
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
            assert_eq!(names.len(), if moments == MomentPrecision::Full { 4 } else { 8 });
            other
                .restore(|name, elements| {
                    let (saved_name, _, saved) = saved.next().unwrap();
                    assert_eq!(name, saved_name);
                    match (elements, saved) {
                        (StateElementsMut::F32(out), StateElements::F32(saved)) => {
                            out.copy_from_slice(saved.data())
                        }
                        (StateElementsMut::U8(out), StateElements::U8(saved)) => {
                            out.copy_from_slice(saved.data())
                        }
                        _ => panic!("{name}: another type"),
                    }
                    Ok::<_, ()>(())
                })
                .unwrap();
            other.set_steps(optimizer.steps());
            (0..3).for_each(|_| step(&mut optimizer, &mut parameters));
            (0..3).for_each(|_| step(&mut other, &mut copy));
            assert_eq!(values(&parameters), values(&copy));
            let bits = |optimizer: &AdamW| {
                let part = |(name, _, elements): (String, _, StateElements<'_>)| match elements {
                    StateElements::F32(values) => (name, values.data().iter().map(|v| v.to_bits()).collect()),
                    StateElements::U8(codes) => (name, codes.data().iter().map(|&c| c.into()).collect()),
                };
                optimizer.state().into_iter().map(part).collect::<Vec<(String, Vec<u32>)>>()
            };
            assert_eq!(bits(&optimizer), bits(&other));
        }
    }

    /// Minimizes sum of (x - target)² with curvatures of 1e-2 to 1e2 beside each other, gradients with noise; the mean distance over
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
