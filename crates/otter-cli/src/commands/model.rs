//! What several commands share: loading a model, images, prompts and sampling options.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use otter_checkpoint::{LoadOptions, LoadedModel, load_model_with};
use otter_cuda::Precision;
use otter_data::prompt::{self, InstructionFormat};
use otter_data::video::{FrameSampling, Picture, VideoOptions, open_frames};
use otter_data::{ImageTransform, open_image, preprocess};
use otter_model::VisionInput;
use otter_model::generate::{BeamOptions, Decoding, EarlyStopping, GenerationOptions, Processors, Sampling};
use otter_nn::{Device, QuantisedFormat, Tensor};

use super::hub::resolve_model;
use super::pictures::Pictures;
use crate::arguments::{
    BeamArguments, ComputeDtype, DecodingChoice, DeviceArguments, EarlyStoppingChoice, ModelArguments,
    QuantiseChoice, SamplingArguments,
};

/// The format that an option names.
pub fn quantised(choice: QuantiseChoice) -> QuantisedFormat {
    match choice {
        QuantiseChoice::Q8_0 => QuantisedFormat::Q8_0,
        QuantiseChoice::Q4K => QuantisedFormat::Q4K,
    }
}

/// Opens the device that the arguments name.
pub fn device(arguments: &DeviceArguments) -> Result<Device> {
    let precision = match arguments.dtype {
        ComputeDtype::F32 => Precision::F32,
        ComputeDtype::Bf16 => Precision::Bf16,
    };
    otter_cuda::device(&arguments.device, precision).with_context(|| format!("--device {}", arguments.device))
}

/// Loads a model, given as a directory or by its name on the hub, and prints its warnings.
pub fn load(model: &ModelArguments) -> Result<LoadedModel> {
    let options = LoadOptions { quantise: model.quantise.map(quantised), keep: None };
    load_with(&model.path, device(&model.device)?, options)
}

/// As [`load`], of a directory or name, to a device, with a choice of how weights are kept.
pub fn load_with(model: &Path, device: Device, options: LoadOptions<'_>) -> Result<LoadedModel> {
    let directory = resolve_model(model)?;
    let model = load_model_with(&directory, device, options)?;
    for warning in &model.report.warnings {
        eprintln!("warning: {}: {warning}", directory.display());
    }
    Ok(model)
}

/// Prints what somebody should know before asking this model: that it was never tuned, or that tokens are swapped.
pub fn warn_before_chat(model: &Path) -> Result<()> {
    let directory = resolve_model(model)?;
    for warning in otter_checkpoint::warnings_before_chat(&directory) {
        eprintln!("warning: {}: {warning}", directory.display());
    }
    Ok(())
}

/// The prompt in the Otter template with one placeholder per media item.
pub fn chat_prompt(question: &str, media: usize) -> String {
    prompt::inference_prompt(InstructionFormat::Simple, media, question)
}

/// Token ids of a prompt, with what stands in front of every prompt of this model.
pub fn prompt_ids(model: &LoadedModel, prompt: &str) -> Result<Vec<u32>> {
    Ok(model.tokenizer.encode_prompt(prompt)?)
}

/// How many media items `images` are for a prompt with `placeholders` of them.
///
/// A checkpoint with frame embeddings reads several images under one placeholder as the frames of a video.
pub fn media_frames(
    model: &LoadedModel,
    images: usize,
    placeholders: usize,
) -> Result<Vec<std::ops::Range<usize>>> {
    let video = model.otter.config().perceiver.max_num_frames.is_some();
    if video && placeholders == 1 && images > 1 {
        return Ok(std::iter::once(0..images).collect());
    }
    if images == placeholders {
        return Ok((0..images).map(|i| i..i + 1).collect());
    }
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let hint = if images > placeholders {
        "add an <image> for each, or pass fewer --image (--chat adds them for you)"
    } else {
        "pass one --image for each <image>, or remove the surplus placeholders"
    };
    bail!(
        "the prompt has {placeholders} <image> placeholder{}, but {images} image{} {} given; {hint}",
        plural(placeholders),
        plural(images),
        if images == 1 { "was" } else { "were" },
    )
}

/// Pixels (images, 3, S, S) of image files, prepared as for inference.
pub fn pixels(model: &LoadedModel, files: &[PathBuf], pictures: &mut Pictures) -> Result<Tensor> {
    let side = model.otter.config().vision.image_size;
    let mut pixels = Vec::with_capacity(files.len() * 3 * side * side);
    for file in files {
        pixels.extend(preprocess(&pictures.load(file)?, side, ImageTransform::Clip));
    }
    Ok(Tensor::from_vec(pixels, &[files.len(), 3, side, side], Device::Cpu))
}

/// The vision input of one prompt; `None` without images.
pub fn vision_input(
    model: &LoadedModel,
    files: &[PathBuf],
    pictures: &mut Pictures,
    ids: &[u32],
) -> Result<Option<VisionInput>> {
    let image = model.tokenizer.special().image;
    let placeholders = ids.iter().filter(|&&id| id == image).count();
    let media_frames = media_frames(model, files.len(), placeholders)?;
    if files.is_empty() {
        return Ok(None);
    }
    let slots = vec![(0..media_frames.len()).collect()];
    Ok(Some(VisionInput { pixels: pixels(model, files, pictures)?, media_frames, slots }))
}

/// Frames taken of a video unless asked otherwise, as in training (`resample_frames`).
const VIDEO_FRAMES: usize = 32;

/// The vision input of a prompt with one placeholder: the frames of a video, spread evenly.
pub fn video_input(
    model: &LoadedModel,
    video: &Path,
    frames: Option<usize>,
    pictures: &mut Pictures,
    ids: &[u32],
) -> Result<VisionInput> {
    let Some(most) = model.otter.config().perceiver.max_num_frames else {
        bail!(
            "--video: this checkpoint has no frame embeddings, so it reads no video; pass frames as --image"
        );
    };
    let image = model.tokenizer.special().image;
    let placeholders = ids.iter().filter(|&&id| id == image).count();
    if placeholders != 1 {
        bail!(
            "the prompt has {placeholders} <image> placeholders; a video takes exactly one (--chat adds it for you)"
        );
    }
    let wanted = frames.unwrap_or(VIDEO_FRAMES.min(most));
    if wanted > most {
        bail!("--frames is {wanted}; this checkpoint has frame embeddings for {most}");
    }
    let options = VideoOptions {
        sampling: FrameSampling::Uniform(wanted),
        max_frames: 0,
        rules: pictures.rules(),
        ..VideoOptions::default()
    };
    let side = model.otter.config().vision.image_size;
    let mut pixels = Vec::new();
    let mut count = 0;
    for frame in open_frames(video, &options)? {
        let image = match frame?.picture {
            Picture::Pixels(image) => image,
            Picture::Encoded(bytes) => open_image(&bytes, pictures.rules(), &video.display().to_string())?,
        };
        pictures.count(image.notes(), video);
        pixels.extend(preprocess(&image, side, ImageTransform::Clip));
        count += 1;
    }
    Ok(VisionInput {
        pixels: Tensor::from_vec(pixels, &[count, 3, side, side], Device::Cpu),
        media_frames: std::iter::once(0..count).collect(),
        slots: vec![vec![0]],
    })
}

/// Most new tokens of an answer; room for all of them is set aside at the start.
const MOST_NEW_TOKENS: usize = 1 << 16;

/// Generation options from the command line, for prompts of `prompt_length` tokens.
pub fn generation_options(
    model: &LoadedModel,
    arguments: &SamplingArguments,
    prompt_length: usize,
) -> Result<GenerationOptions> {
    let sampled = arguments.temperature.is_some() || arguments.top_k.is_some() || arguments.top_p.is_some();
    let temperature = arguments.temperature.unwrap_or(1.0);
    if !(temperature.is_finite() && temperature >= 0.0) {
        bail!("--temperature is {temperature}; it must be 0 (greedy) or a positive number");
    }
    let top_p = arguments.top_p.unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        bail!("--top-p is {top_p}; it must be above 0 and at most 1");
    }
    if !(arguments.repetition_penalty.is_finite() && arguments.repetition_penalty > 0.0) {
        bail!("--repetition-penalty is {}; it must be a positive number", arguments.repetition_penalty);
    }
    let max_new_tokens = match arguments.max_length {
        None => arguments.max_new_tokens,
        Some(limit) => limit.checked_sub(prompt_length).filter(|&new| new > 0).with_context(|| {
            format!("--max-length {limit} leaves nothing after a prompt of {prompt_length} tokens")
        })?,
    };
    if max_new_tokens > MOST_NEW_TOKENS {
        bail!("{max_new_tokens} new tokens are asked for; the limit is {MOST_NEW_TOKENS}");
    }
    let sampling = if sampled {
        let top_k = arguments.top_k.unwrap_or(0);
        Sampling::Random { temperature, top_k, top_p, seed: arguments.seed }
    } else {
        Sampling::Greedy
    };
    Ok(GenerationOptions {
        max_new_tokens,
        sampling,
        processors: Processors {
            repetition_penalty: arguments.repetition_penalty,
            no_repeat_ngram_size: arguments.no_repeat_ngram_size,
            bad_words: bad_words(model, &arguments.bad_words)?,
            min_length: arguments.min_length,
            min_new_tokens: arguments.min_new_tokens,
        },
        stop_tokens: stop_tokens(model, arguments.stop_at_eos)?,
        decoding: match arguments.decoding {
            DecodingChoice::Keep => Decoding::Keep,
            DecodingChoice::Reference if !model.config.use_cache => Decoding::Keep,
            DecodingChoice::Reference | DecodingChoice::ReferenceUseCache => Decoding::Reference,
        },
        return_sequences: 1,
    })
}

fn bad_words(model: &LoadedModel, words: &[String]) -> Result<Vec<Vec<u32>>> {
    let ids = |word: &String| {
        let ids = model.tokenizer.encode(word)?;
        if ids.is_empty() {
            bail!("--bad-words '{word}' has no token; give some text");
        }
        Ok(ids)
    };
    words.iter().map(ids).collect()
}

fn stop_tokens(model: &LoadedModel, at_eos: bool) -> Result<Vec<u32>> {
    let special = model.tokenizer.special();
    let mut stop_tokens = vec![special.endofchunk];
    if at_eos {
        let eos = special.eos.context("--stop-at-eos: the tokenizer has no end-of-sequence token")?;
        if eos != special.endofchunk {
            stop_tokens.push(eos);
        }
    }
    Ok(stop_tokens)
}

/// Most beams, and most answers to a prompt: each has keys and values of its own.
const MOST_SEQUENCES: usize = 256;

/// Sets the number of answers in `options`; returns how to search for them, or `None` without beams.
pub fn beam_options(
    arguments: &BeamArguments,
    options: &mut GenerationOptions,
) -> Result<Option<BeamOptions>> {
    let (beams, answers) = (arguments.num_beams, arguments.num_return_sequences);
    for (option, value) in [("--num-beams", beams), ("--num-return-sequences", answers)] {
        if !(1..=MOST_SEQUENCES).contains(&value) {
            bail!("{option} is {value}; it must be from 1 to {MOST_SEQUENCES}");
        }
    }
    let length_penalty = arguments.length_penalty.unwrap_or(1.0);
    if !length_penalty.is_finite() {
        bail!("--length-penalty is {length_penalty}; it must be a number");
    }
    options.return_sequences = answers;
    if beams == 1 {
        if answers > 1 && !options.sampling.is_random() {
            bail!(
                "--num-return-sequences is {answers}, but greedy answers to one prompt are all the same; sample with \
                 --temperature, or search with --num-beams {answers}"
            );
        }
        for (option, given) in [
            ("--length-penalty", arguments.length_penalty.is_some()),
            ("--early-stopping", arguments.early_stopping.is_some()),
        ] {
            if given {
                eprintln!("warning: {option} changes nothing without --num-beams 2 or more");
            }
        }
        return Ok(None);
    }
    if answers > beams {
        bail!(
            "--num-return-sequences is {answers}, but --num-beams {beams} gives at most {beams} answers; raise \
             --num-beams or ask for fewer"
        );
    }
    let early_stopping = match arguments.early_stopping {
        None | Some(EarlyStoppingChoice::False) => EarlyStopping::Heuristic,
        Some(EarlyStoppingChoice::True) => EarlyStopping::AtOnce,
        Some(EarlyStoppingChoice::Never) => EarlyStopping::Never,
    };
    Ok(Some(BeamOptions { num_beams: beams, length_penalty, early_stopping }))
}

/// `text` up to the first of the stop strings, and whether there was one.
pub fn cut_at_stop<'a>(text: &'a str, stop: &[String]) -> (&'a str, bool) {
    let first = stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
    first.map_or((text, false), |at| (&text[..at], true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_stop_string_cuts() {
        let stop = ["User".to_string(), "\n".to_string(), String::new()];
        assert_eq!(cut_at_stop("a cup\nUser:", &stop), ("a cup", true));
        assert_eq!(cut_at_stop("a cup", &stop), ("a cup", false));
    }
}
