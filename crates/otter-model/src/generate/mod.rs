//! Autoregressive generation with a KV cache: [`Otter::generate`] for greedy choice
//! and sampling, [`Otter::generate_beams`] for beam search and beam sampling.
//!
//! Media are encoded and projected once a prompt, and shared by all its answers and beams. By default generated tokens
//! keep attending the last media item, which equals recomputing the whole sequence at every step;
//! [`Decoding::Reference`] reproduces the original's cached steps, which see no media at all.
//!
//! An answer does not depend on the other prompts of its batch: processors, lengths and scores see a sequence's own tokens,
//! and the random stream of an answer is chosen by the seed and by its number among the answers to its prompt.
//! ([`GenerationOptions::count_padding`] is the original's other rule.) What stays is rounding:
//! products of more than 32 rows, and attention beside padding, are summed in another order. (Rotary frequencies that grow
//! with the sequence, `dynamic`, are those of the longest sequence of the batch once that is beyond the trained length.)

mod answers;
mod beam_search;
mod beams;
mod continuations;

mod processors;
mod sampler;

pub use beam_search::{BeamOptions, EarlyStopping};
use otter_nn::{Device, Parameters, Tensor};
pub use processors::Processors;
pub use sampler::Sampling;

use crate::ModelError;
use crate::input::{TextInput, VisionInput};
use crate::otter::Otter;
use continuations::Continuations;

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
    /// Most tokens of a sequence, prompt included; the stricter of both limits holds.
    pub max_length: Option<usize>,
    /// Greedy or random choice; with beams, beam search or beam sampling.
    pub sampling: Sampling,
    /// Changes to the scores before the choice.
    pub processors: Processors,
    /// Tokens that end an answer (`<|endofchunk|>`).
    pub stop_tokens: Vec<u32>,
    /// What generated tokens see of the media.
    pub decoding: Decoding,
    /// Whether the padding before a prompt counts as tokens of its sequence, for processors, lengths and scores. The
    /// original's does.
    pub count_padding: bool,
    /// Answers to each prompt.
    pub return_sequences: usize,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was generated.
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

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// New tokens, the stop token included when it ended the answer.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// With beams: the sum of the tokens' scores over a power of the length, by which answers are ranked.
    pub score: Option<f64>,
}

/// Prompts of a batch, padded on the left to one length.
#[derive(Clone, Debug)]
pub struct PromptBatch {
    text: TextInput,
}

impl PromptBatch {
    /// Pads `prompts` on the left with `pad`, or with another id where that is the media token, which would show something.
    ///
    /// # Errors
    /// A prompt without tokens.
    pub fn new(prompts: &[Vec<u32>], pad: u32, media_token_id: u32) -> Result<Self, ModelError> {
        if let Some(sequence) = prompts.iter().position(Vec::is_empty) {
            return Err(ModelError::EmptyPrompt { sequence });
        }
        let pad = if pad == media_token_id { u32::from(media_token_id == 0) } else { pad };
        let length = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(prompts.len() * length);
        let mut attention_mask = Vec::with_capacity(prompts.len() * length);
        for prompt in prompts {
            let padding = length - prompt.len();
            ids.extend(std::iter::repeat_n(pad, padding).chain(prompt.iter().copied()));
            attention_mask.extend((0..length).map(|i| i >= padding));
        }
        Ok(Self {
            text: TextInput {
                ids,
                attention_mask,
                batch: prompts.len(),
                length,
                segments: None,
                media_token_id,
            },
        })
    }

    /// The padded ids, mask and sizes.
    pub fn text(&self) -> &TextInput {
        &self.text
    }

    /// Tokens of each prompt that count by the options, in order.
    fn counted<'a>(&'a self, options: &GenerationOptions) -> impl Iterator<Item = &'a [u32]> {
        let text = &self.text;
        let count_padding = options.count_padding;
        (0..text.batch).map(move |row| {
            let tokens = row * text.length..(row + 1) * text.length;
            let padding = text.attention_mask[tokens.clone()].iter().take_while(|&&seen| !seen).count();
            &text.ids[tokens][if count_padding { 0 } else { padding }..]
        })
    }
}

impl GenerationOptions {
    /// The most probable token each time until `stop_token`, one answer a prompt.
    pub fn greedy(max_new_tokens: usize, stop_token: u32) -> Self {
        Self {
            max_new_tokens,
            max_length: None,
            sampling: Sampling::Greedy,
            processors: Processors::default(),
            stop_tokens: vec![stop_token],
            decoding: Decoding::Keep,
            count_padding: false,
            return_sequences: 1,
        }
    }

    /// Most new tokens behind a prompt of `prompt` tokens.
    fn limit(&self, prompt: usize) -> usize {
        let left = self.max_length.map(|length| length.saturating_sub(prompt));
        self.max_new_tokens.min(left.unwrap_or(usize::MAX))
    }

    fn stops(&self, token: u32) -> bool {
        self.stop_tokens.contains(&token)
    }

    fn check(&self, (limit, most): (usize, &'static str)) -> Result<(), ModelError> {
        let found = self.return_sequences;
        if (1..=limit).contains(&found) {
            return Ok(());
        }
        let expected = if found == 0 { "at least 1" } else { most };
        Err(ModelError::GenerationOption { option: "number of return sequences", found, expected })
    }
}

impl Otter {
    /// Logits (batch, vocabulary) of the token after each prompt.
    ///
    /// # Errors
    /// Input that does not fit the model; logits that are not finite.
    pub fn next_token_logits(
        &self,
        parameters: &Parameters<f32>,
        vision: Option<&VisionInput>,
        prompts: &PromptBatch,
    ) -> Result<Tensor, ModelError> {
        if prompts.text.batch == 0 {
            return Ok(Tensor::zeros(&[0, self.config().text.vocab_size()], Device::Cpu));
        }
        let no_more = vec![0; prompts.text.batch];
        Ok(Continuations::new((self, parameters), vision, prompts, Decoding::Keep, &no_more)?.into_logits())
    }
}
