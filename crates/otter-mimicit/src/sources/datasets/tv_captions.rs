//! TV captions, TVC: clips of television shows as folders of frames.
//!
//! `{"vid_name": "castle_s01e01_seg02_clip_00", "descs": [{"desc": "…"}]}`, one a line. The frames of a clip lie in
//! `<show>_frames/<clip>/<frame>.jpg`; clips of the show without a prefix in their name are looked for in every show.
//! Image ids are `TVC_IMG_<show>_<clip>_<frame>`, without the show where the clip's name begins with it.
//!
//! Of n frames in natural order 16 are taken. Repaired: the original took every (n // 16)-th from half of that on, which
//! gives up to 31 frames; here it is the middles of 16 equal parts, the same frames where n is a multiple of 16.

use otter_data::Group;
use otter_data::video::image_files;
use serde::Deserialize;

use crate::sources::error::ImportError;
use crate::sources::item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::{Folder, id_name};
use crate::sources::reading::pairs::Replies;
use crate::sources::{Inputs, middles};

#[derive(Deserialize)]
struct Entry {
    vid_name: String,
    #[serde(default)]
    descs: Vec<Description>,
}

#[derive(Deserialize)]
struct Description {
    desc: String,
}

/// Frames of a clip unless said otherwise.
pub const FRAMES: usize = 16;

/// What is asked when no file of pairs is given.
const QUESTION: &str = "What happens in this clip?";

/// TV captions.
pub struct TvCaptions {
    annotations: Annotations,
    /// The folders `<show>_frames` with the names of their shows.
    shows: Vec<(String, Folder)>,
    frames: usize,
    replies: Option<Replies>,
}

impl TvCaptions {
    /// Opens the file; `frames` are taken of each clip.
    pub fn open(inputs: &Inputs, frames: usize) -> Result<Self, ImportError> {
        let folder = inputs.images_or_videos()?;
        let mut shows = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|error| ImportError::io(folder, error))? {
            let path = entry.map_err(|error| ImportError::io(folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(show) = name.strip_suffix("_frames")
                && path.is_dir()
            {
                shows.push((show.to_owned(), Folder::new(&path)));
            }
        }
        shows.sort_by(|a, b| a.0.cmp(&b.0));
        if shows.is_empty() {
            return Err(ImportError::Option(format!(
                "{}: no folder <show>_frames in it; expected <show>_frames/<clip>/<frame>.jpg",
                folder.display()
            )));
        }
        Ok(Self {
            annotations: Annotations::list_or_lines(inputs.annotations()?)?,
            shows,
            frames,
            replies: inputs.replies()?,
        })
    }
}

impl Source for TvCaptions {
    fn code(&self) -> &'static str {
        "TVC"
    }

    fn group(&self) -> Group {
        Group::VideoText
    }

    fn len(&self) -> usize {
        self.annotations.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let entry: Entry = self.annotations.parse(index)?;
        let clip = &entry.vid_name;
        let place = format!("{} ({clip})", self.annotations.place(index));
        let pairs = match &self.replies {
            Some(replies) => replies.of(clip, &place)?,
            None => entry.descs.iter().map(|said| Pair::new(QUESTION, said.desc.trim())).collect(),
        };
        let mut found = None;
        for (show, folder) in &self.shows {
            let path = folder.below(clip, &place)?;
            if path.is_dir() {
                found = Some((show, path));
                break;
            }
        }
        let Some((show, folder)) = found else {
            let shows: Vec<&str> = self.shows.iter().map(|(show, _)| show.as_str()).collect();
            let hint = self.shows.iter().map(|(_, folder)| folder.hint(clip)).find(|hint| !hint.is_empty());
            return Err(Skip::new(
                Reason::MissingVideo,
                format!(
                    "{place}: no folder {clip} in the frames of {}{}",
                    shows.join(", "),
                    hint.unwrap_or_default()
                ),
            ));
        };
        let files = image_files(&folder)
            .map_err(|error| Skip::new(Reason::UnreadableVideo, format!("{place}: {error}")))?;
        if files.is_empty() {
            return Err(Skip::new(Reason::NoFrames, format!("{place}: {} is empty", folder.display())));
        }
        let prefix = if clip.starts_with(show.as_str()) { clip.clone() } else { format!("{show}_{clip}") };
        let images = middles(files.len(), self.frames)
            .map(|at| {
                let path = files[at].clone();
                let frame = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                ImageFile { id: format!("TVC_IMG_{prefix}_{}", id_name(&frame)), path }
            })
            .collect();
        Ok(Item { name: place, visual: Visual::Images(images), pairs })
    }
}
