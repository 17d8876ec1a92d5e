//! `otter-dev bench`: prefill, decode, vision tower, training step and loader of a model of given sizes, each beside its floor.
//!
//! Weights, pixels and tokens of the presets come from a formula that `bench/otter_torch.py` repeats, so that losses,
//! gradient norms and generated tokens of the two can be compared: the same work is timed.

mod floor;
mod inference;
mod loader;
mod model;
mod table;

use std::time::Instant;

use anyhow::{Result, bail};
use otter_cli::output;
use otter_model::generate::{GenerationOptions, Processors, PromptBatch};
use otter_model::{FreezeRule, LossScale, Otter, TextInput, VisionInput};
use otter_nn::{Gradients, Parameters, Segment, Segments, Tensor};
use otter_train::optim::{AdamW, AdamWOptions, MomentPrecision};
use serde_json::{Map, Value, json};

use crate::arguments::{Bench, BenchLoader, BenchRow, BenchTransform, BenchWhat};
use floor::Peaks;
use model::{BenchModel, available_bytes, build, uniform};
use table::{Row, lines};

pub(super) const IMAGE_TOKEN: u32 = 3;

/// Runs the benchmark and prints a table or JSON.
pub fn run(arguments: &Bench) -> Result<()> {
    if let Some(BenchWhat::Loader(arguments)) = &arguments.what {
        return loader::run(arguments);
    }
    // Inside the pool this thread works on the loops it starts; outside it would sleep while others do.
    rayon::scope(|_| {
        if !arguments.lengths.is_empty() {
            return packing(&mut build(arguments)?, arguments);
        }
        // Before the model is there: what is read to measure the bandwidth would count in its peak memory.
        let peaks = (arguments.device.device == "cpu").then(Peaks::measure);
        table(&mut build(arguments)?, arguments, peaks)
    })
}

/// Facts about the model, which the other side of a comparison must share.
fn facts(model: &BenchModel) -> Map<String, Value> {
    let config = model.otter.config();
    let trained = model.parameters.iter().filter(|p| FreezeRule::Head.is_trainable(config, &p.name));
    let mut results = Map::new();
    results.insert("parameters".into(), json!(model.parameters.total_count()));
    results.insert("trainable".into(), json!(trained.map(|p| p.tensor.len()).sum::<usize>()));
    results.insert("threads".into(), json!(rayon::current_num_threads()));
    if let Some(gpu) = model.parameters.device().gpu() {
        results.insert("device".into(), json!(gpu.name()));
    }
    results
}

/// Prints results with the memory that was needed.
fn print(mut results: Map<String, Value>, arguments: &Bench, text: &[String]) -> Result<()> {
    let peak = otter_train::memory::peak_bytes();
    if let Some(peak) = peak {
        results.insert("peak_resident_bytes".into(), json!(peak));
    }
    if arguments.json {
        return output::json(&results.into());
    }
    for line in text {
        output::text(line)?;
    }
    output::text(&format!("peak memory: {}", peak.map_or_else(|| "unknown".into(), output::bytes)))
}

fn packing(model: &mut BenchModel, arguments: &Bench) -> Result<()> {
    let BenchModel { otter, parameters } = model;
    parameters.set_trainable(|name| FreezeRule::Head.is_trainable(otter.config(), name));
    let mut results = Map::new();
    time_packing(otter, parameters, arguments, &mut results)?;
    let text: Vec<String> = results.iter().map(|(name, value)| format!("{name:24} {value}")).collect();
    results.extend(facts(model));
    print(results, arguments, &text)
}

fn table(model: &mut BenchModel, arguments: &Bench, peaks: Option<Peaks>) -> Result<()> {
    let wanted = |row: BenchRow| arguments.only.is_empty() || arguments.only.contains(&row);
    let mut results = facts(model);
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    if wanted(BenchRow::Prefill) || wanted(BenchRow::Decode) {
        let both = inference::time_answer(model, arguments, peaks)?;
        let both = [BenchRow::Prefill, BenchRow::Decode].into_iter().zip(both);
        rows.extend(both.filter(|(kind, _)| wanted(*kind)).map(|(_, row)| row));
    }
    if wanted(BenchRow::Vision) {
        rows.push(inference::time_vision(model, arguments, peaks));
    }
    if arguments.only == [BenchRow::Decode] && arguments.like.is_none() && arguments.model.is_none() {
        time_whole_answer(&model.otter, &model.parameters, arguments, &mut results)?;
    }
    if wanted(BenchRow::Train) {
        match shortage(model, arguments) {
            Some(shortage) if arguments.only.is_empty() => {
                notes.push(format!("train: not timed, {shortage}"))
            }
            Some(shortage) => bail!("the training step was not timed: {shortage}"),
            None => rows.push(time_training(model, arguments, peaks, &mut results)?),
        }
    }
    if wanted(BenchRow::Loader) {
        rows.push(time_loader(arguments)?);
    }
    results.insert("peaks".into(), peaks.map_or(Value::Null, Peaks::to_json));
    results.insert("rows".into(), rows.iter().map(Row::to_json).collect());
    let mut text = lines(&rows, peaks, rayon::current_num_threads());
    text.extend(notes);
    if let Some(gpu) = model.parameters.device().gpu() {
        let memory = gpu.memory();
        results.insert("gpu_peak_bytes".into(), json!(memory.peak));
        text.push(format!("{}: peak {}", gpu.name(), output::bytes(memory.peak)));
    }
    print(results, arguments, &text)
}

/// Why a training step would not fit into memory, if it would not.
fn shortage(model: &BenchModel, arguments: &Bench) -> Option<String> {
    let config = model.otter.config();
    let trained = model.parameters.iter().filter(|p| FreezeRule::Head.is_trainable(config, &p.name));
    // Gradient and two moments, and a weight of its own where it is kept in low precision.
    let needed: u64 = trained
        .map(|p| p.tensor.len() as u64 * if p.tensor.is_full() && !p.tensor.is_shared() { 12 } else { 16 })
        .sum();
    let text = &config.text;
    let per_layer = (text.saved_elements_per_row() * arguments.batch * arguments.length * 4) as u64;
    let kept = if arguments.recompute { 1 } else { text.num_hidden_layers() as u64 };
    let needed = needed + per_layer * kept;
    if arguments.device.device != "cpu" {
        // The GPU says itself what does not fit.
        return None;
    }
    let available = available_bytes().filter(|&available| available < needed)?;
    Some(format!(
        "it needs about {} more memory and {} are free",
        output::bytes(needed),
        output::bytes(available)
    ))
}

/// The loader on made-up photographs. Its floor is that of its stages, one after another on one thread.
fn time_loader(arguments: &Bench) -> Result<Row> {
    let workers = rayon::current_num_threads();
    let options = BenchLoader {
        images: None,
        count: 128,
        workers,
        batch: 32,
        size: 224,
        repeats: arguments.repeats.max(1),
        transform: BenchTransform::Train,
        json: false,
    };
    let measured = loader::measure(&options)?;
    let rates = measured["images_per_second"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stages = measured["stage_ms_per_image"].as_object();
    let milliseconds: f64 = stages.into_iter().flat_map(Map::values).filter_map(Value::as_f64).sum();
    Ok(Row {
        name: "loader",
        work: "128 JPEG images of 640 x 480".into(),
        seconds: rates.iter().filter_map(Value::as_f64).map(|rate| 128.0 / rate).collect(),
        count: 128,
        unit: "images",
        floor: Some(128.0 * milliseconds * 1e-3 / workers as f64),
    })
}

/// One image and some text a sequence; labels on the second half.
fn batch(otter: &Otter, arguments: &Bench) -> (VisionInput, TextInput, Vec<i64>) {
    let (batch, length) = (arguments.batch, arguments.length);
    let vocabulary = otter.config().text.vocab_size() as u32;
    let ids: Vec<u32> = (0..batch * length)
        .map(|i| if i % length == 1 { IMAGE_TOKEN } else { 4 + (i as u32 * 7919) % (vocabulary - 4) })
        .collect();
    let labels =
        ids.iter().enumerate().map(|(i, &id)| if i % length < length / 2 { -100 } else { i64::from(id) });
    let labels = labels.collect();
    let vision = VisionInput::a_picture_each(pixels(otter, batch));
    let attention_mask = vec![true; batch * length];
    let text = TextInput { ids, attention_mask, batch, length, segments: None, media_token_id: IMAGE_TOKEN };
    (vision, text, labels)
}

pub(super) fn pixels(otter: &Otter, images: usize) -> Tensor {
    let side = otter.config().vision.image_size;
    let shape = [images, 3, side, side];
    uniform("pixels", &shape, 0.0, 1.5)
}

fn time_training(
    model: &mut BenchModel,
    arguments: &Bench,
    peaks: Option<Peaks>,
    results: &mut Map<String, Value>,
) -> Result<Row> {
    let BenchModel { otter, parameters } = model;
    parameters.set_trainable(|name| FreezeRule::Head.is_trainable(otter.config(), name));
    let (vision, text, labels) = batch(otter, arguments);
    let mut gradients = Gradients::new(parameters);
    let moments = match arguments.eight_bit_moments {
        true => MomentPrecision::EightBit,
        false => MomentPrecision::Full,
    };
    let mut optimizer =
        AdamW::new(AdamWOptions { moments, ..AdamWOptions::default() }, parameters, &gradients);
    let (mut seconds, mut losses, mut norms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=arguments.repeats {
        let start = Instant::now();
        gradients.clear();
        let loss = otter.forward_backward(
            parameters,
            Some(&vision),
            &text,
            &labels,
            LossScale::Mean,
            arguments.recompute,
            &mut gradients,
        )?;
        let norm = otter_train::optim::gradient_norm(&gradients);
        optimizer.step(parameters, &gradients, 1e-5, otter_train::optim::clip_factor(norm, 1.0));
        inference::wait(parameters.device());
        parameters.device().check()?;
        seconds.push(start.elapsed().as_secs_f64());
        losses.push(loss.mean());
        norms.push(norm);
    }
    results.insert("train_step_seconds".into(), json!(seconds[1..]));
    results.insert("losses".into(), json!(losses));
    results.insert("gradient_norms".into(), json!(norms));
    let sizes = (arguments.batch, arguments.length);
    Ok(Row {
        name: "train",
        work: format!("{} x {} tokens, an image each", sizes.0, sizes.1),
        seconds: seconds[1..].to_vec(),
        count: arguments.batch,
        unit: "samples",
        floor: floor::train(otter.config(), parameters, sizes).floor(peaks),
    })
}

/// The same sequences in padded and in packed rows, in turn.
fn time_packing(
    otter: &Otter,
    parameters: &Parameters<f32>,
    arguments: &Bench,
    results: &mut Map<String, Value>,
) -> Result<()> {
    let lengths = &arguments.lengths;
    if let Some(short) = lengths.iter().find(|&&length| !(2..1 << 20).contains(&length)) {
        bail!("--lengths has {short}; a sequence has 2 tokens or more, one of them its image's");
    }
    let mut gradients = Gradients::new(parameters);
    let mut pass = |packed: bool| -> Result<(f64, f64)> {
        let (vision, text, labels) = sequences(otter, lengths, packed)?;
        gradients.clear();
        let start = Instant::now();
        let loss = otter.forward_backward(
            parameters,
            Some(&vision),
            &text,
            &labels,
            LossScale::Mean,
            arguments.recompute,
            &mut gradients,
        )?;
        Ok((start.elapsed().as_secs_f64(), loss.mean()))
    };
    let passes = (0..=arguments.repeats).map(|_| Ok([pass(false)?, pass(true)?]));
    let passes = passes.collect::<Result<Vec<_>>>()?;
    let column = |packed: usize| passes[1..].iter().map(|pair| pair[packed].0).collect::<Vec<f64>>();
    results.insert("tokens".into(), json!(lengths.iter().sum::<usize>()));
    results.insert("padded_tokens".into(), json!(lengths.len() * lengths.iter().max().unwrap_or(&0)));
    results.insert("padded_seconds".into(), json!(column(0)));
    results.insert("packed_seconds".into(), json!(column(1)));
    results.insert("losses".into(), json!(passes[0].map(|(_, loss)| loss)));
    Ok(())
}

/// Sequences of these lengths, an image each, in a row each or in one row; labels on their second halves.
fn sequences(otter: &Otter, lengths: &[usize], packed: bool) -> Result<(VisionInput, TextInput, Vec<i64>)> {
    let vocabulary = otter.config().text.vocab_size() as u32;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let (mut ids, mut attention_mask, mut labels, mut list) = (vec![], vec![], vec![], vec![]);
    for &len in lengths {
        list.push(Segment { row: 0, start: ids.len(), len });
        for i in 0..if packed { len } else { longest } {
            let id = if i == 1 { IMAGE_TOKEN } else { 4 + (i as u32 * 7919) % (vocabulary - 4) };
            ids.push(if i < len { id } else { 0 });
            attention_mask.push(i < len);
            labels.push(if (len / 2..len).contains(&i) && i > 1 { i64::from(id) } else { -100 });
        }
    }
    let (batch, length) = if packed { (1, ids.len()) } else { (lengths.len(), longest) };
    let segments = packed.then(|| Segments::new(1, length, list)).transpose()?;
    let vision = VisionInput::a_picture_each(pixels(otter, lengths.len()));
    Ok((
        vision,
        TextInput { ids, attention_mask, batch, length, segments, media_token_id: IMAGE_TOKEN },
        labels,
    ))
}

/// From pixels and a short prompt to a whole answer: what `bench/compare.py` sets against PyTorch.
fn time_whole_answer(
    otter: &Otter,
    parameters: &Parameters<f32>,
    arguments: &Bench,
    results: &mut Map<String, Value>,
) -> Result<()> {
    let vision = VisionInput::a_picture_each(pixels(otter, 1));
    let prompt: Vec<u32> = (0..64).map(|i| if i == 1 { IMAGE_TOKEN } else { 4 + i }).collect();
    let prompts = PromptBatch::new(&[prompt], 0, IMAGE_TOKEN)?;
    let options = GenerationOptions {
        processors: Processors { min_new_tokens: arguments.new_tokens, ..Processors::default() },
        ..GenerationOptions::greedy(arguments.new_tokens, 2)
    };
    let mut seconds = Vec::new();
    let mut tokens = Vec::new();
    for _ in 0..=arguments.repeats {
        let start = Instant::now();
        let answers = otter.generate(parameters, Some(&vision), &prompts, &options, &mut |_, _| true)?;
        seconds.push(start.elapsed().as_secs_f64());
        tokens = answers.into_iter().next().map(|answer| answer.token_ids).unwrap_or_default();
    }
    results.insert("decode_seconds".into(), json!(seconds[1..]));
    results.insert("decode_tokens".into(), json!(arguments.new_tokens));
    results.insert("generated".into(), json!(tokens));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use otter_nn::Device;

    use super::model::formula_value;
    use super::*;

    /// Both ways of `--lengths` are the same work.
    #[test]
    fn packed_sequences_have_the_loss_of_padded_ones() -> Result<()> {
        let config = otter_toybox::quickstart::base::config();
        let (otter, specs) = Otter::new(&config)?;
        let parameters =
            Parameters::build(&specs, Device::Cpu, |spec| Ok::<_, Infallible>(formula_value(spec)))?;
        let lengths = [9, 2, 40, 17];
        let loss = |packed| -> Result<_> {
            let (vision, text, labels) = sequences(&otter, &lengths, packed)?;
            Ok(otter.loss(&parameters, Some(&vision), &text, &labels)?)
        };
        let (padded, packed) = (loss(false)?, loss(true)?);
        assert_eq!(padded.targets, packed.targets);
        assert!((padded.sum - packed.sum).abs() < 1e-5 * padded.sum, "{padded:?} {packed:?}");
        Ok(())
    }
}
