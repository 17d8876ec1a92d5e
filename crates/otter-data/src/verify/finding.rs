//! What can be wrong with a data set: the reasons, how grave each is, and a bounded collector of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The sample, image or file cannot be used, or there is nothing to learn from it.
    Error,
    /// Usable, but probably not what was meant.
    Warning,
}

macro_rules! reasons {
    ($($variant:ident $name:literal $severity:ident $meaning:literal $remedy:literal;)*) => {
        /// The named reasons of `verify`. Names are stable: scripts may rely on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)*
        }

        impl Reason {
            /// Every reason, errors first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether it is an error or a warning.
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// One line for a person: what it means.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// One line for a person: what to do.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    UnreadableFile "unreadable_file" Error
        "A file is missing, cut, or not of the form its name promises."
        "Fetch or write the file again; nothing that depends on it was checked.";
    ChangedFile "changed_file" Error
        "A file of an otter-dataset directory is not the one its manifest lists: its size or SHA-256 differs."
        "Copy the data set anew; what was changed on purpose is written again by `otter data convert`.";
    EmptySet "empty_set" Error
        "A set has no sample: there is nothing to train on."
        "See how it was made; `otter data import` and `otter data convert` tell what they left out.";
    BadRecord "bad_record" Error
        "A record is not an object with the fields of the format."
        "Give it `instruction` and `answer` as strings and `image_ids` as a list of strings.";
    NoImages "no_images" Error
        "A record of an image group lists no image."
        "Add `image_ids`, or move the set to TEXT_ONLY.";
    MissingImage "missing_image" Error
        "An image id is in no image table of the group."
        "Add the image, or drop the records that need it.";
    BadImage "bad_image" Error
        "A record needs an image that is there but cannot be decoded."
        "See the reasons about images; repair the image, or drop the record.";
    EmptyAnswer "empty_answer" Error
        "An answer is empty or white space: there is nothing to learn."
        "Write an answer, or drop the record.";
    MissingInstruction "missing_instruction" Error
        "A train file lists an id that no instruction file of its group has."
        "Add the record, or remove the entry.";
    BadContext "bad_context" Error
        "An entry of a train file is no list of instruction ids."
        "Write `id: [id, ...]`.";
    MissingContext "missing_context" Error
        "A context names an id that no instruction file of its group has."
        "Add the record, or remove the id from the context.";
    UnusableContext "unusable_context" Error
        "A context names a record that itself cannot be used."
        "Repair that record, or remove its id from the context.";
    TooLong "too_long" Error
        "The query turn alone has more tokens than max_seq_len."
        "Raise max_seq_len, or shorten the record.";
    NoLabelTokens "no_label_tokens" Error
        "No position of the sample would be trained."
        "Look at its answer, and at max_seq_len if samples are cut.";
    TooManyFrames "too_many_frames" Error
        "A media item has more frames than the model has frame embeddings; training would stop there."
        "Lower data.resample_frames, or set data.images_of_record = \"media\" where images are no video.";
    BadImageEntry "bad_image_entry" Error
        "The entry of an image is no readable base64 text."
        "Convert this image again.";
    EmptyImage "empty_image" Error
        "The entry of an image holds no byte."
        "Convert this image again.";
    UndecodableImage "undecodable_image" Error
        "The bytes are no PNG, JPEG, WebP or GIF, or they are damaged."
        "Fetch or convert this image again.";
    ImageTooLarge "image_too_large" Error
        "The image claims more pixels than are ever decoded."
        "Scale it down; a small file that claims so many is probably hostile.";
    RepeatedId "repeated_id" Warning
        "An id stands more than once in one file; the last one counts."
        "Give each its own id.";
    ControlCharacterInId "control_character_in_id" Warning
        "An id is empty or holds NUL or another control character."
        "Choose ids of printable characters; others break file names and tables.";
    EmptyInstruction "empty_instruction" Warning
        "An instruction is empty or white space."
        "Fine for captions; otherwise write a question.";
    LongAnswer "long_answer" Warning
        "An answer has more than 8 bytes for each token that max_seq_len allows."
        "Give a tokenizer with --model to count exactly.";
    SpecialTokenText "special_token_text" Warning
        "Instruction or answer holds the text of a special token, such as <image>."
        "Remove it: with special_tokens_in_text = \"special\" it would change the structure of the sample.";
    DanglingRelated "dangling_related" Warning
        "`rel_ins_ids` names an id that no instruction file of its group has."
        "Remove the id; it matters once populate_rel_ins is used.";
    SelfReference "self_reference" Warning
        "A sample stands in its own context: the answer is given away."
        "Remove the id from its context.";
    RepeatedContext "repeated_context" Warning
        "A context names the same id more than once."
        "Remove the repetition.";
    ContextDropped "context_dropped" Warning
        "The sample is longer than max_seq_len; its oldest context turns are left out."
        "Raise max_seq_len, or shorten the contexts.";
    DuplicateRecord "duplicate_record" Warning
        "Another record has the same instruction, answer and images."
        "Drop one of them (--fix --dedupe).";
    DuplicateImage "duplicate_image" Warning
        "Another image looks exactly the same: equal pixels and transparency."
        "Let both uses share one id (--fix --dedupe). Still frames of a video do this, too.";
    TruncatedImage "truncated_image" Warning
        "The image decodes, but its end is missing; the rest is gray or repeated."
        "Fetch or convert this image again.";
    OddImageSize "odd_image_size" Warning
        "A side has fewer than 8 pixels, one side is more than 20 times the other, or there are over 50 million pixels."
        "Look at it: often a placeholder, a tracking pixel or a banner.";
    TransparentImage "transparent_image" Warning
        "The image is transparent in part, and what is shown there changes it much."
        "Look at it, then choose data.alpha: `white` or `black` to show it over that color, `drop` for the colors hidden under the transparency.";
    Gray16Image "gray16_image" Warning
        "The image is gray of 16 bits, and most of its tones are lost in 8 bits."
        "Choose data.gray16: `scale` keeps the tones of the whole range, `clip` values up to 255; or stretch the values beforehand.";
    AnimatedImage "animated_image" Warning
        "The image is an animation, of which one frame is used."
        "Give its frames as images of their own, or as a video.";
    CmykImage "cmyk_image" Warning
        "The image is CMYK and is converted without its color profile: colors may be off."
        "Convert it to RGB.";
    TurnedImage "turned_image" Warning
        "The image is stored turned (EXIF) and used so."
        "Set data.orientation to `apply` to turn it upright.";
    UnusedImage "unused_image" Warning
        "No record refers to the image."
        "Nothing to do; --fix leaves it out.";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One finding in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The file or folder.
    pub file: String,
    /// Id of the record, sample or image; empty if the finding concerns the file.
    pub id: String,
    /// What was found.
    pub message: String,
}

/// Longest id or text part kept in an example.
const EXAMPLE_CHARACTERS: usize = 200;

/// A text cut for a report; control characters are shown as escapes.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == EXAMPLE_CHARACTERS {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Counts by reason and file, with the first few examples of each reason. Merged in the order of the data, so the
/// examples do not depend on the number of threads.
#[derive(Debug, Clone)]
pub(crate) struct Findings {
    max_examples: usize,
    /// (reason, number of the file) to count.
    counts: BTreeMap<(Reason, u32), u64>,
    examples: BTreeMap<Reason, Vec<Example>>,
    first_error: Option<(Reason, Example)>,
}

impl Findings {
    pub(crate) fn new(max_examples: usize) -> Self {
        Self { max_examples, counts: BTreeMap::new(), examples: BTreeMap::new(), first_error: None }
    }

    /// Counts one finding; `describe` gives file and message, and is called only while examples are wanted.
    pub(crate) fn add(
        &mut self,
        reason: Reason,
        file: u32,
        id: &str,
        describe: impl FnOnce() -> (String, String),
    ) {
        *self.counts.entry((reason, file)).or_default() += 1;
        let examples = self.examples.entry(reason).or_default();
        let is_first_error = reason.severity() == Severity::Error && self.first_error.is_none();
        if examples.len() >= self.max_examples && !is_first_error {
            return;
        }
        let (file, message) = describe();
        let example = Example { file, id: shown(id), message: shown(&message) };
        if is_first_error {
            self.first_error = Some((reason, example.clone()));
        }
        if examples.len() < self.max_examples {
            examples.push(example);
        }
    }

    /// Takes over what was found later in the data.
    pub(crate) fn merge(&mut self, later: Self) {
        for (key, count) in later.counts {
            *self.counts.entry(key).or_default() += count;
        }
        for (reason, examples) in later.examples {
            let own = self.examples.entry(reason).or_default();
            let room = self.max_examples.saturating_sub(own.len());
            own.extend(examples.into_iter().take(room));
        }
        if self.first_error.is_none() {
            self.first_error = later.first_error;
        }
    }

    pub(crate) fn first_error(&self) -> Option<&(Reason, Example)> {
        self.first_error.as_ref()
    }

    /// The errors with their counts and an example each, most frequent first, in one line.
    pub(crate) fn in_words(&self) -> String {
        let mut counts: Vec<(Reason, u64)> = Vec::new();
        for (&(reason, _), &count) in &self.counts {
            match counts.last_mut() {
                Some((known, sum)) if *known == reason => *sum += count,
                _ if reason.severity() == Severity::Error => counts.push((reason, count)),
                _ => {}
            }
        }
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let in_words = |(reason, count): &(Reason, u64)| {
            let example = self.examples.get(reason).and_then(|examples| examples.first());
            let example =
                example.map(|e| format!(", e.g. {} {}: {}", e.file, e.id, e.message)).unwrap_or_default();
            format!("{count} [{reason}]{example}")
        };
        counts.iter().map(in_words).collect::<Vec<_>>().join("; ")
    }

    /// The reasons that occurred with their counts by file and their examples.
    pub(crate) fn into_summaries(mut self, files: &[String]) -> Vec<FindingSummary> {
        let mut summaries = Vec::new();
        for &reason in Reason::ALL {
            let by_file: Vec<FileCount> = self
                .counts
                .range((reason, 0)..=(reason, u32::MAX))
                .map(|(&(_, file), &count)| FileCount {
                    file: files.get(file as usize).cloned().unwrap_or_default(),
                    count,
                })
                .collect();
            if by_file.is_empty() {
                continue;
            }
            summaries.push(FindingSummary {
                reason: reason.name().to_owned(),
                severity: reason.severity(),
                count: by_file.iter().map(|entry| entry.count).sum(),
                meaning: reason.meaning().to_owned(),
                remedy: reason.remedy().to_owned(),
                by_file,
                examples: self.examples.remove(&reason).unwrap_or_default(),
            });
        }
        summaries
    }
}

/// One reason in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingSummary {
    /// [`Reason::name`].
    pub reason: String,
    /// Error or warning.
    pub severity: Severity,
    /// How often it was found.
    pub count: u64,
    /// [`Reason::meaning`].
    pub meaning: String,
    /// [`Reason::remedy`].
    pub remedy: String,
    /// How often in which file.
    pub by_file: Vec<FileCount>,
    /// The first ones, in the order of the data.
    pub examples: Vec<Example>,
}

/// Findings in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCount {
    /// The file or folder.
    pub file: String,
    /// Number of findings.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_errors_come_first() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.is_sorted_by_key(|reason| reason.severity()));
    }

    #[test]
    fn merged_in_order_the_first_examples_stay() {
        let mut whole = Findings::new(2);
        for part in 0..3 {
            let mut findings = Findings::new(2);
            let id = format!("{part}\0");
            findings.add(Reason::UnusedImage, 0, &id, || ("f".into(), "m".into()));
            findings.add(Reason::EmptyImage, part, &id, || ("f".into(), "m".repeat(1000)));
            whole.merge(findings);
        }
        assert_eq!(
            whole.first_error().map(|(reason, example)| (*reason, example.id.as_str())),
            Some((Reason::EmptyImage, "0\\u{0}"))
        );
        let summaries = whole.into_summaries(&["a".into(), "b".into(), "c".into()]);
        assert_eq!(summaries.len(), 2);
        assert_eq!((summaries[0].by_file.len(), summaries[0].examples.len(), summaries[0].count), (3, 2, 3));
        assert_eq!(summaries[0].examples[1].message.chars().count(), EXAMPLE_CHARACTERS + 1);
        assert_eq!(summaries[1].by_file, [FileCount { file: "a".into(), count: 3 }]);
    }
}
