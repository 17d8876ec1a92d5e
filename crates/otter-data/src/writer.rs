//! Where a data set is written to, whatever the form of the files.

use crate::error::Result;
use crate::record::Record;

/// Takes the parts of one data set. Ids must be unique among images and among records.
///
/// Nothing is visible under its final name before [`DatasetWriter::finish`].
pub trait DatasetWriter {
    /// One encoded image (JPEG, PNG, …), kept as it is.
    fn image(&mut self, id: &str, encoded: &[u8]) -> Result<()>;

    /// One instruction record.
    fn record(&mut self, id: &str, record: &Record) -> Result<()>;

    /// A sample and the ids of its context, in order.
    fn context(&mut self, id: &str, context: &[String]) -> Result<()>;

    /// Completes the files and gives them their final names.
    fn finish(self: Box<Self>) -> Result<WrittenSet>;
}

/// What a finished [`DatasetWriter`] holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct WrittenSet {
    /// Number of images.
    pub images: u64,
    /// Number of instruction records.
    pub records: u64,
    /// Number of samples with a context entry.
    pub contexts: u64,
    /// Bytes of all files.
    pub bytes: u64,
}
