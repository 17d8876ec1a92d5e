//! What every source is turned into: visual items with their pairs, or the reason why there is none.

use std::path::PathBuf;

use otter_data::Group;
use serde::{Deserialize, Serialize};

/// One visual item and everything that is said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Where it comes from, for messages.
    pub name: String,
    /// What is seen.
    pub visual: Visual,
    /// What is said; siblings become each other's `rel_ins_ids`.
    pub pairs: Vec<Pair>,
}

/// What is seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Visual {
    /// Nothing: text only.
    Nothing,
    /// Image files, in order.
    Images(Vec<ImageFile>),
    /// A video file, GIF, or folder of images, of which frames are taken.
    Video {
        /// The file or folder.
        path: PathBuf,
        /// Frame ids are this, `_` and the number of the frame.
        prefix: String,
        /// Digits of that number.
        digits: usize,
        /// Part of the video, from and to in seconds.
        range: Option<(f64, f64)>,
    },
}

/// An image and its id in the data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Its id.
    pub id: String,
    /// Its file.
    pub path: PathBuf,
}

/// A question and its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Its id; `None`: numbered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// User turn.
    pub instruction: String,
    /// Model turn.
    pub answer: String,
    /// Ids of its context, where the source tells them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
    /// Language code, where the source tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// How many of the item's images it shows, the first ones; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// It serves others as an example and is no sample.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub example_only: bool,
}

impl Pair {
    /// A numbered pair.
    pub fn new(instruction: impl Into<String>, answer: impl Into<String>) -> Self {
        Self { instruction: instruction.into(), answer: answer.into(), ..Self::default() }
    }
}

/// Why an item or a pair was left out; the name is the key in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The entry of the annotation file is not of the schema.
    BadAnnotation,
    /// A path leaves the folder of images or videos.
    UnsafePath,
    /// The entry names no image.
    NoImage,
    /// The entry is of a kind that was not asked for.
    OtherKind,
    /// The image file is not there.
    MissingImage,
    /// The image file cannot be decoded.
    BrokenImage,
    /// The image is not there, and its source is known to lose images (VIST).
    Expired,
    /// The video file is not there.
    MissingVideo,
    /// The video cannot be read.
    UnreadableVideo,
    /// The video cannot be decoded.
    BrokenVideo,
    /// The video has no frame.
    NoFrames,
    /// ffmpeg was silent for too long.
    VideoTimeout,
    /// Nothing is said about the item.
    NoPairs,
    /// The reply of the chat model holds no pair.
    BadReply,
    /// Instruction or answer is empty.
    EmptyText,
    /// An earlier pair has the same id.
    DuplicateId,
    /// Another image file has the same id.
    IdConflict,
}

impl Reason {
    /// The stable name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadAnnotation => "bad_annotation",
            Self::UnsafePath => "unsafe_path",
            Self::NoImage => "no_image",
            Self::OtherKind => "other_kind",
            Self::MissingImage => "missing_image",
            Self::BrokenImage => "broken_image",
            Self::Expired => "expired",
            Self::MissingVideo => "missing_video",
            Self::UnreadableVideo => "unreadable_video",
            Self::BrokenVideo => "broken_video",
            Self::NoFrames => "no_frames",
            Self::VideoTimeout => "video_timeout",
            Self::NoPairs => "no_pairs",
            Self::BadReply => "bad_reply",
            Self::EmptyText => "empty_text",
            Self::DuplicateId => "duplicate_id",
            Self::IdConflict => "id_conflict",
        }
    }

    /// Whether it concerns one pair rather than a whole item.
    pub fn of_pair(self) -> bool {
        matches!(self, Self::EmptyText | Self::DuplicateId)
    }
}

/// Something left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The name under which it is counted.
    pub reason: Reason,
    /// Where, what was found, what was expected.
    pub message: String,
}

impl Skip {
    /// A skip with its message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A source of items, read in any order by several threads.
pub trait Source: Sync {
    /// Prefix of all ids: `SD`, `DC`, ….
    fn code(&self) -> &str;

    /// Number of items.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item, or why it is left out.
    fn item(&self, index: usize) -> Result<Item, Skip>;

    /// Digits of numbered instruction ids.
    fn id_digits(&self) -> usize {
        6
    }

    /// The task group under which it is trained.
    fn group(&self) -> Group {
        Group::ImageText
    }

    /// The language of all pairs, where the source tells it and it is one.
    fn language(&self) -> Option<&str> {
        None
    }

    /// Whether the source itself says what the context of its pairs is.
    fn has_contexts(&self) -> bool {
        false
    }

    /// What of the source is not read, in words.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
