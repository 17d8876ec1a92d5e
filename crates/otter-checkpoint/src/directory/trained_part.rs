//! The trained part of a model beside the name of its base: what a run saves whose frozen part is large or quantized.
//!
//! ```text
//! trained.safetensors   the trained parameters, 32-bit
//! trained.json          {"format": 1, "base": "/models/otter-mpt7b", "quantize": "q4_k", "otter_input": {"begin_token": true}}
//! ```
//! [`load_model`](crate::load_model) opens such a directory together with its base; `otter convert BASE --overlay DIR/trained.safetensors` makes a
//! whole model of both.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use otter_nn::{ParameterSpecs, QuantizedFormat};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::config::input_rules::InputRules;
use crate::directory::text_file::read_json;
use crate::directory::weights::Weights;
use crate::error::{CheckpointError, Result};

/// The file of the trained parameters.
pub const TRAINED_FILE: &str = "trained.safetensors";
const DESCRIPTION_FILE: &str = "trained.json";
/// Layout of the description; a later one is refused.
const FORMAT: u32 = 1;
/// Bases may be trained parts themselves, one over the other; more than so many are taken for a circle.
const MOST_PARTS: usize = 16;
/// No description is longer.
const LONGEST_DESCRIPTION: u64 = 1 << 16;

/// What belongs to a trained part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedPart {
    format: u32,
    /// Directory of the model that was tuned; a relative one begins at the directory of the part.
    pub base: PathBuf,
    /// Name of the format that the frozen matrices were quantized to.
    #[serde(default, alias = "quantise", skip_serializing_if = "Option::is_none")]
    quantize: Option<String>,
    /// How inputs were prepared for the training, as `otter_input` of config.json.
    #[serde(default, skip_serializing_if = "InputRules::is_silent")]
    otter_input: InputRules,
}

impl TrainedPart {
    /// A part of a model trained from `base`, its frozen matrices quantized to `quantize`.
    pub fn new(base: &Path, quantize: Option<QuantizedFormat>) -> Self {
        let quantize = quantize.map(|format| format.name().to_owned());
        Self { format: FORMAT, base: base.to_path_buf(), quantize, otter_input: InputRules::default() }
    }

    /// Says how inputs were prepared for the training.
    #[must_use]
    pub fn with_input(mut self, rules: InputRules) -> Self {
        self.otter_input = rules;
        self
    }

    /// How inputs were prepared for the training.
    pub fn input(&self) -> InputRules {
        self.otter_input
    }

    /// The format that the frozen matrices were quantized to.
    ///
    /// # Errors
    /// When the description names an unknown one.
    pub fn quantize(&self) -> Result<Option<QuantizedFormat>> {
        let Some(name) = &self.quantize else { return Ok(None) };
        let found = QuantizedFormat::ALL.into_iter().find(|format| format.name() == name);
        found.map(Some).ok_or_else(|| {
            let names = QuantizedFormat::ALL.map(QuantizedFormat::name).join(" or ");
            CheckpointError::format(
                Path::new(DESCRIPTION_FILE),
                format!("`quantize` is `{name}`; expected {names}"),
            )
        })
    }

    /// Writes the description into `directory`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(DESCRIPTION_FILE);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| CheckpointError::format(&path, format!("cannot be written: {error}")))?;
        atomic::write_file(&path, &text)
    }

    /// The description in `directory`; `None` where there is none, as in the directory of a whole model.
    ///
    /// # Errors
    /// When it cannot be read or is of another layout.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(DESCRIPTION_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let bad = |problem: String| CheckpointError::format(&path, problem);
        let value: serde_json::Value = read_json(&path, LONGEST_DESCRIPTION)?;
        if value["format"] != FORMAT {
            return Err(bad(format!("layout {} is not supported; expected {FORMAT}", value["format"])));
        }
        serde_json::from_value(value)
            .map(Some)
            .map_err(|error| bad(format!("not the description of a trained part: {error}")))
    }

    /// The whole model under `directory` and the trained parts over it, from the lowest to `directory` itself. A directory that
    /// is a whole model has none.
    ///
    /// # Errors
    /// When a base is not there or bases form a circle.
    pub fn chain(directory: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
        let (mut base, mut parts) = (directory.to_path_buf(), Vec::new());
        while let Some(part) = Self::read(&base)? {
            if parts.len() == MOST_PARTS {
                let problem =
                    format!("more than {MOST_PARTS} trained parts over each other; is one its own base?");
                return Err(CheckpointError::format(&base.join(DESCRIPTION_FILE), problem));
            }
            let below = base.join(part.base);
            if !below.exists() {
                let problem = format!(
                    "the model that was tuned is not at {}; put it there, or write its directory as \"base\"",
                    below.display()
                );
                return Err(CheckpointError::format(&base.join(DESCRIPTION_FILE), problem));
            }
            parts.push(base);
            base = below;
        }
        parts.reverse();
        Ok((base, parts))
    }
}

/// Opens the trained parameters of `directory`, which belong to a model with these parameters.
///
/// # Errors
/// When the file is damaged, or holds a parameter that the model lacks or has in another shape.
pub(crate) fn open_trained(directory: &Path, specs: &ParameterSpecs) -> Result<Weights> {
    let path = directory.join(TRAINED_FILE);
    let weights = Weights::open_file(&path)?;
    let expected: HashMap<&str, &[usize]> =
        specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
    for name in weights.names() {
        let wrong = |problem: String| CheckpointError::tensor(&path, name, problem);
        let found = weights.get(name).map_or(&[][..], |entry| &entry.shape[..]);
        match expected.get(name) {
            None => {
                let problem = "the base has no such parameter; was it replaced by another model?";
                return Err(wrong(problem.to_owned()));
            }
            Some(&expected) if found != expected => {
                return Err(wrong(format!("shape {found:?}; in the base it is {expected:?}")));
            }
            Some(_) => {}
        }
    }
    Ok(weights)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_chain_of_bases_is_followed_to_the_whole_model() {
        let place = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = place.path().join(name);
            fs::create_dir(&folder).unwrap();
            folder
        };
        let (base, first, second) = (folder("base"), folder("first"), folder("second"));
        assert_eq!(TrainedPart::chain(&base).unwrap(), (base.clone(), vec![]));
        TrainedPart::new(&base, None).write(&first).unwrap();
        TrainedPart::new(&first, None).write(&second).unwrap();
        assert_eq!(TrainedPart::read(&first).unwrap(), Some(TrainedPart::new(&base, None)));
        assert_eq!(TrainedPart::chain(&second).unwrap(), (base.clone(), vec![first.clone(), second.clone()]));

        TrainedPart::new(&second, None).write(&base).unwrap();
        assert!(TrainedPart::chain(&second).unwrap_err().to_string().contains("its own base"));
        fs::remove_dir_all(&base).unwrap();
        assert!(TrainedPart::chain(&second).unwrap_err().to_string().contains("is not at"));
    }

    #[test]
    fn the_format_of_the_base_is_remembered() {
        let place = tempfile::tempdir().unwrap();
        for quantize in [None, Some(QuantizedFormat::Q4K), Some(QuantizedFormat::Q8_0)] {
            TrainedPart::new(place.path(), quantize).write(place.path()).unwrap();
            assert_eq!(TrainedPart::read(place.path()).unwrap().unwrap().quantize().unwrap(), quantize);
        }
        let text = r#"{"format": 1, "base": "x", "quantize": "q5_k"}"#;
        fs::write(place.path().join(DESCRIPTION_FILE), text).unwrap();
        let error = TrainedPart::read(place.path()).unwrap().unwrap().quantize().unwrap_err().to_string();
        assert!(error.contains("q5_k") && error.contains("q4_k"), "{error}");
    }

    #[test]
    fn damaged_descriptions_are_refused() {
        let place = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("{", "not valid JSON"),
            ("[]", "layout null"),
            (r#"{"format": 2, "base": "x"}"#, "layout 2"),
            (r#"{"format": 1}"#, "base"),
            (r#"{"format": 1, "base": "x", "more": 1}"#, "more"),
        ] {
            fs::write(place.path().join(DESCRIPTION_FILE), text).unwrap();
            let error = TrainedPart::read(place.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(DESCRIPTION_FILE), "{text}: {error}");
        }
        fs::write(place.path().join(DESCRIPTION_FILE), vec![b' '; 1 << 17]).unwrap();
        assert!(TrainedPart::read(place.path()).unwrap_err().to_string().contains("at most"));
    }
}
