//! The published models, and the sizes that each was published with: what a checkpoint of random values is made like, and
//! what a directory is told by.

use otter_model::config::{FalconConfig, GptNeoxConfig, LlamaConfig, OtterConfig};
use otter_model::text::families;

use crate::config::checkpoint_config::{CheckpointConfig, ModelFamily};
use crate::facts::model::Language;

/// A published model.
#[derive(Debug, Clone, Copy)]
pub struct NamedModel {
    /// What it is called here.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    family: ModelFamily,
    /// Family of its language model.
    pub(super) language: Language,
    sizes: fn() -> OtterConfig,
    /// What was published in these sizes. The first counts when nothing speaks for another.
    pub(super) releases: &'static [Release],
}

/// A repository or file of trained weights.
#[derive(Debug, Clone, Copy)]
pub struct Release {
    /// Its name on the hub, without the owner.
    pub name: &'static str,
    /// `otter`, `flamingo` or (a file of trained weights) `openflamingo`.
    pub(super) model_type: &'static str,
    /// Rows of the input table.
    pub(super) rows: &'static [usize],
    /// Weight files as they were published; 0 where not known.
    pub(super) shards: usize,
    /// Made to be tuned: what it answers means nothing yet.
    pub untrained: bool,
    /// What completes a file of its trained weights.
    pub base: &'static str,
}

impl Release {
    const fn new(
        name: &'static str,
        model_type: &'static str,
        rows: &'static [usize],
        base: &'static str,
    ) -> Self {
        Self { name, model_type, rows, shards: 0, untrained: false, base }
    }

    /// With the number of its weight files.
    const fn shards(self, shards: usize) -> Self {
        Self { shards, ..self }
    }

    /// Made to be tuned first.
    const fn untrained(self) -> Self {
        Self { untrained: true, ..self }
    }
}

const OTTER: &str = "otter";
const FLAMINGO: &str = "flamingo";
pub(super) const OPEN_FLAMINGO: &str = "openflamingo";
const LLAMA_ROWS: &[usize] = &[32004, 32003];
const LLAMA_CHAT_ROWS: &[usize] = &[32002, 32000];
const MPT_ROWS: &[usize] = &[50432, 50280];
const BASE_LLAMA: &str = "luodian/OTTER-9B-INIT";
const BASE_MPT_7B: &str = "luodian/OTTER-MPT7B-Init";
const BASE_MPT_1B: &str = "luodian/OTTER-MPT1B-RPJama-Init";

/// All that `otter init` makes one like.
pub const NAMED_MODELS: &[NamedModel] = &[
    NamedModel {
        name: "otter-9b",
        description: "OTTER-9B: LLaMA-7B with the four added tokens",
        family: ModelFamily::Otter,
        language: Language::Known(&families::LLAMA),
        sizes: OtterConfig::otter_9b,
        releases: &[
            Release::new("otter-9b-hf", OTTER, LLAMA_ROWS, BASE_LLAMA),
            Release::new("OTTER-9B-INIT", OTTER, LLAMA_ROWS, BASE_LLAMA).untrained(),
            Release::new("OpenFlamingo-9B", OPEN_FLAMINGO, LLAMA_ROWS, "luodian/llama-7b-hf"),
        ],
    },
    NamedModel {
        name: "otter-video-7b",
        description: "OTTER-Video-LLaMA7B: the same with 128 frame embeddings",
        family: ModelFamily::Otter,
        language: Language::Known(&families::LLAMA),
        sizes: || with_frames(OtterConfig::otter_9b()),
        releases: &[Release::new("OTTER-Video-LLaMA7B-DenseCaption", OTTER, LLAMA_ROWS, BASE_LLAMA).shards(4)],
    },
    NamedModel {
        name: "otter-mpt7b",
        description: "OTTER-Image-MPT7B: MPT-7B",
        family: ModelFamily::Otter,
        language: Language::Known(&families::MPT),
        sizes: OtterConfig::otter_mpt7b,
        releases: &[
            Release::new("OTTER-Image-MPT7B", OTTER, MPT_ROWS, BASE_MPT_7B).shards(4),
            Release::new("OTTER-MPT7B-Init", FLAMINGO, MPT_ROWS, BASE_MPT_7B).untrained(),
            Release::new("flamingo-mpt-7B", FLAMINGO, MPT_ROWS, BASE_MPT_7B).untrained(),
            Release::new("OpenFlamingo-9B-vitl-mpt7b", OPEN_FLAMINGO, MPT_ROWS, "mosaicml/mpt-7b"),
        ],
    },
    NamedModel {
        name: "otter-video-mpt7b",
        description: "the same with 128 frame embeddings",
        family: ModelFamily::Otter,
        language: Language::Known(&families::MPT),
        sizes: || with_frames(OtterConfig::otter_mpt7b()),
        releases: &[],
    },
    NamedModel {
        name: "otter-mpt1b",
        description: "OTTER-MPT1B-RPJama: MPT-1B RedPajama, cross-attention before every layer",
        family: ModelFamily::Otter,
        language: Language::Known(&families::MOSAIC_GPT),
        sizes: OtterConfig::otter_mpt1b,
        releases: &[
            Release::new("OTTER-MPT1B-RPJama-Init", OTTER, MPT_ROWS, BASE_MPT_1B).shards(2).untrained(),
            Release::new("flamingo-mpt-1b-redpajama-200b-dolly", FLAMINGO, MPT_ROWS, BASE_MPT_1B).untrained(),
            Release::new(
                "OpenFlamingo-3B-vitl-mpt1b",
                OPEN_FLAMINGO,
                MPT_ROWS,
                "anas-awadalla/mpt-1b-redpajama-200b",
            ),
        ],
    },
    NamedModel {
        name: "otter-mpt30b",
        description: "MPT-30B, cross-attention before every seventh layer",
        family: ModelFamily::Otter,
        language: Language::Known(&families::MPT),
        sizes: OtterConfig::otter_mpt30b,
        releases: &[
            Release::new("flamingo-mpt-30B-instruct-init", FLAMINGO, MPT_ROWS, BASE_MPT_7B).untrained()
        ],
    },
    NamedModel {
        name: "flamingo-llama2-7b",
        description: "LLaMA-2-7B-chat",
        family: ModelFamily::Flamingo,
        language: Language::Known(&families::LLAMA),
        sizes: || with_llama(llama2_7b(), 4),
        releases: &[
            Release::new("flamingo-llama2-chat-7B-init", FLAMINGO, LLAMA_CHAT_ROWS, BASE_LLAMA).untrained()
        ],
    },
    NamedModel {
        name: "flamingo-llama2-13b",
        description: "LLaMA-2-13B-chat, cross-attention before every eighth layer",
        family: ModelFamily::Flamingo,
        language: Language::Known(&families::LLAMA),
        sizes: || with_llama(LlamaConfig::llama2_13b(32000), 8),
        releases: &[
            Release::new("flamingo-llama2-chat-13B-init", FLAMINGO, LLAMA_CHAT_ROWS, BASE_LLAMA).untrained()
        ],
    },
    NamedModel {
        name: "flamingo-vicuna-7b",
        description: "Vicuna-7B v1.3",
        family: ModelFamily::Flamingo,
        language: Language::Known(&families::LLAMA),
        sizes: || with_llama(LlamaConfig::llama_7b(32000), 4),
        releases: &[
            Release::new("flamingo-vicuna-7B-v1.3-init", FLAMINGO, LLAMA_CHAT_ROWS, BASE_LLAMA).untrained()
        ],
    },
    NamedModel {
        name: "flamingo-vicuna-33b",
        description: "Vicuna-33B v1.3",
        family: ModelFamily::Flamingo,
        language: Language::Known(&families::LLAMA),
        sizes: || with_llama(LlamaConfig::vicuna_33b(32000), 4),
        releases: &[
            Release::new("flamingo-vicuna-33B-v1.3-init", FLAMINGO, LLAMA_CHAT_ROWS, BASE_LLAMA).untrained()
        ],
    },
    NamedModel {
        name: "flamingo-falcon-7b",
        description: "Falcon-7B",
        family: ModelFamily::Flamingo,
        language: Language::Known(&families::FALCON),
        sizes: || OtterConfig { text: FalconConfig::falcon_7b().into(), ..OtterConfig::otter_mpt7b() },
        releases: &[Release::new("flamingo-falcon-7b", FLAMINGO, &[65024], BASE_LLAMA).untrained()],
    },
];

/// Known as a file of trained weights only; its whole model was never counted.
const RED_PAJAMA_4B: NamedModel = NamedModel {
    name: "openflamingo-4b",
    description: "RedPajama-INCITE-3B, cross-attention before every second layer",
    family: ModelFamily::Flamingo,
    language: Language::Known(&families::GPT_NEOX),
    sizes: red_pajama_4b,
    releases: &[Release::new(
        "OpenFlamingo-4B-vitl-rpj3b",
        OPEN_FLAMINGO,
        &[50435, 50432, 50280],
        "togethercomputer/RedPajama-INCITE-Base-3B-v1",
    )],
};

/// Every model that something was published of.
pub(super) fn models() -> impl Iterator<Item = &'static NamedModel> {
    NAMED_MODELS.iter().chain([&RED_PAJAMA_4B])
}

impl NamedModel {
    /// The model with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        NAMED_MODELS.iter().find(|model| model.name == name)
    }

    /// Its configuration.
    pub fn config(&self) -> CheckpointConfig {
        CheckpointConfig { family: self.family, ..CheckpointConfig::new((self.sizes)()) }
    }

    /// Its sizes.
    pub(super) fn sizes(&self) -> OtterConfig {
        (self.sizes)()
    }

    /// Parameters of the whole model, where it was counted.
    pub(super) fn total(&self) -> Option<u64> {
        let counted = NAMED_MODELS.iter().any(|model| model.name == self.name);
        counted.then(|| u64::try_from(self.sizes().parameter_count()).ok()).flatten()
    }
}

fn red_pajama_4b() -> OtterConfig {
    let mut config =
        OtterConfig { text: GptNeoxConfig::redpajama_incite_3b().into(), ..OtterConfig::otter_9b() };
    config.cross_attention.every_n_layers = 2;
    config
}

fn with_frames(mut config: OtterConfig) -> OtterConfig {
    config.perceiver.max_num_frames = Some(128);
    config
}

fn llama2_7b() -> LlamaConfig {
    LlamaConfig { rms_norm_eps: 1e-5, ..LlamaConfig::llama_7b(32000) }
}

fn with_llama(text: LlamaConfig, every_n_layers: usize) -> OtterConfig {
    let mut config = OtterConfig { text: text.into(), ..OtterConfig::otter_9b() };
    config.cross_attention.every_n_layers = every_n_layers;
    config
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The counts that instantiating the original gave.
    #[test]
    fn counts_are_those_of_the_originals() {
        for (name, count) in [
            ("otter-9b", 8_220_463_120),
            ("otter-video-7b", 8_220_463_120 + 128 * 1024),
            ("otter-mpt7b", 8_131_301_392),
            ("otter-video-mpt7b", 8_131_432_464),
            ("otter-mpt1b", 2_558_642_224),
            ("otter-mpt30b", 32_840_154_124),
            ("flamingo-llama2-7b", 8_220_430_352),
            ("flamingo-llama2-13b", 14_462_198_794),
            ("flamingo-vicuna-7b", 8_220_430_352),
            ("flamingo-vicuna-33b", 38_329_786_910),
            ("flamingo-falcon-7b", 8_655_145_872),
        ] {
            let config = NamedModel::find(name).unwrap().config();
            assert_eq!(config.model.parameter_count(), count, "{name}");
            let (_, specs) = otter_model::Otter::new(&config.model).unwrap();
            assert_eq!(u128::from(specs.count(|_| true)), count, "{name}");
        }
        assert_eq!(NAMED_MODELS.len(), 11);
    }
}
