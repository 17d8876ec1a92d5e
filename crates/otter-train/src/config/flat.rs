//! A configuration as values by dotted key.

use std::collections::BTreeMap;

use super::overrides;
use crate::error::{Result, TrainError};

/// Values by dotted key.
pub(crate) fn flat(text: &str) -> Result<BTreeMap<String, String>> {
    let mut table: toml::Table = toml::from_str(text)
        .map_err(|error| TrainError::config("saved configuration", error.to_string().trim()))?;
    overrides::canonicalize(&mut table);
    let mut out = BTreeMap::new();
    flatten("", &toml::Value::Table(table), &mut out);
    Ok(out)
}

fn flatten(prefix: &str, value: &toml::Value, out: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, value, out);
            }
        }
        // Which of several GPUs makes no difference.
        toml::Value::String(device) if prefix == "train.device" && device.starts_with("cuda:") => {
            out.insert(prefix.to_owned(), "\"cuda\"".to_owned());
        }
        leaf => {
            out.insert(prefix.to_owned(), leaf.to_string());
        }
    }
}
