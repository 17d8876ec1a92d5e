//! Greedy choice and sampling: every answer goes its own way, and leaves the batch when it ends.

use otter_nn::Parameters;

use super::continuations::Continuations;
use super::sampler::Sampler;
use super::{FinishReason, Generated, GenerationOptions, PromptBatch};
use crate::ModelError;
use crate::otter::{Otter, VisionInput};

/// State of one answer.
struct Answer {
    /// Prompt with padding and everything generated.
    ids: Vec<u32>,
    sampler: Sampler,
    finished: Option<FinishReason>,
}

impl Otter {
    /// Answers every prompt of a batch, `return_sequences` times each; the answers to one prompt stand together.
    /// `on_token(answer, token)` is called for each new token and returns whether to go on with that answer.
    ///
    /// # Errors
    /// Input that does not fit the model; several answers by greedy choice, which would all be the same.
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
        let text = &prompts.text;
        let count = options.return_sequences;
        let new_tokens = options.max_new_tokens;
        let (mut continuations, mut logits) =
            Continuations::new((self, parameters), vision, prompts, options.decoding, new_tokens)?;
        let mut answers: Vec<Answer> = (0..text.batch * count)
            .map(|index| Answer {
                ids: text.ids[index / count * text.length..][..text.length].to_vec(),
                sampler: Sampler::new(&options.sampling, index),
                finished: None,
            })
            .collect();
        // Unfinished answers, each with its row of the logits.
        let mut open: Vec<(usize, usize)> = (0..answers.len()).map(|index| (index, index / count)).collect();
        for generated in 0..new_tokens {
            let vocabulary = logits.width();
            let (mut parents, mut tokens, mut still_open) = (Vec::new(), Vec::new(), Vec::new());
            for &(index, row) in &open {
                let answer = &mut answers[index];
                let scores = logits.data()[row * vocabulary..][..vocabulary].to_vec();
                let token = answer.choose(scores, generated, options);
                let go_on = on_token(index, token);
                if options.stops(token) {
                    answer.finished = Some(FinishReason::Stop);
                } else if !go_on {
                    answer.finished = Some(FinishReason::StopString);
                } else {
                    still_open.push((index, tokens.len()));
                    parents.push(row);
                    tokens.push(token);
                }
            }
            open = still_open;
            if open.is_empty() || generated + 1 == new_tokens {
                break;
            }
            logits = continuations.advance(&parents, &tokens);
        }
        Ok(answers.into_iter().map(|answer| answer.into_generated(text.length)).collect())
    }
}

impl Answer {
    fn choose(&mut self, mut scores: Vec<f32>, generated: usize, options: &GenerationOptions) -> u32 {
        options.processors.apply(&mut scores, &self.ids, generated, &options.stop_tokens);
        let token = self.sampler.choose(&scores);
        self.ids.push(token);
        token
    }

    fn into_generated(self, prompt: usize) -> Generated {
        let token_ids = self.ids[prompt..].to_vec();
        let finish_reason = self.finished.unwrap_or(FinishReason::Length);
        Generated { token_ids, finish_reason, score: None }
    }
}
