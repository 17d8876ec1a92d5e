//! `otter pull`: a model from a hub or a mirror onto this machine.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use otter_hub::{Glob, ModelReference, Observer, Plan, PullOptions, Pulled, Selection, Settings};
use serde_json::{Value, json};

use crate::arguments::Pull;
use crate::commands::interrupt;
use crate::output;
use crate::progress;

/// Between two lines of progress where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Runs the command.
pub fn run(arguments: &Pull) -> Result<()> {
    let mut settings = Settings::from_env()?;
    settings.offline |= arguments.offline;
    if arguments.mirror.is_some() {
        settings.mirror.clone_from(&arguments.mirror);
    }
    let globs = |patterns: &[String]| patterns.iter().map(|p| Glob::parse(p)).collect::<Result<Vec<_>, _>>();
    let options = PullOptions {
        out: arguments.out.clone(),
        selection: Selection { include: globs(&arguments.include)?, exclude: globs(&arguments.exclude)? },
        verify: arguments.verify,
        jobs: usize::from(arguments.jobs),
        ..PullOptions::new(reference(arguments)?)
    };
    let stop = interrupt::flag("stopping; what is downloaded is kept")?;
    if arguments.dry_run {
        let plan = otter_hub::plan(&settings, &options, &stop)?;
        return if arguments.json { output::json(&plan_json(&plan)) } else { print_plan(&plan) };
    }
    let progress = Progress::new();
    let pulled = otter_hub::pull(&settings, &options, &stop, &progress);
    progress.bar.finish_and_clear();
    let Pulled { folder, record } = pulled?;
    if arguments.json {
        let mut value = serde_json::to_value(&record)?;
        value["folder"] = json!(folder);
        return output::json(&value);
    }
    let bytes = record.files.iter().map(|file| file.size).sum();
    output::text(&format!(
        "{} at {} ({}): {} files, {}, checked",
        record.id,
        record.revision,
        record.commit,
        record.files.len(),
        output::bytes(bytes)
    ))?;
    output::text(&format!("model: {}", folder.display()))?;
    let name = match options.out {
        Some(_) => folder.display().to_string(),
        None => options.reference.to_string(),
    };
    output::text(&format!("next:  otter inspect {name}"))
}

/// The model with its revision, which may stand in either place.
fn reference(arguments: &Pull) -> Result<ModelReference> {
    let mut reference: ModelReference = arguments.model.parse()?;
    if let Some(revision) = &arguments.revision {
        if let Some(other) = &reference.revision {
            bail!("two revisions: {other} in {} and --revision {revision}; give one", arguments.model);
        }
        reference.revision = Some(revision.parse()?);
    }
    Ok(reference)
}

fn print_plan(plan: &Plan) -> Result<()> {
    output::text(&format!("{} at {} ({}) from {}", plan.id, plan.revision, plan.commit, plan.source))?;
    for planned in &plan.files {
        let there = match planned.present {
            0 => "",
            present if present == planned.file.size => "  there",
            _ => "  there in part",
        };
        output::text(&format!("{:>10}  {}{there}", output::bytes(planned.file.size), planned.file.path))?;
    }
    for (file, reason) in &plan.skipped {
        output::text(&format!("{:>10}  {}  left: {reason}", output::bytes(file.size), file.path))?;
    }
    output::text(&format!(
        "{} files, {}, of which {} to download, into {}",
        plan.files.len(),
        output::bytes(plan.total_bytes()),
        output::bytes(plan.missing_bytes()),
        plan.folder.display()
    ))
}

fn plan_json(plan: &Plan) -> Value {
    let files: Vec<Value> = plan
        .files
        .iter()
        .map(|planned| {
            json!({
                "path": planned.file.path.as_str(),
                "size": planned.file.size,
                "checksum": planned.file.checksum.to_string(),
                "present": planned.present,
            })
        })
        .collect();
    let skipped: Vec<Value> = plan
        .skipped
        .iter()
        .map(|(file, why)| json!({"path": file.path.as_str(), "size": file.size, "reason": why.to_string()}))
        .collect();
    json!({
        "id": plan.id.as_str(), "revision": plan.revision.as_str(), "commit": plan.commit.as_str(),
        "source": plan.source, "folder": plan.folder, "files": files, "skipped": skipped,
        "total_bytes": plan.total_bytes(), "missing_bytes": plan.missing_bytes(),
    })
}

/// A bar with rate and remaining time on standard error, or a line now and then where that is no terminal.
struct Progress {
    bar: ProgressBar,
    last_line: Mutex<Instant>,
}

impl Progress {
    fn new() -> Self {
        let bar = progress::bar("{wide_bar} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left");
        Self { bar, last_line: Mutex::new(Instant::now()) }
    }

    fn line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Observer for Progress {
    fn planned(&self, plan: &Plan) {
        let (missing, total) = (plan.missing_bytes(), plan.total_bytes());
        self.line(&format!(
            "{} at {}: {} files, {}, of which {} to download",
            plan.id,
            plan.commit,
            plan.files.len(),
            output::bytes(total),
            output::bytes(missing)
        ));
        self.bar.set_length(total);
        // What is there already is no part of the rate.
        self.bar.reset_eta();
    }

    fn bytes(&self, change: i64) {
        match u64::try_from(change) {
            Ok(more) => self.bar.inc(more),
            Err(_) => self.bar.dec(change.unsigned_abs()),
        }
        if !self.bar.is_hidden() {
            return;
        }
        let Ok(mut last) = self.last_line.try_lock() else { return };
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
            let rate = self.bar.per_sec() as u64;
            eprintln!(
                "{} of {}, {}/s, {} s left",
                output::bytes(done),
                output::bytes(total),
                output::bytes(rate),
                self.bar.eta().as_secs()
            );
        }
    }

    fn note(&self, line: &str) {
        self.line(line);
    }
}
