//! A whole run: records, vectors, neighbors, examples, the train file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use otter_data::{ContextTable, ImageTable, InstructionTable};
use otter_io::AtomicFile;
use otter_io::hash::{FNV_OFFSET, fnv1a};
use rayon::prelude::*;

use super::error::{Result, RetrieveError};
use super::options::{
    EmbeddingSource, ExampleOrder, Heuristic, Observer, RetrieveOptions, RetrieveReport, Stage,
};
use super::work::Work;
use crate::retrieve::encode::embed::{Encoder, embed};
use crate::retrieve::search::neighbors::{Index, Neighbors};
use crate::retrieve::search::plan::SearchPlan;
use crate::retrieve::search::top_k::Neighbor;
use crate::retrieve::select::random;
use crate::retrieve::select::records::{ItemKind, NO_ITEM, Records, Unusable};
use crate::retrieve::select::rules::{Picked, Rules};
use crate::retrieve::select::scene::Scenes;
use crate::retrieve::vectors::Vectors;

/// Most examples of a query.
pub const MOST_EXAMPLES: usize = 1024;
/// Queries whose examples are picked at once.
const PICK_ROWS: usize = 4096;
/// Neighbors kept for each item, above twice the number of examples.
const SPARE_NEIGHBORS: usize = 16;
/// How much deeper a search goes when rules turned away too many neighbors, and how deep at most.
const DEEPER: usize = 16;
const DEEPEST: usize = 4096;
/// Memory of the page cache of parquet images.
const IMAGE_CACHE: usize = 64 << 20;

/// Picks examples for the queries of an instruction set and writes them as a train file, `{id: [ids]}`.
///
/// What was computed stays in the work folder until the run is done; the same call goes on from there, and gives the file
/// that an uninterrupted run gives.
///
/// # Errors
/// When a file is missing, damaged or cannot be written, options do not fit, or the observer stopped the run.
pub fn retrieve(
    set: &Path,
    options: &RetrieveOptions,
    observer: &mut dyn Observer,
) -> Result<RetrieveReport> {
    if options.k == 0 || options.k > MOST_EXAMPLES {
        let problem =
            format!("{} examples for each query; between 1 and {MOST_EXAMPLES} are possible", options.k);
        return Err(RetrieveError::Options(problem));
    }
    let table = InstructionTable::open(set)?;
    let queries = options.queries.as_deref().map(ContextTable::open).transpose()?;
    let mut run = Run {
        table: &table,
        options,
        work: options.work.clone().unwrap_or_else(|| work_beside(&options.out)),
        report: RetrieveReport { records: table.len() as u64, ..RetrieveReport::default() },
        observer,
    };
    let images = run.images()?;
    let records = run.records(&images)?;
    match &options.heuristic {
        Heuristic::Text(source) => run.by_similarity(&records, &images, source, false, queries.as_ref())?,
        Heuristic::Image(source) => run.by_similarity(&records, &images, source, true, queries.as_ref())?,
        Heuristic::Scene => {
            let started = Instant::now();
            let scenes = Scenes::new(&table, &records);
            run.spent("index", started);
            let rules = Rules { allow_same_image: true, ..run.rules(usize::MAX) };
            run.write(&records, &rules, queries.as_ref(), |query, picked| {
                scenes.offer(&table, &records, query, picked);
            })?;
        }
        Heuristic::Random => {
            let rules = run.rules(usize::MAX);
            run.write(&records, &rules, queries.as_ref(), |query, picked| {
                random::offer(&records, options.seed, query, options.k, picked);
            })?;
        }
    }
    Ok(run.report)
}

/// `out` with `.work` behind its name.
fn work_beside(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".work");
    out.with_file_name(name)
}

struct Run<'a> {
    table: &'a InstructionTable,
    options: &'a RetrieveOptions,
    work: PathBuf,
    report: RetrieveReport,
    observer: &'a mut dyn Observer,
}

impl Run<'_> {
    fn images(&self) -> Result<Vec<ImageTable>> {
        let wanted = matches!(self.options.heuristic, Heuristic::Image(EmbeddingSource::Tower { .. }));
        if !wanted {
            return Ok(Vec::new());
        }
        if self.options.images.is_empty() {
            return Err(RetrieveError::Options(
                "the pictures are not given; name their file or folder".into(),
            ));
        }
        self.options.images.iter().map(|path| Ok(ImageTable::open(path, IMAGE_CACHE)?)).collect()
    }

    fn records(&mut self, images: &[ImageTable]) -> Result<Records> {
        let kind = match &self.options.heuristic {
            Heuristic::Text(_) => ItemKind::Text,
            Heuristic::Image(EmbeddingSource::Precomputed { .. }) => ItemKind::ImageId,
            Heuristic::Image(_) => ItemKind::Image(images),
            Heuristic::Scene | Heuristic::Random => ItemKind::Nothing,
        };
        let (started, total) = (Instant::now(), self.table.len() as u64);
        let observer = &mut *self.observer;
        let read = &mut |done| observer.progress(Stage::Read, done as u64, total);
        let Some(records) = Records::read(self.table, kind, read)? else { return Err(self.stopped()) };
        for &(entry, reason) in &records.unusable {
            let count = self.report.unusable.entry(reason.name()).or_default();
            *count += 1;
            if *count == 1 {
                let id = self.table.id(entry as usize)?.into_owned();
                self.report.examples.insert(reason.name(), id);
            }
        }
        self.report.example_only = records.example_only.len() as u64;
        self.report.items = records.items() as u64;
        self.spent("read", started);
        Ok(records)
    }

    fn by_similarity(
        &mut self,
        records: &Records,
        images: &[ImageTable],
        source: &EmbeddingSource,
        pictures: bool,
        queries: Option<&ContextTable>,
    ) -> Result<()> {
        let options = self.options;
        let mut work = Work::open(&self.work)?;
        let started = Instant::now();
        let encoder = Encoder::open(source, pictures, self.table, records)?;
        let (items, observer) = (records.items() as u64, &mut *self.observer);
        let embedded = &mut |done| observer.progress(Stage::Embed, done as u64, items);
        let vectors = embed(&encoder, self.table, images, records, &mut work, embedded)?;
        let Some(vectors) = vectors else { return Err(self.stopped()) };
        drop(encoder);
        self.spent("embed", started);
        let without: u64 = (0..records.items())
            .filter(|&item| !vectors.is_usable(item))
            .map(|item| records.members(item).len() as u64)
            .sum();
        if without > 0 {
            self.report.unusable.insert("no_embedding", without);
        }

        let per_item = (2 * options.k + SPARE_NEIGHBORS).min(records.items().max(1));
        let wanted = queries.map(|queries| self.wanted(records, queries)).transpose()?;
        let asked = wanted.as_ref().map_or(records.items(), |(_, asked, _)| *asked);
        let plan = SearchPlan::new(
            records.items(),
            asked,
            vectors.width(),
            per_item,
            options.index,
            options.lists,
            options.probes,
        );
        self.observer.plan(&plan);
        self.report.index = Some(plan.index);
        let mut key =
            format!("1 {:?} {per_item} {} {} {}", plan.index, plan.lists, plan.probes, options.seed);
        if let Some((_, _, hash)) = &wanted {
            key += &format!(" of {hash:016x}");
        }
        let (index_path, neighbors_path) = work.search(&key)?;
        let started = Instant::now();
        let observer = &mut *self.observer;
        let built = &mut |part: f64| observer.progress(Stage::Index, (part * 1000.0) as u64, 1000);
        let index = Index::open(&vectors, &plan, options.seed, &index_path, built)?;
        let Some(index) = index else { return Err(self.stopped()) };
        self.spent("index", started);
        let started = Instant::now();
        let observer = &mut *self.observer;
        let flags = wanted.as_ref().map(|(flags, ..)| flags.as_slice());
        let searched = &mut |done, total| observer.progress(Stage::Search, done as u64, total as u64);
        let found = Neighbors::search(&index, &vectors, per_item, flags, &neighbors_path, searched)?;
        let Some(found) = found else { return Err(self.stopped()) };
        self.spent("search", started);

        // One example a picture, whichever ids it has; any number an instruction, unless told otherwise.
        let per_item = if pictures { 1 } else { options.per_instruction.unwrap_or(usize::MAX) };
        let rules = self.rules(per_item);
        let skip_own = pictures && !rules.allow_same_image;
        let deeper = Deeper { index: &index, vectors: &vectors, found: &found };
        let offer = |query: usize, picked: &mut Picked<'_>| {
            if records.item[query] != NO_ITEM {
                picked.offer_items(&found.of(records.item[query] as usize), skip_own);
            }
        };
        let more =
            |unsatisfied: &mut [(usize, Picked<'_>)]| deeper.search(records, &rules, skip_own, unsatisfied);
        self.write_with(records, &rules, queries, offer, more)?;
        drop((found, vectors));
        if !options.keep_work {
            work.clear();
        }
        Ok(())
    }

    /// Which items the queries need neighbors of, how many these are, and a hash of which.
    fn wanted(&self, records: &Records, queries: &ContextTable) -> Result<(Vec<bool>, usize, u64)> {
        let mut wanted = vec![false; records.items()];
        for query in 0..queries.len() {
            let entry = self.table.find(&queries.id(query)?).filter(|&entry| entry < records.len());
            if let Some(item) = entry.map(|entry| records.item[entry]).filter(|&item| item != NO_ITEM) {
                wanted[item as usize] = true;
            }
        }
        let items = (0u64..).zip(&wanted).filter(|(_, wanted)| **wanted).map(|(item, _)| item);
        let hash = fnv1a(FNV_OFFSET, items.clone().flat_map(u64::to_le_bytes));
        let count = items.count();
        Ok((wanted, count, hash))
    }

    fn rules(&self, per_item: usize) -> Rules {
        let options = self.options;
        Rules { k: options.k, allow_same_image: options.allow_same_image, per_item, seed: options.seed }
    }

    fn write(
        &mut self,
        records: &Records,
        rules: &Rules,
        queries: Option<&ContextTable>,
        offer: impl Fn(usize, &mut Picked<'_>) + Sync,
    ) -> Result<()> {
        self.write_with(records, rules, queries, offer, |_| 0)
    }

    /// Picks with `offer`, then with `more` for those that lack examples, and writes the train file.
    fn write_with<'r>(
        &mut self,
        records: &'r Records,
        rules: &'r Rules,
        queries: Option<&ContextTable>,
        offer: impl Fn(usize, &mut Picked<'r>) + Sync,
        more: impl Fn(&mut [(usize, Picked<'r>)]) -> u64,
    ) -> Result<()> {
        let started = Instant::now();
        let path = &self.options.out;
        let failed = |source| RetrieveError::Io { path: path.clone(), action: "write", source };
        let mut file = AtomicFile::create(path).map_err(failed)?;
        file.write_all(b"{").map_err(failed)?;
        let bad: std::collections::HashSet<u32> = records
            .unusable
            .iter()
            .filter(|(_, reason)| *reason == Unusable::BadRecord)
            .map(|&(entry, _)| entry)
            .collect();
        let total = queries.map_or(records.len(), ContextTable::len);
        let no_queries = if queries.is_some() { &[][..] } else { &records.example_only[..] };
        self.report.queries = (total - no_queries.len()) as u64;
        let (mut similarity, mut similar) = (0.0, 0_u64);
        for first in (0..total).step_by(PICK_ROWS) {
            if !self.observer.progress(Stage::Pick, first as u64, total as u64) {
                return Err(self.stopped());
            }
            let mut asked = Vec::with_capacity(PICK_ROWS);
            for query in first..(first + PICK_ROWS).min(total) {
                let entry = match queries {
                    None if no_queries.binary_search(&(query as u32)).is_ok() => continue,
                    None => Some(query),
                    Some(queries) => {
                        let id = queries.id(query)?;
                        let entry = self.table.find(&id).filter(|&entry| entry < records.len());
                        if entry.is_none() {
                            self.report.examples.entry("unknown_query").or_insert_with(|| id.into_owned());
                        }
                        entry
                    }
                };
                match entry {
                    None => self.report.unknown_queries += 1,
                    Some(entry) if bad.contains(&(entry as u32)) => {}
                    Some(entry) => asked.push(entry),
                }
            }
            let mut picked: Vec<(usize, Picked<'r>)> = asked
                .into_par_iter()
                .map(|query| {
                    let mut picked = Picked::new(records, rules, query);
                    offer(query, &mut picked);
                    (query, picked)
                })
                .collect();
            self.report.searched_deeper += more(&mut picked);
            for (query, picked) in picked {
                let line = self.line(query, &picked)?;
                let separator: &[u8] = if self.report.written == 0 { b"\n" } else { b",\n" };
                file.write_all(separator).and_then(|()| file.write_all(&line)).map_err(failed)?;
                self.report.written += 1;
                match picked.entries.len() {
                    0 => self.report.none += 1,
                    found if found < rules.k => self.report.fewer += 1,
                    _ => self.report.full += 1,
                }
                self.report.turned_away.add(picked.turned_away);
                similarity += picked.similarity;
                similar += picked.entries.len() as u64;
            }
        }
        if self.report.index.is_some() && similar > 0 {
            self.report.mean_similarity = Some(similarity / similar as f64);
        }
        // The file has its name only once it is finished: nobody shall train on contexts without examples.
        if self.report.full + self.report.fewer == 0 {
            let what = match self.report.written {
                0 => "no query could be answered".to_owned(),
                written => format!("none of {written} queries got an example"),
            };
            let reasons = self.report.left_out();
            let reasons = if reasons.is_empty() {
                format!("; turned away: {:?}", self.report.turned_away)
            } else {
                format!("; left out: {}", reasons.join("; "))
            };
            return Err(RetrieveError::format(
                path,
                format!("{what}, so no train file was written{reasons}"),
            ));
        }
        file.write_all(b"\n}\n").and_then(|()| file.finish()).map_err(failed)?;
        self.observer.progress(Stage::Pick, total as u64, total as u64);
        self.spent("pick", started);
        Ok(())
    }

    /// `"query": ["example", …]`
    fn line(&self, query: usize, picked: &Picked<'_>) -> Result<Vec<u8>> {
        let mut ids = Vec::with_capacity(picked.entries.len());
        for &entry in &picked.entries {
            ids.push(self.table.id(entry as usize)?);
        }
        if self.options.order == ExampleOrder::NearestLast {
            ids.reverse();
        }
        let query = self.table.id(query)?;
        let json = |error: serde_json::Error| RetrieveError::format(&self.options.out, error.to_string());
        let mut line = serde_json::to_vec(&query).map_err(json)?;
        line.extend_from_slice(b": ");
        line.extend(serde_json::to_vec(&ids).map_err(json)?);
        Ok(line)
    }

    fn spent(&mut self, stage: &'static str, since: Instant) {
        self.report.seconds.insert(stage, since.elapsed().as_secs_f64());
    }

    fn stopped(&self) -> RetrieveError {
        RetrieveError::Stopped { work: self.work.clone() }
    }
}

/// Searches further for queries whose neighbors were turned away.
struct Deeper<'a> {
    index: &'a Index,
    vectors: &'a Vectors,
    found: &'a Neighbors,
}

impl Deeper<'_> {
    /// Returns how many queries were searched again.
    fn search(
        &self,
        records: &Records,
        rules: &Rules,
        skip_own: bool,
        queries: &mut [(usize, Picked<'_>)],
    ) -> u64 {
        let item = |query: usize| records.item[query] as usize;
        let mut depth = 0;
        let mut count = 0;
        loop {
            let mut lacking: Vec<&mut (usize, Picked<'_>)> = queries
                .iter_mut()
                .filter(|(query, picked)| {
                    let known = records.item[*query] != NO_ITEM && self.vectors.is_usable(item(*query));
                    known && !picked.is_full() && self.found.of(item(*query)).len() < self.found.usable()
                })
                .collect();
            let next = if depth == 0 { DEEPER * rules.k.max(SPARE_NEIGHBORS) } else { depth * DEEPER };
            let next = next.min(DEEPEST).min(self.found.usable());
            if lacking.is_empty() || next <= depth {
                return count;
            }
            if depth == 0 {
                count = lacking.len() as u64;
            }
            depth = next;
            let mut items: Vec<u32> = lacking.iter().map(|(query, _)| records.item[*query]).collect();
            items.sort_unstable();
            items.dedup();
            let mut rows = Vec::new();
            self.vectors.gather(&items, &mut rows);
            let found: Vec<Vec<Neighbor>> = self
                .index
                .search(self.vectors, &rows, depth)
                .into_iter()
                .map(|found| found.into_iter().filter(|n| self.vectors.is_usable(n.item as usize)).collect())
                .collect();
            lacking.par_iter_mut().for_each(|(query, picked)| {
                let Ok(row) = items.binary_search(&records.item[*query]) else { return };
                // From the beginning: the order of the examples is that of the similarities.
                picked.reset();
                picked.offer_items(&found[row], skip_own);
            });
        }
    }
}
