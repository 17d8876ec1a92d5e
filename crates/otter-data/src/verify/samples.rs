//! The samples: does each have its query and its context, and what is it in tokens?

use std::ops::Range;

use crate::config::{DataConfig, Group, InContextImages, Switches};
use crate::error::{Result, SkipReason};
use crate::sample::builder::{BuildError, SampleBuilder, Turn};
use crate::sample::frame_cache::FrameCache;
use crate::text::tokenizer::TextTokenizer;

use super::finding::{Findings, Reason};
use super::histogram::Histogram;
use super::id_table::id_hash;
use super::source::{Sources, flag};

/// Number of a set, and entry of a record in it.
type Place = (usize, u32);

/// What was found in some samples of one set.
pub(super) struct SamplesChecked {
    pub(super) findings: Findings,
    pub(super) usable: u64,
    pub(super) context: Histogram,
    pub(super) tokens: Histogram,
    pub(super) trained_tokens: Histogram,
}

/// Checks samples; the records must have been checked before.
pub(super) struct SampleCheck<'a> {
    pub(super) config: &'a DataConfig,
    pub(super) switches: Switches,
    /// Without it, and with `ids_only`, nothing is said about tokens.
    pub(super) tokenizer: Option<&'a TextTokenizer>,
    pub(super) sources: &'a Sources,
    pub(super) max_examples: usize,
    pub(super) max_frames: Option<usize>,
}

impl SampleCheck<'_> {
    pub(super) fn run(&self, set: usize, entries: Range<usize>) -> Result<SamplesChecked> {
        let mut checked = SamplesChecked {
            findings: Findings::new(self.max_examples),
            usable: 0,
            context: Histogram::default(),
            tokens: Histogram::default(),
            trained_tokens: Histogram::default(),
        };
        for entry in entries {
            if self.sample(set, entry, &mut checked)? {
                checked.usable += 1;
            }
        }
        Ok(checked)
    }

    /// Whether it can be used.
    fn sample(&self, number: usize, entry: usize, checked: &mut SamplesChecked) -> Result<bool> {
        let opened = &self.sources.sets[number];
        let set = &opened.set;
        if set.train.is_none() && opened.flags(entry as u32) & flag::EXAMPLE_ONLY != 0 {
            return Ok(false);
        }
        if set.train.is_none() && !self.config.populate_rel_ins && self.tokenizer.is_none() {
            checked.context.add(0);
            return Ok(opened.flags(entry as u32) & flag::UNUSABLE == 0);
        }
        let id = set.id(entry)?;
        let file = if set.train.is_some() { opened.train_file } else { opened.file };
        let own = id_hash(&id);
        let sources = self.sources;
        let mut add = |reason: Reason, message: &dyn Fn() -> String| {
            checked.findings.add(reason, file, &id, || (sources.file_name(file), message()));
        };
        let query = match &set.train {
            None => Some((number, entry as u32)),
            Some(_) => self.sources.find_record(number, own),
        };
        let complete = self.sources.records_complete(set.group);
        if query.is_none() && complete {
            add(Reason::MissingInstruction, &|| "no instruction file of its group has this id".into());
        }
        let context = match (&set.train, query) {
            (Some(train), _) => train.context(entry),
            (None, Some((set, entry))) if self.config.populate_rel_ins => {
                // An unreadable record was reported with the records.
                Ok(self.sources.sets[set]
                    .set
                    .instructions
                    .record(entry as usize)
                    .map_or(Vec::new(), |r| r.rel_ins_ids))
            }
            _ => Ok(Vec::new()),
        };
        let context = match context {
            Ok(context) => context,
            Err(message) => {
                add(Reason::BadContext, &|| message.clone());
                return Ok(false);
            }
        };
        let mut places = Vec::with_capacity(context.len());
        let mut usable = true;
        for (position, name) in context.iter().enumerate() {
            let hash = id_hash(name);
            if hash == own {
                add(Reason::SelfReference, &|| "its context names the sample itself".into());
            }
            if context[..position.min(REPETITION_WINDOW)].contains(name) {
                add(Reason::RepeatedContext, &|| format!("its context names {name} more than once"));
            }
            match self.sources.find_record(number, hash) {
                Some((set, entry)) => {
                    if self.sources.sets[set].flags(entry) & self.bad_as_context(opened.set.group) != 0 {
                        usable = false;
                        add(Reason::UnusableContext, &|| {
                            format!("its context names {name}, a record that cannot be used")
                        });
                    }
                    places.push((set, entry));
                }
                None if !complete => usable = false,
                None => {
                    usable = false;
                    add(Reason::MissingContext, &|| {
                        format!("its context names {name}, which no instruction file of its group has")
                    });
                }
            }
        }
        let query = query.filter(|&(set, entry)| self.sources.sets[set].flags(entry) & flag::UNUSABLE == 0);
        checked.context.add(context.len() as u64);
        match (query, usable, self.tokenizer) {
            (Some(query), true, Some(tokenizer)) => {
                self.tokens(number, entry, &id, file, (query, &context, &places), tokenizer, checked)
            }
            (query, usable, _) => Ok(query.is_some() && usable),
        }
    }

    /// The flags that make a sample unusable when one of its context records has them.
    fn bad_as_context(&self, group: Group) -> u8 {
        let shows_images =
            group == Group::ImageTextInContext && self.switches.in_context_images == InContextImages::PerTurn;
        if shows_images { flag::UNREADABLE | flag::IMAGES } else { flag::UNREADABLE }
    }

    fn tokens(
        &self,
        number: usize,
        entry: usize,
        id: &str,
        file: u32,
        (query, context, places): (Place, &[String], &[Place]),
        tokenizer: &TextTokenizer,
        checked: &mut SamplesChecked,
    ) -> Result<bool> {
        let opened = &self.sources.sets[number];
        let names = context.iter().map(String::as_str).chain([id]);
        let mut turns = Vec::with_capacity(context.len() + 1);
        for (name, &(set, entry)) in names.zip(places.iter().chain([&query])) {
            // Unreadable ones do not come here.
            let Ok(record) = self.sources.sets[set].set.instructions.record(entry as usize) else {
                return Ok(false);
            };
            turns.push(Turn { id: name.to_owned(), record });
        }
        // Samples are built without pixels here.
        let frames = FrameCache::new(0);
        let builder = SampleBuilder {
            frames: &frames,
            config: self.config,
            switches: &self.switches,
            tokenizer,
            set: &opened.set,
            tables: &[],
            table_order: Vec::new(),
            index: entry as u64,
            epoch: 0,
        };
        let name = || self.sources.file_name(file);
        match builder.build(turns, false) {
            Ok(sample) => {
                let frames = sample.media.iter().map(|item| item.frames.len()).max().unwrap_or(0);
                if let Some(most) = self.max_frames.filter(|&most| frames > most) {
                    self.sources.sets[query.0].add_flags(query.1, flag::TOKENS);
                    checked.findings.add(Reason::TooManyFrames, file, id, || {
                        (name(), format!("a media item has {frames} frames; the model takes {most}"))
                    });
                    return Ok(false);
                }
                checked.tokens.add(sample.input_ids.len() as u64);
                checked.trained_tokens.add(sample.label_tokens() as u64);
                if sample.dropped_turns > 0 {
                    checked.findings.add(Reason::ContextDropped, file, id, || {
                        let (dropped, all, limit) =
                            (sample.dropped_turns, context.len(), self.config.max_seq_len);
                        (
                            name(),
                            format!(
                                "{dropped} of {all} context turns are left out to stay within {limit} tokens"
                            ),
                        )
                    });
                }
                Ok(true)
            }
            Err(BuildError::Skip(reason, message)) => {
                let reason = match reason {
                    SkipReason::TooLong => Reason::TooLong,
                    SkipReason::NoLabelTokens => Reason::NoLabelTokens,
                    // A context record without images, in a set that was not flagged for it.
                    _ => Reason::UnusableContext,
                };
                if reason != Reason::UnusableContext {
                    self.sources.sets[query.0].add_flags(query.1, flag::TOKENS);
                }
                checked.findings.add(reason, file, id, || (name(), message));
                Ok(false)
            }
            Err(BuildError::Data(error)) => Err(error),
        }
    }
}

/// Repetitions are looked for among so many ids of a context: they are short, unless something is wrong.
const REPETITION_WINDOW: usize = 256;
