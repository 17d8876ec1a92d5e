//! Whole models on a device: what the host computes, for every language model, packed or padded, with every kind of weight.

use crate::common::device;
use crate::small_models::{IMAGE, config, other_language_models};
use otter_cuda::Precision;
use otter_model::config::{LlamaConfig, OtterConfig};
use otter_model::generate::{
    BeamOptions, Decoding, EarlyStopping, Generated, GenerationOptions, PromptBatch,
};
use otter_model::{LossScale, ModelError, Otter, TextInput, VisionInput};
use otter_nn::backend::GpuTransfers;
use otter_nn::testing::gradient_check::{random_parameters, random_tensor};
use otter_nn::{
    Device, Gradients, Parameters, QuantizedFormat, QuantizedMatrix, Segment, Segments, Tensor, Weight,
};

/// Every small model: all language models, and a tower with places for media.
fn models() -> Vec<OtterConfig> {
    let mut models = vec![config()];
    models.extend(other_language_models().into_iter().map(|text| {
        let tie_word_embeddings = text.must_be_tied();
        OtterConfig { text, tie_word_embeddings, ..config() }
    }));
    let mut placed = config();
    (placed.perceiver.max_num_frames, placed.perceiver.max_num_media) = (None, Some(3));
    models.push(placed);
    models
}

/// Two images; a video that shares the second, where the model takes videos; no image; more placeholders than media.
fn batch(config: &OtterConfig) -> (VisionInput, TextInput, Vec<i64>) {
    let videos = config.perceiver.max_num_frames.is_some();
    let vision = VisionInput {
        pixels: random_tensor("pixels", &[if videos { 4 } else { 3 }, 3, 4, 4]).cast(),
        media_frames: vec![0..1, 1..2, 2..if videos { 4 } else { 3 }],
        slots: vec![vec![0, 1], vec![2, 1], vec![], vec![if videos { 1 } else { 0 }]],
    };
    let rows: [[u32; 7]; 4] = [
        [1, IMAGE, 5, IMAGE, 7, 8, 2],
        [1, 4, IMAGE, 6, IMAGE, 9, 0],
        [1, 4, 5, 6, 7, 0, 0],
        [1, IMAGE, 8, IMAGE, 4, 2, 0],
    ];
    let text = TextInput {
        ids: rows.concat(),
        attention_mask: rows.concat().iter().map(|&id| id != 0).collect(),
        batch: 4,
        length: 7,
        segments: None,
        media_token_id: IMAGE,
    };
    let label = |&id: &u32| if id == 0 || id == IMAGE { -100 } else { i64::from(id) };
    let labels = text.ids.iter().map(label).collect();
    (vision, text, labels)
}

/// The same sequences two a row, with padding behind.
fn packed(text: &TextInput, labels: &[i64]) -> (TextInput, Vec<i64>) {
    let lengths: Vec<usize> =
        text.attention_mask.chunks(7).map(|mask| mask.iter().filter(|&&seen| seen).count()).collect();
    let length = 15;
    let (mut ids, mut targets) = (vec![0; 2 * length], vec![-100; 2 * length]);
    let mut segments = Vec::new();
    for (sequence, &len) in lengths.iter().enumerate() {
        let row = sequence / 2;
        let start = if sequence % 2 == 0 { 0 } else { lengths[sequence - 1] };
        let at = row * length + start;
        ids[at..at + len].copy_from_slice(&text.ids[sequence * 7..][..len]);
        targets[at..at + len].copy_from_slice(&labels[sequence * 7..][..len]);
        segments.push(Segment { row, start, len });
    }
    let mut attention_mask = vec![false; 2 * length];
    let segments = Segments::new(2, length, segments).expect("they are in order");
    segments.list().iter().for_each(|segment| attention_mask[segments.tokens(segment)].fill(true));
    let media_token_id = IMAGE;
    (TextInput { ids, attention_mask, batch: 2, length, segments: Some(segments), media_token_id }, targets)
}

fn parameters_of(config: &OtterConfig) -> (Otter, Parameters<f32>) {
    let (otter, specs) = Otter::new(config).expect("sizes are sound");
    let mut parameters = random_parameters(&specs).cast::<f32>();
    parameters.set_trainable(|_| true);
    (otter, parameters)
}

fn on(device: Device, parameters: &Parameters<f32>) -> Parameters<f32> {
    parameters.clone().to_device(device).expect("there is room")
}

struct Step {
    loss: f64,
    gradients: Vec<f32>,
    log_probabilities: Vec<Option<f64>>,
}

fn step(
    otter: &Otter,
    parameters: &Parameters<f32>,
    (vision, text, labels): &(VisionInput, TextInput, Vec<i64>),
    recompute: bool,
) -> Result<Step, ModelError> {
    let mut gradients = Gradients::new(parameters);
    let scale = LossScale::Mean;
    let vision = Some(vision);
    let loss = otter.forward_backward(parameters, vision, text, labels, scale, recompute, &mut gradients)?;
    let log_probabilities = otter.log_probabilities(parameters, vision, text, labels)?;
    let evaluated = otter.loss(parameters, vision, text, labels)?;
    assert!((loss.sum - evaluated.sum).abs() <= 1e-5 * loss.sum.abs(), "{loss:?}, {evaluated:?}");
    Ok(Step { loss: loss.mean(), gradients: gradients.flat(), log_probabilities })
}

/// Every gradient within `tolerance` of the largest of its own parameter, or of a hundredth of the largest of all.
fn compare(parameters: &Parameters<f32>, found: &Step, expected: &Step, tolerance: f32, what: &str) {
    let largest = |values: &[f32]| values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let loss = (found.loss - expected.loss).abs();
    assert!(
        loss <= f64::from(tolerance) * expected.loss.abs(),
        "{what}: loss {} {}",
        found.loss,
        expected.loss
    );
    for (found, expected) in found.log_probabilities.iter().zip(&expected.log_probabilities) {
        let (Some(found), Some(expected)) = (found, expected) else {
            assert_eq!(found.is_some(), expected.is_some(), "{what}");
            continue;
        };
        assert!(
            (found - expected).abs() <= 3.0 * f64::from(tolerance),
            "{what}: {found}, expected {expected}"
        );
    }
    let ranges = Gradients::new(parameters);
    let all = largest(&expected.gradients);
    for (parameter, range) in parameters.iter().zip(ranges.ranges()) {
        let Some(range) = range.clone() else { continue };
        let (found, expected) = (&found.gradients[range.clone()], &expected.gradients[range]);
        let limit = tolerance * largest(expected).max(1e-2 * all);
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let name = &parameter.name;
            assert!(
                (found - expected).abs() <= limit,
                "{what}, {name}[{at}]: {found}, not {expected} ({limit})"
            );
        }
    }
}

#[test]
fn steps_are_those_of_the_host() {
    for (index, config) in models().into_iter().enumerate() {
        let (otter, parameters) = parameters_of(&config);
        let padded = batch(&config);
        let (text, labels) = packed(&padded.1, &padded.2);
        let packed = (padded.0.clone(), text, labels);
        let there = on(device(Precision::F32), &parameters);
        for (recompute, inputs) in [(false, &padded), (index % 2 == 0, &packed)] {
            let expected = step(&otter, &parameters, inputs, recompute).expect("the input fits");
            let found = step(&otter, &there, inputs, recompute).expect("the input fits");
            let what = format!("{:?}, packed {}", config.text, inputs.1.segments.is_some());
            compare(&parameters, &found, &expected, 3e-4, &what);
        }
    }
}

/// Rounded factors give about what f32 gives, and not the same: tensor cores were used.
#[test]
fn rounded_products_are_near() {
    let config = config();
    let (otter, parameters) = parameters_of(&config);
    let inputs = batch(&config);
    let expected = step(&otter, &parameters, &inputs, false).expect("the input fits");
    let there = on(device(Precision::Bf16), &parameters);
    let found = step(&otter, &there, &inputs, false).expect("the input fits");
    compare(&parameters, &found, &expected, 0.1, "bf16");
    assert_ne!(found.loss, expected.loss);
}

/// A model wide enough for blocks, all frozen matrices kept in low precision, its cross-attention trained.
#[test]
fn frozen_matrices_stay_in_low_precision() {
    let text = LlamaConfig {
        hidden_size: 256,
        intermediate_size: 256,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..LlamaConfig::llama_7b(11)
    };
    let mut config = OtterConfig { text: text.into(), ..config() };
    config.cross_attention.every_n_layers = 1;
    let (otter, full) = parameters_of(&config);
    let inputs = batch(&config);
    for kind in 0..4 {
        let mut parameters = full.clone();
        let trained = |name: &str| name.contains("gated_cross_attn") || name.contains("perceiver");
        parameters.set_trainable(trained);
        for parameter in
            parameters.iter_mut().filter(|p| !trained(&p.name) && p.name.contains("lang_encoder"))
        {
            let shape = parameter.tensor.shape().to_vec();
            let [rows, width] = shape[..] else { continue };
            // Small enough that softmax stays soft over rounded weights.
            let values: Vec<f32> = parameter.tensor.values().iter().map(|v| v * 0.2).collect();
            let quantized = |format| {
                let matrix = QuantizedMatrix::from_values(format, &values, [rows, width], Device::Cpu);
                Weight::Quantized(matrix.expect("the values are finite"))
            };
            parameter.tensor = match kind {
                0 => Weight::F16(Tensor::from_vec(halves(&values, half::f16::from_f32), &shape, Device::Cpu)),
                1 => {
                    Weight::Bf16(Tensor::from_vec(halves(&values, half::bf16::from_f32), &shape, Device::Cpu))
                }
                2 => quantized(QuantizedFormat::Q8_0),
                _ => quantized(QuantizedFormat::Q4K),
            };
        }
        let device = device(Precision::F32);
        let there = on(device, &parameters);
        assert_eq!(
            there.half_count() + there.quantized_count(),
            parameters.half_count() + parameters.quantized_count()
        );
        assert!(there.half_count() + there.quantized_count() > 0);
        let bytes = device.gpu().expect("it is a GPU").memory().used;
        assert!(bytes < parameters.memory().owned + 4096, "{bytes} bytes, {:?}", parameters.memory());
        // The host rounds activations to bytes where weights are in blocks: there widened weights are the measure.
        let mut widened = parameters.clone();
        widened.iter_mut().for_each(|parameter| {
            parameter.tensor.make_full();
        });
        let expected = step(&otter, &widened, &inputs, false).expect("the input fits");
        let found = step(&otter, &there, &inputs, false).expect("the input fits");
        compare(&parameters, &found, &expected, 3e-4, &format!("kind {kind}"));
    }
}

fn halves<H>(values: &[f32], narrow: impl Fn(f32) -> H) -> Vec<H> {
    values.iter().map(|&value| narrow(value)).collect()
}

/// Greedy answers and beams: the cache grows, rows change places and leave.
#[test]
fn answers_are_those_of_the_host() {
    for config in models() {
        let (otter, parameters) = parameters_of(&config);
        let there = on(device(Precision::F32), &parameters);
        let vision = VisionInput {
            pixels: random_tensor("pixels", &[3, 3, 4, 4]).cast(),
            media_frames: vec![0..1, 1..2, 2..3],
            slots: vec![vec![0, 1], vec![2], vec![]],
        };
        let prompts = [vec![1, IMAGE, 5, IMAGE, 7], vec![1, 4, IMAGE], vec![1, 6, 8, 9]];
        let prompts = PromptBatch::new(&prompts, 0, IMAGE).expect("prompts have tokens");
        for decoding in [Decoding::Keep, Decoding::Reference] {
            let options = GenerationOptions { decoding, ..GenerationOptions::greedy(5, 2) };
            let greedy = |parameters: &Parameters<f32>| {
                otter.generate(parameters, Some(&vision), &prompts, &options, &mut |_, _| true)
            };
            assert_eq!(tokens(greedy(&there)), tokens(greedy(&parameters)), "{:?}", config.text);
            let options = GenerationOptions { return_sequences: 2, ..options };
            let beams =
                BeamOptions { num_beams: 3, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
            let search = |parameters: &Parameters<f32>| {
                otter.generate_beams(parameters, Some(&vision), &prompts, &options, &beams)
            };
            assert_eq!(tokens(search(&there)), tokens(search(&parameters)), "{:?}", config.text);
        }
    }
}

fn tokens(answers: Result<Vec<Generated>, ModelError>) -> Vec<Vec<u32>> {
    answers.expect("the input fits").into_iter().map(|answer| answer.token_ids).collect()
}

/// Copies between the host and the GPU for a token: one back, and as many there whatever the number of layers.
#[test]
fn a_token_makes_no_round_trip_in_a_layer() {
    let transfers = |layers: usize| {
        let text = LlamaConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: layers,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            ..LlamaConfig::llama_7b(11)
        };
        let mut config = OtterConfig { text: text.into(), ..config() };
        config.perceiver.max_num_frames = None;
        let (otter, parameters) = parameters_of(&config);
        let device = device(Precision::F32);
        let there = on(device, &parameters);
        let gpu = device.gpu().expect("it is a GPU");
        let vision = VisionInput {
            pixels: random_tensor("pixels", &[1, 3, 4, 4]).cast(),
            media_frames: std::iter::once(0..1).collect(),
            slots: vec![vec![0], vec![]],
        };
        let prompts =
            PromptBatch::new(&[vec![1, IMAGE, 5], vec![1, 4]], 0, IMAGE).expect("prompts have tokens");
        let options = GenerationOptions { stop_tokens: Vec::new(), ..GenerationOptions::greedy(4, 0) };
        let mut counts = Vec::new();
        let mut note = |answer: usize, _: u32| {
            counts.extend((answer == 0).then(|| gpu.transfers()));
            true
        };
        otter.generate(&there, Some(&vision), &prompts, &options, &mut note).expect("the input fits");
        let difference = |pair: &[GpuTransfers]| {
            (pair[1].uploads - pair[0].uploads, pair[1].downloads - pair[0].downloads)
        };
        counts.windows(2).map(difference).collect::<Vec<_>>()
    };
    let few = transfers(2);
    assert_eq!(few, transfers(6));
    assert!(few.iter().all(|&(uploads, downloads)| uploads < 10 && downloads == 1), "{few:?}");
}

/// Too little memory ends the pass with an error, and the GPU can be used again.
#[test]
fn memory_that_is_not_there_is_an_error() {
    let config = config();
    let (otter, parameters) = parameters_of(&config);
    let device = device(Precision::F32);
    let there = on(device, &parameters);
    let gpu = device.gpu().expect("it is a GPU");
    let inputs = batch(&config);
    let whole = gpu.memory();
    gpu.limit(whole.used + 2000);
    let error = step(&otter, &there, &inputs, false).err().expect("2000 bytes are too few").to_string();
    assert!(error.contains("do not fit"), "{error}");
    gpu.limit(whole.limit);
    gpu.reset_peak();
    let expected = step(&otter, &parameters, &inputs, false).expect("the input fits");
    let found = step(&otter, &there, &inputs, false).expect("there is room again");
    compare(&parameters, &found, &expected, 3e-4, "after a failure");
    assert!(gpu.memory().peak > whole.used);
    gpu.limit(whole.used + 1000);
    let error = parameters.to_device(device).err().expect("1000 bytes are too few").to_string();
    assert!(error.contains("vision_encoder"), "{error}");
    gpu.limit(whole.limit);
}
