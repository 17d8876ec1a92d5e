//! Prefill, decode and vision tower of `otter-dev bench`.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use otter_model::VisionInput;
use otter_model::generate::{GenerationOptions, PromptBatch};
use otter_nn::Device;

use super::floor::{self, Peaks};
use super::model::BenchModel;
use super::table::Row;
use super::{IMAGE_TOKEN, pixels};
use crate::arguments::Bench;

/// A prompt with one image and the tokens after it: rows of prefill and decode.
pub(super) fn time_answer(model: &BenchModel, arguments: &Bench, peaks: Option<Peaks>) -> Result<[Row; 2]> {
    let BenchModel { otter, parameters } = model;
    let vocabulary = otter.config().text.vocab_size() as u32;
    let features = otter.vision_features(parameters, &pixels(otter, 1));
    // The tower has a row of its own.
    let vision = VisionInput::a_picture_each(features);
    let tokens = arguments.tokens.max(2);
    let prompt = |tokens: usize| -> Result<PromptBatch> {
        let id = |i: usize| if i == 1 { IMAGE_TOKEN } else { 4 + (i as u32 * 7919) % (vocabulary - 4) };
        Ok(PromptBatch::new(&[(0..tokens).map(id).collect()], 0, IMAGE_TOKEN)?)
    };
    let answer = |tokens: usize, new_tokens: usize| -> Result<(f64, f64)> {
        let prompts = prompt(tokens)?;
        let options =
            GenerationOptions { stop_tokens: Vec::new(), ..GenerationOptions::greedy(new_tokens, 0) };
        let start = Instant::now();
        let mut times = Vec::with_capacity(new_tokens);
        let mut note = |_: usize, _: u32| {
            times.push(start.elapsed().as_secs_f64());
            true
        };
        black_box(otter.generate(parameters, Some(&vision), &prompts, &options, &mut note)?);
        let (first, last) = (times[0], times[times.len() - 1]);
        Ok((first, last - first))
    };
    let new_tokens = arguments.new_tokens.max(2);
    // A short answer brings weights into memory and starts the threads.
    answer(tokens.min(32), 4)?;
    let times =
        (0..arguments.repeats.max(1)).map(|_| answer(tokens, new_tokens)).collect::<Result<Vec<_>>>()?;
    let later = new_tokens - 1;
    let config = otter.config();
    Ok([
        Row {
            name: "prefill",
            work: format!("{tokens} tokens, one image"),
            seconds: times.iter().map(|time| time.0).collect(),
            count: tokens,
            unit: "tokens",
            floor: floor::prefill(config, parameters, tokens).floor(peaks),
        },
        Row {
            name: "decode",
            work: format!("{later} tokens after it"),
            seconds: times.iter().map(|time| time.1).collect(),
            count: later,
            unit: "tokens",
            floor: floor::decode(config, parameters, tokens, later).floor(peaks),
        },
    ])
}

/// Waits until a device has done what it was asked for.
pub(super) fn wait(device: Device) {
    if let Some(gpu) = device.gpu() {
        gpu.synchronize();
    }
}

/// The tower on one image.
pub(super) fn time_vision(model: &BenchModel, arguments: &Bench, peaks: Option<Peaks>) -> Row {
    let BenchModel { otter, parameters } = model;
    let pixels = pixels(otter, 1);
    let seconds = (0..=arguments.repeats.max(1)).map(|_| {
        let start = Instant::now();
        black_box(otter.vision_features(parameters, &pixels));
        wait(parameters.device());
        start.elapsed().as_secs_f64()
    });
    let side = otter.config().vision.image_size;
    Row {
        name: "vision",
        work: format!("one image, {side} x {side}"),
        seconds: seconds.skip(1).collect(),
        count: 1,
        unit: "images",
        floor: floor::vision(otter.config(), parameters, 1).floor(peaks),
    }
}
