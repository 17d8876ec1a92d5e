//! One entry of an instruction file (`spec/data.md` 1.1).

use serde::{Deserialize, Serialize};

/// Question, answer and images of one instruction id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Record {
    /// User turn.
    pub instruction: String,
    /// Model turn.
    pub answer: String,
    /// Image ids, for a video its frames in temporal order.
    #[serde(default, deserialize_with = "ids")]
    pub image_ids: Vec<String>,
    /// Instruction ids that can serve as context.
    #[serde(default, deserialize_with = "ids")]
    pub rel_ins_ids: Vec<String>,
}

impl Record {
    /// Parses the JSON text of a record; fields that are not listed here are ignored.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|error| {
            format!("the record is no object with `instruction`, `answer` and `image_ids` ({error})")
        })
    }
}

/// Parses the context list of a train file.
pub fn parse_context(json: &[u8]) -> Result<Vec<String>, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    ids(&mut deserializer).map_err(|error| format!("its context is no list of instruction ids ({error})"))
}

/// A list of ids; third-party files also hold a bare string or null.
fn ids<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        Many(Vec<String>),
        One(String),
        None,
    }
    Ok(match Ids::deserialize(deserializer)? {
        Ids::Many(ids) => ids,
        Ids::One(id) => vec![id],
        Ids::None => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids_may_be_a_list_a_string_null_or_missing() {
        let images = |field: &str| {
            Record::parse(format!(r#"{{"instruction":"q","answer":"a"{field}}}"#).as_bytes())
                .map(|record| record.image_ids)
        };
        assert_eq!(images(r#","image_ids":["x","y"]"#), Ok(vec!["x".into(), "y".into()]));
        assert_eq!(images(r#","image_ids":"x""#), Ok(vec!["x".into()]));
        assert_eq!(images(r#","image_ids":null"#), Ok(vec![]));
        assert_eq!(images(""), Ok(vec![]));
        assert!(images(r#","image_ids":[1]"#).is_err());
        assert!(Record::parse(br#"{"instruction":"q"}"#).is_err());
    }
}
