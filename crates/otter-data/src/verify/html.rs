//! The report as one HTML page without any outside reference: tables, histograms as inline SVG, small pictures.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use otter_io::html::escape;
use otter_io::text::grouped;

use super::Thumbnail;
use super::finding::{FindingSummary, Severity};
use super::histogram::HistogramSummary;
use super::report::VerifyReport;

/// Between groups of three digits.
const NARROW_SPACE: &str = "\u{202F}";

/// Bars drawn of a histogram at most; neighbors are joined.
const BARS: usize = 64;

/// The whole page; `title` names what was looked at.
pub fn report_html(report: &VerifyReport, title: &str) -> String {
    let verdict = match (report.errors, report.warnings) {
        (0, 0) => "Nothing is wrong.".to_owned(),
        (0, warnings) => format!("No error, {} to look at.", counted(warnings, "warning")),
        (errors, _) => format!("{} to repair.", counted(errors, "error")),
    };
    let class = if report.errors == 0 { "ok" } else { "bad" };
    let mut html = format!(
        "<header><p class=\"eyebrow\">Otter data report</p><h1>{title}</h1><p class=\"verdict {class}\">{verdict}</p>",
        title = escape(title)
    );
    let mut remarks = Vec::new();
    if report.stopped_early {
        remarks.push("The run stopped at the first error; everything after it was not looked at.");
    }
    if report.ids_only {
        remarks.push("Only ids were looked at: no text, no token, no image.");
    } else if !report.tokens_checked {
        remarks.push("No tokenizer was given: lengths in tokens and labels were not looked at.");
    }
    for remark in remarks {
        let _ = write!(html, "<p class=\"remark\">{remark}</p>");
    }
    html += "</header>\n<section class=\"cards\">";
    for (label, value) in [
        (
            "samples",
            format!(
                "{} of {} usable",
                grouped(report.usable_samples, NARROW_SPACE),
                grouped(report.samples, NARROW_SPACE)
            ),
        ),
        ("records", grouped(report.records, NARROW_SPACE)),
        ("images", grouped(report.images, NARROW_SPACE)),
        ("errors", grouped(report.errors, NARROW_SPACE)),
        ("warnings", grouped(report.warnings, NARROW_SPACE)),
    ] {
        let _ = write!(html, "<div><span>{label}</span><strong>{value}</strong></div>");
    }
    html += "</section>\n";
    html += &findings(report);
    html += &pictures(report);
    html += &histograms(report);
    html += &sources(report);
    let _ = write!(html, "<footer>{:.1} s</footer>", report.seconds);
    otter_io::html::page(&format!("{title}: data report"), include_str!("report.css"), &html)
}

fn findings(report: &VerifyReport) -> String {
    let mut html = String::new();
    for (severity, heading) in [(Severity::Error, "Errors"), (Severity::Warning, "Warnings")] {
        let of_kind: Vec<&FindingSummary> =
            report.findings.iter().filter(|finding| finding.severity == severity).collect();
        if of_kind.is_empty() {
            continue;
        }
        let _ = write!(html, "<section><h2>{heading}</h2>");
        for finding in of_kind {
            let class = if severity == Severity::Error { "bad" } else { "warn" };
            let _ = write!(
                html,
                "<details open><summary><b class=\"{class}\">{}</b> <code>{}</code> {}</summary><p>{}</p>",
                grouped(finding.count, NARROW_SPACE),
                escape(&finding.reason),
                escape(&finding.meaning),
                escape(&finding.remedy)
            );
            html += "<div class=\"scroll\"><table><thead><tr><th>id</th><th>found</th><th>file</th></tr></thead><tbody>";
            for example in &finding.examples {
                let _ = write!(
                    html,
                    "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                    escape(&example.id),
                    escape(&example.message),
                    escape(&example.file)
                );
            }
            html += "</tbody></table></div>";
            let listed = finding.examples.len() as u64;
            if finding.count > listed {
                let _ = write!(
                    html,
                    "<p class=\"small\">and {} more</p>",
                    grouped(finding.count - listed, NARROW_SPACE)
                );
            }
            if finding.by_file.len() > 1 {
                html += "<ul class=\"small\">";
                for entry in &finding.by_file {
                    let _ = write!(
                        html,
                        "<li>{}: {}</li>",
                        escape(&entry.file),
                        grouped(entry.count, NARROW_SPACE)
                    );
                }
                html += "</ul>";
            }
            html += "</details>";
        }
        html += "</section>\n";
    }
    html
}

fn pictures(report: &VerifyReport) -> String {
    let mut html = String::new();
    let thumbnails = &report.thumbnails;
    let undecodable: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.reason.contains("image") && finding.severity == Severity::Error)
        .filter(|finding| !["missing_image", "bad_image", "no_images"].contains(&finding.reason.as_str()))
        .flat_map(|finding| &finding.examples)
        .collect();
    if !undecodable.is_empty() {
        html += "<section><h2>Images that cannot be shown</h2><div class=\"pictures\">";
        for example in undecodable {
            let _ = write!(
                html,
                "<figure><div class=\"broken\">✗</div><figcaption>{}<br>{}</figcaption></figure>",
                escape(&example.id),
                escape(&example.message)
            );
        }
        html += "</div></section>\n";
    }
    if !thumbnails.duplicates.is_empty() {
        html += "<section><h2>Equal images</h2><div class=\"pictures\">";
        for (first, copy) in &thumbnails.duplicates {
            html += "<div class=\"pair\">";
            html += &picture(first);
            html += &picture(copy);
            html += "</div>";
        }
        html += "</div></section>\n";
    }
    if !thumbnails.samples.is_empty() {
        html += "<section><h2>A look at the images</h2><div class=\"pictures\">";
        html.extend(thumbnails.samples.iter().map(picture));
        html += "</div></section>\n";
    }
    html
}

fn picture(thumbnail: &Thumbnail) -> String {
    format!(
        "<figure><img alt=\"\" src=\"data:image/jpeg;base64,{}\"><figcaption>{}</figcaption></figure>",
        STANDARD.encode(&thumbnail.jpeg),
        escape(&thumbnail.caption)
    )
}

fn histograms(report: &VerifyReport) -> String {
    if report.histograms.is_empty() {
        return String::new();
    }
    let mut html = String::from("<section><h2>Measured</h2><div class=\"panels\">");
    for histogram in &report.histograms {
        let _ = write!(
            html,
            "<figure><figcaption>{} <span>({})</span></figcaption>{}<p class=\"small\">mean {:.1} · from {} · half up to {} · 99 % up to {} · to {}</p></figure>",
            escape(&histogram.name),
            escape(&histogram.unit),
            chart(histogram),
            histogram.mean,
            grouped(histogram.min, NARROW_SPACE),
            grouped(histogram.median, NARROW_SPACE),
            grouped(histogram.p99, NARROW_SPACE),
            grouped(histogram.max, NARROW_SPACE)
        );
    }
    html + "</div></section>\n"
}

/// Bars over the bins that occur; a bin is at most an eighth wide, so the axis is logarithmic above 16.
fn chart(histogram: &HistogramSummary) -> String {
    let per_bar = histogram.bins.len().div_ceil(BARS).max(1);
    let bars: Vec<(u64, u64, u64)> = histogram
        .bins
        .chunks(per_bar)
        .map(|bins| {
            let to = bins.last().map_or(0, |bin| bin.to);
            (bins[0].from, to.min(histogram.max), bins.iter().map(|bin| bin.count).sum())
        })
        .collect();
    let highest = bars.iter().map(|bar| bar.2).max().unwrap_or(1).max(1);
    let (width, height) = (360.0, 120.0);
    let step = width / bars.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {:.0}\" role=\"img\" aria-label=\"{}\">",
        height + 18.0,
        escape(&histogram.name)
    );
    for (place, (from, to, count)) in bars.iter().enumerate() {
        let tall = (*count as f64 / highest as f64 * height).max(1.0);
        let range = if from == to {
            grouped(*from, NARROW_SPACE)
        } else {
            format!("{} to {}", grouped(*from, NARROW_SPACE), grouped(*to, NARROW_SPACE))
        };
        let _ = write!(
            svg,
            "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{tall:.2}\"><title>{range}: {}</title></rect>",
            place as f64 * step,
            height - tall,
            (step - 1.0).clamp(0.6, 40.0),
            grouped(*count, NARROW_SPACE)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"0\" y=\"{y:.0}\">{}</text><text x=\"{width}\" y=\"{y:.0}\" text-anchor=\"end\">{}</text></svg>",
        grouped(histogram.min, NARROW_SPACE),
        grouped(histogram.max, NARROW_SPACE),
        y = height + 14.0
    );
    svg
}

fn sources(report: &VerifyReport) -> String {
    let mut html = String::from(
        "<section><h2>Looked at</h2><div class=\"scroll\"><table><thead><tr><th>set</th><th>group</th><th class=\"n\">records</th>\
         <th class=\"n\">samples</th><th class=\"n\">usable</th><th>file</th></tr></thead><tbody>",
    );
    for set in &report.sets {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&set.name),
            escape(&set.group),
            grouped(set.records, NARROW_SPACE),
            grouped(set.samples, NARROW_SPACE),
            grouped(set.usable_samples, NARROW_SPACE),
            escape(&set.instructions)
        );
    }
    for table in &report.tables {
        let _ = write!(
            html,
            "<tr><td>images</td><td></td><td class=\"n\">{}</td><td></td><td></td><td>{}</td></tr>",
            grouped(table.images, NARROW_SPACE),
            escape(&table.path)
        );
    }
    html + "</tbody></table></div></section>\n"
}

fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count, NARROW_SPACE), if count == 1 { "" } else { "s" })
}
