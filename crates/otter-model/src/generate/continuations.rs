//! The model's side of generation: prompts in a key/value cache, and rows that continue them token by token.
//!
//! A row is one continuation of one prompt. Prompts are computed once, media are encoded and projected once; rows may
//! then be copied (several answers, beams), exchanged (beams) and dropped (finished answers) at every step.

use otter_nn::layers::rows;
use otter_nn::{AttentionMask, Device, MediaRows, MediaTarget, NotFinite, Parameters, Tensor, all_finite};

use super::{Decoding, PromptBatch};
use crate::ModelError;
use crate::flamingo::wrapped_language_model::{Context, LanguageCache, causal_mask};
use crate::input::{TextInput, VisionInput, media_rows};
use crate::otter::Otter;
use crate::text::block::Rows;

/// Prompts and the rows that continue them.
pub(super) struct Continuations<'a> {
    otter: &'a Otter,
    parameters: &'a Parameters<f32>,
    text: &'a TextInput,
    vision: Option<&'a VisionInput>,
    slots: Option<&'a [Vec<usize>]>,
    decoding: Decoding,
    cache: LanguageCache,
    rows: Vec<Row>,
    step: Step,
}

#[derive(Clone, Copy)]
struct Row {
    prompt: usize,
    /// Media tokens seen.
    media_time: usize,
}

/// One token of every row: buffers that stay from step to step, so that a token allocates nothing.
struct Step {
    positions: Vec<u32>,
    mask: AttentionMask,
    media_rows: MediaRows,
    hidden: Tensor,
    logits: Tensor,
    /// The logits, where those of the model are on a GPU.
    on_host: Option<Tensor>,
}

impl<'a> Continuations<'a> {
    /// Computes the prompts, with room for `limits` more tokens behind each, and starts one row for each.
    pub(super) fn new(
        (otter, parameters): (&'a Otter, &'a Parameters<f32>),
        vision: Option<&'a VisionInput>,
        prompts: &'a PromptBatch,
        decoding: Decoding,
        limits: &[usize],
    ) -> Result<Self, ModelError> {
        let text = &prompts.text;
        otter.check_text(text, vision)?;
        // The last new token is never an input.
        otter.check_length(text, |sequence| limits[sequence].saturating_sub(1))?;
        let vision = vision.filter(|_| text.shows_media());
        let latents = vision.map(|v| otter.encode_media(parameters, v, &mut |_, _| {})).transpose()?;
        let slots = vision.map(|v| v.slots.as_slice());
        let language = otter.language();
        let capacity = text.length + limits.iter().copied().max().unwrap_or(0);
        let mut cache = language.new_cache(parameters, latents.as_ref(), text.batch, capacity);
        let positions = text.positions_without_padding(1);
        let mask = causal_mask(&text.attention_mask, 0);
        let media_rows = media_rows(text, slots);
        let rows = Rows { batch: text.batch, positions: &positions, mask: &mask };
        let context = Context { rows, media_rows: &media_rows };
        let hidden = language.forward_cached(parameters, &text.ids, &context, &mut cache);
        let hidden = last_rows(&hidden, text.batch);
        let logits = language.logits(parameters, &hidden);
        let media_tokens = |ids: &[u32]| ids.iter().filter(|&&id| id == text.media_token_id).count();
        let rows = text.ids.chunks(text.length).enumerate();
        let rows = rows.map(|(prompt, ids)| Row { prompt, media_time: media_tokens(ids) }).collect();
        let media_rows = MediaRows { targets: Vec::new(), length: 1, items: Vec::new() };
        let step = Step { positions: Vec::new(), mask, media_rows, hidden, logits, on_host: None };
        let mut continuations = Self { otter, parameters, text, vision, slots, decoding, cache, rows, step };
        continuations.rows_changed();
        continuations.bring_logits()?;
        Ok(continuations)
    }

    /// Logits (rows, vocabulary) of the next tokens.
    pub(super) fn logits(&self) -> &Tensor {
        self.step.on_host.as_ref().unwrap_or(&self.step.logits)
    }

    /// Copies the logits to the host, where they are not there, and looks whether they are numbers: nothing may be chosen
    /// by others.
    fn bring_logits(&mut self) -> Result<(), ModelError> {
        let device = self.parameters.device();
        if device != Device::Cpu {
            self.step.on_host = Some(self.step.logits.to_host());
            device.check()?;
        }
        let logits = self.logits();
        if all_finite(logits.data()) { Ok(()) } else { Err(self.not_finite(logits)) }
    }

    fn not_finite(&self, logits: &Tensor) -> ModelError {
        let rows = self.rows.iter().zip(logits.data().chunks_exact(logits.width()));
        let bad = |(row, logits): (&Row, &[f32])| Some((row.prompt, NotFinite::find([logits])?));
        let bad: Vec<(usize, NotFinite)> = rows.filter_map(bad).collect();
        let (prompt, found) = bad.first().copied().unwrap_or_default();
        let (batch, tokens) = (self.text.batch, self.cache.len() - self.text.length);
        let what = match batch {
            1 => String::new(),
            _ => format!(" of prompt {} of {batch}", prompt + 1),
        };
        let what = format!("the logits{what} after {tokens} new token(s) ({found})");
        self.otter.not_finite(self.parameters, self.vision, Some(self.text), what)
    }

    /// The logits of the prompts' next tokens.
    pub(super) fn into_logits(self) -> Tensor {
        self.step.on_host.unwrap_or(self.step.logits)
    }

    /// Row i becomes what row `parents[i]` was, followed by `tokens[i]`; rows that are nobody's parent end. The logits are
    /// then those of the tokens after these.
    ///
    /// # Errors
    /// When the device fails; when they are not finite.
    pub(super) fn advance(&mut self, parents: &[usize], tokens: &[u32]) -> Result<(), ModelError> {
        self.reorder(parents);
        for (row, &token) in self.rows.iter_mut().zip(tokens) {
            row.media_time += usize::from(token == self.text.media_token_id);
        }
        self.set_positions();
        self.set_mask();
        self.set_media(tokens);
        let Step { positions, mask, media_rows, hidden, logits, .. } = &mut self.step;
        let context = Context { rows: Rows { batch: self.rows.len(), positions, mask }, media_rows };
        let language = self.otter.language();
        language.forward_cached_into(self.parameters, tokens, &context, &mut self.cache, hidden);
        language.logits_into(self.parameters, hidden, logits);
        self.bring_logits()
    }

    /// The prompts' keys and values are copied only where a row changes its prompt or rows are added.
    fn reorder(&mut self, parents: &[usize]) {
        let unchanged = parents.len() == self.rows.len() && parents.iter().enumerate().all(|(i, p)| i == *p);
        if unchanged {
            return;
        }
        let rows: Vec<Row> = parents.iter().map(|&parent| self.rows[parent]).collect();
        let same_prompts = rows.iter().zip(&self.rows).all(|(new, old)| new.prompt == old.prompt);
        self.cache.reorder(parents, if same_prompts { self.text.length } else { 0 });
        self.rows = rows;
        self.rows_changed();
    }

    /// Buffers for as many rows as there are now, and the media of each.
    fn rows_changed(&mut self) {
        let Self { rows, step, .. } = self;
        let width = step.hidden.width();
        let vocabulary = step.logits.width();
        if step.logits.rows() != rows.len() {
            step.hidden = Tensor::zeros(&[rows.len(), width], step.logits.device());
            step.logits = Tensor::zeros(&[rows.len(), vocabulary], step.logits.device());
        }
        step.media_rows.items = match self.slots {
            Some(slots) => rows.iter().map(|row| slots[row.prompt].clone()).collect(),
            None => vec![Vec::new(); rows.len()],
        };
    }

    /// Position of each row's next token.
    fn set_positions(&mut self) {
        let Self { rows, step, text, cache, .. } = self;
        let generated = cache.len() - text.length;
        let prompt = |row: &Row| prompt_mask(text, row).iter().filter(|&&visible| visible).count();
        step.positions.clear();
        step.positions.extend(rows.iter().map(|row| (prompt(row) + generated) as u32));
    }

    /// Which keys each row may see, that of its next token included.
    fn set_mask(&mut self) {
        let Self { rows, step, text, cache, .. } = self;
        let length = cache.len() + 1;
        let buffer = match &mut step.mask {
            AttentionMask::Causal { visible, .. } => visible.take(),
            AttentionMask::Full | AttentionMask::Segments(_) => None,
        };
        let padded = rows.iter().any(|row| prompt_mask(text, row).contains(&false));
        let visible = padded.then(|| {
            let mut visible = buffer.unwrap_or_default();
            visible.clear();
            for row in rows.iter() {
                visible.extend_from_slice(prompt_mask(text, row));
                visible.extend(std::iter::repeat_n(true, length - text.length));
            }
            visible
        });
        step.mask = AttentionMask::Causal { offset: cache.len(), visible };
    }

    /// What `tokens`, one a row, attend.
    fn set_media(&mut self, tokens: &[u32]) {
        let MediaRows { targets, items, .. } = &mut self.step.media_rows;
        let target = |(sequence, ((row, token), items)): (usize, ((&Row, &u32), &Vec<usize>))| {
            if self.slots.is_none() {
                return MediaTarget::Nothing;
            }
            let time = match self.decoding {
                Decoding::Keep => row.media_time,
                Decoding::Reference => usize::from(*token == self.text.media_token_id),
            };
            MediaRows::target(time, sequence, items)
        };
        targets.clear();
        targets.extend(self.rows.iter().zip(tokens).zip(&*items).enumerate().map(target));
    }
}

fn prompt_mask<'t>(text: &'t TextInput, row: &Row) -> &'t [bool] {
    &text.attention_mask[row.prompt * text.length..][..text.length]
}

fn last_rows(hidden: &Tensor, batch: usize) -> Tensor {
    let length = hidden.rows() / batch;
    let last: Vec<u32> = (1..=batch).map(|b| (b * length - 1) as u32).collect();
    rows::gather_rows(hidden, &last, hidden.width())
}
