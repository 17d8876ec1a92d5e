//! What decoded images held that their 8-bit RGB pixels do not show, counted so that it can be said.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something that the pixels of an image do not show, or show in one of several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageNote {
    /// Transparent in part; the colors stored under the transparency are shown.
    AlphaDropped,
    /// Transparent in part; shown over one color.
    AlphaBlended,
    /// Gray of 16 bits with values above 255, which are white.
    Gray16Clipped,
    /// Of 16 bits, gray or color, with a largest value so small that it is nearly black.
    Gray16Dark,
    /// The end of the file is missing; the decoder made up the rest.
    Cut,
    /// An animation, of which one frame is shown.
    OneFrame,
    /// CMYK, converted without its color profile.
    Cmyk,
    /// Stored turned, and shown so.
    Turned,
    /// A frame of a video whose pixels have an alpha channel.
    VideoAlpha,
}

impl ImageNote {
    /// Every note.
    pub const ALL: [Self; 9] = [
        Self::AlphaDropped,
        Self::AlphaBlended,
        Self::Gray16Clipped,
        Self::Gray16Dark,
        Self::Cut,
        Self::OneFrame,
        Self::Cmyk,
        Self::Turned,
        Self::VideoAlpha,
    ];

    /// What it means and what to do, after "N images".
    fn meaning(self) -> &'static str {
        match self {
            Self::AlphaDropped => {
                "transparent in part, shown with the colors hidden under the transparency (alpha is `drop`); \
                 `white` or `black` shows them over that color"
            }
            Self::AlphaBlended => {
                "transparent in part, shown over one color (alpha is `white` or `black`); look at one, what has that \
                 color itself vanishes"
            }
            Self::Gray16Clipped => {
                "gray of 16 bits, cut at 255 so that all but the darkest values are white (gray16 is `clip`); `scale` \
                 keeps the tones"
            }
            Self::Gray16Dark => {
                "of 16 bits with small values only, nearly black when scaled to 8 bits; stretch the values beforehand, or use \
                 gray16 `clip` for gray that ends at 255"
            }
            Self::Cut => "cut: the end of the file is missing, and the decoder made up the rest; fetch again",
            Self::OneFrame => "animated, of which one frame is shown; give the frames as images of their own",
            Self::Cmyk => {
                "CMYK, converted without color profile, so that colors may be off; convert to RGB beforehand"
            }
            Self::Turned => {
                "stored turned (EXIF) and shown so (orientation is `ignore`); `apply` turns them upright"
            }
            Self::VideoAlpha => {
                "from a video with an alpha channel, shown as alpha says (`drop`, `white`, `black`)"
            }
        }
    }
}

/// The notes of one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNotes(u16);

impl ImageNotes {
    pub(crate) fn insert(&mut self, note: ImageNote) {
        self.0 |= 1 << note as u8;
    }

    /// Whether nothing is to be said.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a note is there.
    pub fn contains(self, note: ImageNote) -> bool {
        self.0 & (1 << note as u8) != 0
    }

    /// The notes that are there.
    pub fn iter(self) -> impl Iterator<Item = ImageNote> {
        ImageNote::ALL.into_iter().filter(move |note| self.contains(*note))
    }
}

impl FromIterator<ImageNote> for ImageNotes {
    fn from_iter<I: IntoIterator<Item = ImageNote>>(notes: I) -> Self {
        let mut set = Self::default();
        notes.into_iter().for_each(|note| set.insert(note));
        set
    }
}

/// Images with one note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteCount {
    /// How many.
    pub count: u64,
    /// File or id of the first.
    pub first: String,
}

/// Notes of many images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageCounts(BTreeMap<ImageNote, NoteCount>);

impl ImageCounts {
    /// Counts the notes of one more image.
    pub fn add(&mut self, notes: ImageNotes, name: impl Fn() -> String) {
        for note in notes.iter() {
            self.0.entry(note).or_insert_with(|| NoteCount { count: 0, first: name() }).count += 1;
        }
    }

    /// Adds what was counted after this.
    pub fn merge(&mut self, later: Self) {
        for (note, more) in later.0 {
            match self.0.get_mut(&note) {
                Some(own) => own.count += more.count,
                None => drop(self.0.insert(note, more)),
            }
        }
    }

    /// Whether nothing is to be said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many images have a note.
    pub fn count(&self, note: ImageNote) -> u64 {
        self.0.get(&note).map_or(0, |found| found.count)
    }

    /// One line a note, for a person.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings_since(&Self::default())
    }

    /// The same of the notes that `before` has not.
    pub fn warnings_since(&self, before: &Self) -> Vec<String> {
        let line = |(note, NoteCount { count, first }): (&ImageNote, &NoteCount)| {
            let images = if *count == 1 { "image is" } else { "images are" };
            format!("{count} {images} {} (first: {first})", note.meaning())
        };
        self.0.iter().filter(|(note, _)| !before.0.contains_key(note)).map(line).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_the_first_name_and_are_read_back() {
        let mut counts = ImageCounts::default();
        let notes = ImageNotes::from_iter([ImageNote::Cut, ImageNote::AlphaDropped]);
        for name in ["a.png", "b.png"] {
            counts.add(notes, || name.to_owned());
        }
        let mut later = ImageCounts::default();
        later.add(ImageNotes::from_iter([ImageNote::Cut]), || "c.png".to_owned());
        later.add(ImageNotes::from_iter([ImageNote::Cmyk]), || "d.jpg".to_owned());
        counts.merge(later);
        let warnings = counts.warnings();
        assert_eq!(warnings.len(), 3);
        let mut before = ImageCounts::default();
        before.add(notes, || "a.png".to_owned());
        assert_eq!(counts.warnings_since(&before), [warnings[2].clone()]);
        assert!(
            warnings[0].starts_with("2 images are transparent") && warnings[0].contains("(first: a.png)")
        );
        assert!(warnings[1].starts_with("3 images are cut") && warnings[1].contains("(first: a.png)"));
        assert!(warnings[2].starts_with("1 image is CMYK") && warnings[2].contains("(first: d.jpg)"));
        let json = serde_json::to_value(&counts).unwrap();
        assert_eq!(json["alpha_dropped"], serde_json::json!({"count": 2, "first": "a.png"}));
        assert_eq!(serde_json::from_value::<ImageCounts>(json).unwrap(), counts);
    }
}
