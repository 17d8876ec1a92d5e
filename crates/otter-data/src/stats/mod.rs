//! How much there is of what, as the table of the MIMIC-IT paper (arXiv 2306.05425, table 2) tells it:
//! pairs, unique instructions, images and clips, by sub-dataset and by language.
//!
//! Unique things are counted by 64-bit hashes: 24 bytes each, and among ten million of them one is lost with a
//! probability of about 3 in a million.

pub(crate) mod language;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::config::{DataConfig, Group};
use crate::error::{DataError, Result};
use crate::sample::record::Record;
use crate::stats::language::guess_language;
use crate::tables::instruction_table::{ContextTable, InstructionTable};
use crate::verify::in_windows;

/// Records read by one task between two merges.
const RECORDS_PER_CHUNK: usize = 512;

/// Sub-datasets told apart, and languages: the bits of a mask. The rest is counted as [`OTHER`].
const MOST_ROWS: usize = 64;

/// Row of the sub-datasets, or languages, beyond [`MOST_ROWS`].
const OTHER: &str = "other";

/// Longest code that is shown.
const MOST_CODE_CHARACTERS: usize = 40;

/// Language of texts that nothing tells.
const UNKNOWN_LANGUAGE: &str = "unknown";

/// Sub-datasets whose records show the frames of one clip.
const CLIP_CODES: [&str; 4] = ["DC", "TVC", "E4D", "FunQA"];

/// The result of [`stats`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsReport {
    /// Sub-datasets by the code in the instruction ids, in the order of their first record.
    pub datasets: Vec<StatsRow>,
    /// Languages, most pairs first: as the records tell them, and guessed where they do not.
    pub languages: Vec<StatsRow>,
    /// Everything together; what several rows share counts once.
    pub total: StatsRow,
    /// Where the languages come from: `told` by the records, `guessed`, or `told and guessed`.
    pub languages_from: String,
    /// Records that could not be read and are not counted.
    pub unreadable: u64,
}

/// One row of the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsRow {
    /// Code of the sub-dataset or of the language.
    pub name: String,
    /// Instruction-response pairs (the paper's "instances").
    pub pairs: u64,
    /// Pairs whose records tell their language; that of the others is guessed.
    #[serde(default)]
    pub language_told: u64,
    /// Different instructions.
    pub unique_instructions: u64,
    /// Different answers.
    pub unique_answers: u64,
    /// Different image ids, frames of clips included.
    pub images: u64,
    /// Different clips: lists of frames of a video.
    pub clips: u64,
    /// Mean words of an instruction; a character of Chinese, Japanese or Korean counts as a word.
    pub instruction_words: f64,
    /// Mean words of an answer.
    pub answer_words: f64,
    /// Mean images of a record.
    pub images_per_pair: f64,
    /// Samples with a context: those of the train file, in sets without one those with `rel_ins_ids`. Train files are
    /// counted by sub-dataset only, not by language.
    pub with_context: u64,
    /// Mean number of context records of a sample that has any.
    pub context_size: f64,
}

/// Counts what the instruction and train files of a configuration hold. Images are counted by the ids that records
/// name; image files are not opened.
///
/// # Errors
/// When the configuration is wrong, or a file cannot be opened.
pub fn stats(config: &DataConfig, progress: &mut dyn FnMut(u64, u64)) -> Result<StatsReport> {
    let sets = config.resolved_sets()?;
    let mut tables = Vec::new();
    for set in &sets {
        tables.push(InstructionTable::open(&set.instructions)?);
    }
    let total: u64 = tables.iter().map(|table| table.len() as u64).sum();
    let mut counter = Counter::default();
    let mut before = 0;
    for (set, table) in sets.iter().zip(&tables) {
        in_windows(
            table.len(),
            RECORDS_PER_CHUNK,
            |entries| {
                entries.map(|entry| describe(table, entry, set.group, &set.name)).collect::<Result<Vec<_>>>()
            },
            || table.release_pages(),
            |pairs, done| {
                pairs.into_iter().for_each(|pair| counter.add(pair, set.train.is_none()));
                progress(before + done as u64, total);
                true
            },
        )?;
        before += table.len() as u64;
        if let Some(path) = &set.train {
            let train = ContextTable::open(path)?;
            for entry in 0..train.len() {
                // One that cannot be read is for `verify` to report.
                let size = train.context(entry).map_or(0, |context| context.len());
                let id = train.id(entry)?;
                counter.context(&code_of(&id, &set.name), size as u64);
                if entry % RECORDS_PER_CHUNK == 0 {
                    train.release_pages();
                }
            }
        }
    }
    counter.finish()
}

/// What is counted of a record.
struct Pair {
    code: String,
    language: Cow<'static, str>,
    language_told: bool,
    instruction: u64,
    answer: u64,
    images: Vec<u64>,
    clip: Option<u64>,
    instruction_words: u64,
    answer_words: u64,
    related: u64,
}

/// `None` for a record that cannot be read.
fn describe(table: &InstructionTable, entry: usize, group: Group, set: &str) -> Result<Option<Pair>> {
    let id = table.id(entry)?;
    let Ok(record) = table.record(entry) else { return Ok(None) };
    let code = code_of(&id, set);
    let told = record.language.as_deref().map(str::trim).filter(|code| !code.is_empty());
    let language = match told {
        Some(code) => Cow::Owned(code.chars().take(MOST_CODE_CHARACTERS).collect()),
        None => {
            let guess = guess_language(&record.instruction).or_else(|| guess_language(&record.answer));
            Cow::Borrowed(guess.unwrap_or(UNKNOWN_LANGUAGE))
        }
    };
    Ok(Some(Pair {
        clip: is_clip(&code, group, &record).then(|| hash(&record.image_ids)),
        code,
        language,
        language_told: told.is_some(),
        instruction: hash(&record.instruction),
        answer: hash(&record.answer),
        images: record.image_ids.iter().map(hash).collect(),
        instruction_words: words(&record.instruction),
        answer_words: words(&record.answer),
        related: record.rel_ins_ids.len() as u64,
    }))
}

/// The code of an instruction id: what stands before `_INS_`, or the name of its set.
fn code_of(id: &str, set: &str) -> String {
    let code = match id.split_once("_INS") {
        Some((code, _)) => code,
        None if id.starts_with("FunQA") => "FunQA",
        None => set,
    };
    code.chars().take(MOST_CODE_CHARACTERS).collect()
}

/// A video's frames: in a video group, in a sub-dataset of clips, or three and more images whose ids differ only in
/// the number at their end. Pairs of pictures and albums are no clips.
fn is_clip(code: &str, group: Group, record: &Record) -> bool {
    let known = CLIP_CODES.contains(&code) || code.starts_with("FunQA");
    if record.image_ids.is_empty() {
        return false;
    }
    group == Group::VideoText || known || (record.image_ids.len() >= 3 && numbered(&record.image_ids))
}

fn numbered(ids: &[String]) -> bool {
    let stem = |id: &str| {
        let stem = id.trim_end_matches(|c: char| c.is_ascii_digit());
        (stem.len() < id.len() && stem.ends_with('_')).then(|| stem.to_owned())
    };
    let first = stem(&ids[0]);
    // Scenes of ScanNet are photographs along a walk, which the paper counts as images.
    first.as_deref().is_some_and(|stem| !stem.contains("_color_")) && ids.iter().all(|id| stem(id) == first)
}

fn words(text: &str) -> u64 {
    let mut words = 0;
    let mut inside = false;
    for character in text.chars() {
        let wide =
            matches!(character, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}');
        if wide {
            words += 1;
            inside = false;
        } else if character.is_alphanumeric() {
            words += u64::from(!inside);
            inside = true;
        } else if character.is_whitespace() {
            inside = false;
        }
    }
    words
}

fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A hash is its own hash.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only 64-bit hashes are keys");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A row of one of the two tables.
type RowOf = (Table, usize);

/// The tables of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Datasets,
    Languages,
}

/// Different things, each with the rows (bits) of both tables in which it was seen.
#[derive(Default)]
struct Unique {
    seen: HashMap<u64, [u64; 2], BuildHasherDefault<Identity>>,
    by_row: BTreeMap<RowOf, u64>,
}

impl Unique {
    fn add(&mut self, hash: u64, rows: [RowOf; 2]) {
        let masks = self.seen.entry(hash).or_default();
        for (table, row) in rows {
            let mask = &mut masks[table as usize];
            if *mask >> row & 1 == 0 {
                *mask |= 1 << row;
                *self.by_row.entry((table, row)).or_default() += 1;
            }
        }
    }

    fn of_row(&self, row: RowOf) -> u64 {
        self.by_row.get(&row).copied().unwrap_or(0)
    }
}

/// The row of a name, which is new or beyond the last one kept.
fn row_of(names: &mut Vec<String>, name: &str) -> usize {
    let known = names.iter().position(|known| known == name);
    known.unwrap_or_else(|| {
        if names.len() + 1 < MOST_ROWS {
            names.push(name.to_owned());
        } else if names.len() < MOST_ROWS {
            names.push(OTHER.to_owned());
        }
        names.len() - 1
    })
}

#[derive(Default, Clone)]
struct Sums {
    pairs: u64,
    language_told: u64,
    images: u64,
    instruction_words: u64,
    answer_words: u64,
    contexts: u64,
    context_records: u64,
}

#[derive(Default)]
struct Counter {
    /// Names of the rows of the two tables.
    codes: Vec<String>,
    languages: Vec<String>,
    sums: BTreeMap<RowOf, Sums>,
    instructions: Unique,
    answers: Unique,
    images: Unique,
    clips: Unique,
    unreadable: u64,
}

impl Counter {
    /// `related_is_context`: its set has no train file, so its related records are what can serve as context.
    fn add(&mut self, pair: Option<Pair>, related_is_context: bool) {
        let Some(pair) = pair else {
            self.unreadable += 1;
            return;
        };
        let rows = [
            (Table::Datasets, row_of(&mut self.codes, &pair.code)),
            (Table::Languages, row_of(&mut self.languages, &pair.language)),
        ];
        self.instructions.add(pair.instruction, rows);
        self.answers.add(pair.answer, rows);
        pair.images.iter().for_each(|image| self.images.add(*image, rows));
        pair.clip.iter().for_each(|clip| self.clips.add(*clip, rows));
        for row in rows {
            let sums = self.sums.entry(row).or_default();
            sums.pairs += 1;
            sums.language_told += u64::from(pair.language_told);
            sums.images += pair.images.len() as u64;
            sums.instruction_words += pair.instruction_words;
            sums.answer_words += pair.answer_words;
            if related_is_context {
                sums.contexts += u64::from(pair.related > 0);
                sums.context_records += pair.related;
            }
        }
    }

    fn context(&mut self, code: &str, size: u64) {
        let row = (Table::Datasets, row_of(&mut self.codes, code));
        let sums = self.sums.entry(row).or_default();
        sums.contexts += u64::from(size > 0);
        sums.context_records += size;
    }

    fn finish(self) -> Result<StatsReport> {
        let row = |name: &str, sums: &Sums, unique: [u64; 4]| {
            let mean = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
            let [unique_instructions, unique_answers, images, clips] = unique;
            StatsRow {
                name: name.to_owned(),
                pairs: sums.pairs,
                language_told: sums.language_told,
                unique_instructions,
                unique_answers,
                images,
                clips,
                instruction_words: mean(sums.instruction_words, sums.pairs),
                answer_words: mean(sums.answer_words, sums.pairs),
                images_per_pair: mean(sums.images, sums.pairs),
                with_context: sums.contexts,
                context_size: mean(sums.context_records, sums.contexts),
            }
        };
        let none = Sums::default();
        let kinds = [&self.instructions, &self.answers, &self.images, &self.clips];
        let rows_of = |table: Table, names: &[String]| -> Vec<StatsRow> {
            (names.iter().enumerate())
                .map(|(place, name)| {
                    let place = (table, place);
                    row(name, self.sums.get(&place).unwrap_or(&none), kinds.map(|kind| kind.of_row(place)))
                })
                .collect()
        };
        let datasets = rows_of(Table::Datasets, &self.codes);
        let mut languages = rows_of(Table::Languages, &self.languages);
        languages.sort_by_key(|row| std::cmp::Reverse(row.pairs));
        let mut sum = Sums::default();
        for (_, part) in self.sums.range(..(Table::Languages, 0)) {
            sum.pairs += part.pairs;
            sum.language_told += part.language_told;
            sum.images += part.images;
            sum.instruction_words += part.instruction_words;
            sum.answer_words += part.answer_words;
            sum.contexts += part.contexts;
            sum.context_records += part.context_records;
        }
        if sum.pairs == 0 {
            return Err(DataError::Config(match self.unreadable {
                0 => "the sets hold no record: there is nothing to count".to_owned(),
                damaged => format!("all {damaged} records are damaged; see `otter data verify`"),
            }));
        }
        Ok(StatsReport {
            total: row("total", &sum, kinds.map(|kind| kind.seen.len() as u64)),
            datasets,
            languages,
            languages_from: match sum.language_told {
                0 => "guessed",
                told if told == sum.pairs => "told",
                _ => "told and guessed",
            }
            .to_owned(),
            unreadable: self.unreadable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_from_the_ids() {
        for (id, code) in [
            ("LACR_T2T_INS_0001", "LACR_T2T"),
            ("DC_INS_00001", "DC"),
            ("FunQA_H2_17", "FunQA"),
            ("something", "the set"),
            ("_INS_1", ""),
        ] {
            assert_eq!(code_of(id, "the set"), code);
        }
    }

    #[test]
    fn clips_are_lists_of_frames() {
        let clip = |code: &str, group, ids: &[&str]| {
            let image_ids = ids.iter().map(|&id| id.to_owned()).collect();
            is_clip(code, group, &Record { image_ids, ..Record::default() })
        };
        assert!(clip("DC", Group::ImageText, &["DC_IMG_v_0000", "DC_IMG_v_0001"]));
        assert!(clip("X", Group::VideoText, &["a"]));
        assert!(clip("X", Group::ImageText, &["v_1", "v_2", "v_3"]));
        assert!(!clip("SD", Group::ImageText, &["SD_IMG_00001_1", "SD_IMG_00001_2"]));
        assert!(!clip("VST", Group::ImageText, &["VST_IMG_77", "VST_IMG_9", "VIST_IMG_1"]));
        assert!(!clip("SN", Group::ImageText, &["SN_IMG_s_color_0", "SN_IMG_s_color_1", "SN_IMG_s_color_2"]));
        assert!(!clip("DC", Group::VideoText, &[]));
    }

    #[test]
    fn words_of_any_script_count() {
        assert_eq!(words("How many cups, please?"), 4);
        assert_eq!(words("don't stop-here"), 2);
        assert_eq!(words("有几个杯子？"), 5);
        assert_eq!(words("  "), 0);
    }

    #[test]
    fn what_rows_share_counts_once_in_the_total() {
        let mut unique = Unique::default();
        let rows = |dataset, language| [(Table::Datasets, dataset), (Table::Languages, language)];
        unique.add(7, rows(0, 0));
        unique.add(7, rows(1, 0));
        unique.add(8, rows(1, 63));
        assert_eq!(unique.seen.len(), 2);
        let of_row = |table| [0, 1, 63, 2].map(|row| unique.of_row((table, row)));
        assert_eq!((of_row(Table::Datasets), of_row(Table::Languages)), ([1, 2, 0, 0], [1, 0, 1, 0]));
    }

    #[test]
    fn eighty_languages_are_sixty_three_and_the_rest() {
        let mut names = Vec::new();
        let rows: Vec<usize> = (0..80).map(|number| row_of(&mut names, &format!("l{number}"))).collect();
        assert_eq!((names.len(), names[63].as_str(), rows[62], rows[79]), (64, OTHER, 62, 63));
        assert_eq!(row_of(&mut names, "l5"), 5);
    }
}
