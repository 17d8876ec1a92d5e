//! What several commands share: loading a model, images and prompts.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use otter_checkpoint::{LoadOptions, LoadedModel, load_model_with};
use otter_data::prompt::{self, InstructionFormat};
use otter_data::video::{FrameSampling, Picture, VideoOptions, open_frames};
use otter_data::{ImageTransform, ImagesOfRecord, JoinedText, open_image, preprocess};
use otter_model::VisionInput;
use otter_nn::{Device, Tensor};

use super::pictures::Pictures;
use crate::arguments::{DeviceArguments, ModelArguments};
use crate::commands::checkpoint::hub::resolve_model;

/// Opens the device that the arguments name.
pub fn device(arguments: &DeviceArguments) -> Result<Device> {
    otter_cuda::device(&arguments.device, arguments.dtype.into())
        .with_context(|| format!("--device {}", arguments.device))
}

/// Loads a model, given as a directory or by its name on the hub, and prints its warnings.
pub fn load(model: &ModelArguments) -> Result<LoadedModel> {
    let options = LoadOptions { quantize: model.quantize, keep: None };
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

/// Whether several images of one question are the frames of one media item: as the model was trained, or else as a
/// checkpoint with frame embeddings is made for.
fn shows_frames(model: &LoadedModel) -> bool {
    match model.config.input.images_of_record {
        Some(rule) => rule == ImagesOfRecord::Frames,
        None => model.otter.config().perceiver.max_num_frames.is_some(),
    }
}

/// The media items that `images` of one question are: ranges of images.
pub fn media_of_question(model: &LoadedModel, images: usize) -> Vec<Range<usize>> {
    if images > 1 && shows_frames(model) {
        return std::iter::once(0..images).collect();
    }
    (0..images).map(|i| i..i + 1).collect()
}

/// The prompt in the Otter template with one placeholder per media item.
pub fn chat_prompt(question: &str, media: usize) -> String {
    prompt::inference_prompt(InstructionFormat::Simple, media, question)
}

/// Token ids of a prompt, with what stands in front of every prompt of this model.
pub fn prompt_ids(model: &LoadedModel, prompt: &str) -> Result<Vec<u32>> {
    Ok(model.tokenizer.encode_prompt(prompt)?)
}

/// Token ids of a prompt and its answer as one text, with what the tokenizer puts in front.
pub fn joined_ids(model: &LoadedModel, prompt: &str, answer: &str) -> Result<JoinedText> {
    let mut joined = model.tokenizer.encode_joined(prompt, answer)?;
    let front = model.tokenizer.prompt_prefix();
    joined.ids.splice(..0, front.iter().copied());
    joined.start += front.len();
    Ok(joined)
}

/// The media items that `images` are for a prompt with `placeholders` of them: several images under one placeholder are
/// frames of one item for a model that shows them so.
fn media_frames(model: &LoadedModel, images: usize, placeholders: usize) -> Result<Vec<Range<usize>>> {
    if placeholders == 1 && images > 1 && shows_frames(model) {
        return Ok(media_of_question(model, images));
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
    vision_of(model, files, media_frames, pictures).map(Some)
}

/// The vision input of one prompt, whose media items are ranges of `files`.
pub fn vision_of(
    model: &LoadedModel,
    files: &[PathBuf],
    media_frames: Vec<Range<usize>>,
    pictures: &mut Pictures,
) -> Result<VisionInput> {
    let frames = media_frames.iter().map(ExactSizeIterator::len);
    Ok(VisionInput::one_sequence(pixels(model, files, pictures)?, frames))
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
    let pixels = Tensor::from_vec(pixels, &[count, 3, side, side], Device::Cpu);
    Ok(VisionInput::one_sequence(pixels, [count]))
}
