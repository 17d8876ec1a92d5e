//! From the records of a query and its context to token ids, labels and media.

use otter_media::{ImageNotes, open_image, preprocess_shared};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::config::{
    DataConfig, Group, ImagesOfRecord, InContextImages, ItemSeed, RecordsWithoutImages, SpecialTokensInText,
    Switches, Truncation,
};
use crate::error::{DataError, SkipReason};
use crate::sample::frame_cache::FrameCache;
use crate::sample::python_random::{PythonRandom, reference_item_seed, resample_frames};
use crate::sample::record::Record;
use crate::sample::set::Set;
use crate::sample::{Frame, MediaItem, Sample};
use crate::tables::image_table::ImageTable;
use crate::text::clean::{clean_answer, clean_question};
use crate::text::labels::{label_mask, span_label_mask};
use crate::text::prompt::{
    ANSWER_TOKEN, END_OF_CHUNK_TOKEN, FAKE_TOKEN, FUYU_ANSWER, IMAGE_TOKEN, InstructionFormat, Piece,
    Placeholder, pieces_text, turn_pieces,
};
use crate::text::tokenizer::{SpecialTokens, TextTokenizer};
use otter_input::IGNORE_INDEX;

/// A turn or text of more bytes for each token of `max_seq_len`, and of more than the floor below, is not tokenized: it
/// cannot fit, and finding its exact length would take minutes and gigabytes.
const MOST_BYTES_PER_TOKEN: usize = 256;
const FEWEST_BYTES_REFUSED: usize = 1 << 20;

/// One turn of a sample; the query is the last one.
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) record: Record,
}

/// Why a sample could not be built.
pub(crate) enum BuildError {
    /// This sample is unusable.
    Skip(SkipReason, String),
    /// Something else is wrong.
    Data(DataError),
}

impl From<DataError> for BuildError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

pub(crate) struct SampleBuilder<'a> {
    pub(crate) config: &'a DataConfig,
    pub(crate) switches: &'a Switches,
    pub(crate) tokenizer: &'a TextTokenizer,
    pub(crate) set: &'a Set,
    pub(crate) tables: &'a [ImageTable],
    pub(crate) frames: &'a FrameCache,
    /// Tables in which image ids are looked up, in order.
    pub(crate) table_order: Vec<usize>,
    pub(crate) index: u64,
    pub(crate) epoch: u64,
}

/// Text and ids of a sample, BOS and EOS not yet added.
struct Encoded {
    text: String,
    ids: Vec<u32>,
    /// Which ids are trained, where no special token says so.
    trained: Option<Vec<bool>>,
}

/// The structural tokens, with the end of an answer that the format has.
pub(crate) fn roles(tokenizer: &TextTokenizer, format: InstructionFormat) -> SpecialTokens {
    let special = *tokenizer.special();
    let end = format.end_token().and_then(|token| tokenizer.token_to_id(token));
    SpecialTokens { endofchunk: end.unwrap_or(special.endofchunk), ..special }
}

impl SampleBuilder<'_> {
    pub(crate) fn build(&self, turns: Vec<Turn>, with_pixels: bool) -> Result<Sample, BuildError> {
        self.check_images(&turns)?;
        let (first, encoded) = self.encode_within_limit(&turns)?;
        let special = roles(self.tokenizer, self.config.instruction_format);
        let prefix = self.tokenizer.sample_prefix();
        let mut input_ids = Vec::with_capacity(encoded.ids.len() + 2);
        input_ids.extend(prefix);
        input_ids.extend(encoded.ids);
        input_ids.extend(special.eos);
        let labels = match &encoded.trained {
            Some(trained) => span_label_mask(&input_ids, &special, prefix.len(), trained),
            None => label_mask(&input_ids, &special, self.switches.label_rule),
        };
        let labels = self.without_image_tokens(labels);
        if labels.iter().all(|&label| label == IGNORE_INDEX) {
            let message = "no position would be trained; check its answer".to_owned();
            return Err(BuildError::Skip(SkipReason::NoLabelTokens, message));
        }
        let turns = &turns[first..];
        let media = self.media(turns, with_pixels)?;
        let (query, context) = match turns.split_last() {
            Some(parts) => parts,
            None => unreachable!("the query turn is always kept"),
        };
        Ok(Sample {
            id: query.id.clone(),
            set: self.set.name.clone(),
            group: self.set.group,
            text: encoded.text,
            input_ids,
            labels,
            media,
            context_ids: context.iter().map(|turn| turn.id.clone()).collect(),
            dropped_turns: first,
        })
    }

    /// Idefics never trains the tokens around an image, wherever they stand.
    fn without_image_tokens(&self, mut labels: Vec<i64>) -> Vec<i64> {
        if self.config.instruction_format == InstructionFormat::Idefics {
            let image =
                [IMAGE_TOKEN, FAKE_TOKEN].map(|token| self.tokenizer.token_to_id(token).map(i64::from));
            labels
                .iter_mut()
                .filter(|label| image.contains(&Some(**label)))
                .for_each(|label| *label = IGNORE_INDEX);
        }
        labels
    }

    /// Drops the oldest turns until the sample fits; returns the first turn kept.
    fn encode_within_limit(&self, turns: &[Turn]) -> Result<(usize, Encoded), BuildError> {
        let special = roles(self.tokenizer, self.config.instruction_format);
        let limit = self.config.max_seq_len;
        if self.switches.truncation == Truncation::Reference {
            let mut encoded = self.encode(turns)?;
            encoded.ids.truncate(limit);
            if let Some(trained) = &mut encoded.trained {
                trained.truncate(limit);
            }
            return Ok((0, encoded));
        }
        let added = self.tokenizer.sample_prefix().len() + usize::from(special.eos.is_some());
        let ends_of_turn = self.config.instruction_format.ends_of_turn();
        let mut first = self.hopeless_turns(turns)?;
        loop {
            let encoded = self.encode(&turns[first..])?;
            let length = encoded.ids.len() + added;
            if length <= limit {
                return Ok((first, encoded));
            }
            let remaining = turns.len() - first;
            if remaining == 1 {
                let message = format!(
                    "its query turn alone has {length} tokens, more than max_seq_len = {limit}; raise the limit or shorten it"
                );
                return Err(BuildError::Skip(SkipReason::TooLong, message));
            }
            first += turns_to_drop(&encoded.ids, special.endofchunk, ends_of_turn, length - limit)
                .min(remaining - 1);
        }
    }

    fn most_bytes(&self) -> usize {
        self.config.max_seq_len.saturating_mul(MOST_BYTES_PER_TOKEN).max(FEWEST_BYTES_REFUSED)
    }

    /// How many of the oldest turns are out of the question by their bytes alone.
    fn hopeless_turns(&self, turns: &[Turn]) -> Result<usize, BuildError> {
        let bytes = |turn: &Turn| turn.record.instruction.len() + turn.record.answer.len();
        let most = self.most_bytes();
        let mut sum = 0;
        // From the query backwards, as long as the turns may fit.
        let fitting = turns.iter().rev().take_while(|turn| {
            sum += bytes(turn);
            sum <= most
        });
        match (fitting.count(), turns.last()) {
            (0, Some(query)) => Err(BuildError::Skip(
                SkipReason::TooLong,
                format!(
                    "its query turn alone has {} bytes, which max_seq_len = {} tokens cannot hold; shorten it",
                    bytes(query),
                    self.config.max_seq_len
                ),
            )),
            (fitting, _) => Ok(turns.len() - fitting),
        }
    }

    fn encode(&self, turns: &[Turn]) -> Result<Encoded, BuildError> {
        let mut pieces = self.pieces(turns);
        pieces.pop_if(|piece| *piece == Piece::Words("\n"));
        let text = pieces_text(&pieces);
        if self.config.instruction_format == InstructionFormat::Fuyu && text.len() <= self.most_bytes() {
            let plain = self.switches.special_tokens_in_text == SpecialTokensInText::Plain
                && self.tokenizer.contains_special(&text);
            let found = self.tokenizer.encode_with_offsets(&text, plain)?;
            let answers = answer_spans(&pieces);
            let trained =
                found.iter().map(|(_, bytes)| answers.iter().any(|span| span.contains(&bytes.start)));
            let trained = Some(trained.collect());
            return Ok(Encoded { text, ids: found.into_iter().map(|(id, _)| id).collect(), trained });
        }
        let ids = match self.switches.special_tokens_in_text {
            // Only the reference's truncation lets such a text come here; what is cut off needs no ids.
            _ if text.len() > self.most_bytes() => {
                let end = (0..=self.most_bytes()).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
                self.tokenizer.encode(&text[..end])?
            }
            SpecialTokensInText::Special => self.tokenizer.encode(&text)?,
            SpecialTokensInText::Plain => encode_pieces(self.tokenizer, &pieces, &text)?,
        };
        Ok(Encoded { text, ids, trained: None })
    }

    fn pieces(&self, turns: &[Turn]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Some(description) = self.task_description() {
            pieces.push(Piece::Data(description));
            pieces.push(Piece::Words("\n"));
        }
        for (position, turn) in turns.iter().enumerate() {
            let has_placeholder = position == 0 || self.set.group == Group::ImageTextInContext;
            let placeholder = if has_placeholder {
                Placeholder::Images(self.placeholders(turns, turn))
            } else {
                Placeholder::Absent
            };
            pieces.extend(turn_pieces(
                self.config.instruction_format,
                placeholder,
                clean_question(&turn.record.instruction, self.switches.keep_symbols),
                clean_answer(&turn.record.answer, self.switches.keep_symbols),
            ));
        }
        pieces
    }

    /// Image tokens in a turn that has a placeholder.
    fn placeholders(&self, turns: &[Turn], turn: &Turn) -> usize {
        if self.set.group == Group::TextOnly {
            return 0;
        }
        if self.switches.images_of_record == ImagesOfRecord::Frames || self.set.group == Group::VideoText {
            return 1;
        }
        match (self.set.group, self.switches.in_context_images) {
            // The query's images lie one after the other along the turns.
            (Group::ImageTextInContext, InContextImages::QueryOnly) => 1,
            (Group::ImageTextInContext, InContextImages::PerTurn) => turn.record.image_ids.len().max(1),
            _ => turns.last().map_or(1, |query| query.record.image_ids.len().max(1)),
        }
    }

    fn task_description(&self) -> Option<String> {
        let descriptions = &self.set.task_descriptions;
        if !self.switches.with_task_description || descriptions.is_empty() {
            return None;
        }
        let seed = self.config.seed;
        let mut random = match self.switches.item_seed {
            ItemSeed::Constant => PythonRandom::new(reference_item_seed(seed as i64, 0)),
            ItemSeed::PerSample => {
                let words = [seed, self.epoch, self.index].map(|word| [word as u32, (word >> 32) as u32]);
                PythonRandom::from_key(words.as_flattened())
            }
        };
        Some(descriptions[random.below(descriptions.len())].clone())
    }

    /// The turns whose images are loaded.
    fn media_turns<'t>(&self, turns: &'t [Turn]) -> &'t [Turn] {
        match (self.set.group, self.switches.in_context_images) {
            (Group::TextOnly, _) => &[],
            // Its text has no place for images.
            _ if self.config.instruction_format == InstructionFormat::Fuyu => &[],
            (Group::ImageTextInContext, InContextImages::PerTurn) => turns,
            _ => &turns[turns.len().saturating_sub(1)..],
        }
    }

    fn check_images(&self, turns: &[Turn]) -> Result<(), BuildError> {
        if self.switches.records_without_images == RecordsWithoutImages::Empty {
            return Ok(());
        }
        match self.media_turns(turns).iter().find(|turn| turn.record.image_ids.is_empty()) {
            None => Ok(()),
            Some(turn) => Err(BuildError::Skip(
                SkipReason::NoImages,
                format!(
                    "record {} of group {} lists no image; add `image_ids` or move the set to TEXT_ONLY",
                    turn.id,
                    self.set.group.name()
                ),
            )),
        }
    }

    fn media(&self, turns: &[Turn], with_pixels: bool) -> Result<Vec<MediaItem>, BuildError> {
        // Turns about the same picture decode it once.
        let mut known: HashMap<String, Frame> = HashMap::new();
        let mut media = Vec::new();
        for turn in self.media_turns(turns) {
            let ids = &turn.record.image_ids;
            if ids.is_empty() {
                continue;
            }
            let ids: Vec<&String> = if self.set.group == Group::VideoText {
                resample_frames(ids.len(), self.config.resample_frames).into_iter().map(|i| &ids[i]).collect()
            } else {
                ids.iter().collect()
            };
            let mut frames = Vec::with_capacity(ids.len());
            for id in ids {
                if !known.contains_key(id) {
                    known.insert(id.clone(), self.frame(id, with_pixels)?);
                }
                frames.extend(known.get(id).cloned());
            }
            if self.switches.images_of_record == ImagesOfRecord::Media && self.set.group != Group::VideoText {
                media.extend(frames.into_iter().map(|frame| MediaItem { frames: vec![frame] }));
            } else {
                media.push(MediaItem { frames });
            }
        }
        Ok(media)
    }

    fn frame(&self, id: &str, with_pixels: bool) -> Result<Frame, BuildError> {
        if !with_pixels {
            let table = self.table_order.first().copied().unwrap_or(0);
            return Ok(Frame {
                image_id: id.to_owned(),
                table,
                pixels: Arc::from([]),
                original_size: (0, 0),
                notes: ImageNotes::default(),
            });
        }
        for &table in &self.table_order {
            if let Some(frame) = self.frames.get(table, id) {
                return Ok(frame);
            }
            let source = &self.tables[table];
            let Some(bytes) = source.encoded(id).map_err(bad_image)? else { continue };
            let name = format!("{id} of {}", source.path().display());
            let image = open_image(&bytes, self.switches.image_rules, &name).map_err(bad_image)?;
            let frame = Frame {
                image_id: id.to_owned(),
                table,
                original_size: (image.width(), image.height()),
                notes: image.notes(),
                pixels: preprocess_shared(&image, self.config.image_size, self.switches.image_transform),
            };
            self.frames.insert(&frame);
            return Ok(frame);
        }
        let tables: Vec<_> =
            self.table_order.iter().map(|&t| self.tables[t].path().display().to_string()).collect();
        let similar = self.table_order.iter().find_map(|&table| self.tables[table].first_similar_id(id));
        let hint = similar.map(|similar| format!("there is {similar}; ")).unwrap_or_default();
        Err(BuildError::Skip(
            SkipReason::MissingImage,
            format!("image {id} is not in {}; {hint}add it or remove the sample", tables.join(", ")),
        ))
    }
}

/// Encodes so that only the template's own special tokens are special. Texts without their
/// characters, nearly all, are encoded in one go, exactly as a prompt is at inference.
pub(crate) fn encode_pieces(
    tokenizer: &TextTokenizer,
    pieces: &[Piece],
    text: &str,
) -> Result<Vec<u32>, BuildError> {
    let special = tokenizer.special();
    let mut segments: Vec<(String, Option<u32>)> = vec![(String::new(), None)];
    for piece in pieces {
        match piece {
            Piece::Special(token) => {
                let id = match *token {
                    IMAGE_TOKEN => special.image,
                    ANSWER_TOKEN => special.answer,
                    END_OF_CHUNK_TOKEN => special.endofchunk,
                    // Dataset::open has looked that the tokenizer has them.
                    other => tokenizer.token_to_id(other).unwrap_or(special.endofchunk),
                };
                if let Some((_, end)) = segments.last_mut() {
                    *end = Some(id);
                }
                segments.push((String::new(), None));
            }
            Piece::Words(_) | Piece::Data(_) => {
                if let Some((segment, _)) = segments.last_mut() {
                    segment.push_str(piece.text());
                }
            }
        }
    }
    if !segments.iter().any(|(segment, _)| tokenizer.contains_special(segment)) {
        return Ok(tokenizer.encode(text)?);
    }
    let mut ids = Vec::new();
    for (segment, end) in segments {
        if !segment.is_empty() {
            ids.extend(tokenizer.encode_plain(&segment)?);
        }
        ids.extend(end);
    }
    Ok(ids)
}

/// How many turns to drop to save `excess` tokens. What a turn carries for the whole sample (task
/// description, placeholder) is counted as saved though the next turn takes it over, so the answer
/// can be too small, never too large.
fn turns_to_drop(ids: &[u32], end_of_chunk: u32, ends_of_turn: usize, excess: usize) -> usize {
    let ends =
        ids.iter().enumerate().filter(|(_, id)| **id == end_of_chunk).map(|(position, _)| position + 1);
    let mut ends = ends.skip(ends_of_turn - 1).step_by(ends_of_turn);
    ends.position(|end| end >= excess).map_or(1, |turn| turn + 1)
}

/// Bytes of the text in which the answers of Fuyu's turns stand, each with the space before it.
fn answer_spans(pieces: &[Piece]) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let (mut at, mut start) = (0, None);
    for piece in pieces {
        at += piece.text().len();
        match piece {
            Piece::Words(FUYU_ANSWER) => start = Some(at),
            Piece::Data(_) => spans.extend(start.take().map(|start| start..at)),
            Piece::Words(_) | Piece::Special(_) => {}
        }
    }
    spans
}

fn bad_image(error: impl Into<DataError>) -> BuildError {
    let error = error.into();
    match error {
        DataError::Image { .. } | DataError::Format { .. } => {
            BuildError::Skip(SkipReason::BadImage, error.to_string())
        }
        other => BuildError::Data(other),
    }
}
