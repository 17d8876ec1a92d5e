//! Input that does not fit the model.

use otter_nn::{DeviceError, SegmentError};
use thiserror::Error;

use crate::config::ConfigError;
use crate::not_finite::NotFiniteCause;

/// Input that does not fit the model.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ModelError {
    /// Impossible sizes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The device failed, or has no room.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A token id outside the embedding table.
    #[error(
        "token id {id} at sequence {sequence}, position {position} is outside the vocabulary of {vocabulary} rows; \
         the tokenizer does not belong to this checkpoint, or its embedding table was not resized"
    )]
    TokenOutside {
        /// The id.
        id: u32,
        /// Sequence of the batch.
        sequence: usize,
        /// Position in the sequence.
        position: usize,
        /// Rows of the table.
        vocabulary: usize,
    },
    /// A result holds NaN or infinity.
    #[error("{what} are not finite: {cause}")]
    NotFinite {
        /// Which result, and which of it.
        what: String,
        /// Where that comes from.
        cause: Box<NotFiniteCause>,
    },
    /// Sizes of an input disagree.
    #[error("{what}: found {found}, expected {expected}")]
    Shape {
        /// Which input and which size.
        what: &'static str,
        /// Size found.
        found: usize,
        /// Size expected.
        expected: usize,
    },
    /// Features were given although the tower that made them changes with every step.
    #[error("the vision tower is trained, so its features cannot be taken from before; give it the pixels")]
    FeaturesOfTrainedTower,
    /// More frames than the frame embedding table has rows.
    #[error(
        "a media item has {frames} frames, but the checkpoint's frame embeddings cover {limit}; take fewer frames \
         (data.resample_frames, --frames) or give images a placeholder each"
    )]
    TooManyFrames {
        /// Frames of the item.
        frames: usize,
        /// Rows of the table.
        limit: usize,
    },
    /// More media than the media-time embedding table has rows.
    #[error("a sequence has {media} media items, but the checkpoint's media-time embeddings cover {limit}")]
    TooManyMedia {
        /// Media of the sequence.
        media: usize,
        /// Rows of the table.
        limit: usize,
    },
    /// A media item is shared by several places although its place has an embedding.
    #[error(
        "media item {item} stands at several places, which a model with media-time embeddings cannot share"
    )]
    SharedMedia {
        /// The item.
        item: usize,
    },
    /// More tokens than the table of learned positions has rows.
    #[error(
        "sequence {sequence} would have {tokens} tokens, but the language model has positions for {limit}; shorten the \
         prompt or ask for fewer new tokens"
    )]
    TooLong {
        /// Sequence of the batch.
        sequence: usize,
        /// Its tokens, new ones included.
        tokens: usize,
        /// Rows of the table.
        limit: usize,
    },
    /// Segments that do not describe packed rows.
    #[error(transparent)]
    Segments(#[from] SegmentError),
    /// A token that is marked as text but lies in no segment, or the reverse.
    #[error(
        "token {position} of row {row} has attention mask {visible}, but the segments say otherwise; they must agree"
    )]
    SegmentMask {
        /// Row of the batch.
        row: usize,
        /// Position in the row.
        position: usize,
        /// What the mask says.
        visible: bool,
    },
    /// A label on padding.
    #[error(
        "token {position} of row {row} has label {label} but lies in no segment; padding must have label -100"
    )]
    LabelOnPadding {
        /// Row of the batch.
        row: usize,
        /// Position in the row.
        position: usize,
        /// The label.
        label: i64,
    },
    /// Nothing to generate from.
    #[error("the prompt of sequence {sequence} has no token")]
    EmptyPrompt {
        /// Sequence of the batch.
        sequence: usize,
    },
    /// Generation options that cannot work.
    #[error("the {option} is {found}; it must be {expected}")]
    GenerationOption {
        /// Which option.
        option: &'static str,
        /// Its value.
        found: usize,
        /// Which values work.
        expected: &'static str,
    },
    /// A pattern of the freeze rule matches no parameter.
    #[error("the trainable pattern '{pattern}' matches no parameter; names look like {example}")]
    UnmatchedPattern {
        /// The pattern.
        pattern: String,
        /// Name of some parameter.
        example: String,
    },
}
