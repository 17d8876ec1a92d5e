//! Cleaning of instruction and answer texts.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// White space as Python's `str.isspace` sees it; the separators U+001C to U+001F belong to it.
const SPACE: &str = r"\p{White_Space}\u{1C}-\u{1F}";

#[expect(clippy::unwrap_used, reason = "constant patterns, compiled by the tests")]
static SYMBOLS: LazyLock<Regex> =
    // A word character is a letter, a number or an underscore. Combining marks are not.
    LazyLock::new(|| Regex::new(&format!(r#"[^\p{{L}}\p{{N}}_{SPACE}.,?!()"']"#)).unwrap());

#[expect(clippy::unwrap_used, reason = "constant patterns, compiled by the tests")]
static SPACE_RUN: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!("[{SPACE}]{{2,}}")).unwrap());

/// The bytes of a text file after its byte order mark (UTF-8), which some editors put in front.
pub fn without_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}

/// Deletes symbols and collapses runs of white space (steps 1 to 4).
fn strip_symbols(text: &str) -> String {
    let text = SYMBOLS.replace_all(text, "");
    let text = SPACE_RUN.replace_all(text.trim_matches(' '), " ");
    text.trim_matches('\n').to_owned()
}

/// The user turn: optionally without symbols, then without outer spaces and outer newlines.
pub fn clean_question(text: &str, keep_symbols: bool) -> String {
    let text: Cow<'_, str> = if keep_symbols { text.into() } else { strip_symbols(text).into() };
    text.trim_matches(' ').trim_matches('\n').to_owned()
}

/// The model turn: no outer white space, optionally without symbols, Unix line ends.
pub fn clean_answer(text: &str, keep_symbols: bool) -> String {
    let text = text.trim_matches(is_python_space);
    if keep_symbols {
        return text.replace("\r\n", "\n");
    }
    // After deleting symbols the original does steps 3 and 4 without stripping spaces first.
    let text = SYMBOLS.replace_all(text, "");
    let text = SPACE_RUN.replace_all(&text, " ");
    text.trim_matches('\n').replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_vectors() {
        let cases = [
            ("  <image> What's the price-tag: $5/unit?\n\nOK ", "image What's the pricetag 5unit? OK"),
            ("a\n", "a"),
            ("x \n y", "x y"),
            ("\n hi", "hi"),
        ];
        for (text, expected) in cases {
            assert_eq!(clean_question(text, false), expected);
        }
    }

    #[test]
    fn combining_marks_and_circled_letters_are_symbols() {
        assert_eq!(clean_question("e\u{301} \u{24D0} x\u{1C}\u{1C}y ²", false), "e x y ²");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_cleaned_without_panic(text in ".{0,60}", keep in proptest::bool::ANY) {
            let question = clean_question(&text, keep);
            proptest::prop_assert!(!question.starts_with('\n') && !question.ends_with('\n'));
            let answer = clean_answer(&text, keep);
            proptest::prop_assert!(answer.len() <= text.len());
        }
    }
}
