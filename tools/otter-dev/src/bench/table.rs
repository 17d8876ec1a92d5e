//! The table of `otter-dev bench`.

use serde_json::{Value, json};

use super::floor::Peaks;

/// One piece of work.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// What was done, in words.
    pub(super) work: String,
    /// Of every repetition.
    pub(super) seconds: Vec<f64>,
    /// Units that a repetition handles.
    pub(super) count: usize,
    pub(super) unit: &'static str,
    /// Seconds that a repetition takes at least, where that is known: on the host.
    pub(super) floor: Option<f64>,
}

impl Row {
    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Units a second.
    fn rate(&self) -> f64 {
        self.count as f64 / self.median()
    }

    /// Share of the floor's speed that is reached.
    fn efficiency(&self) -> Option<f64> {
        Some(self.floor? / self.median())
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "work": self.work,
            "seconds": self.seconds,
            "count": self.count,
            "unit": self.unit,
            "rate": self.rate(),
            "floor_seconds": self.floor,
            "efficiency": self.efficiency(),
        })
    }
}

/// Lines of the table, and what its floors are made of.
pub(super) fn lines(rows: &[Row], peaks: Option<Peaks>, threads: usize) -> Vec<String> {
    let header = ["", "work", "median", "rate", "floor", "efficiency"].map(str::to_owned);
    let mut cells = vec![header];
    for row in rows {
        cells.push([
            row.name.to_owned(),
            row.work.clone(),
            time(row.median()),
            format!("{} {}/s", number(row.rate()), row.unit),
            row.floor.map_or_else(String::new, time),
            row.efficiency().map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share)),
        ]);
    }
    let widths: [usize; 6] = std::array::from_fn(|column| {
        cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut lines: Vec<String> = cells
        .iter()
        .map(|line| {
            let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    let Some(peaks) = peaks else { return lines };
    lines.push(format!(
        "floors: {:.1} GB/s from memory, {:.0} f32 GFLOP/s, {:.0} G operations/s on bytes, measured with {threads} threads",
        peaks.bandwidth * 1e-9,
        peaks.float * 1e-9,
        peaks.integer * 1e-9
    ));
    lines
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_far_the_floor_is() {
        let row = Row {
            name: "decode",
            work: "10 tokens".into(),
            seconds: vec![3.0, 2.0, 9.0],
            count: 10,
            unit: "tokens",
            floor: Some(1.5),
        };
        let json = row.to_json();
        assert_eq!((json["efficiency"].as_f64(), json["rate"].as_f64()), (Some(0.5), Some(10.0 / 3.0)));
        let peaks = Peaks { bandwidth: 28e9, float: 200e9, integer: 800e9 };
        let without = lines(&[Row { floor: None, ..row.clone() }], None, 2);
        assert!(without.len() == 2 && without[1].ends_with("tokens/s"), "{without:?}");
        let lines = lines(&[row], Some(peaks), 2);
        assert!(lines[1].contains("3.00 s") && lines[1].ends_with("50 %"), "{lines:?}");
        assert_eq!(lines[0].find("work"), lines[1].find("10 tokens"));
    }
}
