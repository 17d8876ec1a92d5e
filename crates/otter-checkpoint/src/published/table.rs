//! The published models by name: sizes to make a checkpoint of random values from (`spec/model.md` 9.3 and 11).

use otter_model::config::{FalconConfig, LlamaConfig, OtterConfig};

use crate::config::checkpoint_config::{CheckpointConfig, ModelFamily};

/// A published model.
#[derive(Debug, Clone, Copy)]
pub struct NamedModel {
    /// What it is called here.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    family: ModelFamily,
    sizes: fn() -> OtterConfig,
}

/// All of them.
pub const NAMED_MODELS: &[NamedModel] = &[
    NamedModel {
        name: "otter-9b",
        description: "OTTER-9B: LLaMA-7B with the four added tokens",
        family: ModelFamily::Otter,
        sizes: OtterConfig::otter_9b,
    },
    NamedModel {
        name: "otter-video-7b",
        description: "OTTER-Video-LLaMA7B: the same with 128 frame embeddings",
        family: ModelFamily::Otter,
        sizes: || with_frames(OtterConfig::otter_9b()),
    },
    NamedModel {
        name: "otter-mpt7b",
        description: "OTTER-Image-MPT7B: MPT-7B",
        family: ModelFamily::Otter,
        sizes: OtterConfig::otter_mpt7b,
    },
    NamedModel {
        name: "otter-video-mpt7b",
        description: "the same with 128 frame embeddings",
        family: ModelFamily::Otter,
        sizes: || with_frames(OtterConfig::otter_mpt7b()),
    },
    NamedModel {
        name: "otter-mpt1b",
        description: "OTTER-MPT1B-RPJama: MPT-1B RedPajama, cross-attention before every layer",
        family: ModelFamily::Otter,
        sizes: OtterConfig::otter_mpt1b,
    },
    NamedModel {
        name: "otter-mpt30b",
        description: "MPT-30B, cross-attention before every seventh layer",
        family: ModelFamily::Otter,
        sizes: OtterConfig::otter_mpt30b,
    },
    NamedModel {
        name: "flamingo-llama2-7b",
        description: "LLaMA-2-7B-chat",
        family: ModelFamily::Flamingo,
        sizes: || with_llama(llama2_7b(), 4),
    },
    NamedModel {
        name: "flamingo-llama2-13b",
        description: "LLaMA-2-13B-chat, cross-attention before every eighth layer",
        family: ModelFamily::Flamingo,
        sizes: || with_llama(LlamaConfig::llama2_13b(32000), 8),
    },
    NamedModel {
        name: "flamingo-vicuna-7b",
        description: "Vicuna-7B v1.3",
        family: ModelFamily::Flamingo,
        sizes: || with_llama(LlamaConfig::llama_7b(32000), 4),
    },
    NamedModel {
        name: "flamingo-vicuna-33b",
        description: "Vicuna-33B v1.3",
        family: ModelFamily::Flamingo,
        sizes: || with_llama(LlamaConfig::vicuna_33b(32000), 4),
    },
    NamedModel {
        name: "flamingo-falcon-7b",
        description: "Falcon-7B",
        family: ModelFamily::Flamingo,
        sizes: || OtterConfig { text: FalconConfig::falcon_7b().into(), ..OtterConfig::otter_mpt7b() },
    },
];

impl NamedModel {
    /// The model with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        NAMED_MODELS.iter().find(|model| model.name == name)
    }

    /// Its configuration.
    pub fn config(&self) -> CheckpointConfig {
        CheckpointConfig { family: self.family, ..CheckpointConfig::new((self.sizes)()) }
    }
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
