//! Comparison of a checkpoint with recorded tensors of the original: forward results of every scenario of a golden
//! file and, for one of them, the gradient of every trained parameter.
//!
//! Keys are `<scenario>.<name>`: inputs `vision_x` (B, T, F, 3, H, W), `lang_x`, `attention_mask`, `labels` (B, L);
//! results `vision_features`, `perceiver_out`, `xattn.<i>`, `hidden.<i>`, `final_norm`, `logits`, `loss`. Text results
//! are compared where the attention mask is 1.

use std::collections::BTreeMap;
use std::path::PathBuf;

use otter_model::{LossScale, ModelError, Otter, TextInput, VisionInput};
use otter_nn::{Device, Gradients, Parameters, Tensor};
use serde::Serialize;
use thiserror::Error;

/// A golden tensor: its shape and elements as floats or integers.
#[derive(Clone, Debug)]
pub struct GoldenTensor {
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Elements of a float tensor.
    pub floats: Vec<f32>,
    /// Elements of an integer tensor.
    pub integers: Vec<i64>,
}

impl GoldenTensor {
    /// Whether it holds elements, all of them floats.
    pub fn is_floats(&self) -> bool {
        !self.floats.is_empty() && self.floats.len() == self.shape.iter().product::<usize>()
    }

    /// Whether it holds elements, all of them integers.
    pub fn is_integers(&self) -> bool {
        !self.integers.is_empty() && self.integers.len() == self.shape.iter().product::<usize>()
    }

    fn described(&self) -> String {
        let kind = match (self.floats.is_empty(), self.integers.is_empty()) {
            (true, true) => "an empty tensor",
            (false, _) => "a float tensor",
            (true, false) => "an integer tensor",
        };
        format!("{kind} of shape {:?}", self.shape)
    }
}

/// A golden file: tensors by key.
pub type Golden = BTreeMap<String, GoldenTensor>;

/// What can go wrong before anything is compared.
#[derive(Debug, Error)]
pub enum ParityError {
    /// A tensor that every scenario needs is absent.
    #[error("{path}: scenario '{scenario}' has no tensor '{name}'; every scenario needs {needed}")]
    Missing {
        /// The golden file.
        path: PathBuf,
        /// The scenario.
        scenario: String,
        /// The absent name.
        name: &'static str,
        /// Names a scenario needs.
        needed: &'static str,
    },
    /// No scenario of that name.
    #[error("{path}: no scenario '{scenario}'; it has {available}")]
    NoScenario {
        /// The golden file.
        path: PathBuf,
        /// The name asked for.
        scenario: String,
        /// Names that exist.
        available: String,
    },
    /// A tensor has the wrong number of dimensions.
    #[error("{path}: '{key}' has {found} dimensions, expected {expected}")]
    Rank {
        /// The golden file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Dimensions found.
        found: usize,
        /// Dimensions expected.
        expected: usize,
    },
    /// A tensor has another type, another shape or no element.
    #[error("{path}: '{key}' is {found}, expected {expected}; record it again")]
    Unfit {
        /// The golden file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Type or shape found.
        found: String,
        /// What is expected.
        expected: String,
    },
    /// The model refuses the inputs.
    #[error("{path}: scenario '{scenario}': {source}")]
    Model {
        /// The golden file.
        path: PathBuf,
        /// The scenario.
        scenario: String,
        /// The model's complaint.
        source: ModelError,
    },
}

/// Accepted differences.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tolerances {
    /// Absolute, for vision features, Perceiver output, hidden states and loss.
    pub hidden: f64,
    /// Absolute, for logits.
    pub logits: f64,
    /// Relative to the tensor's largest entry, for gradients.
    pub gradients: f64,
    /// Differences of gradients below this share of the largest of all are rounding: a key's bias, for one, has a gradient of
    /// exactly zero, so that its recording is nothing else; and a gate's is a sum that may cancel.
    pub noise: f64,
}

impl Tolerances {
    /// For products of factors rounded to bfloat16, which have 8 significant bits: half a unit of the last place is a 512th.
    pub fn rounded() -> Self {
        Self { hidden: 0.1, logits: 0.3, gradients: 0.1, noise: 1.0 / 512.0 }
    }
}

impl Default for Tolerances {
    fn default() -> Self {
        Self { hidden: 1e-4, logits: 2e-4, gradients: 1e-3, noise: 1e-7 }
    }
}

/// The comparison of one tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Scenario, or `gradients`.
    pub scenario: String,
    /// Name inside the scenario.
    pub name: String,
    /// Largest absolute difference; NaN when something is not a number.
    pub max_absolute: f64,
    /// Largest absolute difference over the largest golden entry.
    pub max_relative: f64,
    /// What was accepted: absolute for results, relative for gradients.
    pub tolerance: f64,
    /// Whether it holds.
    pub ok: bool,
    /// Elements compared.
    pub elements: usize,
}

/// The comparison of a golden file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ParityReport {
    /// One entry a tensor.
    pub comparisons: Vec<Comparison>,
    /// Tensors of the golden files that nothing was compared with.
    pub not_compared: Vec<String>,
    /// Trained parameters for which the gradient file has no tensor.
    pub without_golden: Vec<String>,
}

impl ParityReport {
    /// Whether every tensor was compared and agrees.
    pub fn passed(&self) -> bool {
        self.not_compared.is_empty()
            && self.without_golden.is_empty()
            && !self.comparisons.is_empty()
            && self.comparisons.iter().all(|c| c.ok)
    }
}

/// A model with its parameters and the id of `<image>`.
pub struct Subject<'a> {
    /// The layers.
    pub otter: &'a Otter,
    /// The parameters; their trainable flags decide which gradients are compared.
    pub parameters: &'a Parameters<f32>,
    /// Id of `<image>`.
    pub media_token_id: u32,
    /// Whether decoder layers are recomputed for the gradients.
    pub recompute: bool,
}

const INPUTS: [&str; 4] = ["vision_x", "lang_x", "attention_mask", "labels"];
const NEEDED: &str = "vision_x, lang_x, attention_mask (labels for a loss)";

struct Scenario {
    vision: VisionInput,
    text: TextInput,
    labels: Option<Vec<i64>>,
}

/// Names of the scenarios of a golden file.
pub fn scenarios(golden: &Golden) -> Vec<String> {
    let mut names: Vec<String> =
        golden.keys().filter_map(|k| k.strip_suffix(".lang_x")).map(str::to_string).collect();
    names.sort();
    names
}

/// Compares the forward results of `only`, or of every scenario.
///
/// # Errors
/// A golden file that lacks inputs, or inputs the model refuses.
pub fn compare_forward(
    subject: &Subject<'_>,
    path: &std::path::Path,
    golden: &Golden,
    only: Option<&str>,
    tolerances: Tolerances,
) -> Result<ParityReport, ParityError> {
    let all = scenarios(golden);
    if let Some(scenario) = only
        && !all.iter().any(|s| s == scenario)
    {
        let (path, scenario) = (path.to_path_buf(), scenario.to_string());
        return Err(ParityError::NoScenario { path, scenario, available: all.join(", ") });
    }
    let mut report = ParityReport::default();
    let mut handled: Vec<String> = Vec::new();
    for scenario in all.iter().filter(|s| only.is_none_or(|o| o == *s)) {
        let inputs = inputs(subject, path, golden, scenario)?;
        let results = forward_results(subject, &inputs).map_err(|source| ParityError::Model {
            path: path.to_path_buf(),
            scenario: scenario.clone(),
            source,
        })?;
        handled.extend(INPUTS.iter().map(|name| format!("{scenario}.{name}")));
        for (name, values) in results {
            let key = format!("{scenario}.{name}");
            let Some(expected) = golden.get(&key) else { continue };
            check_result(path, &key, expected, values.len())?;
            let tolerance = if name == "logits" { tolerances.logits } else { tolerances.hidden };
            let rows =
                expected.shape.len() >= 2 && expected.shape[..2] == [inputs.text.batch, inputs.text.length];
            let by_row = rows && !matches!(name.as_str(), "vision_features" | "perceiver_out");
            let mask = by_row.then_some(inputs.text.attention_mask.as_slice());
            report.comparisons.push(compare(
                scenario,
                &name,
                &values,
                &expected.floats,
                mask,
                tolerance,
                false,
            ));
            handled.push(key);
        }
    }
    let in_scope = |key: &str| {
        only.is_none_or(|o| key.starts_with(&format!("{o}.")))
            || !all.iter().any(|s| key.starts_with(&format!("{s}.")))
    };
    report.not_compared = golden.keys().filter(|k| in_scope(k) && !handled.contains(k)).cloned().collect();
    Ok(report)
}

/// Compares the gradient of the mean loss of `scenario` with respect to every trained parameter.
///
/// # Errors
/// As [`compare_forward`].
pub fn compare_gradients(
    subject: &Subject<'_>,
    path: &std::path::Path,
    golden: &Golden,
    scenario: &str,
    (gradient_path, golden_gradients): (&std::path::Path, &Golden),
    tolerances: Tolerances,
) -> Result<ParityReport, ParityError> {
    let inputs = inputs(subject, path, golden, scenario)?;
    let missing = |name| ParityError::Missing {
        path: path.to_path_buf(),
        scenario: scenario.to_string(),
        name,
        needed: NEEDED,
    };
    let labels = inputs.labels.as_ref().ok_or_else(|| missing("labels"))?;
    let mut gradients = Gradients::new(subject.parameters);
    subject
        .otter
        .forward_backward(
            subject.parameters,
            Some(&inputs.vision),
            &inputs.text,
            labels,
            LossScale::Mean,
            subject.recompute,
            &mut gradients,
        )
        .map_err(|source| ParityError::Model {
            path: path.to_path_buf(),
            scenario: scenario.to_string(),
            source,
        })?;
    let mut report = ParityReport::default();
    let all = golden_gradients.values().flat_map(|tensor| &tensor.floats);
    let largest = all.fold(0.0f32, |largest, gradient| largest.max(gradient.abs()));
    for (index, parameter) in subject.parameters.iter().enumerate() {
        let Some(values) = gradients.part(index) else { continue };
        match golden_gradients.get(&parameter.name) {
            Some(expected) => {
                check_result(gradient_path, &parameter.name, expected, values.len())?;
                let tolerance = tolerances.gradients;
                let name = &parameter.name;
                let mut comparison =
                    compare("gradients", name, &values, &expected.floats, None, tolerance, true);
                comparison.ok |= comparison.max_absolute <= tolerances.noise * f64::from(largest);
                report.comparisons.push(comparison);
            }
            None => report.without_golden.push(parameter.name.clone()),
        }
    }
    let trained = |name: &str| subject.parameters.by_name(name).is_some_and(|p| p.trainable);
    report.not_compared = golden_gradients.keys().filter(|k| !trained(k)).cloned().collect();
    Ok(report)
}

/// Every result of a forward pass by its golden name.
fn forward_results(subject: &Subject<'_>, inputs: &Scenario) -> Result<Vec<(String, Vec<f32>)>, ModelError> {
    let mut results: Vec<(String, Vec<f32>)> = Vec::new();
    let mut trace =
        |name: &str, tensor: &Tensor| results.push((name.to_string(), tensor.to_host().into_vec()));
    let hidden = subject.otter.forward(subject.parameters, Some(&inputs.vision), &inputs.text, &mut trace)?;
    let logits = subject.otter.language().logits(subject.parameters, &hidden);
    results.push(("logits".to_string(), logits.to_host().into_vec()));
    if let Some(labels) = &inputs.labels {
        let loss = subject.otter.loss(subject.parameters, Some(&inputs.vision), &inputs.text, labels)?;
        results.push(("loss".to_string(), vec![loss.mean() as f32]));
    }
    Ok(results)
}

fn inputs(
    subject: &Subject<'_>,
    path: &std::path::Path,
    golden: &Golden,
    scenario: &str,
) -> Result<Scenario, ParityError> {
    let unfit = |name: &str, tensor: &GoldenTensor, expected: String| ParityError::Unfit {
        path: path.to_path_buf(),
        key: format!("{scenario}.{name}"),
        found: tensor.described(),
        expected,
    };
    let get = |name: &'static str, rank: usize| {
        let key = format!("{scenario}.{name}");
        let tensor = golden.get(&key).ok_or_else(|| ParityError::Missing {
            path: path.to_path_buf(),
            scenario: scenario.to_string(),
            name,
            needed: NEEDED,
        })?;
        if tensor.shape.len() == rank {
            return Ok(tensor);
        }
        Err(ParityError::Rank { path: path.to_path_buf(), key, found: tensor.shape.len(), expected: rank })
    };
    let vision_x = get("vision_x", 6)?;
    let lang_x = get("lang_x", 2)?;
    let mask = get("attention_mask", 2)?;
    let labels = golden.get(&format!("{scenario}.labels"));
    if !vision_x.is_floats() {
        return Err(unfit(
            "vision_x",
            vision_x,
            "floats (batch, media, frames, channels, side, side)".to_owned(),
        ));
    }
    let shape = &lang_x.shape;
    for (name, tensor) in [("lang_x", Some(lang_x)), ("attention_mask", Some(mask)), ("labels", labels)] {
        if let Some(tensor) = tensor.filter(|tensor| !tensor.is_integers() || tensor.shape != *shape) {
            return Err(unfit(
                name,
                tensor,
                format!("integers (batch, length), as lang_x of shape {shape:?}"),
            ));
        }
    }
    if vision_x.shape[0] != shape[0] {
        return Err(unfit("vision_x", vision_x, format!("the {} sequences of lang_x", shape[0])));
    }
    let labels = labels.map(|labels| labels.integers.clone());
    let [batch, media, frames] = [vision_x.shape[0], vision_x.shape[1], vision_x.shape[2]];
    let pixels = Tensor::from_vec(
        vision_x.floats.clone(),
        &[batch * media * frames, vision_x.shape[3], vision_x.shape[4], vision_x.shape[5]],
        Device::Cpu,
    );
    let slots = (0..batch).map(|b| (b * media..(b + 1) * media).collect()).collect();
    let vision = VisionInput::new(pixels, vec![frames; batch * media], slots);
    let text = TextInput {
        // An id that does not fit is reported by the model as outside the vocabulary.
        ids: lang_x.integers.iter().map(|&id| u32::try_from(id).unwrap_or(u32::MAX)).collect(),
        attention_mask: mask.integers.iter().map(|&m| m != 0).collect(),
        batch: lang_x.shape[0],
        length: lang_x.shape[1],
        segments: None,
        media_token_id: subject.media_token_id,
    };
    Ok(Scenario { vision, text, labels })
}

/// Whether a recorded result is of floats and has as many elements as the model gives.
fn check_result(
    path: &std::path::Path,
    key: &str,
    golden: &GoldenTensor,
    elements: usize,
) -> Result<(), ParityError> {
    if golden.is_floats() && golden.floats.len() == elements {
        return Ok(());
    }
    let (path, key) = (path.to_path_buf(), key.to_owned());
    let expected = format!("floats, {elements} of them as this model gives");
    Err(ParityError::Unfit { path, key, found: golden.described(), expected })
}

fn compare(
    scenario: &str,
    name: &str,
    found: &[f32],
    expected: &[f32],
    mask: Option<&[bool]>,
    tolerance: f64,
    relative: bool,
) -> Comparison {
    let same_size = found.len() == expected.len() && !expected.is_empty();
    let width = mask.map_or(1, |m| expected.len() / m.len().max(1)).max(1);
    let mut max_absolute = if same_size { 0.0f64 } else { f64::NAN };
    let mut largest = 0.0f64;
    let mut elements = 0;
    if same_size {
        for (index, (&f, &e)) in found.iter().zip(expected).enumerate() {
            if mask.is_some_and(|m| !m[index / width]) {
                continue;
            }
            let difference = (f64::from(f) - f64::from(e)).abs();
            if difference.is_nan() || max_absolute.is_nan() {
                max_absolute = f64::NAN;
            } else {
                max_absolute = max_absolute.max(difference);
            }
            largest = largest.max(f64::from(e).abs());
            elements += 1;
        }
    }
    let max_relative = if max_absolute == 0.0 { 0.0 } else { max_absolute / largest.max(f64::MIN_POSITIVE) };
    let ok = (if relative { max_relative } else { max_absolute }) <= tolerance && elements > 0;
    let (scenario, name) = (scenario.to_string(), name.to_string());
    Comparison { scenario, name, max_absolute, max_relative, tolerance, ok, elements }
}
