//! Names as a model has them by itself, without what parallel, compiled, adapted and recomputing training put around its
//! modules. They carry no meaning: `_orig_mod.lang_encoder._fsdp_wrapped_module.lm_head.weight` is
//! `lang_encoder.lm_head.weight`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::error::{CheckpointError, Result};

/// Components that wrappers add anywhere in a name.
const ANYWHERE: [&str; 7] = [
    "module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_fpw_module",
    "_fsdp_wrapped_module",
    "_module",
    "_orig_mod",
];

/// First components of an Otter's names. Whatever stands before one of them is a wrapper.
const OTTER: [&str; 3] = ["perceiver", "lang_encoder", "vision_encoder"];

/// First components of the names of a plain language model or image tower, which a training module may hold as `model`.
const PLAIN: [&str; 8] =
    ["model", "lm_head", "transformer", "gpt_neox", "embed_out", "vision_model", "text_model", "visual"];

/// Inserted by PEFT below a module whose adapters are merged already.
const PEFT: &str = "base_model.model.";

/// Parameters that a sharding wrapper has made one vector of, which nobody can take apart without that wrapper.
const FLAT: [&str; 3] = ["_flat_param", "flat_param", "_fsdp_flat_param"];

/// What the names of a checkpoint are without wrappers.
pub(crate) struct Unwrapped {
    /// The clean names, in the order of the given ones.
    pub names: Vec<String>,
    /// What was taken away, for a message; empty where nothing was.
    pub removed: BTreeSet<String>,
}

/// Takes the wrappers out of all names of one checkpoint.
///
/// # Errors
/// When two names are one without wrappers, or parameters were flattened.
pub(crate) fn unwrapped(path: &Path, raw: &[String]) -> Result<Unwrapped> {
    if let Some(name) = raw.iter().find(|name| FLAT.contains(&last_component(name))) {
        let problem = format!(
            "tensor `{}` holds the parameters of several modules in one vector, as FSDP keeps them; no command can take \
             it apart. Save the full state dict where the model was trained (StateDictType.FULL_STATE_DICT)",
            name.escape_debug()
        );
        return Err(CheckpointError::format(path, problem));
    }
    // Adapters are told by the names that PEFT gave; their names are taken apart when they are merged.
    let adapted = raw.iter().any(|name| name.contains(".lora_") || name.contains(".base_layer."));
    let mut removed = BTreeSet::new();
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut names = Vec::with_capacity(raw.len());
    for name in raw {
        let clean = unwrap(name, adapted, &mut removed);
        if let Some(other) = seen.insert(clean.clone(), name) {
            let problem = format!(
                "`{}` and `{}` are both `{}` once wrapper prefixes are gone; remove one of the two",
                other.escape_debug(),
                name.escape_debug(),
                clean.escape_debug()
            );
            return Err(CheckpointError::format(path, problem));
        }
        names.push(clean);
    }
    Ok(Unwrapped { names, removed })
}

fn unwrap(name: &str, adapted: bool, removed: &mut BTreeSet<String>) -> String {
    let mut kept = Vec::new();
    for component in name.split('.') {
        if ANYWHERE.contains(&component) {
            removed.insert(format!("{component}."));
        } else {
            kept.push(component);
        }
    }
    // Parts of an Otter stand at the front.
    if let Some(at) = kept.iter().position(|component| OTTER.contains(component)).filter(|&at| at > 0) {
        removed.insert(format!("{}.", kept[..at].join(".")));
        kept.drain(..at);
    }
    // `model.model.layers…`, `base_model.model.lm_head…`: a module named `model` around a plain one. No known language model
    // has one of `PLAIN` below its own `model`.
    loop {
        let taken = match kept[..] {
            ["base_model", "model", _, ..] => 2,
            ["model", second, _, ..] if PLAIN.contains(&second) => 1,
            _ => break,
        };
        removed.insert(format!("{}.", kept[..taken].join(".")));
        kept.drain(..taken);
    }
    let clean = kept.join(".");
    match clean.find(PEFT) {
        Some(at) if !adapted && at > 0 && clean[..at].ends_with('.') => {
            removed.insert(PEFT.to_owned());
            clean.replacen(PEFT, "", 1)
        }
        _ => clean,
    }
}

fn last_component(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn clean(names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        unwrapped(Path::new("x"), &names).map(|found| found.names)
    }

    #[test]
    fn wrappers_are_taken_out_wherever_they_are() {
        for (wrapped, plain) in [
            ("_orig_mod.perceiver.latents", "perceiver.latents"),
            ("module._orig_mod.perceiver.latents", "perceiver.latents"),
            ("_forward_module.model.vision_encoder.a", "vision_encoder.a"),
            ("student.net.lang_encoder.lm_head.weight", "lang_encoder.lm_head.weight"),
            ("lang_encoder._fsdp_wrapped_module.a.0._checkpoint_wrapped_module.b", "lang_encoder.a.0.b"),
            ("lang_encoder.base_model.model.model.norm.weight", "lang_encoder.model.norm.weight"),
            ("base_model.model.model.layers.0.x", "model.layers.0.x"),
            ("model.model.layers.0.x", "model.layers.0.x"),
            ("model.lm_head.weight", "lm_head.weight"),
            ("model.transformer.blocks.0.x", "transformer.blocks.0.x"),
            ("model.vision_model.embeddings.x", "vision_model.embeddings.x"),
            ("base_model.model.model.gpt_neox.x", "gpt_neox.x"),
            // Names that only look like wrappers.
            ("my_module.submodule.weight", "my_module.submodule.weight"),
            ("model.layers.0.x", "model.layers.0.x"),
            ("model.decoder.layers.0.x", "model.decoder.layers.0.x"),
            ("lang_encoder.model.layers.0.x", "lang_encoder.model.layers.0.x"),
            ("lang_encoder.model.model_norm.x", "lang_encoder.model.model_norm.x"),
        ] {
            assert_eq!(clean(&[wrapped]).unwrap(), [plain]);
        }
    }

    #[test]
    fn adapters_keep_the_names_that_they_are_merged_by() {
        let names = [
            "lang_encoder.base_model.model.a.q.lora_A.default.weight",
            "lang_encoder.base_model.model.a.q.weight",
        ];
        assert_eq!(clean(&names).unwrap(), names);
        let wrapped = names.map(|name| format!("module.{name}"));
        assert_eq!(clean(&wrapped.each_ref().map(String::as_str)).unwrap(), names);
    }

    #[test]
    fn two_names_for_one_are_refused() {
        let text = clean(&["perceiver.latents", "module.perceiver.latents"]).unwrap_err().to_string();
        assert!(text.contains("`module.perceiver.latents`") && text.contains("remove one"), "{text}");
    }

    #[test]
    fn flattened_parameters_are_said_to_be_lost() {
        let text = clean(&["lang_encoder._fsdp_wrapped_module._flat_param"]).unwrap_err().to_string();
        assert!(text.contains("FULL_STATE_DICT"), "{text}");
    }
}
