//! Converters from the original sources to MIMIC-IT, one file a source.
//!
//! A [`Source`] gives visual items with what is said about them; [`import`] reads their pictures on several threads,
//! keeps what is done in a journal so that an interrupted run goes on, and writes the whole through a
//! [`otter_data::DatasetWriter`]. Everything left out is counted under a named [`Reason`].
//!
//! Where a source describes rather than asks (captions, narrations, differences), pairs come from a file of replies of a
//! chat model ([`Replies`]), or without one from a fixed question whose answer is the description.

mod datasets;
mod error;
mod import;
mod item;
mod reading;

use std::path::{Path, PathBuf};

pub use error::ImportError;
pub use import::picture::{FrameFormat, PictureOptions};
pub use import::report::{ImportReport, SkipCount};
pub use import::run::{ImportOptions, Imported, Progress, import, journal_folder};
pub use item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};
pub use reading::pairs::{Replies, parse_reply};

/// The sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A table of one's own.
    Own,
    /// LLaVA over COCO.
    Llava,
    /// Spot-the-Difference.
    Sd,
    /// General differences, CLEVR-Change.
    Cgd,
    /// VIST.
    Vst,
    /// TV captions.
    Tvc,
    /// ActivityNet Captions.
    Dc,
    /// Ego4D.
    E4d,
    /// ScanNet.
    Sn,
    /// FunQA.
    Funqa,
}

/// What a file of LLaVA's instructions holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LlavaKind {
    /// Conversations (LACONV).
    Conversation,
    /// Detailed descriptions (LADD).
    Detail,
    /// Complex reasoning (LACR).
    Complex,
}

impl LlavaKind {
    /// Prefix of its instruction ids.
    pub fn code(self) -> &'static str {
        match self {
            Self::Conversation => "LACONV",
            Self::Detail => "LADD",
            Self::Complex => "LACR",
        }
    }
}

/// Where a source's files are.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Inputs {
    /// The annotation file.
    pub annotations: Option<PathBuf>,
    /// Folder of images.
    pub images: Option<PathBuf>,
    /// Folder of videos.
    pub videos: Option<PathBuf>,
    /// File of replies of a chat model.
    pub pairs: Option<PathBuf>,
    /// Prefix of ids, for a table of one's own.
    pub name: Option<String>,
    /// What a file of LLaVA holds.
    pub kind: Option<LlavaKind>,
    /// Frames of a clip where a source fixes their number; `None`: 16 of TV captions.
    pub frames: Option<usize>,
    /// Most images of an item (0: all).
    pub max_frames: usize,
    /// Of LLaVA's files, the entries without an image.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub text_only: bool,
    /// In a table with contexts, rows without one are samples, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_rows: bool,
}

impl Inputs {
    fn annotations(&self) -> Result<&Path, ImportError> {
        self.annotations.as_deref().ok_or_else(|| missing("--annotations FILE"))
    }

    fn images(&self) -> Result<&Path, ImportError> {
        folder(self.images.as_deref().ok_or_else(|| missing("--images DIR"))?)
    }

    fn videos(&self) -> Result<&Path, ImportError> {
        folder(self.videos.as_deref().ok_or_else(|| missing("--videos DIR"))?)
    }

    /// Of sources whose clips are folders of images.
    fn images_or_videos(&self) -> Result<&Path, ImportError> {
        let path = self.images.as_deref().or(self.videos.as_deref());
        folder(path.ok_or_else(|| missing("--images DIR"))?)
    }

    fn replies(&self) -> Result<Option<Replies>, ImportError> {
        self.pairs.as_deref().map(Replies::open).transpose()
    }
}

fn missing(option: &str) -> ImportError {
    ImportError::Option(format!("this source needs {option}"))
}

fn folder(path: &Path) -> Result<&Path, ImportError> {
    if path.is_dir() {
        return Ok(path);
    }
    Err(ImportError::format(path, "no such folder; give the folder that holds the files"))
}

/// Opens a source.
pub fn open_source(kind: SourceKind, inputs: &Inputs) -> Result<Box<dyn Source>, ImportError> {
    // Before a large annotation file is read for nothing.
    match kind {
        SourceKind::Own => {}
        SourceKind::Llava if inputs.text_only => {}
        SourceKind::Llava | SourceKind::Sd | SourceKind::Cgd | SourceKind::Vst => {
            inputs.images()?;
        }
        SourceKind::Tvc | SourceKind::Sn => {
            inputs.images_or_videos()?;
        }
        SourceKind::Dc | SourceKind::E4d | SourceKind::Funqa => {
            inputs.videos()?;
        }
    }
    Ok(match kind {
        SourceKind::Own => {
            for path in [&inputs.images, &inputs.videos].into_iter().flatten() {
                folder(path)?;
            }
            let name = inputs.name.as_deref().unwrap_or("OWN");
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            if name.is_empty() || !name.bytes().all(valid) {
                return Err(ImportError::Option(format!(
                    "--name {name:?}: ids begin with it; use letters, digits, - and _"
                )));
            }
            Box::new(datasets::own::Own::open(inputs, name)?)
        }
        SourceKind::Llava => Box::new(datasets::llava::Llava::open(inputs, inputs.kind)?),
        SourceKind::Sd => Box::new(datasets::spot_the_difference::SpotTheDifference::open(inputs)?),
        SourceKind::Cgd => Box::new(datasets::general_difference::GeneralDifference::open(inputs)?),
        SourceKind::Vst => Box::new(datasets::story::VisualStory::open(inputs)?),
        SourceKind::Tvc => {
            let frames = inputs.frames.unwrap_or(datasets::tv_captions::FRAMES);
            Box::new(datasets::tv_captions::TvCaptions::open(inputs, frames)?)
        }
        SourceKind::Dc => Box::new(datasets::dense_captions::DenseCaptions::open(inputs)?),
        SourceKind::E4d => Box::new(datasets::ego4d::Ego4d::open(inputs)?),
        SourceKind::Sn => {
            Box::new(datasets::scene_navigation::SceneNavigation::open(inputs, inputs.max_frames)?)
        }
        SourceKind::Funqa => Box::new(datasets::funqa::FunQa::open(inputs)?),
    })
}

/// Sentences as one text.
fn sentences(parts: &[String]) -> String {
    let kept: Vec<&str> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    kept.join(" ")
}

/// At most `keep` of the positions below `count`: the middles of equal parts.
fn middles(count: usize, keep: usize) -> impl Iterator<Item = usize> {
    otter_data::video::spread(count, keep)
}
