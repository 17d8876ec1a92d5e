//! The language of the toybox as data: names, made-up syllables, phrasings and mixture ratios.
//!
//! This is the one file to change when the wording or the mixture changes; the generators, the
//! vocabulary and the writer read these tables. Everything is lower case, with spaces around
//! punctuation, so that a phrasing reads as its tokens.

/// Names of the colors, in the order of [`super::Color::ALL`].
pub const COLOR_NAMES: [&str; 8] = ["red", "green", "blue", "yellow", "purple", "orange", "cyan", "white"];

/// Names of the shapes, in the order of [`super::Shape::ALL`].
pub const SHAPE_NAMES: [&str; 6] = ["circle", "square", "triangle", "cross", "ring", "diamond"];

/// Plurals of the shapes, in the same order.
pub const SHAPE_PLURALS: [&str; 6] = ["circles", "squares", "triangles", "crosses", "rings", "diamonds"];

/// Names of the sizes, in the order of [`super::Size::ALL`].
pub const SIZE_NAMES: [&str; 2] = ["small", "large"];

/// Number words: one to four objects.
pub const NUMBER_NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// Yes and no.
pub const YES_NO: [&str; 2] = ["yes", "no"];

/// The answer when nothing differs between two pictures.
pub const NOTHING: &str = "nothing";

/// What can differ between two pictures; the values follow as `colour from red to blue`.
pub const CHANGES: [&str; 3] = ["colour", "shape", "size"];

/// The two pictures of a comparison.
pub const ORDINALS: [&str; 2] = ["first", "second"];

/// Relations between two objects with their inverses: left, right, above, below.
pub const RELATIONS: [&str; 4] = ["left of", "right of", "above", "below"];

/// First syllables of made-up words.
pub const FIRST_SYLLABLES: [&str; 16] = [
    "wug", "dax", "blick", "zop", "fep", "gal", "mib", "tor", "kiv", "lun", "pras", "sket", "vom", "yat",
    "jun", "nerk",
];

/// Second syllables of made-up words.
pub const SECOND_SYLLABLES: [&str; 16] = [
    "pim", "lo", "tas", "ek", "und", "ish", "ova", "rix", "bel", "dun", "gat", "mo", "nuk", "sil", "wen",
    "zar",
];

/// One word (or concept pair) in this many is kept for evaluation.
pub const HELD_OUT_ONE_IN: u64 = 5;

/// Words of prompts and answers besides the names above. The vocabulary holds all of them; some
/// are here for prompts typed by people.
pub const FUNCTION_WORDS: &[&str] = &[
    "user",
    "gpt",
    "what",
    "is",
    "this",
    "name",
    "it",
    "the",
    "object",
    "objects",
    "in",
    "picture",
    "pictures",
    "colour",
    "shape",
    "size",
    "of",
    "many",
    "how",
    "are",
    "there",
    "which",
    "tell",
    "me",
    "thing",
    "called",
    "left",
    "right",
    "above",
    "below",
    "changed",
    "difference",
    "between",
    "from",
    "to",
    "same",
    "nothing",
    "and",
    "a",
    "first",
    "second",
    "more",
    "has",
    "does",
    "show",
    "image",
    "assistant",
];

/// Punctuation that can stand alone.
pub const PUNCTUATION: &[&str] = &[":", "?", ".", ",", "!", "'", "\"", "(", ")", "-", "/", "[", "]"];

/// The families of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Color, shape, size of the only object.
    Attribute,
    /// Color or shape of one of several objects, picked out by its shape or color.
    Referring,
    /// How many.
    Counting,
    /// Left of, right of, above, below.
    Relation,
    /// What differs between two pictures.
    Difference,
    /// Made-up words bound to concepts by the in-context examples.
    Binding,
}

impl Family {
    /// All families in the order of the files.
    pub const ALL: [Self; 6] =
        [Self::Attribute, Self::Referring, Self::Counting, Self::Relation, Self::Difference, Self::Binding];

    /// Data set code: prefix of file names and ids.
    pub fn code(self) -> &'static str {
        match self {
            Self::Attribute => "TOYATTR",
            Self::Referring => "TOYREFER",
            Self::Counting => "TOYCOUNT",
            Self::Relation => "TOYREL",
            Self::Difference => "TOYDIFF",
            Self::Binding => "TOYBIND",
        }
    }

    /// Share of the training queries, in percent of a total.
    pub fn share(self) -> usize {
        match self {
            Self::Attribute => 24,
            Self::Referring => 12,
            Self::Counting => 8,
            Self::Relation => 8,
            Self::Difference => 8,
            Self::Binding => 40,
        }
    }
}

/// The kinds of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// Color of the only object.
    #[serde(alias = "colour")]
    Color,
    /// Shape of the only object.
    Shape,
    /// Size of the only object.
    Size,
    /// Size, color and shape of the only object.
    Describe,
    /// Color of the object with a given shape, among several.
    #[serde(alias = "colour_of_shape")]
    ColorOfShape,
    /// Shape of the object with a given color, among several.
    #[serde(alias = "shape_of_colour")]
    ShapeOfColor,
    /// Number of all objects.
    CountAll,
    /// Number of objects of a given color.
    #[serde(alias = "count_colour")]
    CountColor,
    /// Number of objects of a given shape.
    CountShape,
    /// Which object stands in a given relation to another.
    RelatedObject,
    /// Whether two objects stand in a given relation.
    RelationHolds,
    /// Which attribute of an object differs between two pictures, and how.
    Change,
    /// Color of the object in one of two pictures.
    #[serde(alias = "colour_in_picture")]
    ColorInPicture,
    /// Shape of the object in one of two pictures.
    ShapeInPicture,
    /// Which of two pictures has more objects.
    MoreObjects,
    /// The made-up word for what the picture shows.
    BoundWord,
}

/// One kind of question: its family, its weight inside the family, its phrasings.
pub struct KindTable {
    /// The kind.
    pub kind: QuestionKind,
    /// Its family.
    pub family: Family,
    /// Share inside the family, relative to the other kinds of the family.
    pub weight: usize,
    /// Phrasings; `{color}`, `{shape}`, `{shapes}`, `{relation}`, `{object}`, `{other}` and
    /// `{ordinal}` are filled in.
    pub phrasings: &'static [&'static str],
}

/// All kinds of questions.
pub const KINDS: &[KindTable] = &[
    KindTable {
        kind: QuestionKind::Color,
        family: Family::Attribute,
        weight: 6,
        phrasings: &["what colour is it ?", "what colour is the object ?", "tell me the colour ."],
    },
    KindTable {
        kind: QuestionKind::Shape,
        family: Family::Attribute,
        weight: 6,
        phrasings: &["what shape is it ?", "what shape is the object ?", "tell me the shape ."],
    },
    KindTable {
        kind: QuestionKind::Size,
        family: Family::Attribute,
        weight: 4,
        phrasings: &["what size is it ?", "what size is the object ?", "tell me the size ."],
    },
    KindTable {
        kind: QuestionKind::Describe,
        family: Family::Attribute,
        weight: 4,
        phrasings: &["what is in the picture ?", "tell me what is in the picture ."],
    },
    KindTable {
        kind: QuestionKind::ColorOfShape,
        family: Family::Referring,
        weight: 5,
        phrasings: &["what colour is the {shape} ?"],
    },
    KindTable {
        kind: QuestionKind::ShapeOfColor,
        family: Family::Referring,
        weight: 5,
        phrasings: &["what shape is the {color} object ?"],
    },
    KindTable {
        kind: QuestionKind::CountAll,
        family: Family::Counting,
        weight: 4,
        phrasings: &["how many objects are there ?", "how many objects are in the picture ?"],
    },
    KindTable {
        kind: QuestionKind::CountColor,
        family: Family::Counting,
        weight: 1,
        phrasings: &["how many {color} objects are there ?"],
    },
    KindTable {
        kind: QuestionKind::CountShape,
        family: Family::Counting,
        weight: 1,
        phrasings: &["how many {shapes} are there ?"],
    },
    KindTable {
        kind: QuestionKind::RelatedObject,
        family: Family::Relation,
        weight: 3,
        phrasings: &["what is {relation} the {object} ?"],
    },
    KindTable {
        kind: QuestionKind::RelationHolds,
        family: Family::Relation,
        weight: 1,
        phrasings: &["is the {object} {relation} the {other} ?"],
    },
    KindTable {
        kind: QuestionKind::Change,
        family: Family::Difference,
        weight: 9,
        phrasings: &["what is the difference between the pictures ?", "what changed between the pictures ?"],
    },
    KindTable {
        kind: QuestionKind::ColorInPicture,
        family: Family::Difference,
        weight: 3,
        phrasings: &["what colour is the object in the {ordinal} picture ?"],
    },
    KindTable {
        kind: QuestionKind::ShapeInPicture,
        family: Family::Difference,
        weight: 3,
        phrasings: &["what shape is the object in the {ordinal} picture ?"],
    },
    KindTable {
        kind: QuestionKind::MoreObjects,
        family: Family::Difference,
        weight: 5,
        phrasings: &["which picture has more objects ?"],
    },
    KindTable {
        kind: QuestionKind::BoundWord,
        family: Family::Binding,
        weight: 1,
        phrasings: &["what is this ?", "name this .", "what is it called ?", "tell me the name of this ."],
    },
];

/// How many concepts a training episode of binding has; one entry is drawn per episode.
pub const CONCEPTS_PER_EPISODE: &[usize] = &[2, 2, 2, 2, 3, 3, 4];

impl QuestionKind {
    /// The table of the kind.
    pub fn table(self) -> &'static KindTable {
        // Every kind has exactly one entry; a test holds this.
        KINDS.iter().find(|table| table.kind == self).unwrap_or(&KINDS[0])
    }

    /// Family of the kind.
    pub fn family(self) -> Family {
        self.table().family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_table() {
        for table in KINDS {
            assert_eq!(KINDS.iter().filter(|other| other.kind == table.kind).count(), 1);
            assert!(table.weight > 0 && !table.phrasings.is_empty());
        }
        // The last variant tells how many there are.
        assert_eq!(KINDS.len(), QuestionKind::BoundWord as usize + 1);
    }

    #[test]
    fn kinds_are_also_read_as_they_were_spelled_at_first() {
        for (old, kind) in [
            ("colour", QuestionKind::Color),
            ("colour_of_shape", QuestionKind::ColorOfShape),
            ("shape_of_colour", QuestionKind::ShapeOfColor),
            ("count_colour", QuestionKind::CountColor),
            ("colour_in_picture", QuestionKind::ColorInPicture),
        ] {
            let today = serde_json::to_value(kind).expect("a name of a kind");
            assert_eq!(today, old.replace("colour", "color"));
            assert_eq!(serde_json::from_value::<QuestionKind>(old.into()).expect("a name of a kind"), kind);
            assert_eq!(serde_json::from_value::<QuestionKind>(today).expect("a name of a kind"), kind);
        }
    }

    #[test]
    fn shares_are_per_cent() {
        assert_eq!(Family::ALL.iter().map(|family| family.share()).sum::<usize>(), 100);
    }
}
