//! Which parameters are trained, by name.

use otter_nn::ParameterSpecs;

use crate::ModelError;
use crate::config::OtterConfig;

/// A rule that says which parameters are trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FreezeRule {
    /// The original's last version: Perceiver, gated cross-attention, input embeddings and output table, plus the parts
    /// that the configuration switches on.
    #[default]
    Head,
    /// The first release, which the paper counts: the output table stays frozen.
    V01,
    /// Every parameter whose name contains one of these patterns; `*` stands for any characters.
    Patterns(Vec<String>),
}

impl FreezeRule {
    /// Reads `head`, `v0.1`, or a comma-separated list of patterns.
    pub fn parse(text: &str) -> Self {
        match text {
            "head" => Self::Head,
            "v0.1" => Self::V01,
            list => Self::Patterns(list.split(',').map(|p| p.trim().to_string()).collect()),
        }
    }

    /// Whether the parameter `name` is trained.
    pub fn is_trainable(&self, config: &OtterConfig, name: &str) -> bool {
        let bridge = name.contains("perceiver") || name.contains("gated_cross_attn_layer");
        let embedding = name == config.input_table();
        let output = config.text.trains_output_table() && name == config.output_table();
        match self {
            Self::Head => {
                config.train_full_model
                    || config.train_vision_encoder && name.starts_with("vision_encoder.")
                    || config.train_lang_encoder && name.starts_with("lang_encoder.")
                    || bridge
                    || embedding
                    || output
            }
            Self::V01 => bridge || embedding,
            Self::Patterns(patterns) => patterns.iter().any(|pattern| matches(pattern, name)),
        }
    }

    /// Number of trained elements.
    pub fn count(&self, config: &OtterConfig, specs: &ParameterSpecs) -> u64 {
        specs.count(|name| self.is_trainable(config, name))
    }

    /// Checks that every pattern matches some parameter.
    ///
    /// # Errors
    /// The first pattern without a match.
    pub fn check(&self, specs: &ParameterSpecs) -> Result<(), ModelError> {
        let Self::Patterns(patterns) = self else { return Ok(()) };
        match patterns.iter().find(|pattern| !specs.iter().any(|s| matches(pattern, &s.name))) {
            None => Ok(()),
            Some(pattern) => Err(ModelError::UnmatchedPattern {
                pattern: pattern.clone(),
                example: specs.iter().next().map(|s| s.name.clone()).unwrap_or_default(),
            }),
        }
    }
}

/// Whether `name` contains the parts of `pattern` between its stars, in order.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = name;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Otter;
    use crate::config::{FalconConfig, LlamaConfig};

    fn counts(config: &OtterConfig, rule: &FreezeRule) -> Option<(u64, u64)> {
        let (_, specs) = Otter::new(config).ok()?;
        Some((specs.count(|_| true), rule.count(config, &specs)))
    }

    /// Counted by building the original.
    #[test]
    fn counts_reproduce_the_published_table_without_allocating() {
        let mut config = OtterConfig::otter_9b();
        assert_eq!(counts(&config, &FreezeRule::Head), Some((8_220_463_120, 1_441_011_728)));
        assert_eq!(counts(&config, &FreezeRule::V01), Some((8_220_463_120, 1_309_923_344)));
        config.text = LlamaConfig::llama_7b(32000).into();
        assert_eq!(counts(&config, &FreezeRule::Head), Some((8_220_430_352, 1_440_978_960)));
        config.text = LlamaConfig::vicuna_33b(32000).into();
        assert_eq!(counts(&config, &FreezeRule::Head), Some((38_329_786_910, 5_923_647_518)));
        config.text = LlamaConfig::llama2_13b(32000).into();
        config.cross_attention.every_n_layers = 8;
        assert_eq!(counts(&config, &FreezeRule::Head), Some((14_462_198_794, 1_470_834_698)));
        let perceiver = FreezeRule::parse("perceiver");
        assert_eq!(counts(&config, &perceiver).map(|c| c.1), Some(63_019_008));
        config.perceiver.max_num_frames = Some(128);
        assert_eq!(counts(&config, &perceiver).map(|c| c.1), Some(63_150_080));
        for (config, expected) in [
            (OtterConfig::otter_mpt7b(), (8_131_301_392, 1_385_404_432)),
            (OtterConfig::otter_mpt1b(), (2_558_642_224, 1_047_304_240)),
            (OtterConfig::otter_mpt30b(), (32_840_154_124, 2_941_270_028)),
            (
                OtterConfig { text: FalconConfig::falcon_7b().into(), ..OtterConfig::otter_mpt7b() },
                (8_655_145_872, 1_725_714_448),
            ),
            (
                OtterConfig { train_lang_encoder: true, ..OtterConfig::otter_mpt7b() },
                (8_131_301_392, 7_828_121_616),
            ),
        ] {
            assert_eq!(counts(&config, &FreezeRule::Head), Some(expected));
        }
        let vision = FreezeRule::parse("vision_encoder.");
        assert_eq!(counts(&config, &vision).map(|c| c.1), Some(303_179_776));
    }

    #[test]
    fn patterns_match_by_parts_and_must_match_something() {
        assert!(matches("layers.*.mlp", "lang_encoder.model.layers.3.decoder_layer.mlp.up_proj.weight"));
        assert!(!matches("mlp*layers", "lang_encoder.model.layers.3.decoder_layer.mlp.up_proj.weight"));
        let checked = Otter::new(&OtterConfig::otter_9b()).map(|(_, specs)| {
            (FreezeRule::parse("perceiver,gates").check(&specs), FreezeRule::parse("perceiver").check(&specs))
        });
        assert!(matches!(checked, Ok((Err(ModelError::UnmatchedPattern { .. }), Ok(())))));
    }
}
