//! The sections of the report page.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use otter_io::html::escape;
use otter_io::text::{bytes, duration, grouped};

use super::svg::{color_class, shot_panel, stage_bar, step_chart};
use crate::evaluate::table::{Measure, counts};
use crate::report::{Card, CommandGroup, Curve, ModelResult, QuickstartReport, SampleCard, Turn};

/// Between groups of three digits.
const NARROW_SPACE: &str = "\u{202F}";

/// The whole page.
pub(crate) fn page(report: &QuickstartReport) -> String {
    let title = if report.title.is_empty() { "Otter" } else { &report.title };
    let mut html = header(report, title);
    html += &cards(report);
    html += &shots(&report.models);
    html += &samples(&report.samples_shown);
    html += &curves(report);
    html += &caveats(&report.caveats);
    html += &commands(&report.commands);
    if !report.environment.is_empty() {
        let items: Vec<String> = report.environment.iter().map(|item| escape(item)).collect();
        let _ = writeln!(html, "<footer>{}</footer>", items.join(" · "));
    }
    otter_io::html::page(title, include_str!("report.css"), &html)
}

fn header(report: &QuickstartReport, title: &str) -> String {
    let mut html = format!("<header><p class=\"eyebrow\">{}</p>", escape(title));
    let headline = if report.headline.is_empty() { title } else { &report.headline };
    let _ = write!(html, "<h1>{}</h1>", escape(headline));
    if !report.summary.is_empty() {
        let _ = write!(html, "<p class=\"summary\">{}</p>", escape(&report.summary));
    }
    html + "</header>\n"
}

fn cards(report: &QuickstartReport) -> String {
    let share = 100.0 * report.parameters_trained as f64 / report.parameters_total.max(1) as f64;
    let card = |label: &str, value: String, note: String| Card { label: label.into(), value, note };
    let mut all = vec![
        card("Time", duration(report.seconds), "from start to report".into()),
        card("Training samples", grouped(report.samples, NARROW_SPACE), String::new()),
        card(
            "Trained parameters",
            grouped(report.parameters_trained, NARROW_SPACE),
            format!("{share:.0} % of {}", grouped(report.parameters_total, NARROW_SPACE)),
        ),
    ];
    if report.peak_memory_bytes.is_some() || report.planned_memory_bytes.is_some() {
        let known = |value: Option<u64>| value.map_or("–".to_owned(), |value| bytes(value, 1));
        let note =
            report.planned_memory_bytes.map_or(String::new(), |plan| format!("planned {}", bytes(plan, 1)));
        all.push(card("Peak memory", known(report.peak_memory_bytes), note));
    }
    all.extend(report.cards.iter().cloned());
    let mut html = String::from("<section class=\"cards\">");
    for Card { label, value, note } in all {
        let _ = write!(
            html,
            "<div class=\"card\"><span>{}</span><strong>{}</strong><em>{}</em></div>",
            escape(&label),
            escape(&value),
            escape(&note)
        );
    }
    html + "</section>\n" + &stage_bar(&report.stages)
}

fn legend(models: &[ModelResult]) -> String {
    let mut html = String::from("<ul class=\"legend\">");
    for (number, model) in models.iter().enumerate() {
        let _ = write!(
            html,
            "<li><i class=\"{}\"></i><b>{}</b> {}</li>",
            color_class(Some(number)),
            escape(&model.name),
            escape(&model.description)
        );
    }
    html + "<li><i class=\"dashed\"></i>chance</li></ul>"
}

/// Labels of all tasks in the order of the models' tables.
fn labels(models: &[ModelResult]) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for row in models.iter().flat_map(|model| &model.table.rows) {
        if !labels.contains(&row.label()) {
            labels.push(row.label());
        }
    }
    labels
}

fn shots(models: &[ModelResult]) -> String {
    let labels = labels(models);
    if labels.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section><h2>Does it learn from examples in the prompt?</h2>\
         <p>Share of queries whose right answer is the most probable candidate, by number of in-context examples. \
         Bars are 95 % confidence intervals (Wilson).</p>",
    );
    html += &legend(models);
    html += "<div class=\"panels\">";
    // Panels for whole families, what is held out from training first and larger: there only the examples help. Kinds of
    // questions stand in the table.
    let rows = || models.iter().flat_map(|model| &model.table.rows);
    let held_out = |label: &String| rows().any(|row| row.label() == *label && row.held_out == Some(true));
    let mut families: Vec<&String> = labels
        .iter()
        .filter(|label| rows().any(|row| row.label() == **label && row.kind.is_none()))
        .collect();
    families.sort_by_key(|label| !held_out(label));
    for label in families {
        let class = if held_out(label) { " class=\"lead\"" } else { "" };
        let (caption, panel) = (escape(label), shot_panel(label, models));
        let _ = write!(html, "<figure{class}><figcaption>{caption}</figcaption>{panel}</figure>");
    }
    html += "</div>";
    html += &shot_table(models, &labels, Measure::Choice, "Numbers");
    let generated =
        models.iter().flat_map(|m| &m.table.rows).flat_map(|r| r.cells.values()).any(|c| c.exact > 0);
    if generated {
        html += &shot_table(models, &labels, Measure::ExactMatch, "Generated answers, exact match");
    }
    html + "</section>\n"
}

fn shot_table(models: &[ModelResult], labels: &[String], measure: Measure, title: &str) -> String {
    let mut shots: Vec<usize> = models.iter().flat_map(|model| model.table.shots.iter().copied()).collect();
    shots.sort_unstable();
    shots.dedup();
    let open = if measure == Measure::Choice { " open" } else { "" };
    let mut html = format!(
        "<details{open}><summary>{}</summary><div class=\"scroll\"><table><thead><tr><th>task</th><th>model</th><th class=\"n\">n</th>",
        escape(title)
    );
    for shots in &shots {
        let _ = write!(html, "<th class=\"n\">{shots} shot{}</th>", if *shots == 1 { "" } else { "s" });
    }
    if measure == Measure::Choice {
        html += "<th class=\"n\">chance</th>";
    }
    html += "</tr></thead><tbody>";
    for label in labels {
        let mut first = true;
        for (number, model) in models.iter().enumerate() {
            let Some(row) = model.table.rows.iter().find(|row| row.label() == *label) else { continue };
            let class = match (first, row.kind.is_some()) {
                (true, false) => " class=\"family\"",
                (true, true) => " class=\"kind\"",
                (false, _) => "",
            };
            let shown = if first { label.as_str() } else { "" };
            let _ = write!(
                html,
                "<tr{class}><th>{}</th><td><i class=\"{}\"></i>{}</td><td class=\"n\">{}</td>",
                escape(shown),
                color_class(Some(number)),
                escape(&model.name),
                escape(&counts(row))
            );
            first = false;
            for shots in &shots {
                match row.cells.get(shots).and_then(|cell| Some((cell, cell.accuracy(measure)?))) {
                    None => html += "<td class=\"n\">–</td>",
                    Some((cell, accuracy)) => {
                        let (low, high) = cell.interval(measure);
                        let _ = write!(
                            html,
                            "<td class=\"n\"><b>{:.1}</b> <small>{:.1}–{:.1}</small></td>",
                            100.0 * accuracy,
                            100.0 * low,
                            100.0 * high
                        );
                    }
                }
            }
            if measure == Measure::Choice {
                let chance = row.cells.values().next().map_or(0.0, |cell| cell.chance);
                let _ = write!(html, "<td class=\"n\">{:.0}</td>", 100.0 * chance);
            }
            html += "</tr>";
        }
    }
    html + "</tbody></table></div><p class=\"small\">Percent, with the 95 % confidence interval.</p></details>"
}

fn samples(samples: &[SampleCard]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut html = String::from("<section><h2>What it was asked, and what it said</h2><div class=\"chats\">");
    for sample in samples {
        html += &chat(sample);
    }
    html + "</div></section>\n"
}

fn chat(sample: &SampleCard) -> String {
    let mut html = format!("<article class=\"chat\"><h3>{}</h3>", escape(&sample.caption));
    if !sample.examples.is_empty() {
        html += "<div class=\"examples\">";
        for turn in &sample.examples {
            html += &user_bubble(turn);
            let _ = write!(html, "<p class=\"bubble otter\">{}</p>", escape(&turn.answer));
        }
        html += "</div>";
    }
    html += &user_bubble(&sample.query);
    let (class, mark, word) =
        if sample.right { ("right", "✓", "right") } else { ("wrong", "✗", "wrong") };
    let answer = if sample.model_answer.is_empty() { "(nothing)" } else { &sample.model_answer };
    let _ = write!(
        html,
        "<p class=\"bubble otter {class}\"><span class=\"mark\" title=\"{word}\">{mark}</span> {}</p>",
        escape(answer)
    );
    let _ = write!(html, "<p class=\"truth\">truth: <b>{}</b></p>", escape(&sample.truth));
    if !sample.candidates.is_empty() {
        html += "<dl class=\"candidates\">";
        for (text, probability) in &sample.candidates {
            let class = if *text == sample.truth { " class=\"true\"" } else { "" };
            let percent = if probability.is_finite() { 100.0 * probability.clamp(0.0, 1.0) } else { 0.0 };
            let _ = write!(
                html,
                "<dt{class}>{}</dt><dd><span style=\"width:{percent:.1}%\"></span><em>{percent:.0} %</em></dd>",
                escape(text)
            );
        }
        html += "</dl>";
    }
    html + "</article>"
}

fn user_bubble(turn: &Turn) -> String {
    let mut html = String::from("<div class=\"bubble user\">");
    for image in &turn.images {
        match mime(image) {
            Some(mime) => {
                let _ = write!(html, "<img alt=\"\" src=\"data:{mime};base64,{}\">", STANDARD.encode(image));
            }
            None => html += "<span class=\"noimage\">image</span>",
        }
    }
    let _ = write!(html, "<span>{}</span></div>", escape(&turn.question));
    html
}

/// Media type by the first bytes of a file.
fn mime(image: &[u8]) -> Option<&'static str> {
    match image {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

fn curves(report: &QuickstartReport) -> String {
    let loss = step_chart("Loss over optimizer steps", &report.loss, true);
    let rate = step_chart("Learning rate over optimizer steps", &report.learning_rate, true);
    if loss.is_empty() && rate.is_empty() {
        return String::new();
    }
    let mut html = String::from("<section><h2>Training</h2><div class=\"panels wide\">");
    for (title, svg, curves) in [("Loss", loss, &report.loss), ("Learning rate", rate, &report.learning_rate)]
    {
        if !svg.is_empty() {
            let _ = write!(
                html,
                "<figure><figcaption>{title}</figcaption>{svg}{}</figure>",
                curve_legend(curves)
            );
        }
    }
    html + "</div></section>\n"
}

fn curve_legend(curves: &[Curve]) -> String {
    let mut html = String::from("<ul class=\"legend\">");
    for curve in curves {
        let style = if curve.evaluation { "" } else { " thin" };
        let class = color_class(curve.model);
        let _ = write!(html, "<li><i class=\"{class}{style}\"></i>{}</li>", escape(&curve.name));
    }
    html + "</ul>"
}

fn caveats(caveats: &[String]) -> String {
    if caveats.is_empty() {
        return String::new();
    }
    let items: String = caveats.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
    format!("<section><h2>What this does not show</h2><ul>{items}</ul></section>\n")
}

fn commands(groups: &[CommandGroup]) -> String {
    let mut html = String::new();
    for group in groups {
        let _ = write!(html, "<section><h2>{}</h2>", escape(&group.title));
        for (command, remark) in &group.commands {
            if !remark.is_empty() {
                let _ = write!(html, "<p class=\"remark\">{}</p>", escape(remark));
            }
            let _ = write!(html, "<pre><code>{}</code></pre>", escape(command));
        }
        html += "</section>\n";
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::table::{Cell, ShotTable, TableRow};
    use crate::report::Stage;

    /// Every string of the report is hostile; none may reach the page as markup.
    #[test]
    fn everything_is_escaped() {
        let evil = || "<script>alert('x')</script>\" onload=\"&".to_owned();
        let cell = Cell { n: 4, correct: 2, exact: 1, chance: 0.5 };
        let row =
            TableRow { family: evil(), held_out: None, kind: None, cells: [(0, cell)].into_iter().collect() };
        let turn = Turn { images: vec![evil().into_bytes()], question: evil(), answer: evil() };
        let curve =
            Curve { name: evil(), model: None, evaluation: true, points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let report = QuickstartReport {
            title: evil(),
            headline: evil(),
            summary: evil(),
            environment: vec![evil()],
            cards: vec![Card { label: evil(), value: evil(), note: evil() }],
            stages: vec![Stage { name: evil(), seconds: 1.0 }],
            models: vec![ModelResult {
                name: evil(),
                description: evil(),
                table: ShotTable { shots: vec![0], rows: vec![row] },
            }],
            loss: vec![curve.clone()],
            learning_rate: vec![curve],
            samples_shown: vec![SampleCard {
                caption: evil(),
                examples: vec![turn.clone()],
                query: turn,
                model_answer: evil(),
                truth: evil(),
                right: true,
                candidates: vec![(evil(), f64::NAN)],
            }],
            caveats: vec![evil()],
            commands: vec![CommandGroup { title: evil(), commands: vec![(evil(), evil())] }],
            ..QuickstartReport::default()
        };
        let page = page(&report);
        assert!(!page.contains("<script") && !page.contains("\" onload"));
        // Title twice; the others wherever they are shown.
        assert!(
            page.matches("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;&amp;").count()
                >= 28
        );
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("NaN"));
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let page = page(&QuickstartReport::default());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert!(!page.contains("<svg") && !page.contains("<article"));
    }

    #[test]
    fn images_are_embedded_by_their_own_type() {
        let png = [0x89, b'P', b'N', b'G', 1, 2];
        let turn = Turn { images: vec![png.to_vec()], ..Turn::default() };
        assert!(user_bubble(&turn).contains("src=\"data:image/png;base64,iVBORwEC\""));
        assert_eq!(mime(&[0xFF, 0xD8, 0xFF, 0]), Some("image/jpeg"));
        assert_eq!(mime(b"<svg onload=x>"), None);
    }
}
