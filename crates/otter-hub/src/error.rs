//! What can go wrong. Every message names the repository or file, what was found, what was expected and what to do.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Any failure of this crate.
#[derive(Debug, Error)]
pub enum HubError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted, e.g. `open`.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A repository, revision or setting that cannot be used.
    #[error("{name} '{found}': {problem}")]
    Argument {
        /// Which argument or environment variable.
        name: &'static str,
        /// What was given.
        found: String,
        /// What is wrong with it and what is expected.
        problem: String,
    },
    /// The hub refuses this repository or revision, or does not know it.
    #[error("{what}: the hub answers {status}: {problem}")]
    Refused {
        /// Repository, or repository and file.
        what: String,
        /// HTTP status.
        status: u16,
        /// The likely cause and what to do.
        problem: String,
    },
    /// The connection failed, also after several attempts.
    #[error("{what}: {problem} (from {origin}, after {attempts} attempts); {advice}")]
    Network {
        /// Repository, or repository and file.
        what: String,
        /// Where from.
        origin: String,
        /// The last failure.
        problem: String,
        /// How often it was tried in vain.
        attempts: u32,
        /// What to do.
        advice: String,
    },
    /// An answer of the hub that does not say what it must.
    #[error("{what}: the hub's answer cannot be used: {problem}")]
    Answer {
        /// Repository, or repository and file.
        what: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A file name in the repository that would leave the folder it belongs into, or that is no file name.
    #[error("{what}: the file name {name:?} is refused: {problem}; nothing was downloaded")]
    FileName {
        /// Repository.
        what: String,
        /// The name as the server gives it.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The bytes of a file are not those the hub lists. They were removed.
    #[error(
        "{what}: wrong checksum: found {found}, expected {expected}; the bad bytes were removed. \
         Pull again; if it happens again, the server or a proxy between changes the file"
    )]
    Checksum {
        /// Repository and file.
        what: String,
        /// Checksum of what came.
        found: String,
        /// Checksum that the hub lists.
        expected: String,
    },
    /// The disk is too full.
    #[error(
        "{path}: {needed} bytes are needed and {free} are free; make room, choose another place with --out or HF_HOME, \
         or take fewer files with --include"
    )]
    Space {
        /// Where the files would go.
        path: PathBuf,
        /// Bytes to download.
        needed: u64,
        /// Bytes available.
        free: u64,
    },
    /// The patterns leave nothing, or too much, to download.
    #[error("{what}: {problem}")]
    Selection {
        /// Repository.
        what: String,
        /// What is there and how to choose.
        problem: String,
    },
    /// No complete copy is on this machine, and nothing may be downloaded now.
    #[error("{what}: {problem}; {advice}")]
    NotHere {
        /// What was asked for.
        what: String,
        /// What was found instead.
        problem: String,
        /// How to get it.
        advice: String,
    },
    /// A file in the output folder that is not this repository's.
    #[error(
        "{path}: there is already a file with other content (found {found}, expected {expected}); \
         remove it or choose another --out"
    )]
    Occupied {
        /// The file.
        path: PathBuf,
        /// Its checksum.
        found: String,
        /// The checksum of the file that would be written.
        expected: String,
    },
    /// Stopped on request. What was downloaded so far is kept.
    #[error("{what}: stopped; what was downloaded is kept, and the same command goes on from there")]
    Stopped {
        /// Repository.
        what: String,
    },
}

/// Result of this crate.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

impl HubError {
    /// For `map_err`: the operating system refused `action` on `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), action, source }
    }
}
