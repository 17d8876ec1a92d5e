//! Errors of this crate, and the named reasons under which a sample can be left out.

use std::path::PathBuf;

use otter_media::ImageError;

/// What went wrong while opening data or building a sample.
///
/// Every variant names the file, key or sample concerned and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder could not be read.
    #[error("{}: {message}. Check that the path exists and is readable", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// A file could not be written.
    #[error("{}: cannot be written: {message}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// A file is readable but its content is not what the format asks for.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        message: String,
    },
    /// The configuration contradicts itself or is incomplete.
    #[error("data configuration: {0}")]
    Config(String),
    /// The tokenizer refused a text or lacks a token.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// One image could not be decoded.
    #[error("image {name}: {message}")]
    Image {
        /// The file, or the image id and the file that holds it.
        name: String,
        /// What was found and what to do.
        message: String,
    },
    /// One sample cannot be used.
    #[error("sample {id} of {}: {message} [{}]", file.display(), reason.name())]
    Sample {
        /// The instruction id.
        id: String,
        /// The instruction file.
        file: PathBuf,
        /// The name under which it is counted when skipped.
        reason: SkipReason,
        /// What was found and what to do.
        message: String,
    },
    /// A worker thread of the loader ended without delivering.
    #[error("data loader: {0}")]
    Loader(String),
}

impl DataError {
    pub(crate) fn io(path: impl Into<PathBuf>, error: impl std::fmt::Display) -> Self {
        Self::Io { path: path.into(), message: error.to_string() }
    }

    pub(crate) fn write(path: impl Into<PathBuf>, error: impl std::fmt::Display) -> Self {
        Self::Write { path: path.into(), message: error.to_string() }
    }

    pub(crate) fn format(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Format { path: path.into(), message: message.into() }
    }

    /// The reason to count, if this error concerns one sample only.
    pub fn skip_reason(&self) -> Option<SkipReason> {
        match self {
            Self::Sample { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

impl From<ImageError> for DataError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Io { path, message } => Self::Io { path, message },
            ImageError::Decode { name, message } => Self::Image { name, message },
        }
    }
}

/// Why a sample was left out; the name is the key in [`crate::DataReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SkipReason {
    /// Query turn alone is longer than `max_seq_len`.
    TooLong,
    /// No position would be trained.
    NoLabelTokens,
    /// The record is not an object with the fields of the format.
    BadRecord,
    /// A train file lists an id that has no instruction record.
    MissingInstruction,
    /// A context id has no instruction record.
    MissingContext,
    /// A record of an image group lists no image.
    NoImages,
    /// An image id is in no image table.
    MissingImage,
    /// Image bytes could not be decoded.
    BadImage,
    /// The record is marked as an example in the context of others, and no train file lists it.
    ExampleOnly,
    /// A caption is empty.
    EmptyCaption,
    /// All images of a document are smaller than `min_image_bytes`.
    ImagesTooSmall,
    /// No image of a document is similar enough to a sentence.
    NoMatchingImage,
    /// The tokens of a document show fewer images than `min_images`.
    TooFewImages,
    /// A document that shows a single image lost its coin.
    SingleImage,
}

impl SkipReason {
    /// The stable name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::NoLabelTokens => "no_label_tokens",
            Self::BadRecord => "bad_record",
            Self::MissingInstruction => "missing_instruction",
            Self::MissingContext => "missing_context",
            Self::NoImages => "no_images",
            Self::MissingImage => "missing_image",
            Self::BadImage => "bad_image",
            Self::ExampleOnly => "example_only",
            Self::EmptyCaption => "empty_caption",
            Self::ImagesTooSmall => "images_too_small",
            Self::NoMatchingImage => "no_matching_image",
            Self::TooFewImages => "too_few_images",
            Self::SingleImage => "single_image",
        }
    }

    /// Whether such a sample is counted and passed over even when bad samples are errors: these
    /// follow from the limits and rules of the configuration, not from damaged data.
    pub fn always_skipped(self) -> bool {
        match self {
            Self::TooLong | Self::NoLabelTokens | Self::ExampleOnly => true,
            Self::EmptyCaption
            | Self::ImagesTooSmall
            | Self::NoMatchingImage
            | Self::TooFewImages
            | Self::SingleImage => true,
            Self::BadRecord
            | Self::MissingInstruction
            | Self::MissingContext
            | Self::NoImages
            | Self::MissingImage
            | Self::BadImage => false,
        }
    }
}

/// Longest id or message kept of a bad sample: an id of the data may have any length.
const EXCERPT_CHARACTERS: usize = 500;

/// A text of the data, cut for a message.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Result of this crate.
pub type Result<T, E = DataError> = std::result::Result<T, E>;
