//! `otter data retrieve`: in-context examples for the instructions of a set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use otter_mimicit::retrieve::{
    EmbeddingSource, ExampleOrder, Heuristic, ImagePooling, IndexKind, Observer, RetrieveOptions,
    RetrieveReport, SearchPlan, Stage, retrieve,
};
use serde_json::json;

use crate::arguments::{DataRetrieve, RetrieveBy, RetrieveIndex, RetrieveOrder, RetrievePooling};
use crate::commands::checkpoint::hub;
use crate::commands::interrupt;
use crate::output;
use crate::progress;

/// Runs the command.
pub fn run(arguments: &DataRetrieve) -> Result<()> {
    let options = options(arguments)?;
    let stop = interrupt::flag("stopping; what is done is kept")?;
    let mut show = Show {
        bar: progress::bar("{msg:10} {bar:24} {pos}/{len} {per_sec} eta {eta}"),
        stage: None,
        stop,
        plan: None,
    };
    let started = Instant::now();
    let report = retrieve(&arguments.set, &options, &mut show);
    show.bar.finish_and_clear();
    let report = report?;
    let seconds = started.elapsed().as_secs_f64();
    for line in report.left_out() {
        eprintln!("warning: left out: {line}");
    }
    if arguments.json {
        return output::json(&json!({
            "out": arguments.out, "report": report, "plan": show.plan, "seconds_total": seconds,
        }));
    }
    print(arguments, &report, seconds)
}

fn options(arguments: &DataRetrieve) -> Result<RetrieveOptions> {
    let precomputed = arguments.embeddings.clone().zip(arguments.embedding_ids.clone());
    let precomputed = precomputed.map(|(matrix, ids)| EmbeddingSource::Precomputed { matrix, ids });
    let size = |value: Option<u32>| value.map(|value| value as usize);
    let mut images = arguments.images.clone();
    let heuristic = match arguments.by {
        RetrieveBy::Text => Heuristic::Text(match (precomputed, arguments.text_encoder.as_str()) {
            (Some(_), encoder) if encoder != "tfidf" => {
                bail!("--embeddings and --text-encoder {encoder} exclude each other")
            }
            (Some(precomputed), _) => precomputed,
            (None, "tfidf") => EmbeddingSource::TfIdf { width: arguments.tfidf_width as usize },
            (None, directory) => {
                EmbeddingSource::SentenceTransformer(hub::resolve_model(directory.as_ref())?)
            }
        }),
        RetrieveBy::Image => Heuristic::Image(match precomputed {
            Some(precomputed) => precomputed,
            None => {
                let model = arguments.model.as_deref().context(
                    "--by image needs vectors of the pictures: pass --model DIR with an Otter checkpoint, \
                     or --embeddings FILE --embedding-ids FILE",
                )?;
                if images.is_empty() && arguments.set.is_dir() {
                    images.push(arguments.set.clone());
                }
                if images.is_empty() {
                    bail!("--by image needs the pictures of {}: pass --images PATH", arguments.set.display());
                }
                let pooling = match arguments.pooling {
                    RetrievePooling::Class => ImagePooling::Class,
                    RetrievePooling::Mean => ImagePooling::Mean,
                };
                EmbeddingSource::Tower { model: hub::resolve_model(model)?, pooling }
            }
        }),
        RetrieveBy::Scene | RetrieveBy::Random if precomputed.is_some() => {
            bail!("--embeddings is for --by text and --by image")
        }
        RetrieveBy::Scene => Heuristic::Scene,
        RetrieveBy::Random => Heuristic::Random,
    };
    Ok(RetrieveOptions {
        heuristic,
        k: arguments.k,
        out: arguments.out.clone(),
        work: arguments.work.clone(),
        keep_work: arguments.keep_work,
        queries: arguments.train_json.clone(),
        images,
        index: arguments.index.map(|index| match index {
            RetrieveIndex::Exact => IndexKind::Exact,
            RetrieveIndex::Approximate => IndexKind::Approximate,
        }),
        lists: size(arguments.lists),
        probes: size(arguments.probes),
        allow_same_image: arguments.allow_same_image,
        per_instruction: size(arguments.per_instruction),
        order: match arguments.order {
            RetrieveOrder::NearestLast => ExampleOrder::NearestLast,
            RetrieveOrder::NearestFirst => ExampleOrder::NearestFirst,
        },
        seed: arguments.seed,
    })
}

struct Show {
    bar: ProgressBar,
    stage: Option<Stage>,
    stop: Arc<AtomicBool>,
    plan: Option<SearchPlan>,
}

impl Observer for Show {
    fn plan(&mut self, plan: &SearchPlan) {
        if self.bar.is_hidden() {
            eprintln!("{plan}")
        } else {
            self.bar.println(plan.to_string())
        }
        self.plan = Some(plan.clone());
    }

    fn progress(&mut self, stage: Stage, done: u64, total: u64) -> bool {
        if self.stage != Some(stage) {
            self.stage = Some(stage);
            self.bar.reset();
            self.bar.set_message(match stage {
                Stage::Read => "read",
                Stage::Embed => "embed",
                Stage::Index => "index",
                Stage::Search => "search",
                Stage::Pick => "pick",
            });
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        !self.stop.load(Ordering::Relaxed)
    }
}

fn print(arguments: &DataRetrieve, report: &RetrieveReport, seconds: f64) -> Result<()> {
    let count = output::count;
    output::text(&format!(
        "{}: {} of {} queries in {seconds:.1} s",
        arguments.out.display(),
        count(report.written),
        count(report.queries)
    ))?;
    output::text(&format!("  {:>12} with {} examples", count(report.full), arguments.k))?;
    output::text(&format!("  {:>12} with fewer", count(report.fewer)))?;
    output::text(&format!("  {:>12} with none", count(report.none)))?;
    output::text(&format!("{} records, {} distinct items", count(report.records), count(report.items)))?;
    if report.example_only > 0 {
        output::text(&format!("  {:>12} serve only as examples (example_only)", count(report.example_only)))?;
    }
    let turned = report.turned_away;
    output::text(&format!("  {:>12} candidates turned away: same_image", count(turned.same_image)))?;
    output::text(&format!("  {:>12} candidates turned away: duplicate", count(turned.duplicate)))?;
    if report.searched_deeper > 0 {
        output::text(&format!("  {:>12} queries searched deeper", count(report.searched_deeper)))?;
    }
    if let Some(similarity) = report.mean_similarity {
        output::text(&format!("mean similarity of the examples {similarity:.4}"))?;
    }
    Ok(())
}
