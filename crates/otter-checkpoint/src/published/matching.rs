//! Which release a directory is, told by its sizes and by what else speaks for one of several of the same sizes.

use super::table::{NamedModel, OPEN_FLAMINGO, Release, models};
use crate::facts::kind::Kind;
use crate::facts::model::{Facts, Language};
use otter_model::text::families;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// Every release uses CLIP ViT-L/14 and 64 latents.
const VISION_WIDTH: usize = 1024;
const LATENTS: usize = 64;

/// A release that a checkpoint looks like.
#[derive(Debug, Clone)]
pub struct ReleaseMatch {
    /// The release.
    pub release: Release,
    /// Parameters of the whole model, where they are known.
    pub total: Option<u64>,
    /// What speaks for it.
    pub evidence: Vec<String>,
    /// Further releases of the same sizes, which less speaks for.
    pub others: Vec<&'static str>,
}

impl ReleaseMatch {
    /// The name, what speaks for it and what else it could be.
    pub fn sentence(&self) -> String {
        let mut text = format!("{} ({})", self.release.name, self.evidence.join("; "));
        if !self.others.is_empty() {
            let _ = write!(text, "; the sizes also fit {}", self.others.join(", "));
        }
        text
    }
}

/// What is compared.
pub(crate) struct Candidate<'a> {
    pub facts: &'a Facts,
    pub kind: Kind,
    /// The raw configuration.
    pub config: Option<&'a Map<String, Value>>,
    /// Where it lies; the name may speak for a release.
    pub path: &'a Path,
    /// Number of parameters by the configuration, where it is known.
    pub total: Option<u64>,
    /// Number of weight files.
    pub shards: usize,
    /// Whether all gates are exactly zero.
    pub zero_gates: bool,
}

/// The release that most speaks for.
pub(crate) fn matching(candidate: &Candidate<'_>) -> Option<ReleaseMatch> {
    let mut matches: Vec<(usize, ReleaseMatch)> = models()
        .flat_map(|model| {
            let sizes = Sizes::of(model);
            let fitting = model.releases.iter().filter(move |release| sizes.fit(release, candidate));
            fitting.map(move |release| {
                let (score, evidence) = sizes.evidence(release, candidate);
                (score, ReleaseMatch { release: *release, total: sizes.total, evidence, others: Vec::new() })
            })
        })
        .collect();
    // Stable: the order of the table decides between equals.
    matches.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    let mut matches = matches.into_iter().map(|(_, found)| found);
    let first = matches.next()?;
    Some(ReleaseMatch { others: matches.map(|other| other.release.name).collect(), ..first })
}

/// The sizes of a model that are compared.
#[derive(Clone, Copy)]
struct Sizes {
    language: Language,
    width: usize,
    layers: usize,
    every: usize,
    frames: Option<usize>,
    total: Option<u64>,
}

impl Sizes {
    fn of(model: &NamedModel) -> Self {
        let config = model.sizes();
        Self {
            language: model.language,
            width: config.text.hidden_size(),
            layers: config.text.num_hidden_layers(),
            every: config.cross_attention.every_n_layers,
            frames: config.perceiver.max_num_frames,
            total: model.total(),
        }
    }

    fn fit(&self, release: &Release, candidate: &Candidate<'_>) -> bool {
        let facts = candidate.facts;
        // A file of trained weights does not tell MPT from MosaicGPT by its paths.
        let paths_of_both = facts.language == Some(Language::Known(&families::MPT))
            && self.language == Language::Known(&families::MOSAIC_GPT);
        let language =
            if paths_of_both { candidate.config.is_none() } else { facts.language == Some(self.language) };
        let foreign = matches!(candidate.kind, Kind::OpenFlamingo(_));
        language
            && foreign == (release.model_type == OPEN_FLAMINGO)
            && facts.width == Some(self.width)
            && facts.every == Some(self.every)
            && (facts.blocks == 0 || facts.blocks == self.layers / self.every)
            && facts.frames == self.frames
            && facts.rows.is_none_or(|rows| release.rows.contains(&rows))
            && facts.vision_width.is_none_or(|width| width == VISION_WIDTH)
            && facts.latents.is_none_or(|latents| latents == LATENTS)
    }

    fn evidence(&self, release: &Release, candidate: &Candidate<'_>) -> (usize, Vec<String>) {
        let facts = candidate.facts;
        let mut evidence = vec![format!(
            "{} of width {} with cross-attention before every {} of {} layers",
            self.language, self.width, self.every, self.layers
        )];
        let mut score = 0;
        let mut speaks = |weight: usize, text: String| {
            score += weight;
            evidence.push(text);
        };
        if let Some(total) = self.total.filter(|total| candidate.total == Some(*total)) {
            speaks(2, format!("{total} parameters"));
        }
        if let Some(frames) = self.frames {
            speaks(1, format!("{frames} frames"));
        }
        if let Some(rows) = facts.rows {
            speaks(usize::from(release.rows.first() == Some(&rows)), format!("a table of {rows} rows"));
        }
        if release.shards > 1 && candidate.shards == release.shards {
            speaks(1, format!("{} shards", release.shards));
        }
        let model_type = candidate.config.and_then(|config| config.get("model_type")).and_then(Value::as_str);
        if let Some(name) = model_type.filter(|&name| name == release.model_type) {
            speaks(2, format!("model_type {name}"));
        }
        if candidate.zero_gates && release.untrained {
            speaks(2, "all gates are zero".to_owned());
        }
        if release.named_by(candidate) {
            speaks(8, "its name".to_owned());
        }
        (score, evidence)
    }
}

impl Release {
    /// Whether the path or `_name_or_path` is that of the release. A longer name of another release does not count.
    fn named_by(&self, candidate: &Candidate<'_>) -> bool {
        let declared =
            candidate.config.and_then(|config| config.get("_name_or_path")).and_then(Value::as_str);
        let path = candidate.path.to_string_lossy();
        let parts = path.split(['/', '\\']).chain(declared.iter().flat_map(|name| name.split('/')));
        let own = self.name.to_lowercase();
        let mut named = parts.map(str::to_lowercase);
        // The hub's cache writes models--owner--name.
        named.any(|part| part == own || part.ends_with(&format!("--{own}")))
    }
}
