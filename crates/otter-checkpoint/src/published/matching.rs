//! Known releases, told by their sizes (`spec/model.md` 9.3, 11; `spec/checkpoints.md` 1, 3) and by what else speaks for
//! one of several releases of the same sizes.

use crate::inspect::{Facts, Kind, Language};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// Every release uses CLIP ViT-L/14 and 64 latents.
const VISION_WIDTH: usize = 1024;
const LATENTS: usize = 64;

/// A published model.
#[derive(Debug, Clone, Copy)]
pub struct Release {
    /// Its name on the hub, without the owner.
    pub name: &'static str,
    /// `otter`, `flamingo` or (a file of trained weights) `openflamingo`.
    model_type: &'static str,
    language: Language,
    width: usize,
    layers: usize,
    every: usize,
    /// Rows of the input table.
    rows: &'static [usize],
    frames: Option<usize>,
    /// Parameters of the whole model.
    pub total: u64,
    /// Weight files as they were published; 0 where not known.
    shards: usize,
    /// Made to be tuned: what it answers means nothing yet.
    pub untrained: bool,
    /// What completes a file of its trained weights.
    pub base: &'static str,
}

const LLAMA_7B: Release = Release {
    name: "",
    model_type: "otter",
    language: Language::Llama,
    width: 4096,
    layers: 32,
    every: 4,
    rows: &[32004, 32003],
    frames: None,
    total: 8_220_463_120,
    shards: 0,
    untrained: false,
    base: "luodian/OTTER-9B-INIT",
};

const MPT_7B: Release = Release {
    language: Language::Mpt,
    rows: &[50432, 50280],
    total: 8_131_301_392,
    base: "luodian/OTTER-MPT7B-Init",
    ..LLAMA_7B
};

const MPT_1B: Release = Release {
    language: Language::MosaicGpt,
    width: 2048,
    layers: 24,
    every: 1,
    total: 2_558_642_224,
    base: "luodian/OTTER-MPT1B-RPJama-Init",
    ..MPT_7B
};

const FLAMINGO: Release = Release { model_type: "flamingo", untrained: true, ..LLAMA_7B };
const OPEN_FLAMINGO: Release = Release { model_type: "openflamingo", ..LLAMA_7B };

/// All of them. The first of several with the same sizes counts when nothing speaks for another.
pub const RELEASES: [Release; 18] = [
    Release { name: "OTTER-Image-MPT7B", shards: 4, ..MPT_7B },
    Release { name: "OTTER-MPT7B-Init", model_type: "flamingo", untrained: true, ..MPT_7B },
    Release { name: "flamingo-mpt-7B", model_type: "flamingo", untrained: true, ..MPT_7B },
    Release {
        name: "OTTER-Video-LLaMA7B-DenseCaption",
        frames: Some(128),
        total: 8_220_594_192,
        shards: 4,
        ..LLAMA_7B
    },
    Release { name: "otter-9b-hf", ..LLAMA_7B },
    Release { name: "OTTER-9B-INIT", untrained: true, ..LLAMA_7B },
    Release { name: "OTTER-MPT1B-RPJama-Init", shards: 2, untrained: true, ..MPT_1B },
    Release {
        name: "flamingo-mpt-1b-redpajama-200b-dolly",
        model_type: "flamingo",
        untrained: true,
        ..MPT_1B
    },
    Release {
        name: "flamingo-mpt-30B-instruct-init",
        model_type: "flamingo",
        width: 7168,
        layers: 48,
        every: 7,
        total: 32_840_154_124,
        untrained: true,
        ..MPT_7B
    },
    Release {
        name: "flamingo-falcon-7b",
        language: Language::Falcon,
        width: 4544,
        rows: &[65024],
        total: 8_655_145_872,
        ..FLAMINGO
    },
    Release { name: "flamingo-llama2-chat-7B-init", rows: &[32002, 32000], total: 8_220_430_352, ..FLAMINGO },
    Release { name: "flamingo-vicuna-7B-v1.3-init", rows: &[32002, 32000], total: 8_220_430_352, ..FLAMINGO },
    Release {
        name: "flamingo-llama2-chat-13B-init",
        width: 5120,
        layers: 40,
        every: 8,
        rows: &[32002, 32000],
        total: 14_462_198_794,
        ..FLAMINGO
    },
    Release {
        name: "flamingo-vicuna-33B-v1.3-init",
        width: 6656,
        layers: 60,
        rows: &[32002, 32000],
        total: 38_329_786_910,
        ..FLAMINGO
    },
    Release { name: "OpenFlamingo-9B", base: "luodian/llama-7b-hf", ..OPEN_FLAMINGO },
    Release {
        name: "OpenFlamingo-9B-vitl-mpt7b",
        model_type: "openflamingo",
        base: "mosaicml/mpt-7b",
        ..MPT_7B
    },
    Release {
        name: "OpenFlamingo-4B-vitl-rpj3b",
        language: Language::GptNeoX,
        width: 2560,
        every: 2,
        rows: &[50435, 50432, 50280],
        total: 0,
        base: "togethercomputer/RedPajama-INCITE-Base-3B-v1",
        ..OPEN_FLAMINGO
    },
    Release {
        name: "OpenFlamingo-3B-vitl-mpt1b",
        model_type: "openflamingo",
        base: "anas-awadalla/mpt-1b-redpajama-200b",
        ..MPT_1B
    },
];

/// A release that a checkpoint looks like.
#[derive(Debug, Clone)]
pub struct ReleaseMatch {
    /// The release.
    pub release: Release,
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
    let mut matches: Vec<(usize, Release, Vec<String>)> = RELEASES
        .iter()
        .filter(|release| release.has_sizes(candidate))
        .map(|release| {
            let (score, evidence) = release.evidence(candidate);
            (score, *release, evidence)
        })
        .collect();
    // Stable: the order of the table decides between equals.
    matches.sort_by_key(|(score, ..)| std::cmp::Reverse(*score));
    let mut matches = matches.into_iter();
    let (_, release, evidence) = matches.next()?;
    Some(ReleaseMatch { release, evidence, others: matches.map(|(_, release, _)| release.name).collect() })
}

impl Release {
    fn has_sizes(&self, candidate: &Candidate<'_>) -> bool {
        let facts = candidate.facts;
        // A file of trained weights does not tell MPT from MosaicGPT by its paths.
        let language = match (facts.language, self.language) {
            (Some(Language::Mpt), Language::MosaicGpt) => candidate.config.is_none(),
            (found, own) => found == Some(own),
        };
        let foreign = matches!(candidate.kind, Kind::OpenFlamingo(_));
        language
            && foreign == (self.model_type == "openflamingo")
            && facts.width == Some(self.width)
            && facts.every == Some(self.every)
            && (facts.blocks == 0 || facts.blocks == self.layers / self.every)
            && facts.frames == self.frames
            && facts.rows.is_none_or(|rows| self.rows.contains(&rows))
            && facts.vision_width.is_none_or(|width| width == VISION_WIDTH)
            && facts.latents.is_none_or(|latents| latents == LATENTS)
    }

    fn evidence(&self, candidate: &Candidate<'_>) -> (usize, Vec<String>) {
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
        if candidate.total == Some(self.total) {
            speaks(2, format!("{} parameters", self.total));
        }
        if let Some(frames) = self.frames {
            speaks(1, format!("{frames} frames"));
        }
        if let Some(rows) = facts.rows {
            speaks(usize::from(self.rows.first() == Some(&rows)), format!("a table of {rows} rows"));
        }
        if self.shards > 1 && candidate.shards == self.shards {
            speaks(1, format!("{} shards", self.shards));
        }
        let model_type = candidate.config.and_then(|config| config.get("model_type")).and_then(Value::as_str);
        if let Some(name) = model_type.filter(|&name| name == self.model_type) {
            speaks(2, format!("model_type {name}"));
        }
        if candidate.zero_gates && self.untrained {
            speaks(2, "all gates are zero".to_owned());
        }
        if self.named_by(candidate) {
            speaks(8, "its name".to_owned());
        }
        (score, evidence)
    }

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
