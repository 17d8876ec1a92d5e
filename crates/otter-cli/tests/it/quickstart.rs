//! `otter quickstart` from end to end on a sliver of its data: stop it, run it again, look at what it leaves.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{golden, otter};
use serde_json::Value;

/// Below the smallest data and step counts, so the least work there is.
const SCALE: &str = "0.001";

/// How a quickstart is stopped before its end.
#[derive(Clone, Copy)]
enum Stop {
    Interrupt,
    Kill,
}

/// Starts a quickstart and stops it at the first line of standard error that starts with `line`. Gives exit status and
/// standard error.
fn stopped_at(out: &Path, line: &str, stop: Stop) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_otter"))
        .args(["quickstart", "--scale", SCALE, "--out"])
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    for found in BufReader::new(child.stderr.take().unwrap()).lines() {
        let found = found.unwrap();
        if found.starts_with(line) {
            match stop {
                Stop::Interrupt => {
                    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
                    assert!(sent.unwrap().success());
                }
                Stop::Kill => child.kill().unwrap(),
            }
        }
        text.push_str(&found);
        text.push('\n');
    }
    (child.wait().unwrap().code(), text)
}

/// What a page would load from elsewhere.
fn foreign_references(html: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for start in ["src=\"", "src='", "href=\"", "href='", "url(", "@import ", "<link", "<script src"] {
        for (place, _) in html.match_indices(start) {
            let value = &html[place + start.len()..];
            let local = value.starts_with("data:") || value.starts_with('#');
            if !local {
                let end = value.char_indices().nth(60).map_or(value.len(), |(end, _)| end);
                found.push(&html[place..place + start.len() + end]);
            }
        }
    }
    found
}

#[test]
fn a_quickstart_leaves_report_and_model() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    // As an earlier run would have left them.
    std::fs::create_dir_all(out.join("model")).unwrap();
    for name in ["quickstart.txt", "report.html", "summary.json", "model/old.txt"] {
        std::fs::write(out.join(name), "old").unwrap();
    }
    let json = otter(&arguments!["quickstart", "--scale", SCALE, "--out", out, "--json"]).json();
    check_summary(&json, &out);
    check_report(&std::fs::read_to_string(out.join("report.html")).unwrap());
    let written: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(written, json);

    let image = golden("images/tiny.png");
    let prompt = "what colour is it ?";
    let model = out.join("model");
    assert!(!model.join("old.txt").exists());
    let answer = otter(&arguments![
        "generate", "--model", model, "--image", image, "--prompt", prompt, "--chat", "--json"
    ]);
    let answer = answer.json();
    assert!(!answer["token_ids"].as_array().unwrap().is_empty(), "{answer}");
    assert!(answer["text"].is_string() && answer["finish_reason"].is_string(), "{answer}");
    let inspection = otter(&arguments!["inspect", model, "--json"]).json();
    assert_eq!(inspection["parameters"]["total"], json["parameters"]["total"]);
}

/// Tunings that an earlier run finished or left half made are no obstacle.
#[test]
fn an_interrupted_quickstart_can_be_run_again() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    let (code, text) = stopped_at(&out, "4/6", Stop::Interrupt);
    assert_eq!(code, Some(143), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("interrupted during") && text.contains("received SIGTERM"), "{text}");
    assert!(!out.join("report.html").exists() && !out.join("model").exists());
    // Past the tunings that were there already; what follows is the subject of the test above.
    let (_, text) = stopped_at(&out, "4/6", Stop::Kill);
    assert!(!text.contains("error: ") && text.contains("\n4/6 "), "{text}");
}

fn check_summary(json: &Value, out: &Path) {
    assert_eq!(json["seed"], 1);
    assert_eq!(json["scale"], SCALE.parse::<f64>().unwrap());
    assert_eq!(json["model"], out.join("model").to_str().unwrap());
    assert!(json["seconds"].as_f64().unwrap() > 0.0);
    assert!(json["final_loss"].as_f64().unwrap().is_finite());
    let number = |section: &str, key: &str| json[section][key].as_u64().unwrap();
    assert!(number("parameters", "trained") > 0);
    assert!(number("parameters", "trained") < number("parameters", "total"));
    assert!(number("samples", "tuned") > 0 && number("samples", "twin") > 0);
    assert_eq!(json["skipped"], serde_json::json!({"tuned": {}, "twin": {}}));
    assert!(number("memory", "planned_bytes") > 0);
    let stages = json["stages"].as_array().unwrap();
    let sum: f64 = stages.iter().map(|stage| stage["seconds"].as_f64().unwrap()).sum();
    assert!(stages.len() >= 5 && sum <= json["seconds"].as_f64().unwrap() + 0.1, "{stages:?}");
    let models = json["models"].as_array().unwrap();
    let mut names: Vec<&str> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["base", "tuned", "twin"]);
    for model in models {
        assert_eq!(model["table"]["shots"], serde_json::json!([0, 1, 2, 4]), "{}", model["name"]);
        let rows = model["table"]["rows"].as_array().unwrap();
        for family in ["attribute", "referring", "counting", "relation", "difference", "binding"] {
            let row = rows.iter().find(|row| row["family"] == family);
            let cells = row.unwrap()["cells"].as_array().unwrap();
            assert!(cells.iter().all(|cell| cell["n"].as_u64().unwrap() > 0), "{family}");
        }
    }
}

fn check_report(html: &str) {
    assert!(html.trim_start().to_lowercase().starts_with("<!doctype html"));
    assert!(html.trim_end().ends_with("</html>"));
    assert!(html.contains("<svg") && html.contains("</svg>"), "no plot");
    assert!(html.contains("src=\"data:image/png;base64,"), "no picture");
    assert_eq!(foreign_references(html), Vec::<&str>::new());
    assert!(!html.contains("NaN"), "a number is missing");
    assert!(
        html.contains("tuned: samples: ") && html.contains(" used, none left out"),
        "what became of the samples"
    );
}

#[test]
fn options_out_of_their_bounds_are_errors_and_write_nothing() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run");
    for scale in ["0", "-1", "nan", "inf", "11"] {
        let run = otter(&arguments!["quickstart", "--out", out, format!("--scale={scale}")]);
        run.error(&["scale is", "above 0 and at most 10"]);
    }
    otter(&arguments!["quickstart", "--out", out, "--scale=little"]).usage("little");
    assert!(!out.exists());
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    otter(&arguments!["quickstart", "--out", file.join("run"), "--scale", SCALE]).error(&["file"]);
}

#[test]
fn a_base_that_is_no_model_is_named() {
    let place = tempfile::tempdir().unwrap();
    let base = golden("images");
    let run =
        otter(&arguments!["quickstart", "--out", place.path().join("run"), "--base", base, "--scale", SCALE]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let last = run.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains("images/config.json"), "{last}");
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let own = place.path().join("tuned");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("config.toml"), "mine").unwrap();
    let ended = otter(&arguments!["quickstart", "--scale", SCALE, "--out", place.path()]);
    ended.error(&["tuned", "choose another --out"]);
    assert_eq!(std::fs::read_to_string(own.join("config.toml")).unwrap(), "mine");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
}
