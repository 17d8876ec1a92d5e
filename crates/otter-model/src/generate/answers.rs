//! Greedy choice and sampling: every answer goes its own way, and leaves the batch when it ends.

use otter_nn::Parameters;

use super::continuations::Continuations;
use super::sampler::Sampler;
use super::{FinishReason, Generated, GenerationOptions, PromptBatch};
use crate::ModelError;
use crate::input::VisionInput;
use crate::otter::Otter;

/// State of one answer.
struct Answer {
    /// Prompt and everything generated.
    ids: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
    /// Most new tokens.
    limit: usize,
    sampler: Sampler,
    finished: Option<FinishReason>,
}

impl Otter {
    /// Answers every prompt of a batch, `return_sequences` times each; the answers to one prompt stand together.
    /// `on_token(answer, token)` is called for each new token and returns whether to go on with that answer.
    ///
    /// # Errors
    /// Input that does not fit the model; logits that are not finite; several answers by greedy choice, which would all be the same.
    pub fn generate(
        &self,
        parameters: &Parameters<f32>,
        vision: Option<&VisionInput>,
        prompts: &PromptBatch,
        options: &GenerationOptions,
        on_token: &mut dyn FnMut(usize, u32) -> bool,
    ) -> Result<Vec<Generated>, ModelError> {
        options.check(match options.sampling.is_random() {
            true => (usize::MAX, "any"),
            false => (1, "1, since greedy answers to one prompt are all the same: sample, or use beams"),
        })?;
        if prompts.text.batch == 0 {
            return Ok(Vec::new());
        }
        let count = options.return_sequences;
        let start = |prompt: &[u32], number: usize| {
            let limit = options.limit(prompt.len());
            let mut ids = Vec::with_capacity(prompt.len() + limit);
            ids.extend_from_slice(prompt);
            let sampler = Sampler::new(&options.sampling, number);
            Answer { ids, prompt: prompt.len(), limit, sampler, finished: None }
        };
        let mut answers: Vec<Answer> =
            prompts.counted(options).flat_map(|prompt| (0..count).map(move |i| start(prompt, i))).collect();
        let limits: Vec<usize> = answers.iter().step_by(count).map(|answer| answer.limit).collect();
        let new_tokens = limits.iter().copied().max().unwrap_or(0);
        let mut continuations =
            Continuations::new((self, parameters), vision, prompts, options.decoding, &limits)?;
        // Unfinished answers, each with its row of the logits.
        let some_room = |&(index, _): &(usize, usize)| answers[index].limit > 0;
        let mut open: Vec<(usize, usize)> =
            (0..answers.len()).map(|index| (index, index / count)).filter(some_room).collect();
        let (mut parents, mut tokens, mut still_open) = (Vec::new(), Vec::new(), Vec::new());
        let mut changed = Vec::new();
        for generated in 0..new_tokens {
            let logits = continuations.logits();
            let vocabulary = logits.width();
            parents.clear();
            tokens.clear();
            still_open.clear();
            for &(index, row) in &open {
                let answer = &mut answers[index];
                let scores = &logits.data()[row * vocabulary..][..vocabulary];
                let token = answer.choose(scores, &mut changed, generated, options);
                let go_on = on_token(index, token);
                if options.stops(token) {
                    answer.finished = Some(FinishReason::Stop);
                } else if !go_on {
                    answer.finished = Some(FinishReason::StopString);
                } else if generated + 1 < answer.limit {
                    still_open.push((index, tokens.len()));
                    parents.push(row);
                    tokens.push(token);
                }
            }
            std::mem::swap(&mut open, &mut still_open);
            if open.is_empty() {
                break;
            }
            continuations.advance(&parents, &tokens)?;
        }
        Ok(answers.into_iter().map(Answer::into_generated).collect())
    }
}

impl Answer {
    /// Chooses by the scores, which are copied only where something changes them, to `changed`.
    fn choose(
        &mut self,
        scores: &[f32],
        changed: &mut Vec<f32>,
        generated: usize,
        options: &GenerationOptions,
    ) -> u32 {
        let token = if options.processors.change_nothing() {
            self.sampler.choose(scores)
        } else {
            changed.clear();
            changed.extend_from_slice(scores);
            options.processors.apply(changed, &self.ids, generated, &options.stop_tokens);
            self.sampler.choose(changed)
        };
        self.ids.push(token);
        token
    }

    fn into_generated(self) -> Generated {
        let token_ids = self.ids[self.prompt..].to_vec();
        let finish_reason = self.finished.unwrap_or(FinishReason::Length);
        Generated { token_ids, finish_reason, score: None }
    }
}
