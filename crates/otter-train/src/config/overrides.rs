//! `key=value` overrides of a TOML configuration, and messages for unknown keys that name the nearest known one.

use serde::de::DeserializeOwned;
use strsim::levenshtein;

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};

/// Keys whose value is a path; as overrides they are relative to the working directory.
const PATHS: &[&str] = &[
    "model.init_from",
    "train.run_dir",
    "train.vision_cache",
    "data.mimicit_yaml",
    "eval.data.mimicit_yaml",
];

/// Keys that say the same thing in two ways: an override of one removes the other.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("train.steps", "train.epochs"),
    ("schedule.warmup_steps", "schedule.warmup_ratio"),
    ("data.mimicit_yaml", "data.sets"),
    ("eval.data.mimicit_yaml", "eval.data.sets"),
];

/// Keys that were spelled otherwise once, in files and run directories that still open: the old spelling, and today's.
const RENAMED: &[(&str, &str)] = &[("model.quantise", "model.quantize")];

/// Today's spelling of a dotted key.
fn canonical(key: &str) -> &str {
    RENAMED.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| new)
}

/// Gives the keys of a configuration their present spelling. An old one beside the new one stays, as an unknown key.
pub(crate) fn canonicalize(table: &mut toml::Table) {
    for (old, new) in RENAMED {
        let (Some((section, old)), Some((_, new))) = (old.split_once('.'), new.split_once('.')) else {
            continue;
        };
        if let Some(section) = table.get_mut(section).and_then(toml::Value::as_table_mut)
            && !section.contains_key(new)
            && let Some(value) = section.remove(old)
        {
            section.insert(new.to_owned(), value);
        }
    }
}

/// Sections whose keys are known.
const SECTIONS: &[&str] = &["model", "optimizer", "schedule", "train", "data", "eval", "eval.data"];

/// Applies overrides in order. A value is read as TOML where that is possible, else as plain text.
pub(crate) fn apply(table: &mut toml::Table, overrides: &[String]) -> Result<()> {
    let mut given: Vec<&str> = Vec::new();
    for text in overrides {
        let Some((key, value)) = text.split_once('=') else {
            return Err(TrainError::config(
                "overrides",
                format!("`{text}` is not of the form key=value, for example train.steps=20"),
            ));
        };
        let (key, value) = (canonical(key.trim()), value.trim());
        if key.split('.').any(str::is_empty) {
            return Err(TrainError::config(
                "overrides",
                format!("`{key}` is not a dotted key like train.steps"),
            ));
        }
        for (one, other) in ALTERNATIVES {
            let replaced = if key == *one { other } else { one };
            if (key == *one || key == *other) && !given.contains(replaced) {
                remove(table, replaced);
            }
        }
        let mut value = parse_value(value);
        if PATHS.contains(&key)
            && let Some(path) = value.as_str()
        {
            let absolute = std::path::absolute(path).map_err(TrainError::io(path.as_ref(), "resolve"))?;
            value = toml::Value::String(absolute.to_string_lossy().into_owned());
        }
        set(table, key, value)?;
        given.push(key);
    }
    Ok(())
}

fn parse_value(text: &str) -> toml::Value {
    let parsed: Option<toml::Table> = toml::from_str(&format!("value = {text}")).ok();
    parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn set(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<()> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Table::new().into());
            match inner.as_table_mut() {
                Some(inner) => set(inner, rest, value),
                None => Err(TrainError::config(
                    "overrides",
                    format!("`{section}` is a single value, so `{section}.{rest}` cannot be set"),
                )),
            }
        }
    }
}

fn remove(table: &mut toml::Table, key: &str) {
    match key.split_once('.') {
        None => drop(table.remove(key)),
        Some((section, rest)) => {
            if let Some(inner) = table.get_mut(section).and_then(toml::Value::as_table_mut) {
                remove(inner, rest);
            }
        }
    }
}

/// Reads a table; an unknown key becomes an error that names the nearest known one.
pub(crate) fn deserialize<T: DeserializeOwned>(table: toml::Table, place: &str) -> Result<T> {
    let copy = table.clone();
    T::deserialize(table).map_err(|error| {
        let Some((key, expected)) = unknown_field(error.message()) else {
            return TrainError::config(place, error.to_string().trim());
        };
        let mut paths = Vec::new();
        paths_of(&copy, "", &key, &mut paths);
        let path = paths.into_iter().find(|path| !known_keys().contains(path)).unwrap_or(key);
        let nearest = nearest(&path, &expected);
        TrainError::UnknownKey { place: place.to_owned(), key: path, nearest }
    })
}

/// The unknown key and the expected ones of a message that serde composed.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let expected = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((key.to_owned(), expected))
}

/// Dotted paths of all keys named `key`.
fn paths_of(table: &toml::Table, prefix: &str, key: &str, out: &mut Vec<String>) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if name == key {
            out.push(path.clone());
        }
        if let toml::Value::Table(inner) = value {
            paths_of(inner, &path, key, out);
        }
    }
}

/// Every known dotted key, asked of the reader itself: a key that cannot exist makes it list those that can.
fn known_keys() -> Vec<String> {
    const PROBE: &str = "?";
    let sections = std::iter::once("").chain(SECTIONS.iter().copied());
    let expected = sections.flat_map(|section| {
        let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
        let mut table = toml::Table::new();
        let _ = set(&mut table, &format!("{prefix}{PROBE}"), toml::Value::Boolean(true));
        let message = TrainConfig::try_probe(table);
        let keys = unknown_field(&message).map(|(_, keys)| keys).unwrap_or_default();
        keys.into_iter().map(move |key| format!("{prefix}{key}"))
    });
    expected.collect()
}

impl TrainConfig {
    fn try_probe(table: toml::Table) -> String {
        use serde::Deserialize;
        Self::deserialize(table).err().map(|error| error.message().to_owned()).unwrap_or_default()
    }
}

/// The known key nearest to `path`: the same name in another section before a similar name in the same one.
fn nearest(path: &str, expected: &[String]) -> String {
    let split = |path: &str| match path.rsplit_once('.') {
        Some((section, key)) => (format!("{section}."), key.to_owned()),
        None => (String::new(), path.to_owned()),
    };
    let (section, key) = split(path);
    let here = expected.iter().map(|name| format!("{section}{name}"));
    let candidates = here.chain(known_keys());
    let cost = |candidate: &String| {
        let (other_section, other_key) = split(candidate);
        2 * levenshtein(&key, &other_key) + usize::from(section != other_section)
    };
    candidates.min_by_key(cost).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_spellings_are_todays_keys() {
        let read = |text: &str, overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
            let text = format!("[train]\nrun_dir = '/r'\nsteps = 2\n[model]\ninit_from = '/m'\n{text}");
            TrainConfig::parse(&text, "run.toml", std::path::Path::new("/"), &overrides)
        };
        let today = read("quantize = 'q8_0'", &[]).expect("today's key");
        assert_eq!(read("quantise = 'q8_0'", &[]).expect("the old key"), today);
        assert_eq!(read("quantise = 'q4_k'", &["model.quantise=q8_0"]).expect("the old keys"), today);
        assert_eq!(read("quantize = 'q4_k'", &["model.quantise=q8_0"]).expect("both keys"), today);
        let text = today.to_toml().expect("TOML");
        assert!(text.contains("quantize") && !text.contains("quantise"), "{text}");
        let old = text.replace("quantize", "quantise");
        assert!(crate::config::differences::differences(&old, &text).expect("TOML").is_empty());
        assert!(read("quantize = 'q8_0'\nquantise = 'q8_0'", &[]).is_err(), "one key, given twice");
    }

    #[test]
    fn values_are_toml_or_text() {
        assert_eq!(parse_value("20"), toml::Value::Integer(20));
        assert_eq!(parse_value("1e-5"), toml::Value::Float(1e-5));
        assert_eq!(parse_value("true"), toml::Value::Boolean(true));
        assert_eq!(parse_value("cosine"), toml::Value::String("cosine".into()));
        assert_eq!(parse_value("1\nother = 2"), toml::Value::String("1\nother = 2".into()));
        assert_eq!(parse_value("[\"a\"]"), toml::Value::Array(vec!["a".into()]));
    }

    #[test]
    fn the_reader_lists_its_own_keys() {
        let keys = known_keys();
        for key in [
            "model.init_from",
            "train.steps",
            "optimizer.betas",
            "data.max_seq_len",
            "eval.data.sets",
            "eval",
        ] {
            assert!(keys.iter().any(|known| known == key), "{key} not in {keys:?}");
        }
    }
}
