//! Text to token ids and back.
//!
//! Two copies of the tokenizer are kept: one recognizes special tokens inside a text, the other
//! reads them as ordinary characters, so that data cannot forge a placeholder or an end mark.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tokenizers::{AddedToken, Model, OffsetType, PreTokenizer, Tokenizer};

use crate::error::{DataError, Result};

/// Ids of the tokens that carry structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Begin of text.
    pub bos: Option<u32>,
    /// End of text, put behind every sample.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: u32,
    /// `<|endofchunk|>`
    pub endofchunk: u32,
    /// `<image>`
    pub image: u32,
    /// `<answer>`
    pub answer: u32,
}

/// A prompt and its answer read as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedText {
    /// Ids of the whole.
    pub ids: Vec<u32>,
    /// The first of them that stands for something of the answer.
    pub start: usize,
    /// Whether that one stands for the end of the prompt too.
    pub border_token: bool,
}

/// A tokenizer with its special tokens.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    with_special: Tokenizer,
    plain: Tokenizer,
    special: SpecialTokens,
    special_texts: Vec<String>,
    sample_prefix: Vec<u32>,
    prompt_prefix: Vec<u32>,
}

impl TextTokenizer {
    /// Wraps a tokenizer whose vocabulary already holds the special tokens.
    pub fn new(mut tokenizer: Tokenizer, special: SpecialTokens) -> Self {
        // A tokenizer file may carry padding or truncation of its own; ours happen elsewhere.
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        tokenizer.set_encode_special_tokens(false);
        let mut plain = tokenizer.clone();
        plain.set_encode_special_tokens(true);
        let mut special_texts: Vec<String> = tokenizer
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special && !token.content.is_empty())
            .map(|token| token.content)
            .collect();
        special_texts.sort();
        let prompt_prefix = prefix_of(&tokenizer);
        let sample_prefix = special.bos.into_iter().collect();
        Self { with_special: tokenizer, plain, special, special_texts, sample_prefix, prompt_prefix }
    }

    /// The same tokenizer with other ids in front of a prompt.
    pub fn with_prompt_prefix(mut self, ids: Vec<u32>) -> Self {
        self.prompt_prefix = ids;
        self
    }

    /// The same tokenizer, with samples and prompts that all begin with the begin token, or all without it.
    ///
    /// # Errors
    /// When the begin token is asked for and there is none.
    pub fn with_begin_token(mut self, begins: bool) -> Result<Self> {
        let prefix = match self.special.bos {
            _ if !begins => Vec::new(),
            Some(begin) => vec![begin],
            // One that only the tokenizer's own template knows.
            None if !self.prompt_prefix.is_empty() => self.prompt_prefix,
            None => {
                let problem = "every sequence is to begin with the begin token, but the tokenizer has none; name it as \
                               `bos_token` in tokenizer_config.json";
                return Err(DataError::Tokenizer(problem.to_owned()));
            }
        };
        (self.sample_prefix, self.prompt_prefix) = (prefix.clone(), prefix);
        Ok(self)
    }

    /// Whether samples and prompts begin with something; `None` where the two differ, as with the original's MPT.
    pub fn begins(&self) -> Option<bool> {
        (self.sample_prefix == self.prompt_prefix).then_some(!self.prompt_prefix.is_empty())
    }

    /// What stands in front of every sample in training: [`SpecialTokens::bos`], unless
    /// [`with_begin_token`](Self::with_begin_token) says otherwise.
    pub fn sample_prefix(&self) -> &[u32] {
        &self.sample_prefix
    }

    /// What stands in front of a prompt: what the tokenizer itself puts in front of a text (LLaMA begins with BOS,
    /// GPT-NeoX with nothing), as the original prompts a model, unless [`with_begin_token`](Self::with_begin_token) says
    /// otherwise.
    pub fn prompt_prefix(&self) -> &[u32] {
        &self.prompt_prefix
    }

    /// Ids of a prompt: its prefix, then its text, in which special tokens are recognized.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok([&self.prompt_prefix[..], &self.encode(text)?].concat())
    }

    /// The structural tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The whole tokenizer as the text of a `tokenizer.json`.
    pub fn to_json(&self) -> Result<String> {
        self.with_special.to_string(false).map_err(|error| DataError::Tokenizer(error.to_string()))
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.with_special.get_vocab_size(true)
    }

    /// The id of a token by its text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.with_special.token_to_id(token)
    }

    /// The text of a token by its id.
    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        self.with_special.id_to_token(id)
    }

    /// A token that was added to the vocabulary, with its settings.
    pub(crate) fn added_token(&self, id: u32) -> Option<&AddedToken> {
        self.with_special.get_added_vocabulary().get_added_tokens_decoder().get(&id)
    }

    pub(crate) fn with_special(&self) -> &Tokenizer {
        &self.with_special
    }

    /// Ids of a text in which special tokens are recognized. No BOS or EOS is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode_with(&self.with_special, text)
    }

    /// Ids of a text in which special tokens are ordinary characters.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = encode_with(&self.plain, text)?;
        // Some vocabularies can reach a control token through merges; it must not get through.
        ids.retain(|&id| !self.is_structural(id));
        Ok(ids)
    }

    /// Ids of a text with the bytes of the text that each of them stands for. With `plain`, special tokens are ordinary
    /// characters.
    pub fn encode_with_offsets(&self, text: &str, plain: bool) -> Result<Vec<(u32, Range<usize>)>> {
        let tokenizer = if plain { &self.plain } else { &self.with_special };
        let encoding =
            tokenizer.encode(text, false).map_err(|error| DataError::Tokenizer(error.to_string()))?;
        let pairs = encoding.get_ids().iter().zip(encoding.get_offsets());
        let kept = pairs.filter(|(id, _)| !plain || !self.is_structural(**id));
        Ok(kept.map(|(&id, &(start, end))| (id, start..end)).collect())
    }

    /// Ids of a prompt and its answer read as one text, which may differ from those of the parts behind each other.
    pub fn encode_joined(&self, prompt: &str, answer: &str) -> Result<JoinedText> {
        let found = self
            .encode_untrimmed(&format!("{prompt}{answer}"))
            .map_err(|error| DataError::Tokenizer(error.to_string()))?;
        // An empty range at the border is the space that some tokenizers put in front of a word.
        let of_answer = |(_, bytes): &(u32, Range<usize>)| bytes.end.max(bytes.start + 1) > prompt.len();
        let start = found.iter().position(of_answer).unwrap_or(found.len());
        let border_token = found.get(start).is_some_and(|(_, bytes)| bytes.start < prompt.len());
        Ok(JoinedText { ids: found.into_iter().map(|(id, _)| id).collect(), start, border_token })
    }

    /// As [`TextTokenizer::encode`], with the bytes that each token stands for, spaces included: post-processors leave
    /// them out.
    fn encode_untrimmed(&self, text: &str) -> tokenizers::Result<Vec<(u32, Range<usize>)>> {
        let tokenizer = &self.with_special;
        let added = tokenizer.get_added_vocabulary();
        let mut pieces = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| tokenizer.get_model().tokenize(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte)?;
        let ranges = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
    }

    /// Whether a text contains the characters of any special token.
    pub fn contains_special(&self, text: &str) -> bool {
        self.special_texts.iter().any(|token| text.contains(token.as_str()))
    }

    fn is_structural(&self, id: u32) -> bool {
        let special = &self.special;
        [special.pad, special.endofchunk, special.image, special.answer].contains(&id)
            || special.bos == Some(id)
            || special.eos == Some(id)
    }

    /// Text of ids. Ids outside the vocabulary are passed over.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.with_special.decode(ids, skip_special).map_err(|error| DataError::Tokenizer(error.to_string()))
    }

    /// A decoder that is fed one id at a time.
    pub fn stream_decoder(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, skip_special, ids: Vec::new(), context: 0, emitted: 0 }
    }
}

/// The ids that the tokenizer's post-processor puts in front of a text.
fn prefix_of(tokenizer: &Tokenizer) -> Vec<u32> {
    let ids = |add_special| tokenizer.encode_fast("a", add_special).map(|found| found.get_ids().to_vec());
    let (Ok(whole), Ok(text)) = (ids(true), ids(false)) else { return Vec::new() };
    let start = whole.windows(text.len().max(1)).position(|window| window == text);
    start.map_or(Vec::new(), |start| whole[..start].to_vec())
}

fn encode_with(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding =
        tokenizer.encode_fast(text, false).map_err(|error| DataError::Tokenizer(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// Turns a stream of ids into text pieces; a piece is given out only when later ids cannot change it.
pub struct StreamDecoder<'a> {
    tokenizer: &'a TextTokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    // ids[context..emitted] were given out and are decoded again as context, because the first
    // token of a decoded run can lose its leading space.
    context: usize,
    emitted: usize,
}

/// A character has at most four byte tokens; a longer unfinished run is not valid UTF-8.
const LONGEST_UNFINISHED_RUN: usize = 8;

impl StreamDecoder<'_> {
    /// Takes the next id and returns the text that has become certain, often nothing.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let unfinished_is_final = self.ids.len() - self.emitted >= LONGEST_UNFINISHED_RUN;
        self.advance(unfinished_is_final)
    }

    /// The rest of the text.
    pub fn finish(mut self) -> Result<String> {
        self.advance(true)
    }

    fn advance(&mut self, accept_unfinished: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[self.context..self.emitted], self.skip_special)?;
        let after = self.tokenizer.decode(&self.ids[self.context..], self.skip_special)?;
        // U+FFFD at the end: bytes of a character that is still to be completed.
        if after.ends_with('\u{FFFD}') && !accept_unfinished {
            return Ok(String::new());
        }
        let Some(piece) = after.strip_prefix(before.as_str()) else {
            // The context decodes differently now; wait until it is stable or the stream ends.
            if !accept_unfinished {
                return Ok(String::new());
            }
            let common = after.char_indices().zip(before.chars()).find(|((_, a), b)| a != b);
            let start = common.map_or(before.len().min(after.len()), |((index, _), _)| index);
            let piece = after.get(start..).unwrap_or_default().to_owned();
            self.settle();
            return Ok(piece);
        };
        if piece.is_empty() {
            // A skipped special token: nothing is owed for it, and the context stays as it is.
            self.emitted = self.ids.len();
            return Ok(String::new());
        }
        let piece = piece.to_owned();
        self.settle();
        Ok(piece)
    }

    fn settle(&mut self) {
        self.context = self.emitted;
        self.emitted = self.ids.len();
        // Ids before the context are never decoded again.
        self.ids.drain(..self.context);
        self.emitted -= self.context;
        self.context = 0;
    }
}
