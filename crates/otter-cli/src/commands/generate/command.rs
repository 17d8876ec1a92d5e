//! `otter generate`: continue one prompt or a batch of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use otter_checkpoint::LoadedModel;
use otter_data::{ImageCounts, read_text_file};
use otter_model::VisionInput;
use otter_model::generate::{FinishReason, Generated, PromptBatch};
use serde::Deserialize;
use serde_json::{Value, json};

use super::model;
use super::pictures::{self, Pictures};
use super::settings::{Settings, cut_at_stop};
use crate::arguments::Generate;
use crate::output;

/// One prompt of a batch file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptLine {
    prompt: String,
    #[serde(default)]
    images: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Generate) -> Result<()> {
    let model = model::load(&arguments.model)?;
    model::warn_before_chat(&arguments.model.path)?;
    let lines = match (&arguments.prompt, &arguments.batch) {
        (Some(prompt), _) => vec![PromptLine { prompt: prompt.clone(), images: arguments.images.clone() }],
        (None, Some(file)) => read_batch(file)?,
        (None, None) => bail!("give --prompt or --batch"),
    };
    let settings = Settings::new(&model, &arguments.model.path, &arguments.sampling, Some(&arguments.beams))?;
    let answers = answer(&model, lines, arguments, &settings)?;
    let single = arguments.batch.is_none();
    for answer in &answers {
        if arguments.json {
            output::json(answer)?;
        } else if single {
            output::text(answer["text"].as_str().unwrap_or_default())?;
        } else {
            output::text(&answer["text"].to_string())?;
        }
    }
    Ok(())
}

/// Continues prompts together, padded on the left.
fn answer(
    model: &LoadedModel,
    lines: Vec<PromptLine>,
    arguments: &Generate,
    settings: &Settings,
) -> Result<Vec<Value>> {
    let (chat, stop) = (arguments.chat, &settings.stop);
    let mut prompts = Vec::new();
    let mut vision: Option<VisionInput> = None;
    let mut pictures = Pictures::new(model, arguments.rules);
    let mut notes = Vec::with_capacity(lines.len());
    for (row, line) in lines.iter().enumerate() {
        let media = match &arguments.video {
            Some(_) => 1,
            None => model::media_of_question(model, line.images.len()).len(),
        };
        let text = if chat { model::chat_prompt(&line.prompt, media) } else { line.prompt.clone() };
        let ids = model::prompt_ids(model, &text)?;
        if ids.is_empty() {
            bail!("prompt {} is empty", row + 1);
        }
        let own = match &arguments.video {
            Some(video) => model::video_input(model, video, arguments.frames, &mut pictures, &ids).map(Some),
            None => model::vision_input(model, &line.images, &mut pictures, &ids),
        };
        let own = if lines.len() == 1 { own? } else { own.with_context(|| format!("prompt {}", row + 1))? };
        notes.push(pictures.take_counts());
        vision = joined(vision, own, row, lines.len());
        prompts.push(ids);
    }
    let mut counts = ImageCounts::default();
    notes.iter().for_each(|own| counts.merge(own.clone()));
    pictures::warn(&counts);
    let batch = PromptBatch::new(&prompts, padding(model), model.tokenizer.special().image)?;
    let (options, beams) = settings.for_prompts(model, &prompts)?;
    let (otter, parameters, vision) = (&model.otter, &model.parameters, vision.as_ref());
    let count = options.return_sequences;
    let generated = match beams {
        Some(beams) => {
            let mut generated = otter.generate_beams(parameters, vision, &batch, &options, &beams)?;
            generated.iter_mut().for_each(|answer| cut_at_stop_string(model, answer, stop));
            generated
        }
        None => {
            let mut texts: Vec<StreamedText> =
                (0..prompts.len() * count).map(|_| StreamedText::new()).collect();
            otter.generate(parameters, vision, &batch, &options, &mut |answer, id| {
                texts[answer].push(model, id, stop)
            })?
        }
    };
    let mut answers = Vec::with_capacity(generated.len());
    for (index, generated) in generated.iter().enumerate() {
        let mut answer = to_json(model, generated, stop)?;
        pictures::add_to_json(&mut answer, &notes[index / count])?;
        if count > 1 {
            if arguments.batch.is_some() {
                answer["prompt"] = json!(index / count);
            }
            answer["sequence"] = json!(index % count);
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// The id in front of shorter prompts: the tokenizer's, unless the embedding table does not reach so far.
fn padding(model: &LoadedModel) -> u32 {
    let text = &model.config.model.text;
    let pad = model.tokenizer.special().pad;
    if (pad as usize) < text.vocab_size() { pad } else { text.pad_token_id().unwrap_or(0) }
}

/// Ends a whole answer at the first stop string, as one that is watched token by token would have ended.
fn cut_at_stop_string(model: &LoadedModel, answer: &mut Generated, stop: &[String]) {
    let mut text = StreamedText::new();
    if let Some(last) = answer.token_ids.iter().position(|&id| !text.push(model, id, stop)) {
        answer.token_ids.truncate(last + 1);
        answer.finish_reason = FinishReason::StopString;
    }
}

/// New ids of one answer, watched for stop strings.
struct StreamedText {
    ids: Vec<u32>,
}

impl StreamedText {
    fn new() -> Self {
        Self { ids: Vec::new() }
    }

    /// Takes a token; false when a stop string is complete.
    fn push(&mut self, model: &LoadedModel, id: u32, stop: &[String]) -> bool {
        self.ids.push(id);
        if stop.is_empty() {
            return true;
        }
        let text = model.tokenizer.decode(&self.ids, false).unwrap_or_default();
        !cut_at_stop(&text, stop).1
    }
}

fn to_json(model: &LoadedModel, generated: &Generated, stop: &[String]) -> Result<Value> {
    // A token that ends an answer is none of its text, though it may be an ordinary one.
    let ended = usize::from(generated.finish_reason == FinishReason::Stop);
    let said = &generated.token_ids[..generated.token_ids.len() - ended];
    let text = model.tokenizer.decode(said, true)?;
    let text = cut_at_stop(&text, stop).0.trim();
    let finish_reason = generated.finish_reason.as_str();
    let mut answer = json!({"token_ids": generated.token_ids, "text": text, "finish_reason": finish_reason});
    if let Some(score) = generated.score {
        answer["score"] = json!(score);
    }
    Ok(answer)
}

/// Appends the media of sequence `row` of `rows`.
fn joined(
    all: Option<VisionInput>,
    own: Option<VisionInput>,
    row: usize,
    rows: usize,
) -> Option<VisionInput> {
    let Some(mut own) = own else { return all };
    own.slots.resize(rows, Vec::new());
    own.slots.swap(0, row);
    let Some(mut all) = all else { return Some(own) };
    let frames = all.pixels.shape()[0];
    let items = all.media_frames.len();
    let mut shape = all.pixels.shape().to_vec();
    shape[0] += own.pixels.shape()[0];
    let device = all.pixels.device();
    let mut pixels = all.pixels.into_vec();
    pixels.extend_from_slice(own.pixels.data());
    all.pixels = otter_nn::Tensor::from_vec(pixels, &shape, device);
    all.media_frames.extend(own.media_frames.iter().map(|r| r.start + frames..r.end + frames));
    all.slots[row] = own.slots[row].iter().map(|item| item + items).collect();
    Some(all)
}

fn read_batch(file: &Path) -> Result<Vec<PromptLine>> {
    let name = file.display();
    let text = read_text_file(file)?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = serde_json::from_str(line).with_context(|| {
            format!("{name}, line {}: expected {{\"prompt\": …, \"images\": […]}}", number + 1)
        })?;
        lines.push(parsed);
    }
    if lines.is_empty() {
        bail!("{name} holds no prompt; it needs one JSON object a line");
    }
    Ok(lines)
}
