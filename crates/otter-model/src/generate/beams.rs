//! Beam search and beam sampling over the model: scores of the continuations of all beams, and the rows that carry the
//! chosen ones on. What is chosen, [`BeamSearch`] decides.

use otter_nn::layers::cross_entropy::log_sum_exp;
use otter_nn::{Parameters, Tensor};

use super::beam_search::{BeamOptions, BeamSearch, Candidate};
use super::continuations::Continuations;
use super::sampler::{BeamSampler, largest};
use super::{Generated, GenerationOptions, PromptBatch};
use crate::ModelError;
use crate::input::VisionInput;
use crate::otter::Otter;

/// The search of one prompt.
struct Prompt {
    search: BeamSearch,
    sampler: Option<BeamSampler>,
    /// Most new tokens.
    limit: usize,
    /// Row of the logits of each beam.
    rows: Vec<usize>,
}

impl Otter {
    /// The best `return_sequences` answers to every prompt by beam search, or by beam sampling when
    /// `options.sampling` is random; the answers to one prompt stand together, the best first.
    ///
    /// # Errors
    /// Input that does not fit the model; logits that are not finite; no beam; more answers than beams.
    pub fn generate_beams(
        &self,
        parameters: &Parameters<f32>,
        vision: Option<&VisionInput>,
        prompts: &PromptBatch,
        options: &GenerationOptions,
        beams: &BeamOptions,
    ) -> Result<Vec<Generated>, ModelError> {
        let (found, expected) = (beams.num_beams, "at least 1");
        if found == 0 {
            return Err(ModelError::GenerationOption { option: "number of beams", found, expected });
        }
        options.check((found, "at most the number of beams"))?;
        let (found, expected) = (options.stop_tokens.len(), "fewer than the tokens of the vocabulary");
        if found >= self.config().text.vocab_size() {
            return Err(ModelError::GenerationOption { option: "number of stop tokens", found, expected });
        }
        if prompts.text.batch == 0 {
            return Ok(Vec::new());
        }
        let start = |(index, ids): (usize, &[u32])| {
            let limit = options.limit(ids.len());
            Prompt {
                search: BeamSearch::new(ids, limit, beams, options),
                sampler: BeamSampler::new(&options.sampling, options.stop_tokens.len()),
                limit,
                rows: vec![index; beams.num_beams],
            }
        };
        let mut searches: Vec<Prompt> = prompts.counted(options).enumerate().map(start).collect();
        let limits: Vec<usize> = searches.iter().map(|prompt| prompt.limit).collect();
        let new_tokens = limits.iter().copied().max().unwrap_or(0);
        let mut continuations =
            Continuations::new((self, parameters), vision, prompts, options.decoding, &limits)?;
        for generated in 0..new_tokens {
            let (mut parents, mut tokens) = (Vec::new(), Vec::new());
            let open = |prompt: &&mut Prompt| !prompt.search.is_done() && generated < prompt.limit;
            for prompt in searches.iter_mut().filter(open) {
                let candidates = prompt.candidates(continuations.logits(), generated, options);
                let chosen = prompt.search.advance(&candidates);
                if prompt.search.is_done() || generated + 1 == prompt.limit {
                    continue;
                }
                let first = tokens.len();
                parents.extend(chosen.iter().map(|candidate| prompt.rows[candidate.beam]));
                tokens.extend(chosen.iter().map(|candidate| candidate.token));
                prompt.rows = (first..tokens.len()).collect();
            }
            if tokens.is_empty() {
                break;
            }
            continuations.advance(&parents, &tokens)?;
        }
        Ok(searches.into_iter().flat_map(|prompt| prompt.search.finish(options.return_sequences)).collect())
    }
}

impl Prompt {
    /// The continuations that the search may choose from.
    fn candidates(
        &mut self,
        logits: &Tensor,
        generated: usize,
        options: &GenerationOptions,
    ) -> Vec<Candidate> {
        let vocabulary = logits.width();
        let mut scores = Vec::with_capacity(self.rows.len() * vocabulary);
        for (&row, beam) in self.rows.iter().zip(self.search.beams()) {
            let mut own = log_softmax(&logits.data()[row * vocabulary..][..vocabulary]);
            options.processors.apply(&mut own, &beam.ids, generated, &options.stop_tokens);
            if let Some(sampler) = &self.sampler {
                sampler.warp(&mut own);
            }
            scores.extend(own.iter().map(|score| score + beam.score));
        }
        let count = self.search.candidates();
        let chosen = match &mut self.sampler {
            Some(sampler) => sampler.draw(&scores, count),
            None => largest(&scores, count),
        };
        let candidate = |index: usize| Candidate {
            beam: index / vocabulary,
            token: (index % vocabulary) as u32,
            score: scores[index],
        };
        chosen.into_iter().map(candidate).collect()
    }
}

/// Log-probabilities of finite logits.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let log_sum = log_sum_exp(logits);
    logits.iter().map(|logit| logit - log_sum).collect()
}
