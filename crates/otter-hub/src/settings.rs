//! Where models come from and go to: the environment variables that the hub's Python tools read, and two of our own.
//!
//! | variable | meaning |
//! |---|---|
//! | `HF_ENDPOINT` | the hub, default `https://huggingface.co` |
//! | `HF_HUB_CACHE`, `HF_HOME` | the cache itself, or the folder around it (`$HF_HOME/hub`); default `~/.cache/huggingface` |
//! | `HF_TOKEN`, `HF_TOKEN_PATH` | access token, or the file that holds it (default `$HF_HOME/token`) |
//! | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | only the cache is used |
//! | `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` | root certificates to trust instead of Mozilla's |
//! | `OTTER_MIRROR` | a folder laid out as `org/name/files`, used before the hub and the cache |

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{HubError, Result};
use crate::local::cache::Cache;

/// The hub where nothing else is said.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// An access token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from text; blank text is none.
    ///
    /// # Errors
    /// When it cannot stand in a header.
    pub fn new(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(HubError::Argument {
                name: "access token",
                found: "(not shown)".to_string(),
                problem:
                    "it contains spaces or characters that no token has; set HF_TOKEN to the token alone"
                        .to_string(),
            });
        }
        Ok(Some(Self(text.to_string())))
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

/// How long and how often a failing connection is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Failures in a row, without a new byte between them, after which it ends.
    pub attempts: u32,
    /// Pause after the first failure; it doubles from failure to failure, up to 16 times.
    pub first_pause: Duration,
    /// A connection that is silent for so long has failed.
    pub silence: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first_pause: Duration::from_millis(500), silence: Duration::from_secs(30) }
    }
}

/// Everything that does not depend on the model.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The hub's address without a slash at the end.
    pub endpoint: String,
    /// Access token for private and gated models.
    pub token: Option<Token>,
    /// Where copies are kept.
    pub cache: Cache,
    /// A folder tree `org/name/files` to use before hub and cache.
    pub mirror: Option<PathBuf>,
    /// Whether the network must not be used.
    pub offline: bool,
    /// PEM file with the root certificates to trust.
    pub certificates: Option<PathBuf>,
    /// How bad connections are retried.
    pub retry: Retry,
}

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// When a variable holds what it cannot, or no home directory is known.
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(&|name| std::env::var_os(name))
    }

    /// From a function that gives the values of environment variables.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &'static str| match lookup(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.into_string().map(Some).map_err(|value| HubError::Argument {
                name,
                found: value.to_string_lossy().into_owned(),
                problem: "it is not valid UTF-8".to_string(),
            }),
        };
        let path = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let first_path = |names: &[&str]| names.iter().find_map(|name| path(name));
        let is_on = |name: &'static str| -> Result<bool> {
            Ok(text(name)?
                .is_some_and(|v| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")))
        };

        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| {
                first_path(&["HOME", "USERPROFILE"]).map(|home| home.join(".cache").join("huggingface"))
            })
            .ok_or_else(|| HubError::Argument {
                name: "HF_HOME",
                found: String::new(),
                problem: "neither it nor HOME is set; set HF_HOME to a folder for models".to_string(),
            })?;
        let cache =
            first_path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).unwrap_or_else(|| home.join("hub"));
        let token = match text("HF_TOKEN")?.or(text("HUGGING_FACE_HUB_TOKEN")?) {
            Some(token) => Token::new(&token)?,
            None => {
                let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
                match std::fs::read_to_string(&file) {
                    Ok(token) => Token::new(&token)?,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => return Err(HubError::io(&file, "read the access token")(error)),
                }
            }
        };
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| DEFAULT_ENDPOINT.to_string());
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_string(),
            token,
            cache: Cache::new(cache),
            mirror: path("OTTER_MIRROR"),
            offline: is_on("HF_HUB_OFFLINE")? || is_on("TRANSFORMERS_OFFLINE")?,
            certificates: first_path(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]),
            retry: Retry::default(),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_lookup(&|name| {
            variables.iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn places_follow_the_variables_of_the_python_tools() {
        let plain = settings(&[("HOME", "/h")]).unwrap();
        assert_eq!(plain.cache.root(), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert!(!plain.offline && plain.token.is_none() && plain.mirror.is_none());
        let moved = settings(&[("HOME", "/h"), ("HF_HOME", "/hf")]).unwrap();
        assert_eq!(moved.cache.root(), Path::new("/hf/hub"));
        let moved = settings(&[("HOME", "/h"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]).unwrap();
        assert_eq!(moved.cache.root(), Path::new("/c"));
        let moved = settings(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).unwrap();
        assert_eq!(moved.cache.root(), Path::new("/x/huggingface/hub"));
        let other = settings(&[
            ("HOME", "/h"),
            ("HF_ENDPOINT", "http://127.0.0.1:8000/"),
            ("HF_HUB_OFFLINE", "true"),
        ]);
        let other = other.unwrap();
        assert_eq!(other.endpoint, "http://127.0.0.1:8000");
        assert!(other.offline);
        assert!(!settings(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert!(settings(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn a_token_is_read_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let from_file = settings(&[("HF_HOME", home)]).unwrap();
        assert_eq!(from_file.token.as_ref().unwrap().header(), "Bearer hf_file");
        let from_variable = settings(&[("HF_HOME", home), ("HF_TOKEN", " hf_variable ")]).unwrap();
        assert_eq!(from_variable.token.as_ref().unwrap().header(), "Bearer hf_variable");
        assert!(!format!("{from_variable:?}").contains("hf_variable"));
        let bad = settings(&[("HF_HOME", home), ("HF_TOKEN", "a\nsecret")]).unwrap_err().to_string();
        assert!(bad.contains("HF_TOKEN") && !bad.contains("secret"), "{bad}");
    }
}
