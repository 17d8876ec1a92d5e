//! Tensor names between two formats: a table of pattern pairs, read in either direction.
//!
//! A pattern is a name with placeholders: `#` stands for a whole number, `@` for one component (no dot), `*` for one or
//! more characters. Both sides of a pair hold the same placeholders in the same order. The first pair that matches
//! decides, so special pairs stand before general ones.

/// Two ways to name the same tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenameTable {
    /// What the left names belong to, for messages.
    pub left: &'static str,
    /// What the right names belong to.
    pub right: &'static str,
    /// Pairs of patterns, left and right.
    pub pairs: &'static [(&'static str, &'static str)],
}

impl RenameTable {
    /// The right name of a left one; `None` when no pattern matches.
    pub fn forward(&self, name: &str) -> Option<String> {
        self.pairs.iter().find_map(|(left, right)| Some(fill(right, &captures(left, name)?)))
    }

    /// The left name of a right one; `None` when no pattern matches.
    pub fn backward(&self, name: &str) -> Option<String> {
        self.pairs.iter().find_map(|(left, right)| Some(fill(left, &captures(right, name)?)))
    }
}

/// What the placeholders of `pattern` stand for in `name`.
pub(crate) fn captures<'n>(pattern: &str, name: &'n str) -> Option<Vec<&'n str>> {
    let mut found = Vec::new();
    matches(pattern, name, &mut found).then_some(found)
}

fn matches<'n>(pattern: &str, name: &'n str, found: &mut Vec<&'n str>) -> bool {
    let Some(at) = pattern.find(['#', '@', '*']) else { return pattern == name };
    let Some(rest) = name.strip_prefix(&pattern[..at]) else { return false };
    let (kind, after) = (pattern.as_bytes()[at], &pattern[at + 1..]);
    let longest = match kind {
        b'#' => rest.bytes().take_while(u8::is_ascii_digit).count(),
        b'@' => rest.find('.').unwrap_or(rest.len()),
        _ => rest.len(),
    };
    // Numbers and components are taken whole; a star takes as little as the rest of the pattern allows.
    let shortest = if kind == b'*' { 1 } else { longest.max(1) };
    for end in (shortest..=longest).filter(|&end| rest.is_char_boundary(end)) {
        found.push(&rest[..end]);
        if matches(after, &rest[end..], found) {
            return true;
        }
        found.pop();
    }
    false
}

fn fill(pattern: &str, captured: &[&str]) -> String {
    let mut captured = captured.iter();
    let mut name = String::new();
    for character in pattern.chars() {
        match character {
            '#' | '@' | '*' => name.push_str(captured.next().copied().unwrap_or_default()),
            other => name.push(other),
        }
    }
    name
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn placeholders_take_what_they_stand_for() {
        assert_eq!(captures("a.#.*", "a.12.b.c").unwrap(), ["12", "b.c"]);
        assert_eq!(captures("*.x.@", "a.x.b.x.c").unwrap(), ["a.x.b", "c"]);
        assert_eq!(captures("*.ff.*", "layers.1.ff.0.bias").unwrap(), ["layers.1", "0.bias"]);
        for (pattern, name) in
            [("a.#.b", "a..b"), ("a.#.b", "a.x.b"), ("*.ff.*", "a.ffn.b"), ("a.*", "a."), ("@", "a.b")]
        {
            assert_eq!(captures(pattern, name), None, "{pattern} {name}");
        }
    }

    proptest! {
        /// Any pattern made of literals and placeholders finds back what was filled in.
        #[test]
        fn filled_patterns_match(numbers in prop::collection::vec(0u32..1000, 0..4), rest in "[a-z_]{1,8}(\\.[a-z_0-9]{1,5}){0,3}") {
            let pattern = format!("root.{}*", "layer.#.".repeat(numbers.len()));
            let texts: Vec<String> = numbers.iter().map(u32::to_string).collect();
            let mut captured: Vec<&str> = texts.iter().map(String::as_str).collect();
            captured.push(&rest);
            let name = fill(&pattern, &captured);
            prop_assert_eq!(captures(&pattern, &name).unwrap(), captured);
        }

        #[test]
        fn any_text_is_handled(pattern in "[a#@*.é]{0,10}", name in ".{0,12}") {
            let _ = captures(&pattern, &name);
        }
    }
}
