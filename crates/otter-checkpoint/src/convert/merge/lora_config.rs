//! How strong each LoRA adapter is: `lora_config` of a `config.json`, or PEFT's `adapter_config.json` beside it.
//!
//! Settings that change the merged matrix are obeyed, or refused by name. Those that say where adapters are or how they
//! were trained change nothing: the tensors tell.

use crate::config::section::{Section, UnknownKeys, unknown_keys_warning};
use crate::convert::source::Source;
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::error::{CheckpointError, Result};
use otter_model::text::config_json::KeyError;
use regex::Regex;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// PEFT's own file.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Keys that change no number of the merged matrix.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Keys that are obeyed.
const OBEYED: &[&str] = &["alpha_pattern", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora"];

/// Keys that change numbers in a way that is not computed here, and what to do about each.
const REFUSED: &[(&str, &str)] = &[
    ("alora_invocation_tokens", "adapters that begin at a token cannot be merged"),
    ("arrow_config", "routed adapters cannot be merged"),
    (
        "fan_in_fan_out",
        "the matrices of these language models are Linear layers (out, in), for which PEFT turns it off; set it to false \
         if PEFT trained the adapters",
    ),
    ("layer_replication", "copied layers are not supported; merge them with PEFT first (merge_and_unload)"),
    ("lora_bias", "biases of adapters are not merged here; merge them with PEFT first (merge_and_unload)"),
    ("target_parameters", "adapters of bare parameters are not merged here; merge them with PEFT first"),
    ("trainable_token_indices", "trained token rows are not merged here; merge them with PEFT first"),
    ("use_bdlora", "only plain LoRA is merged here; merge them with PEFT first (merge_and_unload)"),
    ("use_dora", "DoRA is not merged here; merge it with PEFT first (merge_and_unload)"),
    ("use_qalora", "QALoRA is not merged here; merge it with PEFT first (merge_and_unload)"),
];

/// A number for the modules that a pattern matches.
struct Pattern {
    key: String,
    regex: Regex,
    value: f64,
    used: Cell<bool>,
}

/// The settings that decide how strong adapters are.
pub(in crate::convert) struct LoraConfig {
    path: PathBuf,
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
    ranks: Vec<Pattern>,
    alphas: Vec<Pattern>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

impl LoraConfig {
    /// Reads `lora`, the `lora_config` of the source, or else the file of PEFT beside the weights.
    ///
    /// # Errors
    /// When there is neither, or a setting is active that is not computed here.
    pub fn read(source: &Source, lora: Option<Value>) -> Result<Self> {
        let beside = source.path.join(ADAPTER_CONFIG);
        let config = source.path.join("config.json");
        let (path, name, map) = match lora {
            Some(Value::Object(map)) => {
                if beside.is_file() {
                    must_agree(&config, &map, &beside, &read_object(&beside, LONGEST_CONFIG)?)?;
                }
                (config, "lora_config", map)
            }
            None | Some(Value::Null) if beside.is_file() => {
                (beside.clone(), "", read_object(&beside, LONGEST_CONFIG)?)
            }
            None | Some(Value::Null) => {
                let problem = "no `lora_config`; expected {\"r\": …, \"lora_alpha\": …}, which say how strong the adapters \
                               are, or PEFT's adapter_config.json beside it";
                return Err(CheckpointError::format(&config, problem));
            }
            Some(other) => {
                let (key, found) = ("lora_config".to_owned(), other.to_string());
                let expected = "expected an object".to_owned();
                return Err(KeyError { path: config, key, found, expected }.into());
            }
        };
        Self::parse(&path, name, &map)
    }

    fn parse(path: &Path, name: &'static str, map: &Map<String, Value>) -> Result<Self> {
        let section = Section { path, name, map };
        for (key, advice) in REFUSED {
            section.must_be_inactive(key, advice)?;
        }
        if let Some(kind) = section.text("peft_type")?
            && !kind.eq_ignore_ascii_case("lora")
        {
            return Err(section.wrong("peft_type", &kind, "only LORA adapters can be merged").into());
        }
        let known: Vec<&str> =
            OBEYED.iter().chain(WITHOUT_EFFECT).copied().chain(REFUSED.iter().map(|(key, _)| *key)).collect();
        let unknown = section.unknown_keys(&[&known]);
        let missing = |key: &str| section.wrong(key, &"missing", "expected a number above 0");
        let alpha = section.real("lora_alpha")?.ok_or_else(|| missing("lora_alpha"))?;
        let rank = section.size("r")?.ok_or_else(|| missing("r"))?;
        if rank == 0 {
            return Err(section.wrong("r", &rank, "expected a number above 0").into());
        }
        if !(alpha > 0.0 && alpha.is_finite()) {
            return Err(section.wrong("lora_alpha", &alpha, "expected a number above 0").into());
        }
        Ok(Self {
            path: path.to_path_buf(),
            rank,
            alpha,
            rank_stabilized: section.flag("use_rslora")?.unwrap_or(false),
            ranks: patterns(&section, "rank_pattern")?,
            alphas: patterns(&section, "alpha_pattern")?,
            warnings: unknown_keys_warning(path, &unknown).into_iter().collect(),
        })
    }

    /// Rank and scale of the adapter of a module, whose name is that inside the wrapped model.
    ///
    /// # Errors
    /// When a pattern gives it no whole number as its rank.
    pub fn strength(&self, module: &str) -> Result<(usize, f32)> {
        let rank = match value_of(&self.ranks, module) {
            None => self.rank,
            Some(rank) if rank >= 1.0 && rank.fract() == 0.0 && rank < 1e9 => rank as usize,
            Some(rank) => {
                return Err(KeyError {
                    path: self.path.clone(),
                    key: "rank_pattern".to_owned(),
                    found: format!("{rank} for {module}"),
                    expected: "expected whole numbers above 0".to_owned(),
                }
                .into());
            }
        };
        let alpha = value_of(&self.alphas, module).unwrap_or(self.alpha);
        let divisor = if self.rank_stabilized { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / divisor) as f32))
    }

    /// Names of patterns that matched no module, a warning each.
    pub fn unused_patterns(&self) -> Vec<String> {
        let unused = |name: &str, patterns: &[Pattern]| -> Vec<String> {
            let unused = patterns.iter().filter(|pattern| !pattern.used.get());
            let sentence =
                |p: &Pattern| format!("{name} has the pattern `{}`, which no adapter matches", p.key);
            unused.map(sentence).collect()
        };
        [unused("rank_pattern", &self.ranks), unused("alpha_pattern", &self.alphas)].concat()
    }
}

/// Refuses two files that say different strengths: nothing tells which of them the adapters were trained with.
fn must_agree(
    config: &Path,
    own: &Map<String, Value>,
    beside: &Path,
    other: &Map<String, Value>,
) -> Result<()> {
    for key in OBEYED.iter().chain(REFUSED.iter().map(|(key, _)| key)) {
        let (found, expected) = (said(key, own), said(key, other));
        if found != expected {
            let shown =
                |value: Option<Value>| value.map_or_else(|| "not set".to_owned(), |value| value.to_string());
            return Err(KeyError {
                path: config.to_path_buf(),
                key: format!("lora_config.{key}"),
                found: shown(found),
                expected: format!(
                    "{} says {}; make the two say what the adapters were trained with, or take one of them away",
                    beside.display(),
                    shown(expected)
                ),
            }
            .into());
        }
    }
    Ok(())
}

/// What a file says with a key, in one form; nothing where that is what the absent key means.
fn said(key: &str, map: &Map<String, Value>) -> Option<Value> {
    let value = map.get(key).filter(|value| !value.is_null())?;
    let silent = match value {
        Value::Bool(value) => !value,
        Value::Object(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::String(value) => key == "peft_type" && value.eq_ignore_ascii_case("lora"),
        _ => false,
    };
    let number = value.as_f64().map(Value::from);
    (!silent).then(|| number.unwrap_or_else(|| value.clone()))
}

/// The value of the first pattern that matches, in the order of the file, as in PEFT.
fn value_of(patterns: &[Pattern], module: &str) -> Option<f64> {
    // An Otter puts each decoder layer one component deeper; patterns may be written for either.
    let plain = module.replace(".decoder_layer.", ".");
    let found = patterns.iter().find(|p| p.regex.is_match(module) || p.regex.is_match(&plain))?;
    found.used.set(true);
    Some(found.value)
}

/// PEFT matches `(.*\.)?(key)$` from the beginning of the module's name.
fn patterns(section: &Section<'_>, key: &'static str) -> Result<Vec<Pattern>> {
    let Some(map) = section.optional_section(key)? else { return Ok(Vec::new()) };
    let pattern = |(name, value): (&String, &Value)| {
        let value = value.as_f64().filter(|value| *value > 0.0 && value.is_finite());
        let value = value.ok_or_else(|| map.wrong(name, &map.map[name], "expected a number above 0"))?;
        let regex = Regex::new(&format!(r"^(?:(?:.*\.)?(?:{name}))$")).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            map.wrong(
                name,
                &"a pattern that cannot be read",
                &format!("expected a regular expression ({reason})"),
            )
        })?;
        Ok(Pattern { key: name.clone(), regex, value, used: Cell::new(false) })
    };
    map.map.iter().map(pattern).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<LoraConfig> {
        let Value::Object(map) = value else { panic!("no object") };
        LoraConfig::parse(Path::new("config.json"), "lora_config", &map)
    }

    const MODULE: &str = "model.layers.1.decoder_layer.self_attn.q_proj";

    /// Values of `peft.utils.get_pattern_key` and of `LoraLayer.update_layer`.
    #[test]
    fn strengths_are_those_of_peft() {
        for (config, expected) in [
            (json!({ "r": 16, "lora_alpha": 32 }), (16, 2.0)),
            (json!({ "r": 16, "lora_alpha": 32, "use_rslora": true }), (16, 8.0)),
            (json!({ "r": 16, "lora_alpha": 32, "use_rslora": false, "rank_pattern": null }), (16, 2.0)),
            (json!({ "r": 8, "lora_alpha": 8, "alpha_pattern": { "q_proj": 24 } }), (8, 3.0)),
            (json!({ "r": 8, "lora_alpha": 8, "alpha_pattern": { "v_proj": 24, "proj": 16 } }), (8, 1.0)),
            (json!({ "r": 8, "lora_alpha": 8, "rank_pattern": { "self_attn.q_proj": 2 } }), (2, 4.0)),
            (
                json!({ "r": 8, "lora_alpha": 8, "rank_pattern": { "layers.1.self_attn.q_proj": 4 } }),
                (4, 2.0),
            ),
            (
                json!({ "r": 8, "lora_alpha": 8, "rank_pattern": { "model.layers.0.decoder_layer.self_attn.q_proj": 4 } }),
                (8, 1.0),
            ),
            (json!({ "r": 8, "lora_alpha": 8, "rank_pattern": { r"layers\.[12]\..*q_proj": 4 } }), (4, 2.0)),
            // The first in the order of the file decides.
            (
                json!({ "r": 8, "lora_alpha": 8, "alpha_pattern": { "[qv]_proj": 16, "q_proj": 32 } }),
                (8, 2.0),
            ),
            (
                json!({ "r": 8, "lora_alpha": 8, "use_rslora": true, "rank_pattern": { "q_proj": 4 }, "alpha_pattern": { "q_proj": 6 } }),
                (4, 3.0),
            ),
        ] {
            let text = config.to_string();
            assert_eq!(parse(config).unwrap().strength(MODULE).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (key, value) in [
            ("use_dora", json!(true)),
            ("fan_in_fan_out", json!(true)),
            ("lora_bias", json!(true)),
            ("layer_replication", json!([[0, 4], [2, 5]])),
            ("trainable_token_indices", json!([7])),
            ("target_parameters", json!(["mlp.experts"])),
            ("use_qalora", json!(true)),
            ("peft_type", json!("LOHA")),
            ("alpha_pattern", json!({ "q_proj": "a lot" })),
            ("alpha_pattern", json!({ "(q_proj": 2 })),
            ("rank_pattern", json!(["q_proj"])),
            ("r", json!(2.5)),
            ("r", json!(0)),
            ("lora_alpha", json!(-1)),
        ] {
            let mut config = json!({ "r": 8, "lora_alpha": 8 });
            config[key] = value;
            let text = parse(config).err().unwrap().to_string();
            assert!(text.contains(key) && text.starts_with("config.json"), "{text}");
        }
        let inactive = json!({
            "r": 8, "lora_alpha": 8, "use_dora": false, "fan_in_fan_out": false, "lora_bias": false, "layer_replication": null,
            "target_parameters": null, "trainable_token_indices": [], "peft_type": "LORA", "bias": "none",
            "init_lora_weights": true, "loftq_config": {}, "lora_dropout": 0.1
        });
        assert!(parse(inactive).unwrap().warnings.is_empty());
    }

    #[test]
    fn two_files_must_say_the_same() {
        let agree = |own: Value, other: Value| {
            let (Value::Object(own), Value::Object(other)) = (own, other) else { panic!("no objects") };
            must_agree(Path::new("config.json"), &own, Path::new("adapter_config.json"), &other)
        };
        let own = json!({ "r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM" });
        let same = json!({
            "r": 8, "lora_alpha": 16.0, "use_rslora": false, "peft_type": "LORA", "rank_pattern": {}, "use_dora": null,
            "task_type": "VL", "target_modules": ["q_proj"]
        });
        agree(own.clone(), same.clone()).unwrap();
        for (key, value) in [
            ("lora_alpha", json!(32)),
            ("r", json!(4)),
            ("use_rslora", json!(true)),
            ("use_dora", json!(true)),
            ("alpha_pattern", json!({ "q_proj": 4 })),
            ("peft_type", json!("LOHA")),
        ] {
            let mut other = same.clone();
            other[key] = value.clone();
            let refused = agree(own.clone(), other).unwrap_err().to_string();
            let parts = [&format!("lora_config.{key}"), "adapter_config.json", "take one of them away"];
            assert!(parts.iter().all(|part| refused.contains(*part)), "{refused}");
            if value.is_boolean() {
                assert!(refused.contains("not set"), "{refused}");
            }
        }
    }

    #[test]
    fn unknown_keys_and_unused_patterns_are_said() {
        let config = json!({ "r": 8, "lora_alpha": 8, "use_rs_lora": true, "of_tomorrow": 1, "alpha_pattern": { "k": 2 } });
        let config = parse(config).unwrap();
        assert_eq!(config.warnings.len(), 1);
        let text = &config.warnings[0];
        assert!(text.contains("use_rs_lora") && text.contains("`lora_config.use_rslora`"), "{text}");
        assert!(text.contains("of_tomorrow"), "{text}");
        config.strength(MODULE).unwrap();
        assert!(config.unused_patterns()[0].contains("`k`"));
    }
}
