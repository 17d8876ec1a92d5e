//! Is a data set sound? Every id, image and record is looked at, and what is wrong is counted under a named [`Reason`].
//!
//! | pass | reads | finds |
//! |---|---|---|
//! | ids | the keys of all files | unreadable files, repeated ids, control characters |
//! | checksums | every byte of otter-dataset directories | files that are not those of the manifest |
//! | images | every image, decoded | damaged, cut, odd and equal images |
//! | records | every record | ids that lead nowhere, empty texts, copies |
//! | samples | every sample, tokenized | contexts that lead nowhere, what does not fit `max_seq_len` |
//!
//! Files are read once from front to back, in parallel, and merged in their order: the report does not depend on the
//! number of threads. Memory is bounded by the number of ids (12 to 40 bytes each), not by their content.
//! What the loader would leave out or stop at is an error here, and so is an empty answer.
//!
//! Contexts are not followed: a context record brings its own text and images, never its own context. Ids that name one
//! another in a circle are therefore harmless and usual (questions about one picture do); only a sample that names
//! itself is reported.

mod finding;
mod fix;
mod histogram;
mod html;
mod id_table;
mod images;
mod records;
mod report;
mod samples;
mod source;
mod windows;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::config::{DataConfig, Group, Sampling};
use crate::error::Result;
use crate::otter_dataset::Manifest;
use crate::text::tokenizer::TextTokenizer;

pub use finding::{Example, FileCount, FindingSummary, Reason, Severity};
pub use fix::{FIXED_LIST, FixOptions, FixReport, verify_and_fix};
pub use histogram::{Bin, HistogramSummary};
pub use html::report_html;
pub(crate) use images::Thumbnail;
pub use report::{SetSummary, TableSummary, VerifyReport};

use finding::Findings;
use histogram::Histogram;
use images::{IMAGES_PER_CHUNK, ImageCheck, thumbnail_of};
use otter_io::Progress;
use records::{Copy, RecordCheck};
use samples::SampleCheck;
use source::{Sources, flag};
pub(crate) use windows::in_windows;

/// Records and samples handled by one task between two merges.
const RECORDS_PER_CHUNK: usize = 512;

/// Pictures of a kind in the HTML report.
const SAMPLE_THUMBNAILS: usize = 24;
const DUPLICATE_THUMBNAILS: usize = 8;

/// What is checked, and how the run ends.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Only the ids: no text, no token and no image is looked at.
    pub ids_only: bool,
    /// Stop at the first error.
    pub strict: bool,
    /// Examples kept for each reason.
    pub max_examples: usize,
    /// Make small pictures for [`report_html`].
    pub thumbnails: bool,
    /// Most frames of a media item that the model has embeddings for.
    pub max_frames: Option<usize>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { ids_only: false, strict: false, max_examples: 5, thumbnails: false, max_frames: None }
    }
}

/// Looks at everything that a configuration names. Without a tokenizer nothing is said about tokens.
///
/// `num_samples` plays no part: each candidate is looked at once. Stages are `ids`, `checksums` (in bytes), `images`,
/// `records` and `samples`.
///
/// # Errors
/// When the configuration itself is wrong (its YAML list cannot be read, a group is unknown), or the tokenizer fails.
/// Damaged data files are findings of the report instead.
pub fn verify(
    config: &DataConfig,
    tokenizer: Option<&Arc<TextTokenizer>>,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<VerifyReport> {
    let mut verifier = Verifier::open(config, tokenizer, options, progress)?;
    verifier.run(progress)?;
    Ok(verifier.into_report())
}

/// A run and what it has found so far.
pub(crate) struct Verifier<'a> {
    config: DataConfig,
    tokenizer: Option<&'a Arc<TextTokenizer>>,
    options: VerifyOptions,
    sources: Sources,
    findings: Findings,
    histograms: Histograms,
    usable_samples: Vec<u64>,
    record_copies: Vec<Copy>,
    image_copies: Vec<Copy>,
    thumbnails: report::Thumbnails,
    begin: Instant,
}

/// Everything that is measured.
#[derive(Default)]
struct Histograms {
    tokens: Histogram,
    trained_tokens: Histogram,
    instruction_characters: Histogram,
    answer_characters: Histogram,
    images_per_record: Histogram,
    context: Histogram,
    width: Histogram,
    height: Histogram,
    image_bytes: Histogram,
}

impl<'a> Verifier<'a> {
    fn open(
        config: &DataConfig,
        tokenizer: Option<&'a Arc<TextTokenizer>>,
        options: &VerifyOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        config.validate()?;
        let begin = Instant::now();
        progress(Progress { stage: "ids", done: 0, total: 0 });
        // The order of an epoch plays no part here.
        let config = DataConfig { sampling: Some(Sampling::Sequential), ..config.clone() };
        let mut findings = Findings::new(options.max_examples);
        let sources = Sources::open(&config, &mut findings)?;
        Ok(Self {
            config,
            tokenizer: tokenizer.filter(|_| !options.ids_only),
            options: options.clone(),
            usable_samples: vec![0; sources.sets.len()],
            sources,
            findings,
            histograms: Histograms::default(),
            record_copies: Vec::new(),
            image_copies: Vec::new(),
            thumbnails: report::Thumbnails::default(),
            begin,
        })
    }

    /// A configuration of which nothing is a sample is an error: whoever goes on would train on nothing.
    fn emptiness(&mut self, _progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let any_sample = self.sources.sets.iter().any(|opened| opened.samples() > 0);
        for opened in &self.sources.sets {
            let found = match &opened.set.train {
                _ if opened.set.instructions.is_empty() => "it holds no record",
                // Unreadable ones were reported.
                _ if opened.train_unreadable => continue,
                Some(train) if train.is_empty() => "its train file lists no sample",
                None if opened.samples() == 0 && !any_sample => "all its records are marked `example_only`",
                _ => continue,
            };
            let file = opened.file;
            self.findings
                .add(Reason::EmptySet, file, "", || (self.sources.file_name(file), found.to_owned()));
        }
        Ok(())
    }

    /// All passes, or those up to the first error.
    fn run(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        type Pass<'a> = fn(&mut Verifier<'a>, &mut dyn FnMut(Progress<'_>)) -> Result<()>;
        let passes: [Pass<'a>; 6] = [
            Self::checksums,
            Self::images,
            Self::records,
            Self::emptiness,
            Self::samples,
            Self::unused_images,
        ];
        for pass in passes {
            if self.stops() {
                break;
            }
            pass(self, progress)?;
        }
        Ok(())
    }

    fn stops(&self) -> bool {
        self.options.strict && self.findings.first_error().is_some()
    }

    /// The files of otter-dataset directories against their manifests.
    fn checksums(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        if self.options.ids_only {
            return Ok(());
        }
        let mut listed = Vec::new();
        for (directory, file) in self.sources.otter_datasets() {
            // A directory whose manifest cannot be read was reported when it was opened.
            if let Ok(manifest) = Manifest::read(&directory) {
                listed.extend(manifest.files.into_iter().map(|entry| (directory.clone(), file, entry)));
            }
        }
        let total = listed.iter().map(|(.., entry)| entry.bytes).sum();
        let mut done = 0;
        for (directory, file, entry) in listed {
            let checked = entry.verify(&directory, &mut |bytes| {
                done += bytes;
                progress(Progress { stage: "checksums", done, total });
            });
            if let Err(error) = checked {
                self.findings.add(Reason::ChangedFile, file, &entry.name, || {
                    (directory.join(&entry.name).display().to_string(), source::message_of(&error))
                });
            }
            if self.stops() {
                break;
            }
        }
        Ok(())
    }

    fn images(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        if self.options.ids_only {
            return Ok(());
        }
        let total: u64 = self.sources.tables.iter().map(|opened| opened.table.len() as u64).sum();
        let step = if self.options.thumbnails { (total as usize / SAMPLE_THUMBNAILS).max(1) } else { 0 };
        let one_large = Mutex::new(());
        let mut contents: Vec<(u64, (u32, u32))> = Vec::new();
        let mut before = 0;
        for number in 0..self.sources.tables.len() {
            let mut bad = Vec::new();
            let opened = &self.sources.tables[number];
            let check = ImageCheck {
                rules: self.config.switches().image_rules,
                opened,
                max_examples: self.options.max_examples,
                thumbnail_step: step as u32,
                one_large: &one_large,
            };
            let (findings, histograms) = (&mut self.findings, &mut self.histograms);
            let thumbnails = &mut self.thumbnails.samples;
            in_windows(
                opened.table.len(),
                IMAGES_PER_CHUNK,
                |entries| check.run(entries),
                || opened.table.release_pages(),
                |checked, done| {
                    findings.merge(checked.findings);
                    histograms.width.merge(&checked.width);
                    histograms.height.merge(&checked.height);
                    histograms.image_bytes.merge(&checked.bytes);
                    contents
                        .extend(checked.contents.iter().map(|&(hash, entry)| (hash, (number as u32, entry))));
                    bad.extend(checked.bad);
                    thumbnails.extend(checked.thumbnails);
                    progress(Progress { stage: "images", done: before + done as u64, total });
                    !(self.options.strict && findings.first_error().is_some())
                },
            )?;
            before += opened.table.len() as u64;
            self.sources.tables[number].bad.extend(bad);
            if self.stops() {
                return Ok(());
            }
        }
        self.thumbnails.samples.truncate(SAMPLE_THUMBNAILS);
        self.image_copies = records::copies(contents);
        self.report_image_copies()
    }

    fn report_image_copies(&mut self) -> Result<()> {
        for (number, copy) in self.image_copies.iter().enumerate() {
            let table = |place: (u32, u32)| &self.sources.tables[place.0 as usize];
            // The ids are only needed for examples.
            let id = |place: (u32, u32)| match number < self.options.max_examples {
                true => table(place).table.id(place.1 as usize).map(Cow::into_owned),
                false => Ok(String::new()),
            };
            let (own, first) = (id(copy.place)?, id(copy.first)?);
            self.findings.add(Reason::DuplicateImage, table(copy.place).file, &own, || {
                let message =
                    format!("the same pixels as {first} of {}", table(copy.first).table.path().display());
                (table(copy.place).table.path().display().to_string(), message)
            });
        }
        if self.options.thumbnails {
            let picture = |place: (u32, u32)| {
                thumbnail_of(&self.config, &self.sources.tables[place.0 as usize], place.1)
            };
            let copies = self.image_copies.iter().take(DUPLICATE_THUMBNAILS);
            self.thumbnails.duplicates =
                copies.filter_map(|copy| picture(copy.first).zip(picture(copy.place))).collect();
        }
        Ok(())
    }

    fn records(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let total: u64 = self.sources.sets.iter().map(|opened| opened.set.instructions.len() as u64).sum();
        let mut contents: Vec<(u64, (u32, u32))> = Vec::new();
        let mut before = 0;
        for number in 0..self.sources.sets.len() {
            let count = self.sources.sets[number].set.instructions.len();
            let check = RecordCheck {
                config: &self.config,
                tokenizer: self.tokenizer.map(Arc::as_ref),
                sources: &self.sources,
                ids_only: self.options.ids_only,
                max_examples: self.options.max_examples,
            };
            let (findings, histograms) = (&mut self.findings, &mut self.histograms);
            let mut example_only = 0;
            in_windows(
                count,
                RECORDS_PER_CHUNK,
                |entries| check.run(number, entries),
                || self.sources.sets[number].set.instructions.release_pages(),
                |checked, done| {
                    findings.merge(checked.findings);
                    histograms.instruction_characters.merge(&checked.instruction_characters);
                    histograms.answer_characters.merge(&checked.answer_characters);
                    histograms.images_per_record.merge(&checked.images);
                    example_only += checked.example_only;
                    contents
                        .extend(checked.contents.iter().map(|&(hash, entry)| (hash, (number as u32, entry))));
                    progress(Progress { stage: "records", done: before + done as u64, total });
                    !(self.options.strict && findings.first_error().is_some())
                },
            )?;
            before += count as u64;
            self.sources.sets[number].example_only = example_only;
            if self.stops() {
                return Ok(());
            }
        }
        self.record_copies = records::copies(contents);
        self.report_record_copies()
    }

    fn report_record_copies(&mut self) -> Result<()> {
        let id = |place: (u32, u32)| {
            let instructions = &self.sources.sets[place.0 as usize].set.instructions;
            instructions.id(place.1 as usize).map(|id| id.into_owned())
        };
        for (number, copy) in self.record_copies.iter().enumerate() {
            let set = &self.sources.sets[copy.place.0 as usize];
            set.add_flags(copy.place.1, flag::COPY);
            // The ids are only needed for examples.
            let own = if number < self.options.max_examples { id(copy.place)? } else { String::new() };
            let first = if number < self.options.max_examples { id(copy.first)? } else { String::new() };
            self.findings.add(Reason::DuplicateRecord, set.file, &own, || {
                let other = self.sources.file_name(self.sources.sets[copy.first.0 as usize].file);
                (
                    self.sources.file_name(set.file),
                    format!("the same instruction, answer and images as {first} of {other}"),
                )
            });
        }
        Ok(())
    }

    fn samples(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let total: u64 = self.sources.sets.iter().map(|opened| opened.candidates() as u64).sum();
        let mut before = 0;
        for number in 0..self.sources.sets.len() {
            let check = SampleCheck {
                config: &self.config,
                switches: self.config.switches(),
                tokenizer: self.tokenizer.map(Arc::as_ref),
                sources: &self.sources,
                max_examples: self.options.max_examples,
                max_frames: self.options.max_frames,
            };
            let count = self.sources.sets[number].candidates();
            let (findings, histograms) = (&mut self.findings, &mut self.histograms);
            let usable = &mut self.usable_samples[number];
            in_windows(
                count,
                RECORDS_PER_CHUNK,
                |entries| check.run(number, entries),
                || self.sources.release_records(),
                |checked, done| {
                    findings.merge(checked.findings);
                    histograms.context.merge(&checked.context);
                    histograms.tokens.merge(&checked.tokens);
                    histograms.trained_tokens.merge(&checked.trained_tokens);
                    *usable += checked.usable;
                    progress(Progress { stage: "samples", done: before + done as u64, total });
                    !(self.options.strict && findings.first_error().is_some())
                },
            )?;
            before += count as u64;
            if self.stops() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn unused_images(&mut self, _progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        // Where a set could not be read, its images only look unused.
        if !Group::ALL.iter().all(|group| self.sources.records_complete(*group)) {
            return Ok(());
        }
        for opened in &self.sources.tables {
            for entry in (0..opened.table.len()).filter(|entry| !opened.ids.is_used(*entry as u32)) {
                let id = opened.table.id(entry)?;
                self.findings.add(Reason::UnusedImage, opened.file, &id, || {
                    (opened.table.path().display().to_string(), "no record refers to it".into())
                });
            }
        }
        Ok(())
    }

    fn into_report(self) -> VerifyReport {
        report::build(self)
    }
}
