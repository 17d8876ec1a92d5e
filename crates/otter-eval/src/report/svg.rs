//! Charts as inline SVG. Colors and fonts come from the page's style sheet, so charts follow light and dark.

use std::fmt::Write;

use crate::evaluate::table::Measure;
use otter_io::html::escape;
use otter_io::text::duration;

use crate::report::{Curve, ModelResult, Stage};

/// Most points of a drawn curve; longer ones are averaged in windows.
const DRAWN_POINTS: usize = 300;

/// A larger value is a run that has diverged; it leaves a gap instead of squashing the chart.
const LARGEST_DRAWN: f64 = 1e30;

/// A plot area with its axes: data ranges and the rectangle they fill.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn px(&self, x: f64) -> f64 {
        let span = (self.x.1 - self.x.0).max(f64::MIN_POSITIVE);
        self.left + (x - self.x.0) / span * (self.right - self.left)
    }

    fn py(&self, y: f64) -> f64 {
        let span = (self.y.1 - self.y.0).max(f64::MIN_POSITIVE);
        self.bottom - (y - self.y.0) / span * (self.bottom - self.top)
    }

    fn grid(&self, ticks: &[f64], label: impl Fn(f64) -> String) -> String {
        let mut svg = String::new();
        for &tick in ticks {
            let y = self.py(tick);
            let _ = write!(
                svg,
                r#"<line class="grid" x1="{:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                self.left,
                self.right,
                self.left - 6.0,
                y + 3.5,
                escape(&label(tick))
            );
        }
        svg
    }
}

/// Class of a model's color.
pub(crate) fn color_class(model: Option<usize>) -> String {
    model.map_or("c-none".to_owned(), |model| format!("c{}", model % 6))
}

/// Accuracy over shots of one task: a line per model with error bars, and chance as a dashed line.
pub(crate) fn shot_panel(label: &str, models: &[ModelResult]) -> String {
    let mut shots: Vec<usize> = models.iter().flat_map(|model| model.table.shots.iter().copied()).collect();
    shots.sort_unstable();
    shots.dedup();
    let frame = Frame {
        x: (-0.35, shots.len() as f64 - 0.65),
        y: (0.0, 1.0),
        left: 40.0,
        right: 352.0,
        top: 12.0,
        bottom: 186.0,
    };
    let title = format!("Accuracy over in-context examples: {label}");
    let mut svg = opening(360.0, 222.0, &title);
    svg += &frame.grid(&[0.0, 0.25, 0.5, 0.75, 1.0], |tick| format!("{:.0} %", tick * 100.0));
    for (place, shots) in shots.iter().enumerate() {
        let x = frame.px(place as f64);
        let _ = write!(svg, r#"<text class="tick" x="{x:.1}" y="202" text-anchor="middle">{shots}</text>"#);
    }
    svg += r#"<text class="axis" x="196" y="218" text-anchor="middle">in-context examples</text>"#;
    let rows: Vec<_> = models.iter().map(|m| m.table.rows.iter().find(|row| row.label() == label)).collect();
    if let Some(cell) = rows.iter().flatten().flat_map(|row| row.cells.values()).next() {
        let y = frame.py(cell.chance);
        let _ = write!(
            svg,
            r#"<line class="chance" x1="{:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"><title>chance: {:.1} %</title></line>"#,
            frame.left,
            frame.right,
            cell.chance * 100.0
        );
    }
    // The first model is drawn last, on top of the others.
    for (number, row) in rows.iter().enumerate().rev() {
        let Some(row) = row else { continue };
        // Models stand side by side at each number of shots, so that error bars do not hide each other.
        let shift = (number as f64 - (models.len() as f64 - 1.0) / 2.0) * 0.09;
        let class = color_class(Some(number));
        let (mut line, mut marks) = (Vec::new(), String::new());
        for (place, shots) in shots.iter().enumerate() {
            let Some(cell) = row.cells.get(shots) else { continue };
            let Some(accuracy) = cell.accuracy(Measure::Choice) else { continue };
            let (low, high) = cell.interval(Measure::Choice);
            let (x, y) = (frame.px(place as f64 + shift), frame.py(accuracy));
            line.push((x, y));
            let _ = write!(
                marks,
                r#"<g><title>{}, {shots} in-context: {} of {} right, {}</title><path class="error {class}" d="M{x:.1} {:.1}V{:.1}M{:.1} {:.1}h6M{:.1} {:.1}h6"/><circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="3.6"/></g>"#,
                escape(&models[number].name),
                cell.correct,
                cell.n,
                escape(&cell.text(Measure::Choice)),
                frame.py(low),
                frame.py(high),
                x - 3.0,
                frame.py(low),
                x - 3.0,
                frame.py(high),
            );
        }
        let _ = write!(svg, r#"<path class="line {class}" d="{}"/>{marks}"#, path(&line));
        let last = shots.last().and_then(|shots| row.cells.get(shots)?.accuracy(Measure::Choice));
        if let (0, Some(accuracy), Some((x, _))) = (number, last, line.last()) {
            // Above the error bar, or below it where there is no room.
            let (low, high) = row.cells.values().last().map_or((0.0, 1.0), |c| c.interval(Measure::Choice));
            let y =
                if frame.py(high) > frame.top + 14.0 { frame.py(high) - 6.0 } else { frame.py(low) + 15.0 };
            let _ = write!(
                svg,
                r#"<text class="value {class}" x="{x:.1}" y="{y:.1}" text-anchor="middle">{:.1} %</text>"#,
                100.0 * accuracy
            );
        }
    }
    svg + "</svg>"
}

/// Curves over optimizer steps.
pub(crate) fn step_chart(title: &str, curves: &[Curve], from_zero: bool) -> String {
    let drawn: Vec<Vec<(f64, f64)>> = curves.iter().map(|curve| thinned(&curve.points)).collect();
    let finite = || drawn.iter().flatten().filter(|&&(x, y)| is_drawn(x) && is_drawn(y));
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (x_low, x_high) = range(&mut finite().map(|p| p.0));
    let (mut y_low, mut y_high) = range(&mut finite().map(|p| p.1));
    if !(x_low.is_finite() && y_low.is_finite()) {
        return String::new();
    }
    if from_zero {
        y_low = y_low.min(0.0);
    }
    if y_high - y_low < 1e-6 * y_high.abs() || y_high <= y_low {
        y_high = y_low + y_low.abs().max(1e-9);
    }
    let y_ticks = ticks(y_low, y_high, 5);
    let step = y_ticks.get(1).zip(y_ticks.first()).map_or(1.0, |(b, a)| b - a);
    y_low = (y_low / step).floor() * step;
    y_high = (y_high / step).ceil() * step;
    let frame =
        Frame { x: (x_low, x_high), y: (y_low, y_high), left: 52.0, right: 470.0, top: 14.0, bottom: 214.0 };
    let mut svg = opening(480.0, 252.0, title);
    svg += &frame.grid(&ticks(y_low, y_high, 5), short_number);
    for tick in ticks(x_low, x_high, 6) {
        let x = frame.px(tick);
        let _ = write!(
            svg,
            r#"<text class="tick" x="{x:.1}" y="230" text-anchor="middle">{}</text>"#,
            escape(&short_number(tick))
        );
    }
    svg += r#"<text class="axis" x="261" y="247" text-anchor="middle">optimizer step</text>"#;
    for (curve, points) in curves.iter().zip(&drawn) {
        let class = color_class(curve.model);
        let place = |&(x, y): &(f64, f64)| {
            if is_drawn(x) && is_drawn(y) { (frame.px(x), frame.py(y)) } else { (f64::NAN, f64::NAN) }
        };
        let placed: Vec<_> = points.iter().map(place).collect();
        let style = if curve.evaluation { "line" } else { "line thin" };
        let _ = write!(
            svg,
            r#"<path class="{style} {class}" d="{}"><title>{}</title></path>"#,
            path(&placed),
            escape(&curve.name)
        );
        if curve.evaluation {
            for (&(x, y), &(step, value)) in placed.iter().zip(points) {
                if x.is_finite() && y.is_finite() {
                    let _ = write!(
                        svg,
                        r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="3"><title>{}: {} at step {}</title></circle>"#,
                        escape(&curve.name),
                        escape(&short_number(value)),
                        escape(&short_number(step))
                    );
                }
            }
        }
    }
    svg + "</svg>"
}

/// The stages of the run as one bar, longest first in ink.
pub(crate) fn stage_bar(stages: &[Stage]) -> String {
    let total: f64 = stages.iter().map(|stage| stage.seconds.max(0.0)).sum();
    if total.is_nan() || total <= 0.0 {
        return String::new();
    }
    let mut html = String::from(r#"<div class="stages"><div class="bar">"#);
    for (number, stage) in stages.iter().enumerate() {
        let _ = write!(
            html,
            r#"<span class="s{}" style="flex-grow:{:.3}" title="{}: {}"></span>"#,
            number % 6,
            stage.seconds.max(0.0) / total * 100.0,
            escape(&stage.name),
            duration(stage.seconds)
        );
    }
    html += r#"</div><ul class="legend">"#;
    for (number, stage) in stages.iter().enumerate() {
        let _ = write!(
            html,
            r#"<li><i class="s{}"></i>{} <b>{}</b></li>"#,
            number % 6,
            escape(&stage.name),
            duration(stage.seconds)
        );
    }
    html + "</ul></div>"
}

fn opening(width: f64, height: f64, title: &str) -> String {
    format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{}">"#, escape(title))
}

/// A polyline; a point that is no number leaves a gap.
fn path(points: &[(f64, f64)]) -> String {
    let mut d = String::new();
    let mut pen_down = false;
    for &(x, y) in points {
        if !(x.is_finite() && y.is_finite()) {
            pen_down = false;
            continue;
        }
        let _ = write!(d, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
        pen_down = true;
    }
    d
}

fn is_drawn(value: f64) -> bool {
    value.abs() <= LARGEST_DRAWN
}

/// Means of equal windows, so that a long curve stays small and readable.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = points.len().div_ceil(DRAWN_POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(window).map(mean).collect()
}

/// Round numbers inside a range.
fn ticks(low: f64, high: f64, about: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 {
        return vec![low];
    }
    let raw = span / about as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw).unwrap_or(raw);
    let first = (low / step - 1e-9).ceil();
    let last = (high / step + 1e-9).floor();
    let count = ((last - first).max(0.0) as usize).min(4 * about);
    (0..=count).map(|i| (first + i as f64) * step).collect()
}

/// A number in as few characters as it needs: `1.5`, `20k`, `3e-4`.
fn short_number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if size >= 1e6 {
        format!("{value:.1e}").replace(".0e", "e")
    } else if size >= 1000.0 {
        let text = format!("{:.1}", value / 1000.0);
        format!("{}k", text.trim_end_matches('0').trim_end_matches('.'))
    } else if size < 0.01 {
        format!("{value:.1e}").replace(".0e", "e")
    } else {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(3.0, 97.0, 5), [20.0, 40.0, 60.0, 80.0]);
        assert_eq!(ticks(2.0, 2.0, 5), [2.0]);
        assert_eq!(ticks(f64::NAN, 2.0, 5).len(), 1);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 1.5, 20_000.0, 1234.0, 3e-4, 0.25, 7.0].map(short_number);
        assert_eq!(texts, ["0", "1.5", "20k", "1.2k", "3e-4", "0.25", "7"]);
    }

    #[test]
    fn a_gap_lifts_the_pen() {
        assert_eq!(path(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 2.0), (3.0, 2.0)]), "M0.0 1.0M2.0 2.0L3.0 2.0");
    }

    #[test]
    fn curves_without_numbers_draw_nothing() {
        let curve = Curve { points: vec![(0.0, f64::NAN), (f64::INFINITY, 1.0)], ..Curve::default() };
        assert_eq!(step_chart("t", &[curve], true), "");
        assert_eq!(step_chart("t", &[], true), "");
        assert_eq!(stage_bar(&[Stage { name: "x".into(), seconds: f64::NAN }]), "");
    }

    proptest::proptest! {
        #[test]
        fn any_curve_is_drawn_within_bounds(points in proptest::collection::vec(
            (proptest::num::f64::ANY, proptest::num::f64::ANY), 0..40)) {
            let curve = Curve { name: "a".into(), evaluation: true, points, ..Curve::default() };
            let svg = step_chart("t", &[curve], false);
            proptest::prop_assert!(svg.is_empty() || svg.ends_with("</svg>"));
            proptest::prop_assert!(svg.len() < 60_000 && !svg.contains("NaN") );
        }
    }
}
