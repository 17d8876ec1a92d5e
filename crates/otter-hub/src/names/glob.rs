//! Patterns for file names, as `--include` and `--exclude` of the hub's own tools read them.
//!
//! `*` matches any run of characters, also across `/`; `?` one character; `[a-z]` and `[!a-z]` one of a set. A pattern
//! that ends in `/` means everything in that folder.

use crate::error::{HubError, Result};

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    One(char),
    AnyOne,
    AnyRun,
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Step {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::One(own) => *own == c,
            Self::AnyOne | Self::AnyRun => true,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    steps: Vec<Step>,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is empty or a set has no end.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |problem: &str| HubError::Argument {
            name: "pattern",
            found: text.to_string(),
            problem: problem.to_string(),
        };
        if text.is_empty() {
            return Err(refuse("it is empty; give a file name or a pattern such as '*.json'"));
        }
        let mut characters: Vec<char> = text.chars().collect();
        if characters.last() == Some(&'/') {
            characters.push('*');
        }
        let mut steps = Vec::new();
        let mut at = 0;
        while let Some(&c) = characters.get(at) {
            at += 1;
            match c {
                '*' if steps.last() == Some(&Step::AnyRun) => {}
                '*' => steps.push(Step::AnyRun),
                '?' => steps.push(Step::AnyOne),
                '[' => {
                    let (set, next) = parse_set(&characters, at)
                        .ok_or_else(|| refuse("'[' has no ']'; '[[]' matches a '['"))?;
                    steps.push(set);
                    at = next;
                }
                c => steps.push(Step::One(c)),
            }
        }
        Ok(Self { text: text.to_string(), steps })
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut step, mut at) = (0, 0);
        // The latest `*` and how far it reaches: on a mismatch it takes one character more.
        let mut run: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.steps.get(step) {
                Some(Step::AnyRun) => {
                    run = Some((step, at));
                    step += 1;
                }
                Some(own) if own.matches(name[at]) => {
                    step += 1;
                    at += 1;
                }
                _ => match run {
                    None => return false,
                    Some((star, reach)) => {
                        run = Some((star, reach + 1));
                        step = star + 1;
                        at = reach + 1;
                    }
                },
            }
        }
        self.steps[step..].iter().all(|s| *s == Step::AnyRun)
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The set that begins behind its `[`, and where the pattern goes on.
fn parse_set(characters: &[char], start: usize) -> Option<(Step, usize)> {
    let negated = characters.get(start) == Some(&'!');
    let first = start + usize::from(negated);
    // A ']' at the very beginning is a member.
    let end = (first + 1..characters.len()).find(|&i| characters[i] == ']')?;
    let mut ranges = Vec::new();
    let mut at = first;
    while at < end {
        if at + 2 < end && characters[at + 1] == '-' {
            ranges.push((characters[at], characters[at + 2]));
            at += 3;
        } else {
            ranges.push((characters[at], characters[at]));
            at += 1;
        }
    }
    Some((Step::Set { negated, ranges }, end + 1))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*.json", "config.json", true),
            ("*.json", "sub/config.json", true),
            ("*.json", "config.json5", false),
            ("config.json", "sub/config.json", false),
            ("sub/", "sub/a/b", true),
            ("sub/", "sub", false),
            ("model-?????-of-*", "model-00001-of-00002.safetensors", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("*a*b*c", "aaabbbabc", true),
            ("*a*b*c", "aaabbbab", false),
            ("ü?", "üß", true),
            ("*", "", true),
            ("a*", "", false),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
        assert!(Glob::parse("").is_err());
        assert!(Glob::parse("a[b").is_err());
    }

    /// The definition, without a thought for time.
    fn reference(steps: &[Step], name: &[char]) -> bool {
        match (steps.split_first(), name.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((Step::AnyRun, rest)), None) => reference(rest, name),
            (Some((Step::AnyRun, rest)), Some((_, tail))) => reference(rest, name) || reference(steps, tail),
            (Some(_), None) => false,
            (Some((step, rest)), Some((c, tail))) => step.matches(*c) && reference(rest, tail),
        }
    }

    proptest! {
        #[test]
        fn backtracking_equals_the_definition(pattern in "[ab*?/]{1,8}", name in "[ab/]{0,10}") {
            let glob = Glob::parse(&pattern).unwrap();
            let characters: Vec<char> = name.chars().collect();
            prop_assert_eq!(glob.matches(&name), reference(&glob.steps, &characters));
        }

        #[test]
        fn any_text_is_read_or_refused(pattern in ".{0,20}", name in ".{0,20}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                glob.matches(&name);
            }
        }
    }
}
