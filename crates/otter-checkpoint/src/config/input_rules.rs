//! How inputs are prepared for a model: what a checkpoint of this program records so that training and every later
//! use of the model see the same. It stands under one top-level key of `config.json`:
//!
//! ```json
//! "otter_input": { "begin_token": true, "alpha": "white", "gray16": "scale", "images_of_record": "frames" }
//! ```
//!
//! A rule that is absent is the original's, so its checkpoints, which have no such key, keep their behavior.

use std::path::Path;

use otter_data::{AlphaRule, Gray16Rule, ImagesOfRecord};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::section::Section;
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::directory::trained_part::TrainedPart;
use crate::error::Result;
use crate::gguf::{self, GgufFile};

/// The top-level key of `config.json`.
pub(crate) const INPUT_RULES: &str = "otter_input";
/// The rules by their keys.
const KEYS: &[&str] = &["begin_token", "alpha", "gray16", "images_of_record"];

/// What a checkpoint records about its inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRules {
    /// Whether every sequence, in training and in use, begins with the tokenizer's begin token. `None` is the
    /// original's way: training puts the token in front of every sample, and a prompt begins as the tokenizer's own
    /// files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin_token: Option<bool>,
    /// What is shown where an image is transparent. `None` is the original's way, `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<AlphaRule>,
    /// What becomes of gray of 16 bits. `None` is the original's way, `clip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gray16: Option<Gray16Rule>,
    /// How several images of one question are shown. `None` is frames of one media item for a checkpoint with frame
    /// embeddings, otherwise a media item each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_of_record: Option<ImagesOfRecord>,
}

impl InputRules {
    /// The rules of a checkpoint directory or GGUF file. What was tuned last counts: a trained part over its base.
    ///
    /// # Errors
    /// When a file cannot be read, or a rule has no known value.
    pub fn of(path: &Path) -> Result<Self> {
        let (base, parts) = TrainedPart::chain(path)?;
        let config = base.join("config.json");
        let (file, top) = match gguf::file_of(&base) {
            Some(file) => {
                let gguf = GgufFile::open(&file)?;
                let top = if gguf.is_otter()? { gguf.config()? } else { Map::new() };
                (file, top)
            }
            None if config.is_file() => (config.clone(), read_object(&config, LONGEST_CONFIG)?),
            None => (config, Map::new()),
        };
        let mut rules = Self::read(&Section { path: &file, name: "", map: &top }, &mut Vec::new())?;
        for part in parts {
            rules = TrainedPart::read(&part)?.map_or(rules, |part| part.input().over(rules));
        }
        Ok(rules)
    }

    /// Whether they say nothing.
    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }

    /// These rules, and those of `below` where these say nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            begin_token: self.begin_token.or(below.begin_token),
            alpha: self.alpha.or(below.alpha),
            gray16: self.gray16.or(below.gray16),
            images_of_record: self.images_of_record.or(below.images_of_record),
        }
    }

    /// The rules of a configuration. An unknown one is a warning: it is from a later version of this program.
    pub(crate) fn read(top: &Section<'_>, warnings: &mut Vec<String>) -> Result<Self> {
        let Some(section) = top.optional_section(INPUT_RULES)? else { return Ok(Self::default()) };
        for key in section.map.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            warnings.push(format!(
                "{}: `{}` is unknown and passed over; this version knows {}. A checkpoint of a later version may need it",
                top.path.display(),
                section.full_key(key),
                KEYS.join(", ")
            ));
        }
        let alpha = match section.text("alpha")? {
            None => None,
            Some("drop") => Some(AlphaRule::Drop),
            Some("white") => Some(AlphaRule::White),
            Some("black") => Some(AlphaRule::Black),
            Some(other) => {
                return Err(section.wrong("alpha", &other, "expected drop, white or black").into());
            }
        };
        let gray16 = match section.text("gray16")? {
            None => None,
            Some("scale") => Some(Gray16Rule::Scale),
            Some("clip") => Some(Gray16Rule::Clip),
            Some(other) => return Err(section.wrong("gray16", &other, "expected scale or clip").into()),
        };
        let images_of_record = match section.text("images_of_record")? {
            None => None,
            Some("frames") => Some(ImagesOfRecord::Frames),
            Some("media") => Some(ImagesOfRecord::Media),
            Some(other) => {
                return Err(section.wrong("images_of_record", &other, "expected frames or media").into());
            }
        };
        Ok(Self { begin_token: section.flag("begin_token")?, alpha, gray16, images_of_record })
    }

    /// Sets the rules in the top level of a configuration; what they do not say stays as it is there.
    pub(crate) fn write(&self, top: &mut Map<String, Value>) {
        let Self { begin_token, alpha, gray16, images_of_record } = self;
        let rules = [
            ("begin_token", begin_token.map(|value| json!(value))),
            ("alpha", alpha.map(|rule| json!(rule.name()))),
            ("gray16", gray16.map(|rule| json!(rule.name()))),
            ("images_of_record", images_of_record.map(|rule| json!(rule.name()))),
        ];
        for (key, value) in rules {
            let Some(value) = value else { continue };
            match top.get_mut(INPUT_RULES) {
                Some(Value::Object(section)) => {
                    section.insert(key.to_owned(), value);
                }
                _ => {
                    top.insert(INPUT_RULES.to_owned(), json!({ key: value }));
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(top: &Value) -> Result<(InputRules, Vec<String>)> {
        let mut warnings = Vec::new();
        let section = Section { path: Path::new("config.json"), name: "", map: top.as_object().unwrap() };
        InputRules::read(&section, &mut warnings).map(|rules| (rules, warnings))
    }

    #[test]
    fn rules_read_back_and_others_stay() {
        for begin_token in [None, Some(true), Some(false)] {
            let rules = InputRules { begin_token, ..InputRules::default() };
            let mut top = Map::new();
            rules.write(&mut top);
            assert_eq!(top.is_empty(), begin_token.is_none());
            assert_eq!(read(&Value::Object(top)).unwrap(), (rules, vec![]));
        }
        let mut top = json!({ "otter_input": { "begin_token": true, "later": 1 } });
        InputRules { begin_token: Some(false), ..InputRules::default() }.write(top.as_object_mut().unwrap());
        assert_eq!(top, json!({ "otter_input": { "begin_token": false, "later": 1 } }));
    }

    #[test]
    fn what_was_tuned_last_counts() {
        let place = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            std::fs::create_dir(place.path().join(name)).unwrap();
            place.path().join(name)
        };
        let (base, silent, tuned) = (folder("base"), folder("silent"), folder("tuned"));
        std::fs::write(base.join("config.json"), r#"{"otter_input": {"begin_token": false}}"#).unwrap();
        TrainedPart::new(&base, None).write(&silent).unwrap();
        let rules = InputRules { begin_token: Some(true), ..InputRules::default() };
        TrainedPart::new(&silent, None).with_input(rules).write(&tuned).unwrap();
        for (path, expected) in [(&base, false), (&silent, false), (&tuned, true)] {
            assert_eq!(InputRules::of(path).unwrap().begin_token, Some(expected));
        }
        assert_eq!(InputRules::of(place.path()).unwrap(), InputRules::default());
    }

    #[test]
    fn what_is_not_known_is_said() {
        let (rules, warnings) =
            read(&json!({ "otter_input": { "begin_token": false, "beginn": 1 } })).unwrap();
        assert_eq!(rules.begin_token, Some(false));
        assert!(
            warnings[0].contains("`otter_input.beginn`") && warnings[0].contains("begin_token"),
            "{warnings:?}"
        );
        let refused = read(&json!({ "otter_input": { "begin_token": "yes" } })).unwrap_err().to_string();
        assert!(refused.contains("`otter_input.begin_token` is \"yes\""), "{refused}");
        assert!(read(&json!({ "otter_input": [] })).is_err());
        let refused = read(&json!({ "otter_input": { "alpha": "red" } })).unwrap_err().to_string();
        assert!(refused.contains("`otter_input.alpha` is red") && refused.contains("black"), "{refused}");
    }

    #[test]
    fn how_images_are_shown_reads_back() {
        let rules = InputRules {
            alpha: Some(AlphaRule::Black),
            gray16: Some(Gray16Rule::Scale),
            ..InputRules::default()
        };
        let mut top = Map::new();
        rules.write(&mut top);
        assert_eq!(top["otter_input"], json!({ "alpha": "black", "gray16": "scale" }));
        assert_eq!(read(&Value::Object(top)).unwrap(), (rules, vec![]));
        let above = InputRules { alpha: Some(AlphaRule::Drop), ..InputRules::default() };
        let expected = InputRules { alpha: Some(AlphaRule::Drop), ..rules };
        assert_eq!(above.over(rules), expected);
    }
}
