//! `otter data import`: a data set from an original source, or from a table of one's own.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use otter_data::video::{FrameSampling, VideoOptions};
use otter_data::{Group, ImageRules, WriterOptions, create_writer, output_paths};
use otter_mimicit::sources::{
    FrameFormat, ImportError, ImportOptions, ImportReport, Imported, Inputs, LlavaKind, PictureOptions,
    Progress, SourceKind, import, journal_folder, open_source,
};
use serde_json::json;

use crate::arguments::{DataImport, FrameFile, ImportSource, LlavaFile};
use crate::commands::generate::pictures;
use crate::commands::interrupt;
use crate::output;
use crate::progress;

/// Between two lines of progress where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// JPEG quality of frames.
const QUALITY: u8 = 90;

/// Runs the command.
pub fn run(arguments: &DataImport) -> Result<ExitCode> {
    let options = options(arguments)?;
    let source = open_source(options.kind, &options.inputs)?;
    let name = arguments.name.clone().unwrap_or_else(|| source.code().to_owned());
    let written = output_paths(arguments.to, &arguments.out, &name);
    // Told now rather than after hours of work.
    if let Some(path) = written.iter().find(|path| path.exists() && !arguments.overwrite) {
        bail!(
            "{} is there already; choose another --out or --name, or replace it with --overwrite",
            path.display()
        );
    }
    let stop = interrupt::flag("stopping after the items under way, which are kept")?;
    let writer_options = WriterOptions {
        overwrite: arguments.overwrite,
        group: Some(source.group()),
        source: Some(source_name(arguments.source).to_owned()),
        language: source.language().map(str::to_owned),
        frames_per_second: match (source.group(), options.video.sampling) {
            (Group::VideoText, FrameSampling::Fps(rate)) => Some(rate),
            _ => None,
        },
        ..WriterOptions::default()
    };
    let mut shown = Shown::new();
    let imported = import(
        source.as_ref(),
        &arguments.out,
        &options,
        &mut || Ok(create_writer(arguments.to, &arguments.out, &name, &writer_options)?),
        &mut |progress| shown.update(progress),
        &stop,
    );
    shown.bar.finish_and_clear();
    let to_json = |report: &ImportReport, outcome: &str| -> Result<()> {
        let mut value = serde_json::to_value(report)?;
        value["outcome"] = json!(outcome);
        value["name"] = json!(name);
        value["folder"] = json!(arguments.out);
        output::json(&value)
    };
    if let (Err(ImportError::NothingUsed(report)), true) = (&imported, arguments.json) {
        to_json(report, "nothing_used")?;
    }
    match imported? {
        Imported::Finished(report) => {
            pictures::warn(&report.image_notes);
            if arguments.json {
                to_json(&report, "completed")?;
            } else {
                print(&report, &arguments.out, &name)?;
            }
            warn(&report);
            Ok(ExitCode::SUCCESS)
        }
        Imported::Interrupted { done, total } => {
            eprintln!(
                "stopped after {done} of {total} items, which are kept in {}; the same command goes on from there",
                journal_folder(&arguments.out).display()
            );
            if arguments.json {
                output::json(&json!({"outcome": "interrupted", "done": done, "items": total}))?;
            }
            Ok(interrupt::status())
        }
    }
}

fn options(arguments: &DataImport) -> Result<ImportOptions> {
    if arguments.text_only && arguments.source != ImportSource::Llava {
        bail!("--text-only is for llava; other sources have no entries without images, or keep them");
    }
    if arguments.all_rows && arguments.source != ImportSource::Own {
        bail!("--all-rows is for own: it says what rows without a context are");
    }
    if !(arguments.timeout.is_finite() && arguments.timeout > 0.0 && arguments.timeout <= 86_400.0) {
        bail!("--timeout is {}; it must be above 0 and at most a day (86400)", arguments.timeout);
    }
    let sampling = match (arguments.frames, arguments.scene, arguments.fps) {
        (Some(frames), _, _) => FrameSampling::Uniform(frames),
        (None, Some(score), _) => FrameSampling::SceneChange(score),
        (None, None, rate) => FrameSampling::Fps(rate.unwrap_or(1.0)),
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let jobs = arguments.jobs.map_or(cores, std::num::NonZeroUsize::get);
    if jobs > 256 {
        bail!("--jobs is {jobs}; the most is 256");
    }
    let rules = arguments.rules.or(ImageRules::default());
    Ok(ImportOptions {
        kind: kind(arguments.source),
        inputs: Inputs {
            annotations: Some(arguments.annotations.clone()),
            images: arguments.images.clone(),
            videos: arguments.videos.clone(),
            pairs: arguments.pairs.clone(),
            name: arguments.name.clone(),
            kind: arguments.kind.map(|kind| match kind {
                LlavaFile::Conversation => LlavaKind::Conversation,
                LlavaFile::Detail => LlavaKind::Detail,
                LlavaFile::Complex => LlavaKind::Complex,
            }),
            frames: arguments.frames,
            max_frames: arguments.max_frames,
            text_only: arguments.text_only,
            all_rows: arguments.all_rows,
        },
        jobs,
        strict: arguments.strict,
        contexts: arguments.contexts,
        pictures: PictureOptions {
            image_size: arguments.image_size,
            max_side: arguments.max_side,
            frame_format: match arguments.frame_format {
                FrameFile::Jpeg => FrameFormat::Jpeg(QUALITY),
                FrameFile::Png => FrameFormat::Png,
            },
            alpha: rules.alpha,
            gray16: rules.gray16,
        },
        video: VideoOptions {
            sampling,
            max_frames: arguments.max_frames,
            range: None,
            max_side: arguments.max_side,
            sequence_fps: arguments.sequence_fps,
            ffmpeg: arguments.ffmpeg.clone(),
            timeout: Duration::from_secs_f64(arguments.timeout),
            // Several videos at once share the cores.
            threads: Some((cores / jobs).max(1)),
            rules,
        },
        restart: arguments.restart,
    })
}

fn kind(source: ImportSource) -> SourceKind {
    match source {
        ImportSource::Own => SourceKind::Own,
        ImportSource::Llava => SourceKind::Llava,
        ImportSource::Sd => SourceKind::Sd,
        ImportSource::Cgd => SourceKind::Cgd,
        ImportSource::Vst => SourceKind::Vst,
        ImportSource::Tvc => SourceKind::Tvc,
        ImportSource::Dc => SourceKind::Dc,
        ImportSource::E4d => SourceKind::E4d,
        ImportSource::Sn => SourceKind::Sn,
        ImportSource::Funqa => SourceKind::Funqa,
    }
}

fn source_name(source: ImportSource) -> &'static str {
    match source {
        ImportSource::Own => "own",
        ImportSource::Llava => "LLaVA instructions over COCO",
        ImportSource::Sd => "Spot-the-Difference",
        ImportSource::Cgd => "general differences",
        ImportSource::Vst => "VIST",
        ImportSource::Tvc => "TV captions",
        ImportSource::Dc => "ActivityNet Captions",
        ImportSource::E4d => "Ego4D",
        ImportSource::Sn => "ScanNet",
        ImportSource::Funqa => "FunQA",
    }
}

fn print(report: &ImportReport, out: &Path, name: &str) -> Result<()> {
    let count = output::count;
    output::text(&format!(
        "{}: {name}, {} pairs, {} images, {}",
        out.display(),
        count(report.written.records),
        count(report.written.images),
        output::bytes(report.written.bytes)
    ))?;
    let mut notes = Vec::new();
    if report.shared_images > 0 {
        notes.push(format!("{} images were there already", count(report.shared_images)));
    }
    if report.thinned > 0 {
        notes.push(format!(
            "{} videos had more frames than --max-frames and were thinned out",
            count(report.thinned)
        ));
    }
    if report.example_only > 0 {
        notes.push(format!(
            "{} pairs have no context and are no samples; they serve as examples where a context names them",
            count(report.example_only)
        ));
    }
    if report.languages.len() > 1 {
        let codes: Vec<String> =
            report.languages.iter().map(|(code, n)| format!("{code} {}", count(*n))).collect();
        notes.push(format!("languages: {}", codes.join(", ")));
    }
    output::text(&format!("items {} of {} used", count(report.used), count(report.items)))?;
    for note in notes {
        output::text(&format!("  {note}"))?;
    }
    Ok(())
}

/// What was left out and what is odd, on standard error: the data set is not what the source says.
fn warn(report: &ImportReport) {
    for (reason, skip) in &report.skipped {
        eprintln!("warning: left out: {} {} [{reason}]", output::count(skip.count), skip.of);
        for example in &skip.examples {
            eprintln!("    {example}");
        }
        if skip.count > skip.examples.len() as u64 {
            eprintln!("    …");
        }
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
}

/// A bar on a terminal, otherwise a line now and then.
struct Shown {
    bar: ProgressBar,
    writing: bool,
    told: Instant,
}

impl Shown {
    fn new() -> Self {
        let bar = progress::bar("{bar:24} {pos}/{len} {per_sec} eta {eta} {msg}");
        Self { bar, writing: false, told: Instant::now() }
    }

    fn update(&mut self, progress: Progress) {
        if progress.writing != self.writing {
            self.writing = progress.writing;
            self.bar.reset();
        }
        if self.bar.length().is_none() && progress.done > 1 {
            // What an earlier run did is no rate of this one.
            self.bar.reset_eta();
        }
        self.bar.set_length(progress.total as u64);
        self.bar.set_position(progress.done as u64);
        let message = match (progress.writing, progress.skipped) {
            (true, _) => "writing".to_owned(),
            (false, 0) => String::new(),
            (false, skipped) => format!("{} left out", output::count(skipped as u64)),
        };
        if self.bar.is_hidden() && self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            eprintln!(
                "{} of {} items, {:.1}/s, about {} s more {message}",
                progress.done,
                progress.total,
                self.bar.per_sec(),
                self.bar.eta().as_secs()
            );
        }
        self.bar.set_message(message);
    }
}
