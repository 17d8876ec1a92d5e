//! ScanNet scenes, indoor navigation (SN).
//!
//! `{"scene0000_00": {"description": [["…", "There is a bed in the corner."], …]}}` with the pictures in
//! `scene0000_00/color/<n>.jpg`. Image ids are `SN_IMG_<scene>_color_<n>`. A scene is an item; its pictures are thinned out
//! evenly to the limit (--max-frames).

use otter_data::Group;
use otter_data::video::image_files;
use serde::Deserialize;

use crate::sources::error::ImportError;
use crate::sources::item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::Folder;
use crate::sources::reading::pairs::Replies;
use crate::sources::{Inputs, middles, sentences};

#[derive(Deserialize)]
struct Scene {
    description: Vec<(serde::de::IgnoredAny, String)>,
}

/// ScanNet scenes.
pub struct SceneNavigation {
    annotations: Annotations,
    images: Folder,
    limit: usize,
    replies: Option<Replies>,
}

impl SceneNavigation {
    /// Opens the file; at most `limit` pictures of a scene are taken (0: all).
    pub fn open(inputs: &Inputs, limit: usize) -> Result<Self, ImportError> {
        Ok(Self {
            annotations: Annotations::json_object(inputs.annotations()?)?,
            images: Folder::new(inputs.images_or_videos()?),
            limit: if limit == 0 { usize::MAX } else { limit },
            replies: inputs.replies()?,
        })
    }
}

impl Source for SceneNavigation {
    fn code(&self) -> &'static str {
        "SN"
    }

    fn group(&self) -> Group {
        Group::VideoText
    }

    fn len(&self) -> usize {
        self.annotations.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let scene: Scene = self.annotations.parse(index)?;
        let name = self.annotations.key(index);
        let place = format!("{} ({name})", self.annotations.place(index));
        let pairs = match &self.replies {
            Some(replies) => replies.of(name, &place)?,
            None => {
                let said: Vec<String> = scene.description.into_iter().map(|(_, text)| text).collect();
                vec![Pair::new("What is in this room, and where?", sentences(&said))]
            }
        };
        let folder = self.images.below(&format!("{name}/color"), &place)?;
        let files = image_files(&folder).map_err(|error| {
            Skip::new(Reason::MissingImage, format!("{place}: {}: {error}", folder.display()))
        })?;
        if files.is_empty() {
            return Err(Skip::new(Reason::NoImage, format!("{place}: {} holds no image", folder.display())));
        }
        let images = middles(files.len(), self.limit)
            .map(|at| {
                let stem = files[at].file_stem().unwrap_or_default().to_string_lossy();
                ImageFile { id: format!("SN_IMG_{name}_color_{stem}"), path: files[at].clone() }
            })
            .collect();
        Ok(Item { name: place, visual: Visual::Images(images), pairs })
    }
}
