//! A scanner that finds where JSON values begin and end, without building them.
//!
//! It holds a position only, so a file of any size needs no memory, and nesting of any depth no stack.

use std::ops::Range;

/// Where scanning failed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanError {
    /// Byte position.
    pub offset: usize,
    /// What was expected.
    pub message: &'static str,
}

/// A position inside JSON text.
pub struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at `position`; a byte-order mark at the start of the text is passed over.
    pub fn new(text: &'a [u8], position: usize) -> Self {
        let mark = if position == 0 && text.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        Self { text, position: position + mark }
    }

    fn fail<T>(&self, message: &'static str) -> Result<T, ScanError> {
        Err(ScanError { offset: self.position, message })
    }

    /// Current position.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The next byte that is not white space, without taking it.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.position) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.position += 1;
        }
        None
    }

    /// Takes `byte` or fails.
    pub fn expect(&mut self, byte: u8, message: &'static str) -> Result<(), ScanError> {
        if self.peek() != Some(byte) {
            return self.fail(message);
        }
        self.position += 1;
        Ok(())
    }

    /// Takes a string; returns it with its quotes.
    pub fn string(&mut self) -> Result<Range<usize>, ScanError> {
        if self.peek() != Some(b'"') {
            return self.fail("a string is expected here");
        }
        let start = self.position;
        let mut at = start + 1;
        loop {
            let Some(found) = self.text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) else {
                return self.fail("this string is not closed; the file is cut");
            };
            at += found;
            if self.text[at] == b'"' {
                self.position = at + 1;
                return Ok(start..at + 1);
            }
            at += 2;
        }
    }

    /// Takes any value.
    pub fn value(&mut self) -> Result<Range<usize>, ScanError> {
        let first = self.peek();
        let start = self.position;
        match first {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => self.container()?,
            Some(_) => self.literal()?,
            None => return self.fail("a value is expected here; the file is cut"),
        }
        Ok(start..self.position)
    }

    fn literal(&mut self) -> Result<(), ScanError> {
        let rest = &self.text[self.position..];
        let length = rest
            .iter()
            .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')))
            .unwrap_or(rest.len());
        if length == 0 {
            return self.fail("a value is expected here");
        }
        self.position += length;
        Ok(())
    }

    /// Takes a balanced object or list. Its inner grammar is checked when the value is read.
    fn container(&mut self) -> Result<(), ScanError> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.position += 1;
                }
                Some(b'}' | b']') => {
                    depth -= 1;
                    self.position += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                Some(_) => self.position += 1,
                None => return self.fail("an object or list is not closed; the file is cut"),
            }
        }
    }

    /// Walks the entries of an object; `entry` gets the quoted key, sits before the value and must take it.
    pub fn object(
        &mut self,
        mut entry: impl FnMut(&mut Self, Range<usize>) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        self.expect(b'{', "an object `{` is expected here")?;
        if self.peek() == Some(b'}') {
            self.position += 1;
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':', "`:` is expected after a key")?;
            entry(self, key)?;
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => {
                    self.position += 1;
                    return Ok(());
                }
                _ => return self.fail("`,` or `}` is expected after a value"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Vec<(String, String)>, ScanError> {
        let mut found = Vec::new();
        Scanner::new(text.as_bytes(), 0).object(|scanner, key| {
            let value = scanner.value()?;
            found.push((text[key].to_owned(), text[value].to_owned()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn values_are_found_with_their_bounds() {
        let text = r#" {"a\"":"x\\", "b" : {"c":[1,"]}"]} , "d":null,"e":-1.5e+3}"#;
        let expected = [
            (r#""a\"""#, r#""x\\""#),
            ("\"b\"", r#"{"c":[1,"]}"]}"#),
            ("\"d\"", "null"),
            ("\"e\"", "-1.5e+3"),
        ];
        let found = keys(text).expect("valid");
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(keys("{}"), Ok(Vec::new()));
    }

    #[test]
    fn cut_text_is_an_error() {
        let text = r#"{"a":"x\\","b":{"c":[1,2]}}"#;
        for end in 0..text.len() {
            assert!(keys(&text[..end]).is_err(), "{}", &text[..end]);
        }
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(keys(&text).map(|found| found.len()), Ok(1));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_scanned_without_panic(text in r#"[{}\[\]",:\\a1 ]{0,60}"#) {
            let _ = keys(&text);
        }

        #[test]
        fn serialized_objects_are_found_completely(
            entries in proptest::collection::vec((".{0,12}", ".{0,20}"), 0..12),
        ) {
            let map: serde_json::Map<String, serde_json::Value> =
                entries.into_iter().map(|(key, value)| (key, value.into())).collect();
            let text = serde_json::to_string_pretty(&map)?;
            let found = keys(&text).map_err(|error| proptest::test_runner::TestCaseError::fail(error.message))?;
            proptest::prop_assert_eq!(found.len(), map.len());
            for ((key, value), (expected_key, expected)) in found.iter().zip(&map) {
                proptest::prop_assert_eq!(&serde_json::from_str::<String>(key)?, expected_key);
                proptest::prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(value)?, expected);
            }
        }
    }
}
