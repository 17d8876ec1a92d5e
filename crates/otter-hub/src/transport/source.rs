//! What files come from: a hub or a local folder, both seen as "open this file from this byte on".

use std::io::Read;
use std::time::Duration;

use crate::error::HubError;
use crate::local::checksum::Checksum;
use crate::names::remote_path::RemotePath;

/// A file of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name.
    pub path: RemotePath,
    /// Bytes.
    pub size: u64,
    /// What its content must hash to.
    pub checksum: Checksum,
}

/// Why something failed: worth another attempt or not.
#[derive(Debug)]
pub(crate) enum TransportError {
    /// Another attempt may succeed.
    Transient {
        /// What happened.
        problem: String,
        /// The pause that the server asks for.
        retry_after: Option<Duration>,
    },
    /// It will fail again.
    Final(HubError),
}

impl TransportError {
    pub(crate) fn transient(problem: impl Into<String>) -> Self {
        Self::Transient { problem: problem.into(), retry_after: None }
    }
}

impl From<HubError> for TransportError {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// A file opened for reading.
pub(crate) struct Opened {
    /// The first byte that `reader` gives: what was asked for, or 0 where the source cannot begin in the middle.
    pub start: u64,
    /// The bytes.
    pub reader: Box<dyn Read + Send>,
}

/// Where bytes come from.
pub(crate) trait Source: Sync {
    /// Opens `file` at byte `from`.
    fn open(&self, file: &RemoteFile, from: u64) -> Result<Opened, TransportError>;

    /// For messages: host or folder.
    fn origin(&self) -> String;

    /// Makes reads that are waiting fail at once.
    fn interrupt(&self) {}
}
