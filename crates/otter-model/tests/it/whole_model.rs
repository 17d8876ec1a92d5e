//! The whole model in f64: gradients against finite differences, and equalities that must hold exactly.

use otter_model::config::OtterConfig;
use otter_model::generate::{GenerationOptions, Processors, PromptBatch};
use otter_model::{FreezeRule, LossScale, ModelError, Otter, TextInput, VisionInput};
use otter_nn::testing::gradient_check::{check, random_parameters, random_tensor};
use otter_nn::{Device, Gradients, ParameterSpecs, Parameters, Tensor};

use crate::small_models::{IMAGE, config, other_language_models};

fn model() -> Result<(Otter, ParameterSpecs), ModelError> {
    Otter::new(&config())
}

/// Three sequences: two images; one video of two frames that shares its second image; no image at all.
fn batch() -> (VisionInput<f64>, TextInput, Vec<i64>) {
    let vision = VisionInput {
        pixels: random_tensor("pixels", &[4, 3, 4, 4]),
        media_frames: vec![0..1, 1..2, 2..4],
        slots: vec![vec![0, 1], vec![2, 1], vec![]],
    };
    let rows: [[u32; 7]; 3] =
        [[1, IMAGE, 5, IMAGE, 7, 8, 2], [1, 4, IMAGE, 6, IMAGE, 9, 0], [1, 4, 5, 6, 7, 0, 0]];
    let text = TextInput {
        ids: rows.concat(),
        attention_mask: rows.concat().iter().map(|&id| id != 0).collect(),
        batch: 3,
        length: 7,
        segments: None,
        media_token_id: IMAGE,
    };
    let labels = text
        .ids
        .iter()
        .enumerate()
        .map(|(i, &id)| if i % 7 < 3 || id == 0 || id == IMAGE { -100 } else { i64::from(id) })
        .collect();
    (vision, text, labels)
}

#[test]
fn every_gradient_matches_finite_differences() -> Result<(), ModelError> {
    let (otter, specs) = model()?;
    check_gradients(&otter, &specs);
    for text in other_language_models() {
        let tie_word_embeddings = text.must_be_tied();
        let (otter, specs) = Otter::new(&OtterConfig { text, tie_word_embeddings, ..config() })?;
        check_gradients(&otter, &specs);
    }
    Ok(())
}

/// The formula for the number of parameters, which memory plans use, agrees with the layers; also with tied tables.
#[test]
fn parameters_are_counted_right() -> Result<(), ModelError> {
    for text in other_language_models().into_iter().chain([config().text]) {
        for tie_word_embeddings in [true, false] {
            if text.must_be_tied() && !tie_word_embeddings {
                continue;
            }
            let config = OtterConfig { text: text.clone(), tie_word_embeddings, ..config() };
            let (_, specs) = Otter::new(&config)?;
            assert_eq!(u128::from(specs.count(|_| true)), config.parameter_count(), "{text:?}");
        }
    }
    Ok(())
}

fn check_gradients(otter: &Otter, specs: &ParameterSpecs) {
    let (vision, text, labels) = batch();
    let scalar = |value: f64| Tensor::from_vec(vec![value], &[1], Device::Cpu);
    for recompute in [false, true] {
        check(
            specs,
            &[],
            |p, _| scalar(otter.loss(p, Some(&vision), &text, &labels).map_or(f64::NAN, |l| l.sum)),
            |p, _, dy, g| {
                let scale = LossScale::Factor(dy.data()[0]);
                let loss = otter.forward_backward(p, Some(&vision), &text, &labels, scale, recompute, g);
                assert!(loss.is_ok_and(|l| l.sum.is_finite()));
                vec![]
            },
        );
    }
}

fn gradients_of(
    otter: &Otter,
    parameters: &Parameters<f64>,
    vision: Option<&VisionInput<f64>>,
    text: &TextInput,
    labels: &[i64],
) -> Result<Gradients<f64>, ModelError> {
    let mut gradients = Gradients::new(parameters);
    otter.forward_backward(parameters, vision, text, labels, LossScale::Mean, false, &mut gradients)?;
    Ok(gradients)
}

#[test]
fn freezing_changes_no_remaining_gradient() -> Result<(), ModelError> {
    let (otter, specs) = model()?;
    let (vision, text, labels) = batch();
    let mut parameters = random_parameters(&specs);
    let all = gradients_of(&otter, &parameters, Some(&vision), &text, &labels)?;
    let rules = [
        FreezeRule::V01,
        FreezeRule::parse("perceiver"),
        FreezeRule::parse("vision_encoder."),
        FreezeRule::parse("layers.3.gated"),
        FreezeRule::parse("layers.2.decoder_layer.mlp.up_proj"),
    ];
    for rule in rules {
        rule.check(&specs)?;
        parameters.set_trainable(|name| rule.is_trainable(&config(), name) && !name.is_empty());
        let some = gradients_of(&otter, &parameters, Some(&vision), &text, &labels)?;
        assert!(!some.flat().is_empty());
        for (index, range) in some.ranges().iter().enumerate() {
            let (Some(range), Some(whole)) = (range, &all.ranges()[index]) else { continue };
            let (some, all) = (some.flat(), all.flat());
            let pairs = some[range.clone()].iter().zip(&all[whole.clone()]);
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-12), "parameter {index} under {rule:?}");
        }
    }
    Ok(())
}

#[test]
fn sharing_an_image_equals_copying_it() -> Result<(), ModelError> {
    let (otter, specs) = model()?;
    let (shared, text, labels) = batch();
    let parameters = random_parameters(&specs);
    let frame = 3 * 4 * 4;
    let mut pixels = shared.pixels.data().to_vec();
    pixels.extend_from_within(frame..2 * frame);
    let copied = VisionInput {
        pixels: Tensor::from_vec(pixels, &[5, 3, 4, 4], Device::Cpu),
        media_frames: vec![0..1, 1..2, 2..4, 4..5],
        slots: vec![vec![0, 1], vec![2, 3], vec![]],
    };
    let a = gradients_of(&otter, &parameters, Some(&shared), &text, &labels)?;
    let b = gradients_of(&otter, &parameters, Some(&copied), &text, &labels)?;
    assert!(a.flat().iter().zip(b.flat()).all(|(a, b)| (a - b).abs() < 1e-12));
    Ok(())
}

#[test]
fn a_batch_equals_its_sequences() -> Result<(), ModelError> {
    let (otter, specs) = model()?;
    let (vision, text, _) = batch();
    let parameters = random_parameters(&specs);
    let whole = otter.forward(&parameters, Some(&vision), &text, &mut |_, _| {})?;
    for row in 0..3 {
        let length = text.attention_mask[row * 7..][..7].iter().filter(|&&m| m).count();
        let alone = TextInput::single(text.ids[row * 7..][..length].to_vec(), IMAGE);
        let own = VisionInput { slots: vec![vision.slots[row].clone()], ..vision.clone() };
        let hidden = otter.forward(&parameters, Some(&own), &alone, &mut |_, _| {})?;
        let expected = &whole.data()[row * 7 * 8..][..length * 8];
        assert!(hidden.data().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
    }
    Ok(())
}

#[test]
fn cached_generation_equals_recomputing_the_sequence() -> Result<(), ModelError> {
    let (otter, specs) = model()?;
    check_cached_generation(&otter, &specs)?;
    for text in other_language_models() {
        let tie_word_embeddings = text.must_be_tied();
        let (otter, specs) = Otter::new(&OtterConfig { text, tie_word_embeddings, ..config() })?;
        check_cached_generation(&otter, &specs)?;
    }
    Ok(())
}

fn check_cached_generation(otter: &Otter, specs: &ParameterSpecs) -> Result<(), ModelError> {
    let parameters = random_parameters(specs).cast::<f32>();
    let (vision, _, _) = batch();
    let vision = VisionInput {
        pixels: vision.pixels.cast::<f32>(),
        media_frames: vision.media_frames.clone(),
        slots: vec![vec![0, 1], vec![2]],
    };
    let prompts = [vec![1, IMAGE, 5, IMAGE, 7], vec![1, IMAGE, 9]];
    let options = GenerationOptions {
        processors: Processors { min_new_tokens: 6, ..Processors::default() },
        ..GenerationOptions::greedy(6, 10)
    };
    let batch = PromptBatch::new(&prompts, 0, IMAGE)?;
    let answers = otter.generate(&parameters, Some(&vision), &batch, &options, &mut |_, _| true)?;
    for (row, prompt) in prompts.iter().enumerate() {
        let mut ids = prompt.clone();
        let own = VisionInput { slots: vec![vision.slots[row].clone()], ..vision.clone() };
        for &token in &answers[row].token_ids {
            let text = TextInput::single(ids.clone(), IMAGE);
            let hidden = otter.forward(&parameters, Some(&own), &text, &mut |_, _| {})?;
            let width = hidden.width();
            let last = hidden.data()[hidden.len() - width..].to_vec();
            let last = Tensor::from_vec(last, &[1, width], Device::Cpu);
            let logits = otter.language().logits(&parameters, &last);
            let allowed = logits.data().iter().enumerate().filter(|(id, _)| *id != 10);
            let best = allowed.max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id as u32);
            assert_eq!(best, Some(token), "row {row} after {ids:?}");
            ids.push(token);
        }
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<(), ModelError> {
    let (otter, specs) = model()?;
    let parameters = Parameters::<f32>::initialize(&specs, 1, Device::Cpu);
    let outside = TextInput::single(vec![1, 11], IMAGE);
    let error = otter.loss(&parameters, None, &outside, &[-100, -100]);
    assert!(matches!(error, Err(ModelError::TokenOutside { id: 11, position: 1, vocabulary: 11, .. })));
    let frames = VisionInput {
        pixels: Tensor::zeros(&[3, 3, 4, 4], Device::Cpu),
        media_frames: std::iter::once(0..3).collect(),
        slots: vec![vec![0]],
    };
    let text = TextInput::single(vec![1, IMAGE, 4], IMAGE);
    let error = otter.loss(&parameters, Some(&frames), &text, &[-100, -100, 4]);
    assert_eq!(error, Err(ModelError::TooManyFrames { frames: 3, limit: 2 }));
    let pixels = VisionInput { pixels: Tensor::zeros(&[1, 3, 5, 4], Device::Cpu), ..frames };
    assert!(matches!(
        otter.loss(&parameters, Some(&pixels), &text, &[-100, -100, 4]),
        Err(ModelError::Shape { found: 5, expected: 4, .. })
    ));
    Ok(())
}
