//! All sets of a configuration as one list of samples.
//!
//! Files stay mapped; what is held per sample is eight bytes and the key index of its file.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use crate::batch::epoch_order::Mixture;
use crate::batch::report::DataReport;
use crate::config::{DataConfig, Group, OnBadSample, Switches};
use crate::error::{DataError, Result, SkipReason, excerpt};
use crate::sample::builder::{BuildError, SampleBuilder, Turn, roles};
use crate::sample::frame_cache::{FrameCache, FrameCounts};
use crate::sample::python_random::resample_positions;
use crate::sample::record::Record;
use crate::sample::set::Set;
use crate::sample::{Frame, Sample};
use crate::streams::pretraining::{Stream, StreamContext};
use crate::tables::image_table::ImageTable;
use crate::tables::instruction_table::{ContextTable, InstructionTable};
use crate::text::prompt::{ANSWER_TOKEN, END_OF_CHUNK_TOKEN, IMAGE_TOKEN, InstructionFormat};
use crate::text::tokenizer::TextTokenizer;

/// Entry of the train file if the set has one, otherwise of the instruction file. Numbers beyond the sets are streams.
#[derive(Clone, Copy)]
struct SampleRef {
    set: u32,
    entry: u32,
}

/// Entries of a set that may be samples.
enum Candidates {
    All(usize),
    Chosen(Vec<u32>),
}

impl Candidates {
    fn len(&self) -> usize {
        match self {
            Self::All(count) => *count,
            Self::Chosen(entries) => entries.len(),
        }
    }

    fn entry(&self, place: usize) -> u32 {
        match self {
            Self::All(_) => place as u32,
            Self::Chosen(entries) => entries[place],
        }
    }
}

/// All sets of a configuration as one list of samples.
pub struct Dataset {
    config: DataConfig,
    switches: Switches,
    tokenizer: Arc<TextTokenizer>,
    sets: Vec<Set>,
    tables: Vec<ImageTable>,
    streams: Vec<Stream>,
    frames: FrameCache,
    samples: Vec<SampleRef>,
    mixture: Mixture,
}

impl Dataset {
    /// Opens all files of the configuration. Relative paths are taken from the working folder;
    /// call [`DataConfig::resolve`] first to take them from the configuration file's folder.
    pub fn open(config: &DataConfig, tokenizer: Arc<TextTokenizer>) -> Result<Self> {
        config.validate()?;
        check_special_tokens(&tokenizer, config.instruction_format)?;
        let mut dataset = Self {
            config: config.clone(),
            switches: config.switches(),
            tokenizer,
            sets: Vec::new(),
            tables: Vec::new(),
            streams: Vec::new(),
            frames: FrameCache::new(config.frame_cache_mib << 20),
            samples: Vec::new(),
            mixture: Mixture::default(),
        };
        let mut shares = Vec::new();
        let mut picks = Vec::new();
        let mut table_paths: Vec<PathBuf> = Vec::new();
        for set in config.resolved_sets()? {
            let table = match set.images.as_ref().filter(|_| set.group != Group::TextOnly) {
                None => None,
                Some(path) => Some(match table_paths.iter().position(|known| known == path) {
                    // Several sets may share one image file.
                    Some(known) => known,
                    None => {
                        dataset.tables.push(ImageTable::open(path, config.parquet_cache_mib << 20)?);
                        table_paths.push(path.clone());
                        table_paths.len() - 1
                    }
                }),
            };
            let instructions = InstructionTable::open(&set.instructions)?;
            let train = set.train.as_deref().map(ContextTable::open).transpose()?;
            dataset.sets.push(Set {
                name: set.name,
                group: set.group,
                instructions,
                train,
                table,
                task_descriptions: set.task_description,
            });
            picks.push((set.num_samples, set.weight, set.languages));
        }
        // With all sets open: an entry of a train file may have its record in another one.
        for (number, (num_samples, weight, languages)) in picks.into_iter().enumerate() {
            let candidates = dataset.candidates(number, &languages)?;
            let reference = |entry| SampleRef { set: number as u32, entry };
            let start = dataset.samples.len();
            let positions = resample_positions(candidates.len(), num_samples).into_iter();
            dataset.samples.extend(positions.map(|place| reference(candidates.entry(place))));
            shares.push((dataset.sets[number].name.clone(), start..dataset.samples.len(), weight));
        }
        dataset.open_streams(&mut shares)?;
        if dataset.samples.is_empty() {
            return Err(DataError::Config(
                "the data sets hold no sample; check the instruction files, or the files of the streams"
                    .into(),
            ));
        }
        if u32::try_from(dataset.samples.len()).is_err() {
            return Err(DataError::Config("more than 4294967295 samples; lower num_samples".into()));
        }
        let shares = shares
            .into_iter()
            .map(|(name, range, weight)| (name, range.start as u32..range.end as u32, weight));
        dataset.mixture = Mixture::new(shares.collect(), config.samples_per_epoch)?;
        Ok(dataset)
    }

    /// The entries of a set that may be samples: all, or those whose records say one of the languages.
    fn candidates(&self, number: usize, languages: &[String]) -> Result<Candidates> {
        let set = &self.sets[number];
        let count = set.train.as_ref().map_or(set.instructions.len(), ContextTable::len);
        if languages.is_empty() {
            return Ok(Candidates::All(count));
        }
        let language = |entry: usize| -> Result<Option<String>> {
            let place = match &set.train {
                None => Some((set, entry)),
                Some(train) => self.find_record(set, &train.id(entry)?),
            };
            // A record that cannot be read says no language; `verify` tells why.
            Ok(place.and_then(|(set, entry)| set.instructions.record(entry).ok()?.language))
        };
        let said = (0..count).into_par_iter().map(language).collect::<Result<Vec<_>>>()?;
        self.sets.iter().for_each(|set| set.instructions.release_pages());
        let is_wanted = |code: &str| languages.iter().any(|wanted| wanted.eq_ignore_ascii_case(code));
        let chosen: Vec<u32> = (0u32..)
            .zip(&said)
            .filter(|(_, code)| code.as_deref().is_some_and(is_wanted))
            .map(|(entry, _)| entry)
            .collect();
        if chosen.is_empty() {
            let known: BTreeSet<&str> = said.iter().flatten().map(String::as_str).collect();
            let known = match known.len() {
                0 => "say no language".to_owned(),
                _ => format!("say {}", known.into_iter().take(40).collect::<Vec<_>>().join(", ")),
            };
            return Err(DataError::Config(format!(
                "set {}: `languages` asks for {}, but its records {known}; choose among those, or leave `languages` out",
                set.name,
                languages.join(", ")
            )));
        }
        Ok(Candidates::Chosen(chosen))
    }

    /// Opens the streams; each adds its name, its range of samples and its weight to `shares`.
    fn open_streams(&mut self, shares: &mut Vec<(String, Range<usize>, Option<f64>)>) -> Result<()> {
        let mut first_table = self.tables.len();
        for config in &self.config.streams {
            let stream = Stream::open(config, first_table, self.config.parquet_cache_mib << 20)?;
            first_table = stream.end_table();
            let set = (self.sets.len() + self.streams.len()) as u32;
            let positions = resample_positions(stream.len(), config.num_samples);
            let start = self.samples.len();
            self.samples.extend(positions.into_iter().map(|entry| SampleRef { set, entry: entry as u32 }));
            shares.push((stream.name.clone(), start..self.samples.len(), config.weight));
            self.streams.push(stream);
        }
        Ok(())
    }

    /// How the sets are mixed.
    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// Number of samples, usable or not. An epoch has [`Mixture::epoch_len`] of them.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &DataConfig {
        &self.config
    }

    /// The switches in force.
    pub fn switches(&self) -> &Switches {
        &self.switches
    }

    /// The tokenizer it was opened with.
    pub fn tokenizer(&self) -> &Arc<TextTokenizer> {
        &self.tokenizer
    }

    /// Instruction id of a sample, without building it.
    pub fn sample_id(&self, index: usize) -> Result<String> {
        if let Some((stream, entry)) = self.locate_in_stream(index) {
            return stream.id(entry);
        }
        let (set, entry) = self.locate(index)?;
        set.id(entry).map(Cow::into_owned)
    }

    /// Name, group and number of samples of each set, then of each stream.
    pub fn set_sizes(&self) -> Vec<(String, Group, usize)> {
        let mut counts = vec![0; self.sets.len() + self.streams.len()];
        for sample in &self.samples {
            counts[sample.set as usize] += 1;
        }
        let sets = self.sets.iter().map(|set| (set.name.clone(), set.group));
        let streams = self.streams.iter().map(|stream| (stream.name.clone(), stream.group));
        sets.chain(streams).zip(counts).map(|((name, group), count)| (name, group, count)).collect()
    }

    /// Sample `index` as in epoch 0, with its images decoded.
    pub fn sample(&self, index: usize) -> Result<Sample> {
        self.sample_in_epoch(index, 0, true)
    }

    /// Sample `index` of an epoch. Without pixels, frames name their images but hold none, and the
    /// image tables are not read.
    pub fn sample_in_epoch(&self, index: usize, epoch: u64, with_pixels: bool) -> Result<Sample> {
        if let Some((stream, entry)) = self.locate_in_stream(index) {
            return self.stream_sample(stream, entry, index, epoch, with_pixels);
        }
        let (set, entry) = self.locate(index)?;
        let id = set.id(entry)?;
        let failed = |reason, message: String| DataError::Sample {
            id: excerpt(&id),
            file: set.instructions.path().to_owned(),
            reason,
            message: excerpt(&message),
        };
        let query = match &set.train {
            None => self.parse(set, entry),
            Some(_) => self
                .find_record(set, &id)
                .ok_or_else(|| {
                    (
                        SkipReason::MissingInstruction,
                        "the train file lists it, but no instruction file of its group has it".into(),
                    )
                })
                .and_then(|(set, entry)| self.parse(set, entry)),
        };
        let query = query.map_err(|(reason, message)| failed(reason, message))?;
        if set.train.is_none() && query.example_only {
            let message = "it is marked `example_only`: it serves others as an example and is no sample";
            return Err(failed(SkipReason::ExampleOnly, message.into()));
        }
        let context_ids = match &set.train {
            Some(train) => train.context(entry).map_err(|message| failed(SkipReason::BadRecord, message))?,
            None if self.config.populate_rel_ins => query.rel_ins_ids.clone(),
            None => Vec::new(),
        };
        let mut turns = Vec::with_capacity(context_ids.len() + 1);
        for context_id in context_ids {
            let (context_set, context_entry) = self.find_record(set, &context_id).ok_or_else(|| {
                failed(
                    SkipReason::MissingContext,
                    format!("its context names {context_id}, which no instruction file of its group has; remove it or add the record"),
                )
            })?;
            let record = self
                .parse(context_set, context_entry)
                .map_err(|(reason, message)| failed(reason, format!("context {context_id}: {message}")))?;
            turns.push(Turn { id: context_id, record });
        }
        turns.push(Turn { id: id.to_string(), record: query });
        let builder = SampleBuilder {
            config: &self.config,
            switches: &self.switches,
            tokenizer: &self.tokenizer,
            set,
            tables: &self.tables,
            frames: &self.frames,
            table_order: self.table_order(set),
            index: index as u64,
            epoch,
        };
        builder.build(turns, with_pixels).map_err(|error| match error {
            BuildError::Skip(reason, message) => failed(reason, message),
            BuildError::Data(error) => error,
        })
    }

    fn stream_sample(
        &self,
        stream: &Stream,
        entry: usize,
        index: usize,
        epoch: u64,
        with_pixels: bool,
    ) -> Result<Sample> {
        let context = StreamContext {
            config: &self.config,
            switches: &self.switches,
            tokenizer: &self.tokenizer,
            index: index as u64,
            epoch,
            with_pixels,
        };
        stream.sample(entry, &context).map_err(|error| match error {
            BuildError::Data(error) => error,
            BuildError::Skip(reason, message) => DataError::Sample {
                id: stream.id(entry).unwrap_or_else(|_| entry.to_string()),
                file: stream.path(entry).to_owned(),
                reason,
                message,
            },
        })
    }

    /// Id of a frame's image and where it is, for messages.
    pub fn frame_name(&self, frame: &Frame) -> String {
        match self.tables.get(frame.table) {
            Some(table) => format!("{} of {}", frame.image_id, table.path().display()),
            None => frame.image_id.clone(),
        }
    }

    /// Bytes of the decoded images that are kept for later samples, at most `frame_cache_mib`.
    pub fn frame_cache_bytes(&self) -> u64 {
        self.frames.bytes() as u64
    }

    /// Frames decoded, and found in the cache, by all samples built so far.
    pub fn frame_counts(&self) -> FrameCounts {
        self.frames.counts()
    }

    /// Builds every sample of epoch 0 and counts what can be used, without stopping at bad ones.
    pub fn check(&self, with_pixels: bool) -> Result<DataReport> {
        (0..self.len())
            .into_par_iter()
            .try_fold(DataReport::default, |mut report, index| {
                match self.sample_in_epoch(index, 0, with_pixels) {
                    Ok(_) => report.used += 1,
                    Err(error) => match error.skip_reason() {
                        Some(reason) => report.skip(reason, &error),
                        None => return Err(error),
                    },
                }
                Ok(report)
            })
            .try_reduce(DataReport::default, |mut left, right| {
                left.merge(right);
                Ok(left)
            })
    }

    /// Whether an error of one sample is counted instead of stopping the run.
    pub(crate) fn passes_over(&self, reason: SkipReason) -> bool {
        reason.always_skipped() || self.config.on_bad_sample == OnBadSample::Skip
    }

    fn locate_in_stream(&self, index: usize) -> Option<(&Stream, usize)> {
        let sample = self.samples.get(index)?;
        let stream = (sample.set as usize).checked_sub(self.sets.len())?;
        Some((&self.streams[stream], sample.entry as usize))
    }

    fn locate(&self, index: usize) -> Result<(&Set, usize)> {
        let sample = self.samples.get(index).ok_or_else(|| {
            DataError::Config(format!(
                "sample {index} does not exist; the last one is {}",
                self.len().saturating_sub(1)
            ))
        })?;
        Ok((&self.sets[sample.set as usize], sample.entry as usize))
    }

    /// The sets of the same group, the given one first: ids are unique in a file, not across files.
    fn group_of<'a>(&'a self, set: &'a Set) -> impl Iterator<Item = &'a Set> {
        let others =
            self.sets.iter().filter(move |other| other.group == set.group && !std::ptr::eq(*other, set));
        std::iter::once(set).chain(others)
    }

    fn find_record<'a>(&'a self, set: &'a Set, id: &str) -> Option<(&'a Set, usize)> {
        self.group_of(set).find_map(|set| set.instructions.find(id).map(|entry| (set, entry)))
    }

    fn table_order(&self, set: &Set) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::new();
        for table in self.group_of(set).filter_map(|set| set.table) {
            if !order.contains(&table) {
                order.push(table);
            }
        }
        order
    }

    fn parse(&self, set: &Set, entry: usize) -> Result<Record, (SkipReason, String)> {
        set.instructions.record(entry).map_err(|message| (SkipReason::BadRecord, message))
    }
}

/// The template writes special tokens as text; the tokenizer must read them as the given ids.
fn check_special_tokens(tokenizer: &TextTokenizer, format: InstructionFormat) -> Result<()> {
    let special = roles(tokenizer, format);
    for &text in format.special_tokens() {
        let id = match text {
            IMAGE_TOKEN => Some(special.image),
            ANSWER_TOKEN => Some(special.answer),
            END_OF_CHUNK_TOKEN => Some(special.endofchunk),
            other => tokenizer.token_to_id(other),
        };
        let ids = tokenizer.encode(text)?;
        let expected = id.map_or_else(|| "a single token".to_owned(), |id| format!("the single token {id}"));
        if id.is_none_or(|id| ids != [id]) {
            return Err(DataError::Tokenizer(format!(
                "{text} is read as {ids:?} but should be {expected}; add it to the tokenizer as a special token, or choose \
                 another data.instruction_format"
            )));
        }
    }
    Ok(())
}
