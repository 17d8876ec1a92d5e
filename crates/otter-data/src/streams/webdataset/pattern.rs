//! Lists of shards: `{00000..00041}`, `{a,b}`, folders.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};

/// Most paths that patterns may stand for.
const MAX_PATHS: usize = 1 << 20;

/// Extensions looked for in a folder.
const EXTENSIONS: [&str; 2] = ["tar", "jsonl"];

/// The files that paths with brace patterns stand for, in order. A path that exists is taken as it is; a folder stands for
/// its `.tar` and `.jsonl` files by name.
pub(crate) fn expand_paths(patterns: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for pattern in patterns {
        match pattern.to_str().filter(|_| !pattern.exists()) {
            None => paths.push(pattern.clone()),
            Some(text) => {
                let expanded = expand_braces(text)
                    .map_err(|what| DataError::Config(format!("the pattern {text:?} of shards: {what}")))?;
                paths.extend(expanded.into_iter().map(PathBuf::from));
            }
        }
        if paths.len() > MAX_PATHS {
            return Err(DataError::Config(format!("more than {MAX_PATHS} shards are listed; list fewer")));
        }
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        if path.is_dir() {
            files.extend(files_of_folder(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn files_of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let path = entry.map_err(|error| DataError::io(folder, error))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(DataError::format(folder, "the folder holds no .tar or .jsonl file"));
    }
    files.sort();
    Ok(files)
}

/// All texts that a pattern stands for: `{a,b}` either word, `{08..11}` each number with its leading zeros. Later braces
/// change fastest.
fn expand_braces(pattern: &str) -> Result<Vec<String>, String> {
    let mut results = vec![String::new()];
    let mut rest = pattern;
    while let Some(open) = rest.find(['{', '}']) {
        let inside = rest[open..].strip_prefix('{').ok_or("a `}` has no `{`")?;
        let close = inside.find(['{', '}']).filter(|&at| inside.as_bytes()[at] == b'}');
        let close = close.ok_or("a `{` has no `}`, or braces are nested")?;
        let words = alternatives(&inside[..close])?;
        if results.len().saturating_mul(words.len()) > MAX_PATHS {
            return Err(format!("it stands for more than {MAX_PATHS} names"));
        }
        let before = &rest[..open];
        let join = |start: &String, word: &String| format!("{start}{before}{word}");
        results = results.iter().flat_map(|start| words.iter().map(move |word| join(start, word))).collect();
        rest = &inside[close + 1..];
    }
    for result in &mut results {
        result.push_str(rest);
    }
    Ok(results)
}

fn alternatives(inside: &str) -> Result<Vec<String>, String> {
    let Some((first, last)) = inside.split_once("..") else {
        return Ok(inside.split(',').map(str::to_owned).collect());
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>()
            .ok()
            .filter(|_| digits)
            .ok_or_else(|| format!("{{{inside}}} is no range of numbers"))
    };
    let (from, to) = (number(first)?, number(last)?);
    if from > to {
        return Err(format!("{{{inside}}} counts down; write the smaller number first"));
    }
    if to - from >= MAX_PATHS as u64 {
        return Err(format!("{{{inside}}} stands for more than {MAX_PATHS} names"));
    }
    let padded = [first, last].iter().any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    Ok((from..=to).map(|value| format!("{value:0width$}")).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_numbers_and_words() {
        let expand = |pattern: &str| expand_braces(pattern).unwrap();
        assert_eq!(expand("a.tar"), ["a.tar"]);
        assert_eq!(expand("s-{00008..00010}.tar"), ["s-00008.tar", "s-00009.tar", "s-00010.tar"]);
        assert_eq!(expand("{9..11}"), ["9", "10", "11"]);
        assert_eq!(expand("{x,y}/{0..1}"), ["x/0", "x/1", "y/0", "y/1"]);
        assert_eq!(expand("{00000..00041}").len(), 42);
        for wrong in
            ["{3..1}", "{a..b}", "{1", "1}", "{a{1..2}}", "{0..99999999}", "{0..999}{0..9999}", "{-1..2}"]
        {
            assert!(expand_braces(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_stands_for_its_shards() {
        let place = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "c.jsonl", "note.txt", "x{1}.tar"] {
            fs::write(place.path().join(name), "1").unwrap();
        }
        let names = |pattern: &str| {
            let paths = expand_paths(&[place.path().join(pattern)]).unwrap();
            paths
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["a.tar", "b.tar", "c.jsonl", "x{1}.tar"]);
        assert_eq!(names("{b,a}.tar"), ["b.tar", "a.tar"]);
        assert_eq!(names("x{1}.tar"), ["x{1}.tar"]);
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_is_handled_without_panic(pattern in "[{}.,0-9aé]{0,12}") {
            let _ = expand_braces(&pattern);
        }
    }
}
