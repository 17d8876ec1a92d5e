//! What can go wrong while frames are taken from a video.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of this module; each names the file and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VideoError {
    /// There is no `ffmpeg` to run.
    #[error(
        "{tried}. Reading video files needs ffmpeg: install it (apt install ffmpeg, brew install ffmpeg, or `pip install \
         imageio-ffmpeg`, which brings a binary along) and name it with --ffmpeg PATH or the variable OTTER_FFMPEG if it \
         is not on PATH. GIF files and folders of images need none"
    )]
    NoFfmpeg {
        /// What was looked for, and what happened.
        tried: String,
    },
    /// The file or folder could not be read.
    #[error("{}: {message}. Check that the path exists and is readable", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// The content cannot be decoded.
    #[error("{}: {message}; the video is damaged, cut off, or of a kind that this ffmpeg does not know", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        message: String,
    },
    /// It opened, but gave no frame.
    #[error("{}: no frame in it{hint}", path.display())]
    NoFrames {
        /// The file or folder.
        path: PathBuf,
        /// Why, where known.
        hint: String,
    },
    /// Nothing came for too long.
    #[error(
        "{}: nothing came from ffmpeg for {} s; it was ended. Allow more with --timeout SECONDS, or try the file by hand",
        path.display(), waited.as_secs_f64()
    )]
    Timeout {
        /// The file.
        path: PathBuf,
        /// How long it was silent.
        waited: Duration,
    },
    /// An option is out of its range.
    #[error("{0}")]
    Option(String),
}

impl VideoError {
    pub(crate) fn io(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Io { path: path.to_owned(), message: error.to_string() }
    }

    pub(crate) fn broken(path: &Path, message: impl Into<String>) -> Self {
        Self::Broken { path: path.to_owned(), message: message.into() }
    }

    /// The name under which an import counts such a video; `None` where every other video would fail, too.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::NoFfmpeg { .. } | Self::Option(_) => None,
            Self::Io { .. } => Some("unreadable_video"),
            Self::Broken { .. } => Some("broken_video"),
            Self::NoFrames { .. } => Some("no_frames"),
            Self::Timeout { .. } => Some("video_timeout"),
        }
    }
}
