//! `otter bench`: training steps and greedy decoding of a model of given sizes with random weights.

use std::time::Instant;

use anyhow::{Result, bail};
use otter_model::config::{CrossAttentionConfig, LlamaConfig, OtterConfig, PerceiverConfig, VisionConfig};
use otter_model::generate::{Decoding, GenerationOptions, Processors, PromptBatch, Sampling};
use otter_model::{FreezeRule, LossScale, Otter, TextInput, VisionInput};
use otter_nn::{Device, Gradients, Init, ParameterSpecs, Parameters, Tensor};
use otter_train::optimizer::{AdamW, AdamWOptions};
use serde_json::json;

use crate::arguments::{Bench, BenchPreset};
use crate::output;

const IMAGE_TOKEN: u32 = 3;

/// Runs the benchmark and prints a table or JSON.
pub fn run(arguments: &Bench) -> Result<()> {
    let config = match arguments.preset {
        BenchPreset::Mid => mid_size(),
        BenchPreset::Toybox => mid_size(),
    };
    let (otter, specs) = Otter::new(&config)?;
    let mut parameters = Parameters::<f32>::initialise(&specs, 1, Device::Cpu);
    parameters.set_trainable(|name| FreezeRule::Head.is_trainable(&config, name));
    let mut results = serde_json::Map::new();
    results.insert("parameters".into(), json!(parameters.total_count()));
    results.insert("trainable".into(), json!(parameters.trainable_count()));
    results.insert("threads".into(), json!(rayon::current_num_threads()));
    let wanted = |what: &str| arguments.only.as_deref().is_none_or(|o| o == what);
    if let Some(only) = &arguments.only
        && !["train", "decode"].contains(&only.as_str())
    {
        bail!("--only takes train or decode, not '{only}'");
    }
    if wanted("train") {
        let seconds = time_training(&otter, &mut parameters, arguments)?;
        results.insert("train_step_seconds".into(), json!(seconds));
    }
    if wanted("decode") {
        let seconds = time_decoding(&otter, &parameters, arguments)?;
        results.insert("decode_seconds".into(), json!(seconds));
        results.insert("decode_tokens".into(), json!(arguments.new_tokens));
    }
    if let Some(peak) = otter_train::memory_plan::peak_bytes() {
        results.insert("peak_resident_bytes".into(), json!(peak));
    }
    if arguments.json {
        return output::json(&results.into());
    }
    for (name, value) in &results {
        output::text(&format!("{name:24} {value}"))?;
    }
    Ok(())
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
        },
        tie_word_embeddings: false,
        train_vision_encoder: false,
        train_lang_encoder: false,
        train_full_model: false,
    }
}

/// One image and some text a sequence; labels on the second half.
fn batch(otter: &Otter, arguments: &Bench) -> (VisionInput, TextInput, Vec<i64>) {
    let (batch, length) = (arguments.batch, arguments.length);
    let vocabulary = otter.config().text.vocab_size as u32;
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
    (vision, TextInput { ids, attention_mask, batch, length, media_token_id: IMAGE_TOKEN }, labels)
}

fn pixels(otter: &Otter, images: usize) -> Tensor {
    let side = otter.config().vision.image_size;
    let mut specs = ParameterSpecs::default();
    let id = specs.add("pixels", &[images, 3, side, side], Init::Normal(1.0));
    Parameters::initialise(&specs, 2, Device::Cpu).get(id).clone()
}

fn time_training(otter: &Otter, parameters: &mut Parameters<f32>, arguments: &Bench) -> Result<Vec<f64>> {
    let (vision, text, labels) = batch(otter, arguments);
    let mut gradients = Gradients::new(parameters);
    let mut optimizer = AdamW::new(AdamWOptions::default(), parameters, &gradients);
    let mut seconds = Vec::new();
    for _ in 0..=arguments.repeats {
        let start = Instant::now();
        gradients.clear();
        otter.forward_backward(
            parameters,
            Some(&vision),
            &text,
            &labels,
            LossScale::Mean,
            arguments.recompute,
            &mut gradients,
        )?;
        let norm = otter_train::clip::global_norm(gradients.flat());
        optimizer.step(parameters, &gradients, 1e-5, otter_train::clip::clip_factor(norm, 1.0));
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds.split_off(1))
}

fn time_decoding(otter: &Otter, parameters: &Parameters<f32>, arguments: &Bench) -> Result<Vec<f64>> {
    let vision = VisionInput { pixels: pixels(otter, 1), media_frames: vec![0..1], slots: vec![vec![0]] };
    let prompt: Vec<u32> = (0..64).map(|i| if i == 1 { IMAGE_TOKEN } else { 4 + i }).collect();
    let prompts = PromptBatch::new(&[prompt], 0, IMAGE_TOKEN)?;
    let options = GenerationOptions {
        max_new_tokens: arguments.new_tokens,
        sampling: Sampling::Greedy,
        processors: Processors { min_new_tokens: arguments.new_tokens, ..Processors::default() },
        stop_token: 2,
        decoding: Decoding::Keep,
    };
    let mut seconds = Vec::new();
    for _ in 0..=arguments.repeats {
        let start = Instant::now();
        otter.generate(parameters, Some(&vision), &prompts, &options, &mut |_, _| true)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds.split_off(1))
}
