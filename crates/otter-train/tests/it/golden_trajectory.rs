//! Eight training steps of the original (tests/golden/llama/train.json), repeated from the same checkpoint on the same
//! batches: learning rates, losses, gradient norms and final parameters must agree, with packed rows as well.

use std::path::{Path, PathBuf};

use otter_checkpoint::{LoadedModel, Weights, load_model};
use otter_model::{FreezeRule, LossScale, Otter, TextInput, VisionInput};
use otter_nn::{Device, Gradients, Parameters, Segment, Segments, Tensor};
use otter_train::optim::{AdamW, AdamWOptions, DecayRule, MomentPrecision};
use otter_train::optim::{Schedule, ScheduleName};
use otter_train::optim::{clip_factor, gradient_norm};
use safetensors::SafeTensors;

const STEPS: u64 = 8;
const CASES: [&str; 4] = ["llama", "video", "mpt7b-style", "mpt1b-style"];

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(case)
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn integers(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<i64>) {
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
    (view.shape().to_vec(), values.collect())
}

fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (view.shape().to_vec(), values.collect())
}

/// Inputs and labels of a recorded step.
fn inputs(file: &SafeTensors<'_>, step: u64, media_token_id: u32) -> (VisionInput, TextInput, Vec<i64>) {
    // (batch, media, frames, 3, side, side)
    let (shape, pixels) = floats(file, &format!("step{step}.vision_x"));
    let (batch, media, frames) = (shape[0], shape[1], shape[2]);
    let items = batch * media;
    let vision = VisionInput {
        pixels: Tensor::from_vec(pixels, &[items * frames, 3, shape[4], shape[5]], Device::Cpu),
        media_frames: (0..items).map(|item| item * frames..(item + 1) * frames).collect(),
        slots: (0..batch).map(|row| (row * media..(row + 1) * media).collect()).collect(),
    };
    let (shape, ids) = integers(file, &format!("step{step}.lang_x"));
    let text = TextInput {
        ids: ids.iter().map(|&id| id as u32).collect(),
        attention_mask: integers(file, &format!("step{step}.attention_mask"))
            .1
            .iter()
            .map(|&m| m == 1)
            .collect(),
        batch: shape[0],
        length: shape[1],
        segments: None,
        media_token_id,
    };
    (vision, text, integers(file, &format!("step{step}.labels")).1)
}

/// The same sequences, one after another in a single row.
fn packed(text: TextInput, labels: Vec<i64>) -> (TextInput, Vec<i64>) {
    let real: Vec<usize> = (0..text.ids.len()).filter(|&at| text.attention_mask[at]).collect();
    let mut list: Vec<Segment> = Vec::new();
    for mask in text.attention_mask.chunks(text.length) {
        let len = mask.iter().filter(|&&visible| visible).count();
        assert!(mask[..len].iter().all(|&visible| visible), "padding stands on the right");
        list.push(Segment { row: 0, start: list.last().map_or(0, Segment::end), len });
    }
    let text = TextInput {
        ids: real.iter().map(|&at| text.ids[at]).collect(),
        attention_mask: vec![true; real.len()],
        batch: 1,
        length: real.len(),
        segments: Some(Segments::new(1, real.len(), list).unwrap()),
        ..text
    };
    (text, real.iter().map(|&at| labels[at]).collect())
}

struct Trajectory {
    losses: Vec<f64>,
    norms: Vec<f64>,
    rates: Vec<f64>,
    /// Largest absolute gradient of each element over all steps, after clipping.
    largest_gradients: Gradients,
    parameters: Parameters,
    decayed: Vec<String>,
}

fn train(
    case: &str,
    otter: &Otter,
    mut parameters: Parameters,
    media_token_id: u32,
    (recompute, pack, moments): (bool, bool, MomentPrecision),
    device: Device,
) -> Trajectory {
    let bytes = std::fs::read(golden(case).join("train.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    parameters.set_trainable(|name| FreezeRule::Head.is_trainable(otter.config(), name));
    let mut largest_gradients = Gradients::new(&parameters);
    parameters.move_to(device).unwrap();
    let mut gradients = Gradients::new(&parameters);
    let options = AdamWOptions { decay_rule: DecayRule::Reference, moments, ..AdamWOptions::default() };
    let mut optimizer = AdamW::new(options, &parameters, &gradients);
    let schedule = Schedule { name: ScheduleName::Cosine, peak: 1e-3, warmup: 2.0, total: STEPS };
    let (mut losses, mut norms, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..STEPS {
        let (vision, mut text, mut labels) = inputs(&file, step, media_token_id);
        if pack {
            (text, labels) = packed(text, labels);
        }
        gradients.clear();
        let loss = otter
            .forward_backward(
                &parameters,
                Some(&vision),
                &text,
                &labels,
                LossScale::Mean,
                recompute,
                &mut gradients,
            )
            .unwrap();
        let norm = gradient_norm(&gradients);
        let factor = clip_factor(norm, 1.0);
        for (largest, gradient) in largest_gradients.iter_mut().zip(gradients.flat()) {
            *largest = largest.max(gradient.abs() * factor as f32);
        }
        let rate = schedule.learning_rate(step);
        optimizer.step(&mut parameters, &gradients, rate, factor);
        losses.push(loss.mean());
        norms.push(norm);
        rates.push(rate);
    }
    parameters.move_to(Device::Cpu).unwrap();
    let decayed = optimizer.decayed().map(str::to_owned).collect();
    Trajectory { losses, norms, rates, largest_gradients, parameters, decayed }
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], relative: f64) {
    assert_eq!(found.len(), expected.len());
    let errors: Vec<f64> = std::iter::zip(found, expected).map(|(f, e)| ((f - e) / e).abs()).collect();
    println!("{what}: largest relative difference {:.1e}", errors.iter().copied().fold(0.0, f64::max));
    for (step, error) in errors.into_iter().enumerate() {
        let (found, expected) = (found[step], expected[step]);
        assert!(error <= relative, "{what} of step {step}: {found}, the original {expected} ({error:.1e})");
    }
}

#[test]
fn eight_steps_follow_the_original() {
    for case in CASES {
        follows_the_original(case);
    }
}

fn follows_the_original(case: &str) {
    let LoadedModel { otter, parameters, tokenizer, .. } =
        load_model(&golden(case).join("checkpoint"), Device::Cpu).unwrap();
    let text = std::fs::read(golden(case).join("train.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let image = tokenizer.special().image;
    let plain =
        train(case, &otter, parameters.clone(), image, (false, false, MomentPrecision::Full), Device::Cpu);
    compare(case, &plain, &expected);
    let packed =
        train(case, &otter, parameters.clone(), image, (false, true, MomentPrecision::Full), Device::Cpu);
    compare(case, &packed, &expected);
    let apart = std::iter::zip(&plain.losses, &packed.losses).map(|(a, b)| ((a - b) / a).abs());
    let apart = apart.fold(0.0, f64::max);
    println!("{case}: packed losses differ from plain ones by {apart:.1e}");
    assert!(apart < 1e-5, "{case}: {:?} and {:?}", plain.losses, packed.losses);

    // Recompute changes memory, not numbers.
    for (run, pack) in [(plain, false), (packed, true)] {
        let again =
            train(case, &otter, parameters.clone(), image, (true, pack, MomentPrecision::Full), Device::Cpu);
        assert_eq!(again.losses, run.losses);
        assert_eq!(again.norms, run.norms);
    }
}

/// Moments of 8 bits follow the recorded losses nearly as closely; the bits of their rounding are the same in every run.
/// The kernels of GPUs, run on the host: gradients, clipping and AdamW of the whole trajectory. A LLaMA with video and an
/// MPT: all four cases take five minutes.
#[cfg(feature = "emulate")]
#[test]
fn eight_steps_on_a_gpu_follow_the_original() {
    use otter_cuda::{Precision, emulated_device};
    for case in ["video", "mpt1b-style"] {
        let LoadedModel { otter, parameters, tokenizer, .. } =
            load_model(&golden(case).join("checkpoint"), Device::Cpu).unwrap();
        let text = std::fs::read(golden(case).join("train.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let run = |precision| {
            let how = (false, true, MomentPrecision::Full);
            let image = tokenizer.special().image;
            train(case, &otter, parameters.clone(), image, how, emulated_device(precision))
        };
        compare(case, &run(Precision::F32), &expected);
        if case == "mpt1b-style" {
            let rounded = run(Precision::Bf16);
            assert_close("losses in bf16", &rounded.losses, &numbers(&expected["loss"]), 2e-2);
        }
    }
}

#[test]
fn eight_steps_with_eight_bit_moments_stay_near_the_original() {
    for case in ["llama", "video", "mpt7b-style", "mpt1b-style"] {
        let LoadedModel { otter, parameters, tokenizer, .. } =
            load_model(&golden(case).join("checkpoint"), Device::Cpu).unwrap();
        let text = std::fs::read(golden(case).join("train.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let image = tokenizer.special().image;
        let run = || {
            train(
                case,
                &otter,
                parameters.clone(),
                image,
                (false, false, MomentPrecision::EightBit),
                Device::Cpu,
            )
        };
        let eight = run();
        assert_close(case, &eight.losses, &numbers(&expected["loss"]), 1e-3);
        assert_close(case, &eight.norms, &numbers(&expected["grad_norm"]), 2e-2);
        assert_eq!(run().losses, eight.losses);
    }
}

fn compare(case: &str, run: &Trajectory, expected: &serde_json::Value) {
    // Equal; the JSON reader is off by one unit in the last place.
    let rates = numbers(&expected["lr"]);
    assert!(
        run.rates.iter().zip(&rates).all(|(a, b)| (a - b).abs() <= 2.0 * f64::EPSILON * b),
        "{:?}",
        run.rates
    );
    assert_close("loss", &run.losses, &numbers(&expected["loss"]), 1e-3);
    assert_close("gradient norm", &run.norms, &numbers(&expected["grad_norm"]), 1e-3);

    let mut decayed: Vec<&str> =
        expected["decayed_parameters"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    let mut found: Vec<&str> = run.decayed.iter().map(String::as_str).collect();
    decayed.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, decayed);

    // Every trained parameter, by the sum of its absolute values.
    let sums = expected["final_abs_sum"].as_object().unwrap();
    assert_eq!(sums.len(), run.parameters.iter().filter(|p| p.trainable).count());
    for (name, sum) in sums {
        let values = run.parameters.by_name(name).unwrap().tensor.values();
        let found: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
        let sum = sum.as_f64().unwrap();
        assert!((found - sum).abs() <= 1e-4 * sum, "sum of {name}: {found}, the original {sum}");
    }
    final_parameters(case, run);
}

/// The recorded parameters, element by element. AdamW divides by the size of the gradient, so an element whose gradient
/// is only rounding noise moves by up to the learning rate in any direction; those may differ by a few of them.
fn final_parameters(case: &str, run: &Trajectory) {
    let recorded = Weights::open_file(&golden(case).join("train.safetensors")).unwrap();
    // `final.` in front of every name is read through as a wrapper.
    let picked: Vec<String> = recorded.names().map(str::to_owned).collect();
    assert!(picked.len() > 5);
    let (mut compared, mut noisy) = (0usize, 0usize);
    let noise = 1e-6 * run.largest_gradients.flat().iter().copied().fold(0f32, f32::max);
    for (parameter, range) in run.parameters.iter().zip(run.largest_gradients.ranges()) {
        if !picked.contains(&parameter.name) {
            continue;
        }
        let expected = recorded.read_f32(&parameter.name).unwrap();
        let gradients = &run.largest_gradients.flat()[range.clone().unwrap()];
        let values = parameter.tensor.values();
        for (i, ((found, expected), gradient)) in values.iter().zip(&expected).zip(gradients).enumerate() {
            // Exactly zero gradients move nothing; tiny ones are noise.
            let is_noise = *gradient > 0.0 && *gradient < noise;
            let limit = if is_noise { 5e-3 } else { 1e-4 };
            let error = (found - expected).abs();
            assert!(
                error <= limit,
                "{}[{i}]: {found}, the original {expected}; gradient {gradient:e}",
                parameter.name
            );
            compared += 1;
            noisy += usize::from(is_noise);
        }
    }
    assert!(noisy * 20 < compared, "{noisy} of {compared} elements were taken for noise");
}
