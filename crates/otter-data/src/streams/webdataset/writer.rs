//! Writing samples as tar shards `000000000.tar`, `000000001.tar`, …

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::files::staging::Staging;
use crate::files::tar_archive::TarWriter;

/// When a shard is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLimits {
    /// Most samples of a shard.
    pub samples: u64,
    /// Content of a shard in bytes after which it takes no further sample.
    pub bytes: u64,
}

/// Writes samples in order. Nothing is visible under its final name before [`ShardWriter::finish`].
pub(crate) struct ShardWriter {
    staging: Staging,
    limits: ShardLimits,
    shard: Option<TarWriter>,
    /// Samples and content of the shard being written.
    in_shard: (u64, u64),
    names: Vec<String>,
    samples: u64,
    bytes: u64,
}

impl ShardWriter {
    /// Starts in a folder, which must not hold shards yet.
    pub(crate) fn create(folder: &Path, limits: ShardLimits) -> Result<Self> {
        if limits.samples == 0 || limits.bytes == 0 {
            return Err(DataError::Config("a shard holds at least one sample and one byte".into()));
        }
        let is_tar = |path: PathBuf| path.extension().is_some_and(|extension| extension == "tar");
        let mut known = fs::read_dir(folder).into_iter().flatten().flatten();
        if known.any(|entry| is_tar(entry.path())) {
            return Err(DataError::write(
                folder,
                "the folder already holds .tar files; choose another one or remove them",
            ));
        }
        Ok(Self {
            staging: Staging::create(folder)?,
            limits,
            shard: None,
            in_shard: (0, 0),
            names: Vec::new(),
            samples: 0,
            bytes: 0,
        })
    }

    /// Adds a sample: its files by extension. The key is its number.
    pub(crate) fn sample(&mut self, files: &[(&str, &[u8])]) -> Result<()> {
        if self.in_shard.0 == self.limits.samples || self.in_shard.1 >= self.limits.bytes {
            self.close_shard()?;
        }
        let shard = match &mut self.shard {
            Some(shard) => shard,
            None => {
                let name = format!("{:09}.tar", self.names.len());
                let file = self.staging.file(&name)?;
                self.names.push(name);
                self.shard.insert(TarWriter::new(file))
            }
        };
        for (extension, content) in files {
            shard.file(&format!("{:09}.{extension}", self.samples), content)?;
            self.in_shard.1 += content.len() as u64;
        }
        self.in_shard.0 += 1;
        self.samples += 1;
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        if let Some(shard) = self.shard.take() {
            self.bytes += shard.finish()?;
        }
        self.in_shard = (0, 0);
        Ok(())
    }

    /// Completes the last shard and gives all of them their names: number of shards and bytes.
    pub(crate) fn finish(mut self) -> Result<(u64, u64)> {
        self.close_shard()?;
        for name in &self.names {
            self.staging.publish(name, name)?;
        }
        self.staging.sync();
        Ok((self.names.len() as u64, self.bytes))
    }
}
