//! The model's side of generation: prompts in a key/value cache, and rows that continue them token by token.
//!
//! A row is one continuation of one prompt. Prompts are computed once, media are encoded and projected once; rows may
//! then be copied (several answers, beams), exchanged (beams) and dropped (finished answers) at every step.

use otter_nn::{MediaRows, MediaTarget, Parameters, Tensor};

use super::{Decoding, PromptBatch};
use crate::ModelError;
use crate::decoder::Rows;
use crate::language_model::{Context, LanguageCache, causal_mask};
use crate::otter::{Otter, TextInput, VisionInput};

/// Prompts and the rows that continue them.
pub(super) struct Continuations<'a> {
    otter: &'a Otter,
    parameters: &'a Parameters<f32>,
    text: &'a TextInput,
    slots: Option<&'a [Vec<usize>]>,
    decoding: Decoding,
    cache: LanguageCache,
    rows: Vec<Row>,
}

#[derive(Clone, Copy)]
struct Row {
    prompt: usize,
    /// Media tokens seen.
    media_time: usize,
}

impl<'a> Continuations<'a> {
    /// Computes the prompts, with room for `new_tokens` more, and starts one row for each. Also returns the logits
    /// (rows, vocabulary) of the next tokens.
    pub(super) fn new(
        (otter, parameters): (&'a Otter, &'a Parameters<f32>),
        vision: Option<&'a VisionInput>,
        prompts: &'a PromptBatch,
        decoding: Decoding,
        new_tokens: usize,
    ) -> Result<(Self, Tensor), ModelError> {
        let text = &prompts.text;
        otter.check_text(text, vision)?;
        // The last new token is never an input.
        otter.check_length(text, new_tokens.saturating_sub(1))?;
        let vision = vision.filter(|_| text.shows_media());
        let latents = vision.map(|v| otter.encode_media(parameters, v, &mut |_, _| {})).transpose()?;
        let slots = vision.map(|v| v.slots.as_slice());
        let language = otter.language();
        let capacity = text.length + new_tokens;
        let mut cache =
            language.new_cache(parameters, otter.config(), latents.as_ref(), text.batch, capacity);
        let positions = text.positions_without_padding(1);
        let mask = causal_mask(&text.attention_mask, 0);
        let media_rows = text.media_rows(slots);
        let rows = Rows { batch: text.batch, positions: &positions, mask: &mask };
        let context = Context { rows, media_rows: &media_rows };
        let hidden = language.forward_cached(parameters, &text.ids, &context, &mut cache);
        let logits = language.logits(parameters, &last_rows(&hidden, text.batch));
        let media_tokens = |ids: &[u32]| ids.iter().filter(|&&id| id == text.media_token_id).count();
        let rows = text.ids.chunks(text.length).enumerate();
        let rows = rows.map(|(prompt, ids)| Row { prompt, media_time: media_tokens(ids) }).collect();
        Ok((Self { otter, parameters, text, slots, decoding, cache, rows }, logits))
    }

    /// Row i becomes what row `parents[i]` was, followed by `tokens[i]`; rows that are nobody's parent end. Returns the
    /// logits (rows, vocabulary) of the next tokens.
    pub(super) fn advance(&mut self, parents: &[usize], tokens: &[u32]) -> Tensor {
        self.reorder(parents);
        for (row, &token) in self.rows.iter_mut().zip(tokens) {
            row.media_time += usize::from(token == self.text.media_token_id);
        }
        let length = self.cache.len();
        let (positions, mask) = (self.positions(), causal_mask(&self.visible(), length));
        let media_rows = self.media_rows(tokens);
        let rows = Rows { batch: self.rows.len(), positions: &positions, mask: &mask };
        let context = Context { rows, media_rows: &media_rows };
        let language = self.otter.language();
        let hidden = language.forward_cached(self.parameters, tokens, &context, &mut self.cache);
        language.logits(self.parameters, &hidden)
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
    }

    /// Position of each row's next token.
    fn positions(&self) -> Vec<u32> {
        let generated = self.cache.len() - self.text.length;
        let prompt = |row: &Row| self.prompt_mask(row).iter().filter(|&&visible| visible).count();
        self.rows.iter().map(|row| (prompt(row) + generated) as u32).collect()
    }

    /// Which keys each row may see, that of its next token included.
    fn visible(&self) -> Vec<bool> {
        let length = self.cache.len() + 1;
        let mut visible = Vec::with_capacity(self.rows.len() * length);
        for row in &self.rows {
            visible.extend_from_slice(self.prompt_mask(row));
            visible.extend(std::iter::repeat_n(true, length - self.text.length));
        }
        visible
    }

    fn prompt_mask(&self, row: &Row) -> &[bool] {
        &self.text.attention_mask[row.prompt * self.text.length..][..self.text.length]
    }

    /// What `tokens`, one a row, attend.
    fn media_rows(&self, tokens: &[u32]) -> MediaRows {
        let items: Vec<Vec<usize>> = match self.slots {
            Some(slots) => self.rows.iter().map(|row| slots[row.prompt].clone()).collect(),
            None => vec![Vec::new(); self.rows.len()],
        };
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
        let targets = self.rows.iter().zip(tokens).zip(&items).enumerate().map(target).collect();
        MediaRows { targets, length: 1, items }
    }
}

fn last_rows(hidden: &Tensor, batch: usize) -> Tensor {
    let (width, length) = (hidden.width(), hidden.rows() / batch);
    let rows =
        (0..batch).flat_map(|b| hidden.data()[((b + 1) * length - 1) * width..][..width].iter().copied());
    Tensor::from_vec(rows.collect(), &[batch, width], hidden.device())
}
