//! How images are shown in a run: what its configuration leaves open is filled in before the first sample is built, so
//! that the saved configuration says it, and a resumed run goes on as it began.

use std::collections::BTreeMap;

use otter_checkpoint::InputRules;
use otter_data::{AlphaRule, DataConfig, Gray16Rule};

use crate::config::TrainConfig;
use crate::config::flat::flat;
use crate::error::Result;

/// Keys of the rules below `data` and `eval.data`, and what runs did that were begun before the keys were there.
pub(crate) const KEYS: [(&str, &str); 2] = [("alpha", "\"drop\""), ("gray16", "\"clip\"")];

/// Fills in what is not given: as in the run that is resumed, otherwise as the model that is tuned further records it, otherwise
/// as the preset has it. What is evaluated is shown as what is trained on. Returns what is to be said.
///
/// # Errors
/// When the saved configuration is not TOML, or the rules of the model cannot be read.
pub(crate) fn fill_in(config: &mut TrainConfig, saved: Option<&str>) -> Result<Option<String>> {
    let base = match saved {
        Some(_) => InputRules::default(),
        None => InputRules::of(&config.model.init_from)?,
    };
    let saved = saved.map(flat).transpose()?;
    let mut is_older = false;
    let mut fill = |section: &str, data: &mut DataConfig, (alpha, gray16): (AlphaRule, Gray16Rule)| {
        let is_in = |saved: &&BTreeMap<String, String>| {
            saved.keys().any(|key| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')))
        };
        // `None` too where only the section is new.
        let saved = saved.as_ref().filter(is_in);
        let saved = |key: &str| saved.map(|saved| saved.get(&format!("{section}.{key}")).map(String::as_str));
        let alpha = *data.alpha.get_or_insert_with(|| match saved("alpha") {
            None => alpha,
            Some(Some("\"white\"")) => AlphaRule::White,
            Some(Some("\"black\"")) => AlphaRule::Black,
            Some(found) => {
                is_older |= found.is_none();
                AlphaRule::Drop
            }
        });
        let gray16 = *data.gray16.get_or_insert_with(|| match saved("gray16") {
            None => gray16,
            Some(Some("\"scale\"")) => Gray16Rule::Scale,
            Some(found) => {
                is_older |= found.is_none();
                Gray16Rule::Clip
            }
        });
        (alpha, gray16)
    };
    // With what is given.
    let usual = config.data.switches().image_rules;
    let rules = (base.alpha.unwrap_or(usual.alpha), base.gray16.unwrap_or(usual.gray16));
    let (alpha, gray16) = fill("data", &mut config.data, rules);
    if let Some(eval) = &mut config.eval {
        fill("eval.data", &mut eval.data, (alpha, gray16));
    }
    if is_older {
        return Ok(Some(
            "warning: this run began before data.alpha and data.gray16 could be chosen; it goes on as it began, with \
             transparency dropped (`drop`) and gray of 16 bits cut (`clip`)"
                .to_owned(),
        ));
    }
    let mut taken = Vec::new();
    if base.alpha == Some(alpha) && alpha != usual.alpha {
        taken.push(format!("data.alpha = \"{}\"", alpha.name()));
    }
    if base.gray16 == Some(gray16) && gray16 != usual.gray16 {
        taken.push(format!("data.gray16 = \"{}\"", gray16.name()));
    }
    Ok((!taken.is_empty()).then(|| {
        format!(
            "images are shown as {} was trained with (`otter_input`): {}; set the key to choose otherwise",
            config.model.init_from.display(),
            taken.join(", ")
        )
    }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::differences::differences;

    const TEXT: &str =
        "[model]\ninit_from = '/m'\n[train]\nrun_dir = '/r'\nsteps = 20\n[eval.data]\nmax_seq_len = 9\n";

    fn config(overrides: &[&str]) -> TrainConfig {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        TrainConfig::parse(TEXT, "run.toml", std::path::Path::new("/"), &overrides).unwrap()
    }

    fn filled(overrides: &[&str], saved: Option<&str>) -> (TrainConfig, bool) {
        let mut config = config(overrides);
        let said = fill_in(&mut config, saved).unwrap();
        (config, said.is_some())
    }

    fn rules(config: &TrainConfig) -> [(AlphaRule, Gray16Rule); 2] {
        let of = |data: &DataConfig| (data.alpha.unwrap(), data.gray16.unwrap());
        [of(&config.data), of(&config.eval.as_ref().unwrap().data)]
    }

    #[test]
    fn a_new_run_says_what_the_preset_means() {
        let (plain, said) = filled(&[], None);
        assert_eq!((rules(&plain), said), ([(AlphaRule::White, Gray16Rule::Scale); 2], false));
        let (reference, _) = filled(&["data.preset=reference", "data.gray16=scale"], None);
        assert_eq!(rules(&reference), [(AlphaRule::Drop, Gray16Rule::Scale); 2]);
        let (other, _) = filled(&["data.alpha=black", "eval.data.alpha=drop"], None);
        let expected = [(AlphaRule::Black, Gray16Rule::Scale), (AlphaRule::Drop, Gray16Rule::Scale)];
        assert_eq!(rules(&other), expected);
        assert!(plain.to_toml().unwrap().contains("alpha = \"white\""));
    }

    #[test]
    fn a_resumed_run_goes_on_as_it_began() {
        let older = config(&[]).to_toml().unwrap();
        let (resumed, said) = filled(&[], Some(&older));
        assert_eq!((rules(&resumed), said), ([(AlphaRule::Drop, Gray16Rule::Clip); 2], true));
        let newer = filled(&["data.alpha=black"], None).0.to_toml().unwrap();
        let (resumed, said) = filled(&[], Some(&newer));
        assert_eq!((rules(&resumed), said), ([(AlphaRule::Black, Gray16Rule::Scale); 2], false));
    }

    #[test]
    fn held_out_data_added_on_resume_is_shown_as_what_is_trained_on() {
        let mut without = config(&["data.alpha=black", "data.gray16=clip"]);
        without.eval = None;
        let (resumed, said) = filled(&[], Some(&without.to_toml().unwrap()));
        assert_eq!((rules(&resumed), said), ([(AlphaRule::Black, Gray16Rule::Clip); 2], false));
        (without.data.alpha, without.data.gray16) = (None, None);
        let (older, said) = filled(&[], Some(&without.to_toml().unwrap()));
        assert_eq!((rules(&older), said), ([(AlphaRule::Drop, Gray16Rule::Clip); 2], true));
    }

    #[test]
    fn a_tuned_model_is_tuned_further_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config.json");
        std::fs::write(&file, r#"{"otter_input": {"alpha": "black", "gray16": "scale"}}"#).unwrap();
        let fill = |overrides: &[&str], saved: Option<&str>| {
            let mut config = config(overrides);
            config.model.init_from = place.path().to_owned();
            let said = fill_in(&mut config, saved).unwrap();
            (rules(&config), said)
        };
        let (found, said) = fill(&[], None);
        assert_eq!(found, [(AlphaRule::Black, Gray16Rule::Scale); 2]);
        let said = said.unwrap();
        assert!(said.contains(": data.alpha = \"black\"; ") && said.contains("otter_input"), "{said}");
        // What is given counts more, and so does the run that is resumed.
        assert_eq!(fill(&["data.alpha=white"], None), ([(AlphaRule::White, Gray16Rule::Scale); 2], None));
        let saved = filled(&["data.alpha=drop"], None).0.to_toml().unwrap();
        assert_eq!(fill(&[], Some(&saved)), ([(AlphaRule::Drop, Gray16Rule::Scale); 2], None));
        // The record counts more than the preset.
        let (found, said) = fill(&["data.preset=reference"], None);
        assert_eq!(found, [(AlphaRule::Black, Gray16Rule::Scale); 2]);
        let said = said.unwrap();
        assert!(said.contains(": data.alpha = \"black\", data.gray16 = \"scale\"; "), "{said}");
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(fill(&[], None), ([(AlphaRule::White, Gray16Rule::Scale); 2], None));
    }

    #[test]
    fn another_rule_is_a_difference() {
        let older = config(&[]).to_toml().unwrap();
        let found = |saved: &str, overrides: &[&str]| {
            differences(saved, &config(overrides).to_toml().unwrap()).unwrap()
        };
        assert_eq!(found(&older, &[]), Vec::<String>::new());
        assert_eq!(found(&older, &["data.alpha=drop", "data.gray16=clip"]), Vec::<String>::new());
        assert_eq!(found(&older, &["data.alpha=white"]), ["data.alpha: \"drop\" -> \"white\""]);
        let newer = filled(&[], None).0.to_toml().unwrap();
        assert_eq!(found(&newer, &[]), Vec::<String>::new());
        assert_eq!(found(&newer, &["data.gray16=clip"]), ["data.gray16: \"scale\" -> \"clip\""]);
    }
}
