//! Autoregressive generation with a KV cache (`spec/model.md` sections 6 and 10).
//!
//! Media are encoded and projected once a prompt. By default generated tokens keep attending the last media item, which
//! equals recomputing the whole sequence at every step; [`Decoding::Reference`] reproduces the original, whose cached
//! steps see no media at all.

mod processors;
mod sampler;

use otter_nn::{MediaRows, MediaTarget, Parameters, Tensor};
pub use processors::Processors;
pub use sampler::Sampling;

use crate::ModelError;
use crate::decoder::Rows;
use crate::language_model::{Context, causal_mask};
use crate::otter::{Otter, TextInput, VisionInput};
use sampler::Sampler;

/// What generated tokens see of the media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decoding {
    /// The latest media item, as without a cache.
    #[default]
    Keep,
    /// Nothing, unless the token itself is `<image>`: the original's cached decoding.
    Reference,
}

/// How to continue a prompt.
#[derive(Clone, Debug)]
pub struct GenerationOptions {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// Greedy or random choice.
    pub sampling: Sampling,
    /// Changes to the logits before the choice.
    pub processors: Processors,
    /// Token that ends an answer (`<|endofchunk|>`).
    pub stop_token: u32,
    /// What generated tokens see of the media.
    pub decoding: Decoding,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The stop token was generated.
    Stop,
    /// The caller ended it, for example at a stop string.
    StopString,
    /// The token limit was reached.
    Length,
}

impl FinishReason {
    /// Name in JSON output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::StopString => "stop_string",
            Self::Length => "length",
        }
    }
}

/// One sequence's continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// New tokens, the stop token included when it ended the answer.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Prompts of a batch, padded on the left to one length.
#[derive(Clone, Debug)]
pub struct PromptBatch {
    text: TextInput,
}

impl PromptBatch {
    /// Pads `prompts` on the left with `pad`.
    ///
    /// # Errors
    /// A prompt without tokens.
    pub fn new(prompts: &[Vec<u32>], pad: u32, media_token_id: u32) -> Result<Self, ModelError> {
        if let Some(sequence) = prompts.iter().position(Vec::is_empty) {
            return Err(ModelError::EmptyPrompt { sequence });
        }
        let length = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(prompts.len() * length);
        let mut attention_mask = Vec::with_capacity(prompts.len() * length);
        for prompt in prompts {
            let padding = length - prompt.len();
            ids.extend(std::iter::repeat_n(pad, padding).chain(prompt.iter().copied()));
            attention_mask.extend((0..length).map(|i| i >= padding));
        }
        Ok(Self { text: TextInput { ids, attention_mask, batch: prompts.len(), length, media_token_id } })
    }

    /// The padded ids, mask and sizes.
    pub fn text(&self) -> &TextInput {
        &self.text
    }
}

/// State of one sequence during generation.
struct Sequence {
    /// Prompt with padding and everything generated.
    ids: Vec<u32>,
    generated: usize,
    /// Media tokens seen.
    media_time: usize,
    next_position: u32,
    finished: Option<FinishReason>,
}

impl Otter {
    /// Continues every prompt of a batch. `on_token(sequence, token)` is called for each new token and returns whether
    /// to go on with that sequence.
    ///
    /// # Errors
    /// Input that does not fit the model.
    pub fn generate(
        &self,
        parameters: &Parameters<f32>,
        vision: Option<&VisionInput>,
        prompts: &PromptBatch,
        options: &GenerationOptions,
        on_token: &mut dyn FnMut(usize, u32) -> bool,
    ) -> Result<Vec<Generated>, ModelError> {
        let text = &prompts.text;
        self.check_text(text, vision)?;
        // The last new token is never an input.
        self.check_length(text, options.max_new_tokens.saturating_sub(1))?;
        let vision = vision.filter(|_| text.shows_media());
        let latents = vision.map(|v| self.encode_media(parameters, v, &mut |_, _| {})).transpose()?;
        let slots = vision.map(|v| v.slots.as_slice());
        let capacity = text.length + options.max_new_tokens;
        let mut cache =
            self.language().new_cache(parameters, self.config(), latents.as_ref(), text.batch, capacity);
        let mut sequences = start(text);
        let mut samplers: Vec<Sampler> =
            (0..text.batch).map(|row| Sampler::new(&options.sampling, row)).collect();

        let positions = text.positions_without_padding(1);
        let mask = causal_mask(&text.attention_mask, 0);
        let media_rows = text.media_rows(slots);
        let context = Context {
            rows: Rows { batch: text.batch, positions: &positions, mask: &mask },
            media_rows: &media_rows,
        };
        let hidden = self.language().forward_cached(parameters, &text.ids, &context, &mut cache);
        let mut hidden = last_rows(&hidden, text.batch);
        let mut visible = text.attention_mask.clone();
        for step in 0..options.max_new_tokens {
            let length = text.length + step; // tokens in the cache
            let logits = self.language().logits(parameters, &hidden);
            let mut tokens = Vec::with_capacity(text.batch);
            let vocabulary = logits.width();
            for (row, sequence) in sequences.iter_mut().enumerate() {
                let scores = &logits.data()[row * vocabulary..][..vocabulary];
                tokens.push(sequence.advance(row, scores, &mut samplers[row], options, text, on_token));
            }
            if step + 1 == options.max_new_tokens || sequences.iter().all(|s| s.finished.is_some()) {
                break;
            }
            // The tokens just chosen enter the cache; finished sequences go on as padding.
            visible = widened(&visible, length, text.batch);
            let positions: Vec<u32> = sequences.iter().map(|s| s.next_position).collect();
            sequences.iter_mut().for_each(|s| s.next_position += 1);
            let mask = causal_mask(&visible, length);
            let media_rows = step_media(&sequences, &tokens, text, slots, options.decoding);
            let context = Context {
                rows: Rows { batch: text.batch, positions: &positions, mask: &mask },
                media_rows: &media_rows,
            };
            hidden = self.language().forward_cached(parameters, &tokens, &context, &mut cache);
        }
        Ok(sequences.into_iter().map(|s| s.into_generated(text.length)).collect())
    }

    /// Logits (batch, vocabulary) of the token after each prompt.
    ///
    /// # Errors
    /// Input that does not fit the model.
    pub fn next_token_logits(
        &self,
        parameters: &Parameters<f32>,
        vision: Option<&VisionInput>,
        prompts: &PromptBatch,
    ) -> Result<Tensor, ModelError> {
        let text = &prompts.text;
        self.check_text(text, vision)?;
        let vision = vision.filter(|_| text.shows_media());
        let latents = vision.map(|v| self.encode_media(parameters, v, &mut |_, _| {})).transpose()?;
        let mut cache =
            self.language().new_cache(parameters, self.config(), latents.as_ref(), text.batch, text.length);
        let positions = text.positions_without_padding(1);
        let mask = causal_mask(&text.attention_mask, 0);
        let media_rows = text.media_rows(vision.map(|v| v.slots.as_slice()));
        let rows = Rows { batch: text.batch, positions: &positions, mask: &mask };
        let context = Context { rows, media_rows: &media_rows };
        let hidden = self.language().forward_cached(parameters, &text.ids, &context, &mut cache);
        Ok(self.language().logits(parameters, &last_rows(&hidden, text.batch)))
    }
}

impl Sequence {
    /// Chooses the next token (padding once finished) and updates the state.
    fn advance(
        &mut self,
        row: usize,
        logits: &[f32],
        sampler: &mut Sampler,
        options: &GenerationOptions,
        text: &TextInput,
        on_token: &mut dyn FnMut(usize, u32) -> bool,
    ) -> u32 {
        if self.finished.is_some() {
            return options.stop_token;
        }
        let mut scores = logits.to_vec();
        options.processors.apply(&mut scores, &self.ids, self.generated, options.stop_token);
        let token = sampler.choose(&mut scores);
        self.ids.push(token);
        self.generated += 1;
        self.media_time += usize::from(token == text.media_token_id);
        let go_on = on_token(row, token);
        if token == options.stop_token {
            self.finished = Some(FinishReason::Stop);
        } else if !go_on {
            self.finished = Some(FinishReason::StopString);
        }
        token
    }

    fn into_generated(self, prompt: usize) -> Generated {
        let token_ids = self.ids[prompt..].to_vec();
        Generated { token_ids, finish_reason: self.finished.unwrap_or(FinishReason::Length) }
    }
}

fn start(text: &TextInput) -> Vec<Sequence> {
    let rows = text.ids.chunks(text.length).zip(text.attention_mask.chunks(text.length));
    rows.map(|(ids, mask)| Sequence {
        ids: ids.to_vec(),
        generated: 0,
        media_time: ids.iter().filter(|&&id| id == text.media_token_id).count(),
        next_position: mask.iter().filter(|&&m| m).count() as u32,
        finished: None,
    })
    .collect()
}

fn last_rows(hidden: &Tensor, batch: usize) -> Tensor {
    let (width, length) = (hidden.width(), hidden.rows() / batch);
    let rows =
        (0..batch).flat_map(|b| hidden.data()[((b + 1) * length - 1) * width..][..width].iter().copied());
    Tensor::from_vec(rows.collect(), &[batch, width], hidden.device())
}

/// Adds one visible key to each row of (batch, length).
fn widened(visible: &[bool], length: usize, batch: usize) -> Vec<bool> {
    let mut out = Vec::with_capacity(visible.len() + batch);
    for row in visible.chunks(length) {
        out.extend_from_slice(row);
        out.push(true);
    }
    out
}

/// What the tokens of one step attend.
fn step_media(
    sequences: &[Sequence],
    tokens: &[u32],
    text: &TextInput,
    slots: Option<&[Vec<usize>]>,
    decoding: Decoding,
) -> MediaRows {
    let none = vec![Vec::new(); text.batch];
    let items = slots.map_or(none, <[_]>::to_vec);
    let targets = sequences
        .iter()
        .zip(tokens)
        .zip(&items)
        .map(|((sequence, &token), items)| {
            let time = match decoding {
                Decoding::Keep => sequence.media_time,
                Decoding::Reference => usize::from(token == text.media_token_id),
            };
            if slots.is_none() { MediaTarget::Nothing } else { MediaRows::target(time, items) }
        })
        .collect();
    MediaRows { targets, items }
}
