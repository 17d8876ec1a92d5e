//! How a model on a hub is named: `org/name`, optionally with a branch, tag or commit behind an `@`.

use std::fmt;
use std::str::FromStr;

use crate::error::{HubError, Result};

/// The branch that is meant where none is named.
pub const DEFAULT_REVISION: &str = "main";

/// Longest organization or model name; the hub allows 96 characters for both together.
const MOST_CHARACTERS: usize = 96;

/// A model repository, `org/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryId(String);

impl RepositoryId {
    /// `org/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `models--org--name`, the folder in the cache.
    pub fn folder_name(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl FromStr for RepositoryId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        let problem = match text.split_once('/') {
            None => Some("expected org/name, such as luodian/OTTER-Image-MPT7B"),
            Some((org, name)) => part_problem(org).or_else(|| part_problem(name)),
        };
        match problem {
            None => Ok(Self(text.to_string())),
            Some(problem) => Err(HubError::Argument {
                name: "model",
                found: text.to_string(),
                problem: problem.to_string(),
            }),
        }
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hub's rules for names, which also make them safe as parts of a path.
fn part_problem(part: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if part.is_empty() || part.len() > MOST_CHARACTERS {
        return Some("organization and name have 1 to 96 characters each: org/name");
    }
    if !part.chars().all(allowed) {
        return Some(
            "organization and name consist of letters, digits, '-', '_' and '.', with one '/' between them",
        );
    }
    if part.contains("..") || part.contains("--") {
        return Some("neither '..' nor '--' occurs in the name of a repository");
    }
    let edge = |c: char| c == '.' || c == '-';
    if part.starts_with(edge) || part.ends_with(edge) {
        return Some("neither part of org/name begins or ends with '.' or '-'");
    }
    None
}

/// A branch, tag or commit that can stand in a URL and in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, if the revision is a full commit hash.
    pub fn as_commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }

    /// As one segment of a URL's path.
    pub fn in_url(&self) -> String {
        percent_encoded(&self.0)
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self(DEFAULT_REVISION.to_string())
    }
}

impl FromStr for Revision {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
        let parts_are_names =
            text.split('/').all(|p| !p.is_empty() && !p.starts_with('.') && !p.ends_with('.'));
        if text.len() <= 200 && text.chars().all(allowed) && parts_are_names && !text.contains("..") {
            return Ok(Self(text.to_string()));
        }
        Err(HubError::Argument {
            name: "revision",
            found: text.to_string(),
            problem: "expected a branch, a tag or a commit: letters, digits, '.', '_', '-', '+' and '/' between parts"
                .to_string(),
        })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A full commit hash: 40 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit(String);

impl Commit {
    /// The hash, if `text` is one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (text.len() == 40 && digits).then(|| Self(text.to_string()))
    }

    /// The 40 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a user writes for a model on a hub: `org/name` or `org/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelReference {
    /// The repository.
    pub id: RepositoryId,
    /// The revision, if one was named.
    pub revision: Option<Revision>,
}

impl ModelReference {
    /// The named revision, or the default branch.
    pub fn revision_or_default(&self) -> Revision {
        self.revision.clone().unwrap_or_default()
    }
}

impl FromStr for ModelReference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('@') {
            None => Ok(Self { id: text.parse()?, revision: None }),
            Some((id, revision)) => Ok(Self { id: id.parse()?, revision: Some(revision.parse()?) }),
        }
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            None => write!(f, "{}", self.id),
            Some(revision) => write!(f, "{}@{revision}", self.id),
        }
    }
}

/// Everything but unreserved characters as `%XX`.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ids_are_org_and_name() {
        let reference: ModelReference = "luodian/OTTER-Image-MPT7B@refs/pr/1".parse().unwrap();
        assert_eq!(reference.id.as_str(), "luodian/OTTER-Image-MPT7B");
        assert_eq!(reference.id.folder_name(), "models--luodian--OTTER-Image-MPT7B");
        assert_eq!(reference.revision.as_ref().unwrap().in_url(), "refs%2Fpr%2F1");
        assert_eq!(reference.to_string(), "luodian/OTTER-Image-MPT7B@refs/pr/1");
        for bad in [
            "",
            "gpt2",
            "a/b/c",
            "/b",
            "a/",
            "../b",
            "a/..",
            "a/.hidden",
            "a/b--c",
            "a/b c",
            "a\\b/c",
            "a/b\0",
        ] {
            assert!(bad.parse::<RepositoryId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn revisions_stay_in_their_folder() {
        for good in ["main", "v1.0", "refs/pr/12", "a+b", &"0".repeat(40)] {
            assert!(good.parse::<Revision>().is_ok(), "{good}");
        }
        for bad in ["", "/main", "a//b", "..", "a/../b", ".hidden", "a\\b", "a b", "a%2Fb", "a?b", "ä"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad:?}");
        }
        assert_eq!("main".parse::<Revision>().unwrap().as_commit(), None);
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(commit.parse::<Revision>().unwrap().as_commit().unwrap().as_str(), commit);
        assert_eq!(Commit::parse(&commit.to_uppercase()), None);
    }
}
