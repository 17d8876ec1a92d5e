//! The shot table: accuracy by task and number of in-context examples, with 95 % confidence intervals.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::evaluate::EvaluationRecord;

/// Quantile of the normal distribution for 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % interval of a proportion; 0 to 1 when nothing was measured.
///
/// ```
/// let (low, high) = otter_eval::wilson_interval(45, 50);
/// assert!((low - 0.7864).abs() < 1e-4 && (high - 0.9565).abs() < 1e-4);
/// ```
pub fn wilson_interval(successes: usize, trials: usize) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let n = trials as f64;
    let p = successes.min(trials) as f64 / n;
    let denominator = 1.0 + Z * Z / n;
    let center = (p + Z * Z / (2.0 * n)) / denominator;
    let half = Z / denominator * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((center - half).max(0.0), (center + half).min(1.0))
}

/// What is counted as right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The right candidate is the most probable one.
    #[default]
    Choice,
    /// The generated answer is the right one.
    ExactMatch,
}

/// How finely queries are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// One row a family.
    #[default]
    Families,
    /// Also one row for every kind of question of a family with several.
    Kinds,
}

/// Counts of one family or kind with one number of shots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Queries.
    pub n: usize,
    /// Of these, with the right choice.
    pub correct: usize,
    /// Of these, with the right generated answer.
    pub exact: usize,
    /// Expected proportion of right choices by chance: the mean of one over the number of candidates.
    pub chance: f64,
}

impl Cell {
    /// Queries that were right.
    pub fn successes(&self, measure: Measure) -> usize {
        match measure {
            Measure::Choice => self.correct,
            Measure::ExactMatch => self.exact,
        }
    }

    /// Proportion of right answers; `None` without queries.
    pub fn accuracy(&self, measure: Measure) -> Option<f64> {
        (self.n > 0).then(|| self.successes(measure) as f64 / self.n as f64)
    }

    /// Its 95 % interval.
    pub fn interval(&self, measure: Measure) -> (f64, f64) {
        wilson_interval(self.successes(measure), self.n)
    }

    fn add(&mut self, record: &EvaluationRecord) {
        let chance = 1.0 / record.candidates.len().max(1) as f64;
        self.chance = (self.chance * self.n as f64 + chance) / (self.n + 1) as f64;
        self.n += 1;
        self.correct += usize::from(record.correct);
        self.exact += usize::from(record.exact_match);
    }

    /// `93.5 % [89.2, 96.2]`.
    pub fn text(&self, measure: Measure) -> String {
        let (low, high) = self.interval(measure);
        match self.accuracy(measure) {
            Some(accuracy) => format!("{:.1} % [{:.1}, {:.1}]", 100.0 * accuracy, 100.0 * low, 100.0 * high),
            None => "–".to_owned(),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// Task family.
    pub family: String,
    /// Whether its queries are held out from training; `None` when the family has only one sort.
    pub held_out: Option<bool>,
    /// Kind of question; `None` for the whole family.
    pub kind: Option<String>,
    /// By number of shots.
    pub cells: BTreeMap<usize, Cell>,
}

impl TableRow {
    /// `binding, held out`, or `binding, held out: bound_word`.
    pub fn label(&self) -> String {
        let mut label = self.family.clone();
        match self.held_out {
            Some(true) => label += ", held out",
            Some(false) => label += ", seen",
            None => {}
        }
        if let Some(kind) = &self.kind {
            label += ": ";
            label += kind;
        }
        label
    }
}

/// Accuracy by task and number of shots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShotTable {
    /// Numbers of shots, ascending.
    pub shots: Vec<usize>,
    /// The rows, families in the order in which they were evaluated.
    pub rows: Vec<TableRow>,
}

impl ShotTable {
    /// Counts the records of an evaluation.
    pub fn new(records: &[EvaluationRecord], detail: Detail) -> Self {
        let mut table = Self::default();
        for record in records {
            if let Err(place) = table.shots.binary_search(&record.shots) {
                table.shots.insert(place, record.shots);
            }
            table.row(record, None).cells.entry(record.shots).or_default().add(record);
            if detail == Detail::Kinds {
                table.row(record, Some(&record.kind)).cells.entry(record.shots).or_default().add(record);
            }
        }
        table.tidy();
        table
    }

    fn row(&mut self, record: &EvaluationRecord, kind: Option<&String>) -> &mut TableRow {
        let found = self.rows.iter().position(|row| {
            row.family == record.family && row.held_out == Some(record.held_out) && row.kind.as_ref() == kind
        });
        let place = found.unwrap_or_else(|| {
            let row = TableRow {
                family: record.family.clone(),
                held_out: Some(record.held_out),
                kind: kind.cloned(),
                cells: BTreeMap::new(),
            };
            self.rows.push(row);
            self.rows.len() - 1
        });
        &mut self.rows[place]
    }

    /// Orders the rows family by family, drops what says nothing.
    fn tidy(&mut self) {
        let order: Vec<String> = self.rows.iter().map(|row| row.family.clone()).collect();
        let rank = |family: &String| order.iter().position(|known| known == family);
        self.rows.sort_by_key(|row| (rank(&row.family), row.held_out, row.kind.is_some()));
        let alone = |rows: &[TableRow], row: &TableRow| {
            let same = |other: &&TableRow| {
                other.family == row.family && other.held_out == row.held_out && other.kind.is_some()
            };
            rows.iter().filter(same).count() == 1
        };
        let rows = self.rows.clone();
        self.rows.retain(|row| row.kind.is_none() || !alone(&rows, row));
        for row in &mut self.rows {
            let both = |held_out| rows.iter().any(|r| r.family == row.family && r.held_out == Some(held_out));
            if !(both(true) && both(false)) {
                row.held_out = None;
            }
        }
    }

    /// The table as text with aligned columns.
    pub fn to_text(&self, measure: Measure) -> String {
        compare(&[("", self)], measure)
    }

    /// The table as JSON: counts, proportions and intervals of both measures.
    pub fn to_json(&self) -> serde_json::Value {
        let proportion = |cell: &Cell, measure| {
            let (low, high) = cell.interval(measure);
            serde_json::json!({"accuracy": cell.accuracy(measure), "low": low, "high": high})
        };
        let cell = |(shots, cell): (&usize, &Cell)| {
            serde_json::json!({
                "shots": shots, "n": cell.n, "correct": cell.correct, "exact": cell.exact, "chance": cell.chance,
                "choice": proportion(cell, Measure::Choice), "exact_match": proportion(cell, Measure::ExactMatch),
            })
        };
        let row = |row: &TableRow| {
            let cells: Vec<_> = row.cells.iter().map(cell).collect();
            serde_json::json!({"family": row.family, "held_out": row.held_out, "kind": row.kind, "cells": cells})
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        serde_json::json!({"confidence": 0.95, "interval": "wilson", "shots": self.shots, "rows": rows})
    }
}

/// The tables of several models side by side as text: one line per task and model.
pub fn compare(tables: &[(&str, &ShotTable)], measure: Measure) -> String {
    let mut shots: Vec<usize> = tables.iter().flat_map(|(_, table)| table.shots.iter().copied()).collect();
    shots.sort_unstable();
    shots.dedup();
    let named = tables.iter().any(|(name, _)| !name.is_empty());
    let mut head = vec!["task".to_owned()];
    if named {
        head.push("model".to_owned());
    }
    head.push("n".to_owned());
    head.extend(shots.iter().map(|s| if *s == 1 { "1 shot".to_owned() } else { format!("{s} shots") }));
    if measure == Measure::Choice {
        head.push("chance".to_owned());
    }
    let mut lines = vec![head];
    let mut labels: Vec<String> = Vec::new();
    for row in tables.iter().flat_map(|(_, table)| &table.rows) {
        if !labels.contains(&row.label()) {
            labels.push(row.label());
        }
    }
    for label in &labels {
        for (name, table) in tables {
            let Some(row) = table.rows.iter().find(|row| row.label() == *label) else { continue };
            let mut line = vec![label.clone()];
            if named {
                line.push((*name).to_owned());
            }
            line.push(counts(row));
            let cell = |shots| row.cells.get(shots).map_or("–".to_owned(), |cell| cell.text(measure));
            line.extend(shots.iter().map(cell));
            if measure == Measure::Choice {
                let chance = row.cells.values().next().map_or(0.0, |cell| cell.chance);
                line.push(format!("{:.1} %", 100.0 * chance));
            }
            lines.push(line);
        }
    }
    aligned(&lines, if named { 2 } else { 1 })
}

/// Queries per number of shots: one number, or the range.
pub(crate) fn counts(row: &TableRow) -> String {
    let least = row.cells.values().map(|cell| cell.n).min().unwrap_or(0);
    let most = row.cells.values().map(|cell| cell.n).max().unwrap_or(0);
    if least == most { most.to_string() } else { format!("{least}–{most}") }
}

/// Columns of equal width: the first `left` to the left, the others to the right.
fn aligned(lines: &[Vec<String>], left: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let mut out = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let padding = " ".repeat(width - cell.chars().count());
            let _ = if column < left {
                write!(out, "{gap}{cell}{padding}")
            } else {
                write!(out, "{gap}{padding}{cell}")
            };
        }
        text += out.trim_end();
        text.push('\n');
        if number == 0 {
            text += &"─".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::ScoredCandidate;

    /// Values of R's `binom.confint(method = "wilson")`, to four digits.
    #[test]
    fn wilson_intervals_are_the_published_ones() {
        for (successes, trials, low, high) in [
            (0, 10, 0.0, 0.2775),
            (10, 10, 0.7225, 1.0),
            (5, 10, 0.2366, 0.7634),
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (1, 29, 0.0061, 0.1718),
        ] {
            let (l, h) = wilson_interval(successes, trials);
            assert!((l - low).abs() < 6e-5 && (h - high).abs() < 6e-5, "{successes}/{trials}: {l} {h}");
        }
        assert_eq!(wilson_interval(0, 0), (0.0, 1.0));
    }

    pub(crate) fn record(
        family: &str,
        kind: &str,
        shots: usize,
        held_out: bool,
        correct: bool,
    ) -> EvaluationRecord {
        let candidate = |text: &str| ScoredCandidate { text: text.into(), log_probability: -1.0 };
        EvaluationRecord {
            id: "q".into(),
            index: 0,
            family: family.into(),
            kind: kind.into(),
            shots,
            held_out,
            answer: "a".into(),
            candidates: vec![candidate("a"), candidate("b")],
            choice: Some(usize::from(!correct)),
            correct,
            generated: Some("a".into()),
            exact_match: correct && shots > 0,
        }
    }

    fn records() -> Vec<EvaluationRecord> {
        let mut records = Vec::new();
        for shots in [0, 4] {
            for i in 0..20 {
                records.push(record(
                    "attribute",
                    if i < 10 { "color" } else { "shape" },
                    shots,
                    false,
                    i != 3,
                ));
                records.push(record("binding", "bound_word", shots, true, shots == 4 || i % 2 == 0));
                records.push(record("binding", "bound_word", shots, false, shots == 4));
            }
        }
        records
    }

    #[test]
    fn the_table_as_text() {
        let table = ShotTable::new(&records(), Detail::Kinds);
        let expected = "\
task                n                0 shots                4 shots  chance
───────────────────────────────────────────────────────────────────────────
attribute          20    95.0 % [76.4, 99.1]    95.0 % [76.4, 99.1]  50.0 %
attribute: color   10    90.0 % [59.6, 98.2]    90.0 % [59.6, 98.2]  50.0 %
attribute: shape   10  100.0 % [72.2, 100.0]  100.0 % [72.2, 100.0]  50.0 %
binding, seen      20      0.0 % [0.0, 16.1]  100.0 % [83.9, 100.0]  50.0 %
binding, held out  20    50.0 % [29.9, 70.1]  100.0 % [83.9, 100.0]  50.0 %
";
        assert_eq!(table.to_text(Measure::Choice), expected);
        let exact = ShotTable::new(&records(), Detail::Families);
        let expected = "\
task               model   n            0 shots                4 shots
──────────────────────────────────────────────────────────────────────
attribute          tuned  20  0.0 % [0.0, 16.1]    95.0 % [76.4, 99.1]
binding, seen      tuned  20  0.0 % [0.0, 16.1]  100.0 % [83.9, 100.0]
binding, held out  tuned  20  0.0 % [0.0, 16.1]  100.0 % [83.9, 100.0]
";
        assert_eq!(
            compare(&[("tuned", &exact), ("base", &ShotTable::default())], Measure::ExactMatch),
            expected
        );
    }

    #[test]
    fn json_holds_counts_and_intervals() {
        let json = ShotTable::new(&records(), Detail::Families).to_json();
        let cell = &json["rows"][2]["cells"][1];
        assert_eq!(
            (cell["shots"].as_u64(), cell["n"].as_u64(), cell["correct"].as_u64()),
            (Some(4), Some(20), Some(20))
        );
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["rows"][2]["cells"][0]["exact_match"]["accuracy"].as_f64(), Some(0.0));
        assert!((cell["choice"]["low"].as_f64().unwrap_or(0.0) - 0.8389).abs() < 1e-4);
    }
}
