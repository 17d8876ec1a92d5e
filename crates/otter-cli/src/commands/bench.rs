//! `otter bench`: training steps and greedy decoding of a model of given sizes.
//!
//! Weights, pixels and tokens come from a formula that `bench/otter_torch.py` repeats, so that losses, gradient norms and
//! generated tokens of the two can be compared: the same work is timed.

use std::convert::Infallible;
use std::time::Instant;

use anyhow::{Result, bail};
use otter_model::config::{CrossAttentionConfig, LlamaConfig, OtterConfig, PerceiverConfig, VisionConfig};
use otter_model::generate::{GenerationOptions, Processors, PromptBatch};
use otter_model::{FreezeRule, LossScale, Otter, TextInput, VisionInput};
use otter_nn::{Device, Gradients, ParameterSpec, Parameters, Segment, Segments, Tensor};
use otter_train::optimizer::{AdamW, AdamWOptions};
use serde_json::{Map, Value, json};

use super::bench_loader;
use crate::arguments::{Bench, BenchPreset, BenchWhat};
use crate::output;

const IMAGE_TOKEN: u32 = 3;

/// Runs the benchmark and prints a table or JSON.
pub fn run(arguments: &Bench) -> Result<()> {
    if let Some(BenchWhat::Loader(arguments)) = &arguments.what {
        return bench_loader::run(arguments);
    }
    if let Some(only) = &arguments.only
        && !["train", "decode"].contains(&only.as_str())
    {
        bail!("--only takes train or decode, not '{only}'");
    }
    // Inside the pool this thread works on the loops it starts; outside it would sleep while others do.
    let results = rayon::scope(|_| measure(arguments))?;
    if arguments.json {
        return output::json(&results.into());
    }
    for (name, value) in &results {
        output::text(&format!("{name:24} {value}"))?;
    }
    Ok(())
}

fn measure(arguments: &Bench) -> Result<Map<String, Value>> {
    let config = match arguments.preset {
        BenchPreset::Mid => mid_size(),
        BenchPreset::Toybox => otter_quickstart::base::config(),
    };
    let (otter, specs) = Otter::new(&config)?;
    let mut parameters =
        Parameters::build(&specs, Device::Cpu, |spec| Ok::<_, Infallible>(formula_value(spec)))?;
    parameters.set_trainable(|name| FreezeRule::Head.is_trainable(&config, name));
    let mut results = Map::new();
    results.insert("parameters".into(), json!(parameters.total_count()));
    results.insert("trainable".into(), json!(parameters.trainable_count()));
    results.insert("threads".into(), json!(rayon::current_num_threads()));
    let wanted = |what: &str| {
        arguments.lengths.is_empty() && arguments.only.as_deref().is_none_or(|only| only == what)
    };
    if !arguments.lengths.is_empty() {
        time_packing(&otter, &parameters, arguments, &mut results)?;
    }
    if wanted("train") {
        time_training(&otter, &mut parameters, arguments, &mut results)?;
    }
    if wanted("decode") {
        time_decoding(&otter, &parameters, arguments, &mut results)?;
    }
    if let Some(peak) = otter_train::memory_plan::peak_bytes() {
        results.insert("peak_resident_bytes".into(), json!(peak));
    }
    Ok(results)
}

/// A tower of ViT-B/32's size and a language model of 12 layers of 768, cross-attention every 4.
fn mid_size() -> OtterConfig {
    OtterConfig {
        vision: VisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        perceiver: PerceiverConfig::default(),
        cross_attention: CrossAttentionConfig::default(),
        text: LlamaConfig {
            hidden_size: 768,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_key_value_heads: 12,
            ..LlamaConfig::llama_7b(32004)
        }
        .into(),
        tie_word_embeddings: false,
        train_vision_encoder: false,
        train_lang_encoder: false,
        train_full_model: false,
    }
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
    let vision = VisionInput {
        pixels: pixels(otter, batch),
        media_frames: (0..batch).map(|i| i..i + 1).collect(),
        slots: (0..batch).map(|i| vec![i]).collect(),
    };
    let attention_mask = vec![true; batch * length];
    let text = TextInput { ids, attention_mask, batch, length, segments: None, media_token_id: IMAGE_TOKEN };
    (vision, text, labels)
}

fn pixels(otter: &Otter, images: usize) -> Tensor {
    let side = otter.config().vision.image_size;
    let shape = [images, 3, side, side];
    uniform("pixels", &shape, 0.0, 1.5)
}

/// Starting value of one parameter: gates half open, so that the cross-attention counts; gains around 1.
fn formula_value(spec: &ParameterSpec) -> Tensor {
    let (name, shape) = (spec.name.as_str(), spec.shape.as_slice());
    let (centre, amplitude) = if name.ends_with("_gate") {
        (0.5, 0.0)
    } else if shape.len() == 1 && name.ends_with(".weight") {
        (1.0, 0.125)
    } else if name.ends_with("latents") {
        (0.0, 1.5)
    } else if shape.len() > 1 {
        (0.0, 0.03125)
    } else {
        (0.0, 0.015625)
    };
    uniform(name, shape, centre, amplitude)
}

/// `centre + amplitude * u` with u in [-1, 1) from a hash of the element's index and the name.
fn uniform(name: &str, shape: &[usize], centre: f32, amplitude: f32) -> Tensor {
    let seed = name.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let value = |index: usize| {
        let mut x = (index as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
        x = (x ^ (x >> 15)).wrapping_mul(0x85EB_CA77);
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE3D);
        x = (x ^ (x >> 16)) >> 8;
        (x as f32 / 8_388_608.0 - 1.0) * amplitude + centre
    };
    let data = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(data, shape, Device::Cpu)
}

fn time_training(
    otter: &Otter,
    parameters: &mut Parameters<f32>,
    arguments: &Bench,
    results: &mut Map<String, Value>,
) -> Result<()> {
    let (vision, text, labels) = batch(otter, arguments);
    let mut gradients = Gradients::new(parameters);
    let mut optimizer = AdamW::new(AdamWOptions::default(), parameters, &gradients);
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
        let norm = otter_train::clip::global_norm(gradients.parts());
        optimizer.step(parameters, &gradients, 1e-5, otter_train::clip::clip_factor(norm, 1.0));
        seconds.push(start.elapsed().as_secs_f64());
        losses.push(loss.mean());
        norms.push(norm);
    }
    results.insert("train_step_seconds".into(), json!(seconds[1..]));
    results.insert("losses".into(), json!(losses));
    results.insert("gradient_norms".into(), json!(norms));
    Ok(())
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
    let vision = VisionInput {
        pixels: pixels(otter, lengths.len()),
        media_frames: (0..lengths.len()).map(|i| i..i + 1).collect(),
        slots: (0..lengths.len()).map(|i| vec![i]).collect(),
    };
    Ok((
        vision,
        TextInput { ids, attention_mask, batch, length, segments, media_token_id: IMAGE_TOKEN },
        labels,
    ))
}

fn time_decoding(
    otter: &Otter,
    parameters: &Parameters<f32>,
    arguments: &Bench,
    results: &mut Map<String, Value>,
) -> Result<()> {
    let vision = VisionInput {
        pixels: pixels(otter, 1),
        media_frames: std::iter::once(0..1).collect(),
        slots: vec![vec![0]],
    };
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
    use super::*;

    /// Both ways of `--lengths` are the same work.
    #[test]
    fn packed_sequences_have_the_loss_of_padded_ones() -> Result<()> {
        let config = otter_quickstart::base::config();
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

    /// `fill_uniform` of `bench/otter_torch.py` gives these.
    #[test]
    fn the_formula_is_that_of_the_other_side() {
        let found = uniform("perceiver.latents", &[4], 0.0, 1.5);
        assert_eq!(found.data(), [0.353_905_14, -0.015_925_527, 1.471_342_3, 0.737_682_76]);
    }
}
