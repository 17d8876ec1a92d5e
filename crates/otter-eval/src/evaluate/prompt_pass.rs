//! One pass over a batch of prompts, from which several continuations are tried.
//!
//! All candidate answers and the generated answer of a query share its prompt, so the prompt is computed once. A
//! continuation's keys join the cache behind it and are hidden from what is tried next; positions are counted on from
//! the prompt, so the hidden keys leave no trace in the numbers.

use otter_model::flamingo::{Context, LanguageCache, causal_mask};
use otter_model::text::Rows;
use otter_model::{ModelError, Otter};
use otter_nn::layers::cross_entropy::log_sum_exp;
use otter_nn::layers::rows;
use otter_nn::{IGNORE_INDEX, MediaRows, MediaTarget, Parameters, Tensor, all_finite};

/// Latents of the distinct media items of a batch, and the item of every media token of every row.
pub(crate) struct Media {
    /// (items * latents, width); `None` when no row shows a media item.
    pub(crate) latents: Option<Tensor>,
    /// Media items of each row, in order.
    pub(crate) slots: Vec<Vec<usize>>,
}

/// Ids that are not text.
#[derive(Clone, Copy)]
pub(crate) struct StructuralIds {
    pub(crate) pad: u32,
    pub(crate) media: u32,
    pub(crate) end: u32,
}

/// A batch of prompts whose keys and values are cached.
pub(crate) struct PromptPass<'a> {
    otter: &'a Otter,
    parameters: &'a Parameters<f32>,
    ids: StructuralIds,
    cache: LanguageCache,
    /// Per row: which cached keys may be seen.
    visible: Vec<Vec<bool>>,
    /// Per row: position of the next token.
    next: Vec<u32>,
    /// Per row: what a token behind the prompt attends.
    target: Vec<MediaTarget>,
    items: Vec<Vec<usize>>,
    /// Normalized hidden states of the last prompt tokens, (rows, width).
    last: Tensor,
}

impl<'a> PromptPass<'a> {
    /// Computes `prompts`, padded on the left. `spare` is the number of tokens that will follow in all calls together.
    pub(crate) fn new(
        (otter, parameters): (&'a Otter, &'a Parameters<f32>),
        ids: StructuralIds,
        prompts: &[&[u32]],
        media: Media,
        spare: usize,
    ) -> Result<Self, ModelError> {
        let batch = prompts.len();
        let length = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        check_tokens(otter, prompts)?;
        let mut tokens = Vec::with_capacity(batch * length);
        let mut positions = Vec::with_capacity(batch * length);
        let mut visible = Vec::with_capacity(batch);
        for prompt in prompts {
            let padding = length - prompt.len();
            tokens.extend(std::iter::repeat_n(ids.pad, padding).chain(prompt.iter().copied()));
            positions.extend(std::iter::repeat_n(0, padding).chain(0..prompt.len() as u32));
            visible.push((0..length).map(|i| i >= padding).collect::<Vec<bool>>());
        }
        // A padding id may be the id of a media token in no tokenizer, but nothing forbids it.
        let is_media: Vec<bool> =
            tokens.iter().zip(visible.iter().flatten()).map(|(&id, &seen)| seen && id == ids.media).collect();
        let media_rows = MediaRows::from_media_tokens(&is_media, length, &media.slots);
        let target = (0..batch).map(|row| media_rows.targets[(row + 1) * length - 1]).collect();
        let language = otter.language();
        let mut cache = language.new_cache(parameters, media.latents.as_ref(), batch, length + spare);
        let mask = causal_mask(&visible.concat(), 0);
        let rows = Rows { batch, positions: &positions, mask: &mask };
        let context = Context { rows, media_rows: &media_rows };
        let hidden = language.forward_cached(parameters, &tokens, &context, &mut cache);
        let last: Vec<u32> = (1..=batch).map(|rows| (rows * length - 1) as u32).collect();
        let last = rows::gather_rows(&hidden, &last, hidden.width());
        parameters.device().check()?;
        let next = prompts.iter().map(|prompt| prompt.len() as u32).collect();
        Ok(Self { otter, parameters, ids, cache, visible, next, target, items: media.slots, last })
    }

    fn batch(&self) -> usize {
        self.visible.len()
    }

    /// Hidden states (rows, width) of one continuation per row, padded on the right to the longest. With `keep` later
    /// tokens see it.
    fn extend(&mut self, continuations: &[&[u32]], keep: bool) -> Tensor {
        let batch = self.batch();
        let cached = self.cache.len();
        let length = continuations.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let mut tokens = Vec::with_capacity(batch * length);
        let mut positions = Vec::with_capacity(batch * length);
        let mut targets = Vec::with_capacity(batch * length);
        for (row, continuation) in continuations.iter().enumerate() {
            let padding = length - continuation.len();
            tokens.extend(continuation.iter().copied().chain(std::iter::repeat_n(self.ids.pad, padding)));
            // Padding stays at the last position, since there may be no later one.
            let next = self.next[row];
            let last = (next + continuation.len() as u32).saturating_sub(1);
            positions.extend((0..length as u32).map(|i| (next + i).min(last)));
            targets.extend(std::iter::repeat_n(self.target[row], length));
            // Padding stands behind the continuation, where causality hides it already.
            self.visible[row].extend(std::iter::repeat_n(true, length));
        }
        let mask = causal_mask(&self.visible.concat(), cached);
        let media_rows = MediaRows { targets, length, items: self.items.clone() };
        let rows = Rows { batch, positions: &positions, mask: &mask };
        let context = Context { rows, media_rows: &media_rows };
        let hidden =
            self.otter.language().forward_cached(self.parameters, &tokens, &context, &mut self.cache);
        for (row, continuation) in continuations.iter().enumerate() {
            let shown = if keep { continuation.len() } else { 0 };
            self.visible[row][cached + shown..].fill(false);
            self.next[row] += shown as u32;
        }
        hidden
    }

    /// Sums of the log-probabilities of the answers' tokens and of the end of chunk behind them, `answers[row][i]` in
    /// the same places. Rows may differ in their number of answers.
    pub(crate) fn score(&mut self, answers: &[Vec<Vec<u32>>]) -> Result<Vec<Vec<f64>>, ModelError> {
        for answers in answers {
            check_tokens(self.otter, answers)?;
        }
        let head = self.otter.language().cross_entropy();
        let first = self.otter.language().logits(self.parameters, &self.last).to_host();
        let mut scores: Vec<Vec<f64>> = Vec::with_capacity(answers.len());
        for (answers, logits) in answers.iter().zip(first.data().chunks_exact(first.width())) {
            let log_sum = log_sum_exp(logits);
            let start = |answer: &Vec<u32>| answer.first().copied().unwrap_or(self.ids.end);
            scores.push(answers.iter().map(|a| f64::from(logits[start(a) as usize] - log_sum)).collect());
        }
        let most = answers.iter().map(Vec::len).max().unwrap_or(0);
        for number in 0..most {
            let continuations: Vec<&[u32]> =
                answers.iter().map(|answers| answers.get(number).map_or(&[][..], Vec::as_slice)).collect();
            let length = continuations.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
            if length == 0 {
                continue;
            }
            let hidden = self.extend(&continuations, false);
            let mut targets = vec![IGNORE_INDEX; self.batch() * length];
            for (row, tokens) in continuations.iter().enumerate() {
                let following = tokens.iter().skip(1).copied().chain([self.ids.end]);
                for (place, token) in following.enumerate().take(tokens.len()) {
                    targets[row * length + place] = i64::from(token);
                }
            }
            let log_probabilities = head.log_probabilities(self.parameters, &hidden, &targets);
            for (row, values) in log_probabilities.chunks_exact(length).enumerate() {
                if let Some(score) = scores[row].get_mut(number) {
                    *score += values.iter().flatten().sum::<f64>();
                }
            }
        }
        self.parameters.device().check()?;
        Ok(scores)
    }

    /// The most probable continuation of every row: its tokens without the end of chunk, and whether that was reached
    /// within `limit` tokens.
    ///
    /// # Errors
    /// When the device fails; logits that are not finite.
    pub(crate) fn generate(&mut self, limit: usize) -> Result<Vec<(Vec<u32>, bool)>, ModelError> {
        let mut generated = vec![(Vec::new(), false); self.batch()];
        let mut last = self.last.clone();
        for step in 0..limit {
            let logits = self.otter.language().logits(self.parameters, &last).to_host();
            let mut tokens = Vec::with_capacity(self.batch());
            for ((answer, ended), logits) in
                generated.iter_mut().zip(logits.data().chunks_exact(logits.width()))
            {
                if !*ended && !all_finite(logits) {
                    let what = format!("the logits of a generated answer after {step} token(s)");
                    return Err(self.otter.not_finite(self.parameters, None, None, what));
                }
                let token = if *ended { self.ids.end } else { most_probable(logits) };
                *ended |= token == self.ids.end;
                if !*ended {
                    answer.push(token);
                }
                tokens.push([token]);
            }
            if step + 1 == limit || generated.iter().all(|(_, ended)| *ended) {
                break;
            }
            // A generated media token has no media of its own: as in recomputing the whole sequence.
            for (row, [token]) in tokens.iter().enumerate() {
                if *token == self.ids.media && !generated[row].1 {
                    self.target[row] = MediaTarget::Uniform(row);
                }
            }
            let continuations: Vec<&[u32]> = tokens.iter().map(<[u32; 1]>::as_slice).collect();
            last = self.extend(&continuations, true);
        }
        self.parameters.device().check()?;
        Ok(generated)
    }
}

/// Tokens that a prompt pass needs room for, besides its prompts.
pub(crate) fn spare_tokens(answers: &[Vec<Vec<u32>>], generated: usize) -> usize {
    let most = answers.iter().map(Vec::len).max().unwrap_or(0);
    let longest =
        |number: usize| answers.iter().filter_map(|a| Some(a.get(number)?.len())).max().unwrap_or(0);
    (0..most).map(longest).sum::<usize>() + generated
}

/// First of the largest of finite logits.
fn most_probable(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0 as u32
}

fn check_tokens<R: AsRef<[u32]>>(otter: &Otter, rows: &[R]) -> Result<(), ModelError> {
    let vocabulary = otter.config().text.vocab_size();
    for (sequence, row) in rows.iter().enumerate() {
        if let Some(position) = row.as_ref().iter().position(|&id| id as usize >= vocabulary) {
            let id = row.as_ref()[position];
            return Err(ModelError::TokenOutside { id, sequence, position, vocabulary });
        }
    }
    Ok(())
}
