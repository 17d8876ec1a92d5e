//! JSON written by others: what is not of its form is told by its key, with what was found and what is expected.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Longest part of a found value that is repeated in a message.
const FOUND_CHARACTERS: usize = 80;

/// Parses a JSON object. Lists are refused: their elements would be taken for the fields in order.
pub fn parse_object<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, String> {
    match json.trim_ascii_start().first() {
        Some(b'{') => parse_json(json),
        _ => Err(format!("{} was found, an object `{{…}}` is expected", kind_of(json))),
    }
}

/// Parses JSON.
pub fn parse_json<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| {
        // Once more, with the way to the fault: only what is wrong pays for it.
        let again = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(json));
        match again.err() {
            Some(error) => describe(&error.path().to_string(), error.inner()),
            None => describe(".", &error),
        }
    })
}

/// What a JSON text begins as.
fn kind_of(json: &[u8]) -> &'static str {
    match json.trim_ascii_start().first() {
        None => "nothing",
        Some(b'[') => "a list",
        Some(b'{') => "an object",
        Some(b'"') => "a string",
        Some(b'n') => "null",
        Some(b't' | b'f') => "true or false",
        Some(b'0'..=b'9' | b'-') => "a number",
        Some(_) => "no JSON",
    }
}

/// A JSON error in words. The position is left out where the key is known: it counts from the start of an entry.
fn describe(path: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    if !error.is_data() {
        let line = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
        return format!("no valid JSON: {text} ({line}column {})", error.column());
    }
    let inside = |field: &str| {
        let field = field.trim_matches('`');
        if path == "." { format!("`{field}`") } else { format!("`{path}.{field}`") }
    };
    if let Some(field) = text.strip_prefix("missing field ") {
        return format!("the key {} is missing", inside(field));
    }
    if let Some(field) = text.strip_prefix("duplicate field ") {
        return format!("the key {} is there twice", inside(field));
    }
    let place = if path == "." { "the value".to_owned() } else { format!("`{path}`") };
    for prefix in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some((found, expected)) =
            text.strip_prefix(prefix).and_then(|rest| rest.rsplit_once(", expected "))
        {
            let (found, expected) = (found_in_words(found), expected_in_words(expected));
            return format!("{place} is {found}, {expected} is expected");
        }
    }
    if path == "." { text.to_owned() } else { format!("{place}: {text}") }
}

fn found_in_words(found: &str) -> String {
    match found {
        "null" => "null".to_owned(),
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        other if other.starts_with(|c: char| c.is_ascii_digit()) => format!("a list of {other}"),
        other => {
            let cut: String = other.chars().take(FOUND_CHARACTERS).collect();
            let more = if cut.len() < other.len() { "…" } else { "" };
            format!("the {cut}{more}")
        }
    }
}

fn expected_in_words(expected: &str) -> String {
    let of_length = ["an array of length ", "a tuple of size "];
    match expected {
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        other if other.starts_with("struct ") => "an object".to_owned(),
        other => match of_length.iter().find_map(|start| other.strip_prefix(start)) {
            Some(length) => format!("a list of {length}"),
            None => other.to_owned(),
        },
    }
}

/// A string or a list of strings; null is an empty list.
pub fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Strings;

    impl<'de> Visitor<'de> for Strings {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a string or a list of strings")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
            Ok(vec![text])
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = elements.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }

    deserializer.deserialize_any(Strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Entry {
        text: String,
        #[serde(default, deserialize_with = "one_or_many")]
        files: Vec<String>,
        #[serde(default)]
        turns: Vec<Turn>,
        #[serde(default)]
        pair: [f64; 2],
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Turn {
        value: String,
    }

    #[test]
    fn faults_are_named_by_their_key() {
        for (json, expected) in [
            (r#"{"text":3}"#, "`text` is the integer `3`, a string is expected"),
            (r#"{"text":null}"#, "`text` is null, a string is expected"),
            (r#"{"text":["a"]}"#, "`text` is a list, a string is expected"),
            (r#"{}"#, "the key `text` is missing"),
            (r#"{"text":"a","text":"b"}"#, "the key `text` is there twice"),
            (r#"{"text":"a","files":[["b"]]}"#, "`files[0]` is a list, a string is expected"),
            (r#"{"text":"a","files":{}}"#, "`files` is an object, a string or a list of strings is expected"),
            (r#"{"text":"a","turns":[{}]}"#, "the key `turns[0].value` is missing"),
            (r#"{"text":"a","turns":"x"}"#, "`turns` is the string \"x\", a list is expected"),
            (r#"{"text":"a","pair":[1]}"#, "`pair` is a list of 1, a list of 2 is expected"),
            (r#"["a"]"#, "a list was found, an object `{…}` is expected"),
            ("NaN", "no JSON was found, an object `{…}` is expected"),
            ("", "nothing was found, an object `{…}` is expected"),
        ] {
            assert_eq!(parse_object::<Entry>(json.as_bytes()).map(drop), Err(expected.to_owned()));
        }
        let message = parse_object::<Entry>(b"{\"text\" \"a\"}").map(drop);
        assert!(
            message.as_ref().is_err_and(|text| text.starts_with("no valid JSON: expected `:`")),
            "{message:?}"
        );
    }
}
