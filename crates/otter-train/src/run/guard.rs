//! Guards of a run: losses and gradients must be finite, and every trained parameter must be reached by a gradient.

use std::borrow::Cow;

use otter_data::Batch;
use otter_nn::{Gradients, Parameters};

use crate::error::TrainError;
use crate::model::{TrainableModel, sample_targets, single_sample};

/// Ids of all samples of some batches.
pub fn sample_names(batches: &[Batch]) -> String {
    let names: Vec<&str> =
        batches.iter().flat_map(|batch| batch.sample_ids.iter().map(String::as_str)).collect();
    names.join(", ")
}

/// The error for a batch whose loss is not finite. Where no parameter is to blame, its samples run one by one to name the
/// sample.
pub fn non_finite_loss<M: TrainableModel>(
    model: &M,
    parameters: &Parameters,
    batch: &Batch,
    step: u64,
    value: f64,
) -> TrainError {
    let bad = parameters.not_finite();
    if let Some((first, found)) = bad.first() {
        let (parameter, count) = (format!("{first} ({found})"), bad.len());
        return TrainError::NonFiniteParameter { step, parameter, count };
    }
    let culprit =
        (0..batch.samples()).filter(|&i| batch.samples() > 1 && sample_targets(batch, i) > 0).find_map(|i| {
            let loss = model.loss(parameters, &single_sample(batch, i)).ok()?;
            (!loss.sum.is_finite()).then(|| (batch.sample_ids[i].clone(), loss.sum))
        });
    let (samples, value) = culprit.unwrap_or_else(|| (batch.sample_ids.join(", "), value));
    TrainError::NonFiniteLoss { step, samples, value }
}

/// The error for gradients whose norm is not finite.
pub fn non_finite_gradient(
    parameters: &Parameters,
    gradients: &Gradients,
    batches: &[Batch],
    step: u64,
) -> TrainError {
    let found = trained(parameters, gradients).find_map(|(name, values)| {
        let element = values.iter().position(|value| !value.is_finite())?;
        Some((name.to_owned(), element, values[element]))
    });
    let (parameter, element, value) = found.unwrap_or_else(|| ("an unknown parameter".into(), 0, f32::NAN));
    TrainError::NonFiniteGradient { step, parameter, element, value, samples: sample_names(batches) }
}

fn trained<'a>(
    parameters: &'a Parameters,
    gradients: &'a Gradients,
) -> impl Iterator<Item = (&'a str, Cow<'a, [f32]>)> {
    let parameters = parameters.iter().enumerate();
    parameters.filter_map(|(index, parameter)| Some((parameter.name.as_str(), gradients.part(index)?)))
}

/// Whether a parameter has no gradient but zeros.
fn is_zero(gradients: &Gradients, index: usize) -> bool {
    let Some(part) = gradients.tensor_part(index) else { return true };
    !part.backend().any_nonzero(part)
}

/// Checks that every trained parameter receives a gradient, from the first step on until all have.
///
/// A parameter is excused for a step when no image was in it, when its gate is still exactly zero (a closed gate
/// lets nothing back), or when the architecture never uses it.
pub struct GradientCoverage {
    /// Trained parameters without a gradient so far.
    pending: Option<Vec<String>>,
}

impl GradientCoverage {
    /// Nothing has been seen yet.
    pub fn new() -> Self {
        Self { pending: None }
    }

    /// Looks at the gradients of a step, before the parameters are changed. Returns the names that received none
    /// and are not excused.
    pub fn check(&mut self, parameters: &Parameters, gradients: &Gradients, images: bool) -> Vec<String> {
        let first = self.pending.is_none();
        let known = self.pending.take().unwrap_or_default();
        let mut still = Vec::new();
        let mut missing = Vec::new();
        if first || !known.is_empty() {
            for (index, parameter) in parameters.iter().enumerate().filter(|(_, p)| p.trainable) {
                let name = parameter.name.as_str();
                let pending = first || known.iter().any(|known| known == name);
                if pending && is_zero(gradients, index) {
                    still.push(name.to_owned());
                    if !excused(parameters, name, images) {
                        missing.push(name.to_owned());
                    }
                }
            }
        }
        self.pending = Some(still);
        missing
    }

    /// Trained parameters that received no gradient so far.
    pub fn pending(&self) -> &[String] {
        self.pending.as_deref().unwrap_or_default()
    }
}

impl Default for GradientCoverage {
    fn default() -> Self {
        Self::new()
    }
}

const BLOCK: &str = "gated_cross_attn_layer.";

/// Whether a parameter may have received no gradient in a step.
fn excused(parameters: &Parameters, name: &str, images: bool) -> bool {
    let closed = |gate: &str| {
        parameters.by_name(gate).is_some_and(|gate| gate.tensor.values().iter().all(|&value| value == 0.0))
    };
    if let Some(end) = name.find(BLOCK).map(|start| start + BLOCK.len()) {
        let (block, part) = name.split_at(end);
        return !images
            || part.starts_with("attn.") && closed(&format!("{block}attn_gate"))
            || part.starts_with("feed_forward.") && closed(&format!("{block}ff_gate"));
    }
    if name.starts_with("perceiver.") || name.starts_with("vision_encoder.") {
        let mut gates = parameters.iter().filter(|p| p.name.ends_with("attn_gate")).peekable();
        let all_closed =
            gates.peek().is_some() && gates.all(|gate| gate.tensor.values().iter().all(|&v| v == 0.0));
        // The tower's last norm acts on the class token only, which nothing reads.
        return !images || all_closed || name.contains("post_layernorm");
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::{Device, Init, ParameterSpecs};

    const LAYER: &str = "lang_encoder.model.layers.1.gated_cross_attn_layer";

    fn setup(gate: Init) -> (Parameters, Gradients) {
        let mut specs = ParameterSpecs::default();
        specs.add("perceiver.latents", &[2], Init::Ones);
        specs.add(format!("{LAYER}.attn_gate"), &[1], gate);
        specs.add(format!("{LAYER}.ff_gate"), &[1], Init::Ones);
        specs.add(format!("{LAYER}.attn.to_q.weight"), &[2], Init::Ones);
        specs.add(format!("{LAYER}.feed_forward.1.weight"), &[2], Init::Ones);
        specs.add("lang_encoder.lm_head.weight", &[2], Init::Ones);
        let mut parameters = Parameters::initialize(&specs, 0, Device::Cpu);
        parameters.set_trainable(|_| true);
        let gradients = Gradients::new(&parameters);
        (parameters, gradients)
    }

    /// Gives the parameters whose name contains one of `names` a gradient.
    fn reach(parameters: &Parameters, gradients: &mut Gradients, names: &[&str]) {
        for (index, parameter) in parameters.iter().enumerate() {
            if names.iter().any(|name| parameter.name.contains(name))
                && let Some(gradient) = gradients.part_mut(index)
            {
                gradient[0] = 1.0;
            }
        }
    }

    #[test]
    fn an_unreached_parameter_is_named() {
        let (parameters, mut gradients) = setup(Init::Ones);
        reach(&parameters, &mut gradients, &["perceiver", "_gate", "attn.", "feed_forward"]);
        let missing = GradientCoverage::new().check(&parameters, &gradients, true);
        assert_eq!(missing, ["lang_encoder.lm_head.weight"]);
    }

    #[test]
    fn a_closed_gate_excuses_what_lies_behind_it_until_it_opens() {
        let (mut parameters, mut gradients) = setup(Init::Zeros);
        reach(&parameters, &mut gradients, &["_gate", "feed_forward", "lm_head"]);
        let mut coverage = GradientCoverage::new();
        assert!(coverage.check(&parameters, &gradients, true).is_empty());
        assert_eq!(coverage.pending(), ["perceiver.latents", &format!("{LAYER}.attn.to_q.weight")]);
        if let Some(gate) = parameters.by_name_mut(&format!("{LAYER}.attn_gate")) {
            gate.tensor.make_full().data_mut()[0] = 0.1;
        }
        // No image: still excused. With an image: no longer.
        assert!(coverage.check(&parameters, &gradients, false).is_empty());
        assert_eq!(coverage.check(&parameters, &gradients, true).len(), 2);
        reach(&parameters, &mut gradients, &["perceiver", "to_q"]);
        assert!(coverage.check(&parameters, &gradients, true).is_empty());
        assert!(coverage.pending().is_empty());
        // Reached once is enough.
        gradients.clear();
        assert!(coverage.check(&parameters, &gradients, true).is_empty());
    }

    #[test]
    fn text_only_steps_excuse_the_vision_side() {
        let (parameters, mut gradients) = setup(Init::Ones);
        reach(&parameters, &mut gradients, &["lm_head"]);
        assert!(GradientCoverage::new().check(&parameters, &gradients, false).is_empty());
        assert_eq!(GradientCoverage::new().check(&parameters, &gradients, true).len(), 5);
    }

    #[test]
    fn a_bad_gradient_is_named_with_its_place() {
        let (parameters, mut gradients) = setup(Init::Ones);
        gradients.iter_mut().skip(5).take(1).for_each(|g| *g = f32::NEG_INFINITY);
        let message = non_finite_gradient(&parameters, &gradients, &[], 3).to_string();
        assert!(message.contains("step 3") && message.contains("attn.to_q.weight"), "{message}");
        assert!(message.contains("element 1 (-inf)"), "{message}");
    }
}
