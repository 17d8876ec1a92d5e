//! Ego4D, first-person videos with narrations (E4D).
//!
//! `{"<video>": {"clips": [{"narrations": [{"time": 1.2, "text": "#C C picks up a cup", "object_description": [...]}]}]}}`.
//! A clip is an item named `<video>_clip<6 digits>`, from its first to its last narration. Frames are
//! `E4D_IMG_<video>_<8 digits>`, one a second unless said otherwise; the number is the second of the video, so that clips
//! share the frames they share.

use otter_data::Group;
use serde::Deserialize;

use crate::sources::Inputs;
use crate::sources::error::ImportError;
use crate::sources::item::{Item, Pair, Reason, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::{Folder, id_name};
use crate::sources::reading::pairs::Replies;

#[derive(Deserialize)]
struct Video {
    clips: Vec<Clip>,
}

#[derive(Deserialize)]
struct Clip {
    narrations: Vec<Narration>,
}

#[derive(Deserialize)]
struct Narration {
    time: f64,
    text: String,
}

/// Seconds after the last narration that still belong to a clip.
const TAIL: f64 = 1.0;

/// Ego4D.
pub struct Ego4d {
    annotations: Annotations,
    videos: Folder,
    /// Video and clip of every item; a video that cannot be parsed is one item without a clip.
    clips: Vec<(usize, Option<usize>)>,
    replies: Option<Replies>,
}

impl Ego4d {
    /// Opens the file.
    pub fn open(inputs: &Inputs) -> Result<Self, ImportError> {
        let annotations = Annotations::json_object(inputs.annotations()?)?;
        let mut clips = Vec::new();
        for video in 0..annotations.len() {
            match annotations.parse::<Video>(video) {
                Ok(parsed) => clips.extend((0..parsed.clips.len()).map(|clip| (video, Some(clip)))),
                Err(_) => clips.push((video, None)),
            }
        }
        Ok(Self { annotations, videos: Folder::new(inputs.videos()?), clips, replies: inputs.replies()? })
    }
}

/// A narration in words: `#C C picks` is the wearer, `#O` someone else, `#unsure` a gap.
fn in_words(text: &str) -> String {
    let text = text.trim();
    let text = match text.get(..2) {
        Some("#C" | "#c") => text[2..].trim_start(),
        Some("#O" | "#o") => text[2..].trim_start(),
        _ => text,
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let sentence = match words.split_first() {
        Some((&"C", rest)) => format!("The camera wearer {}", rest.join(" ")),
        _ => words.join(" "),
    };
    sentence.replace("#unsure", "something").replace("#Unsure", "something")
}

impl Source for Ego4d {
    fn code(&self) -> &'static str {
        "E4D"
    }

    fn group(&self) -> Group {
        Group::VideoText
    }

    fn len(&self) -> usize {
        self.clips.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let (video_index, clip_index) = self.clips[index];
        let video_entry: Video = self.annotations.parse(video_index)?;
        let name = self.annotations.key(video_index);
        let number = clip_index.unwrap_or(0);
        let id = format!("{name}_clip{number:06}");
        let place = format!("{} ({id})", self.annotations.place(video_index));
        let mut narrations =
            video_entry.clips.into_iter().nth(number).map_or(Vec::new(), |clip| clip.narrations);
        narrations.retain(|narration| narration.time.is_finite() && narration.time >= 0.0);
        narrations.sort_by(|a, b| a.time.total_cmp(&b.time));
        let (Some(first), Some(last)) = (narrations.first(), narrations.last()) else {
            return Err(Skip::new(Reason::NoPairs, format!("{place}: a clip without narrations")));
        };
        let range = (first.time.floor(), last.time + TAIL);
        let pairs = match &self.replies {
            Some(replies) => replies.of(&id, &place)?,
            None => {
                let said: Vec<String> =
                    narrations.iter().map(|narration| in_words(&narration.text)).collect();
                vec![Pair::new("What happens here, step by step?", crate::sources::sentences(&said))]
            }
        };
        let path = self.videos.video(name, &place)?;
        let prefix = format!("E4D_IMG_{}", id_name(name));
        let visual = Visual::Video { path, prefix, digits: 8, range: Some(range) };
        Ok(Item { name: place, visual, pairs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrations_become_sentences() {
        assert_eq!(in_words("#C C picks up a #unsure"), "The camera wearer picks up a something");
        assert_eq!(in_words("#O man X waves"), "man X waves");
        assert_eq!(in_words("Clouds pass"), "Clouds pass");
    }
}
