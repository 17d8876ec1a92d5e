//! Names of files in a repository, as a server gives them: relative, and unable to leave the folder they are put into.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::names::repository::percent_encoded;

/// Longest name of a file with its folders.
const MOST_BYTES: usize = 1024;

/// A checked relative name with `/` between folders.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemotePath(String);

impl RemotePath {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        if name.is_empty() || name.len() > MOST_BYTES {
            return Err("a file name has 1 to 1024 bytes");
        }
        if name.chars().any(char::is_control) {
            return Err("it contains a control character");
        }
        if name.contains('\\') {
            return Err("it contains a backslash");
        }
        if name.starts_with('/') {
            return Err("it is absolute");
        }
        if name.as_bytes().get(1) == Some(&b':') {
            return Err("it names a drive");
        }
        for part in name.split('/') {
            match part {
                "" => return Err("it has an empty part"),
                "." | ".." => return Err("it leaves its folder"),
                part if part.len() > 255 => return Err("a part of it is longer than 255 bytes"),
                _ => {}
            }
        }
        Ok(Self(name.to_string()))
    }

    /// The name with `/` between folders.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder in front of the last `/`, or nothing.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The part behind the last `/`.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The file below `folder`.
    pub fn below(&self, folder: &Path) -> PathBuf {
        self.0.split('/').fold(folder.to_path_buf(), |path, part| path.join(part))
    }

    /// As the end of a URL's path.
    pub fn in_url(&self) -> String {
        self.0.split('/').map(percent_encoded).collect::<Vec<_>>().join("/")
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_leaves_the_folder_is_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "./x",
            "a//b",
            "a/",
            "..\\x",
            "C:\\x",
            "C:/x",
            "a\0b",
            "a\nb",
            &"x".repeat(256),
        ] {
            assert!(RemotePath::parse(bad).is_err(), "{bad:?}");
        }
        let path = RemotePath::parse("sub dir/…#?.json").unwrap();
        assert_eq!(path.in_url(), "sub%20dir/%E2%80%A6%23%3F.json");
        assert_eq!((path.folder(), path.file_name()), ("sub dir", "…#?.json"));
        assert!(RemotePath::parse("..x/y..").is_ok());
    }

    proptest! {
        #[test]
        fn an_accepted_name_stays_below_its_folder(name in "[a./\\\\:\u{0}-]{0,12}") {
            if let Ok(path) = RemotePath::parse(&name) {
                let full = path.below(Path::new("/root/folder"));
                prop_assert!(full.starts_with("/root/folder"));
                let normal = full.components().all(|c| !matches!(c, std::path::Component::ParentDir));
                prop_assert!(normal);
                prop_assert!(full.components().count() > 3);
            }
        }
    }
}
