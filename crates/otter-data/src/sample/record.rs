//! One entry of an instruction file.

use serde::{Deserialize, Deserializer, Serialize};

use crate::files::json_text::{one_or_many, parse_json, parse_object};

/// Question, answer and images of one instruction id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Record {
    /// User turn.
    pub instruction: String,
    /// Model turn.
    pub answer: String,
    /// Image ids, for a video its frames in temporal order.
    #[serde(default, deserialize_with = "one_or_many")]
    pub image_ids: Vec<String>,
    /// Instruction ids that can serve as context.
    #[serde(default, deserialize_with = "one_or_many")]
    pub rel_ins_ids: Vec<String>,
    /// Code of its language, such as `de`, where the source tells it.
    #[serde(default, deserialize_with = "text_or_unsaid", skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// It serves as an example in the context of others, and is no sample of its own where no train file says so.
    #[serde(default, deserialize_with = "null_is_false", skip_serializing_if = "std::ops::Not::not")]
    pub example_only: bool,
}

impl Record {
    /// Parses the JSON text of a record; fields that are not listed here are ignored.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        parse_object(json).map_err(|fault| {
            format!("the record is no object with `instruction`, `answer` and `image_ids`: {fault}")
        })
    }
}

/// A string that is not empty; whatever else an older file has under the key says nothing.
fn text_or_unsaid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
}

fn null_is_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Parses the context list of a train file.
pub fn parse_context(json: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Ids(#[serde(deserialize_with = "one_or_many")] Vec<String>);
    parse_json(json)
        .map(|Ids(ids)| ids)
        .map_err(|fault| format!("its context is no list of instruction ids: {fault}"))
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
        assert!(images(r#","image_ids":[1]"#).is_err_and(|message| message.contains("`image_ids[0]`")));
        assert!(Record::parse(br#"{"instruction":"q"}"#).is_err_and(|message| message.contains("`answer`")));
        // Its elements would be taken for instruction and answer.
        assert!(Record::parse(br#"["q","a",["x"]]"#).is_err());
        assert_eq!(parse_context(br#""x""#), Ok(vec!["x".into()]));
        assert!(parse_context(br#"["x",3]"#).is_err_and(|message| message.contains("[1]")));
    }

    #[test]
    fn language_and_use_are_kept_and_written_only_where_they_are_said() {
        let plain = r#"{"instruction":"q","answer":"a","image_ids":[],"rel_ins_ids":[]}"#;
        let said = r#"{"instruction":"q","answer":"a","image_ids":[],"rel_ins_ids":[],"language":"de","example_only":true}"#;
        for text in [plain, said] {
            let record = Record::parse(text.as_bytes());
            assert_eq!(record.as_ref().map(|record| record.example_only), Ok(text == said));
            assert_eq!(serde_json::to_string(&record.unwrap_or_default()).ok().as_deref(), Some(text));
        }
        for unsaid in [
            r#""language":["en"]"#,
            r#""language":"""#,
            r#""language":null"#,
            r#""language":3"#,
            r#""example_only":null"#,
        ] {
            let record = Record::parse(format!(r#"{{"instruction":"q","answer":"a",{unsaid}}}"#).as_bytes());
            assert_eq!(record.map(|record| (record.language, record.example_only)), Ok((None, false)));
        }
    }
}
