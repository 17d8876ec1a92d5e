//! How images are shown in a run: what its configuration leaves open is filled in before the first sample is built, so
//! that the saved configuration says it, and a resumed run goes on as it began.

use otter_data::{AlphaRule, DataConfig, Gray16Rule};

use crate::config::TrainConfig;
use crate::config_differences::flat;
use crate::error::Result;

/// Keys of the rules below `data` and `eval.data`, and what runs did that were begun before the keys were there.
pub(crate) const KEYS: [(&str, &str); 2] = [("alpha", "\"drop\""), ("gray16", "\"clip\"")];

/// Fills in what is not given: as in the run that is resumed, otherwise as the preset has it. Returns what is to be said.
///
/// # Errors
/// When the saved configuration is not TOML.
pub(crate) fn fill_in(config: &mut TrainConfig, saved: Option<&str>) -> Result<Option<String>> {
    let saved = saved.map(flat).transpose()?;
    let mut is_older = false;
    let mut fill = |section: &str, data: &mut DataConfig| {
        let rules = data.switches().image_rules;
        let saved = |key: &str| {
            saved.as_ref().map(|saved| saved.get(&format!("{section}.{key}")).map(String::as_str))
        };
        data.alpha.get_or_insert(match saved("alpha") {
            None => rules.alpha,
            Some(Some("\"white\"")) => AlphaRule::White,
            Some(Some("\"black\"")) => AlphaRule::Black,
            Some(found) => {
                is_older |= found.is_none();
                AlphaRule::Drop
            }
        });
        data.gray16.get_or_insert(match saved("gray16") {
            None => rules.gray16,
            Some(Some("\"scale\"")) => Gray16Rule::Scale,
            Some(found) => {
                is_older |= found.is_none();
                Gray16Rule::Clip
            }
        });
    };
    fill("data", &mut config.data);
    if let Some(eval) = &mut config.eval {
        fill("eval.data", &mut eval.data);
    }
    Ok(is_older.then(|| {
        "warning: this run began before data.alpha and data.gray16 could be chosen; it goes on as it began, with \
         transparency dropped (`drop`) and gray of 16 bits cut (`clip`)"
            .to_owned()
    }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config_differences::differences;

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
        assert_eq!(rules(&reference)[0], (AlphaRule::Drop, Gray16Rule::Scale));
        assert!(plain.to_toml().unwrap().contains("alpha = \"white\""));
    }

    #[test]
    fn a_resumed_run_goes_on_as_it_began() {
        let older = config(&[]).to_toml().unwrap();
        let (resumed, said) = filled(&[], Some(&older));
        assert_eq!((rules(&resumed), said), ([(AlphaRule::Drop, Gray16Rule::Clip); 2], true));
        let newer = filled(&["data.alpha=black"], None).0.to_toml().unwrap();
        let (resumed, said) = filled(&[], Some(&newer));
        let expected = [(AlphaRule::Black, Gray16Rule::Scale), (AlphaRule::White, Gray16Rule::Scale)];
        assert_eq!((rules(&resumed), said), (expected, false));
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
