//! Whether an input fits the model: lengths, token ids, shapes, frames, places of media.

use otter_nn::{Float, IGNORE_INDEX};

use crate::ModelError;
use crate::input::{TextInput, VisionInput, check_segments};
use crate::otter::Otter;

impl Otter {
    /// Labels moved one position to the left: the target of each row.
    pub(crate) fn targets(&self, labels: &[i64], text: &TextInput) -> Result<Vec<i64>, ModelError> {
        let expected = text.batch * text.length;
        if labels.len() != expected {
            return Err(ModelError::Shape { what: "number of labels", found: labels.len(), expected });
        }
        let vocabulary = self.config().text.vocab_size();
        let mut first = vec![false; labels.len()];
        match &text.segments {
            None => first.iter_mut().step_by(text.length.max(1)).for_each(|first| *first = true),
            Some(segments) => {
                let padding =
                    |(index, &label): (usize, &i64)| label != IGNORE_INDEX && !text.attention_mask[index];
                if let Some(index) = labels.iter().enumerate().position(padding) {
                    let (row, position, label) = (index / text.length, index % text.length, labels[index]);
                    return Err(ModelError::LabelOnPadding { row, position, label });
                }
                segments.list().iter().for_each(|segment| first[segments.tokens(segment).start] = true);
            }
        }
        let mut targets = vec![IGNORE_INDEX; labels.len()];
        for (index, &label) in labels.iter().enumerate() {
            // Nothing comes before the first token of a sequence.
            if first[index] || label == IGNORE_INDEX {
                continue;
            }
            if !(0..vocabulary as i64).contains(&label) {
                let (sequence, position) = (index / text.length, index % text.length);
                let id = u32::try_from(label).unwrap_or(u32::MAX);
                return Err(ModelError::TokenOutside { id, sequence, position, vocabulary });
            }
            targets[index - 1] = label;
        }
        Ok(targets)
    }

    pub(crate) fn check_text<T: Float>(
        &self,
        text: &TextInput,
        vision: Option<&VisionInput<T>>,
    ) -> Result<(), ModelError> {
        let expected = text.batch * text.length;
        for (what, found) in
            [("number of token ids", text.ids.len()), ("attention mask length", text.attention_mask.len())]
        {
            if found != expected {
                return Err(ModelError::Shape { what, found, expected });
            }
        }
        check_segments(text)?;
        if let Some(vision) = vision
            && vision.slots.len() != text.sequences()
        {
            let (found, expected) = (vision.slots.len(), text.sequences());
            return Err(ModelError::Shape { what: "sequences of the vision input", found, expected });
        }
        self.check_length(text, |_| 0)?;
        let vocabulary = self.config().text.vocab_size();
        match text.ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(index) => Err(ModelError::TokenOutside {
                id: text.ids[index],
                sequence: index / text.length,
                position: index % text.length,
                vocabulary,
            }),
            None => Ok(()),
        }
    }

    /// Whether every token, and `new` more behind each sequence, has a row in the table of learned positions.
    pub(crate) fn check_length(
        &self,
        text: &TextInput,
        new: impl Fn(usize) -> usize,
    ) -> Result<(), ModelError> {
        let Some(limit) = self.config().text.learned_positions() else { return Ok(()) };
        let counts: Vec<usize> = match &text.segments {
            Some(segments) => segments.list().iter().map(|segment| segment.len).collect(),
            None => {
                let rows = text.attention_mask.chunks(text.length.max(1));
                rows.map(|mask| mask.iter().filter(|&&visible| visible).count()).collect()
            }
        };
        let mut lengths =
            counts.iter().enumerate().map(|(sequence, count)| (sequence, count + new(sequence)));
        match lengths.find(|&(_, tokens)| tokens > limit) {
            None => Ok(()),
            Some((sequence, tokens)) => Err(ModelError::TooLong { sequence, tokens, limit }),
        }
    }

    pub(crate) fn check_vision<T: Float>(&self, vision: &VisionInput<T>) -> Result<(), ModelError> {
        let side = self.config().vision.image_size;
        let shape = vision.pixels.shape();
        let features = [self.config().vision.num_patches(), self.config().vision.hidden_size];
        let pixels = [3, side, side];
        let (what, expected) = match vision.is_features() {
            true => ("patches and width of the features", features.as_slice()),
            false => ("channels and sides of the pixels", pixels.as_slice()),
        };
        if !vision.is_features() && shape.len() != 4 {
            return Err(ModelError::Shape {
                what: "dimensions of the pixels",
                found: shape.len(),
                expected: 4,
            });
        }
        for (&found, &expected) in shape[1..].iter().zip(expected) {
            if found != expected {
                return Err(ModelError::Shape { what, found, expected });
            }
        }
        let mut end = 0;
        for range in &vision.media_frames {
            if range.start != end || range.is_empty() {
                return Err(ModelError::Shape {
                    what: "first frame of a media item",
                    found: range.start,
                    expected: end,
                });
            }
            end = range.end;
            if let Some(limit) = self.config().perceiver.max_num_frames
                && range.len() > limit
            {
                return Err(ModelError::TooManyFrames { frames: range.len(), limit });
            }
        }
        if end != shape[0] {
            return Err(ModelError::Shape {
                what: "frames of all media items",
                found: end,
                expected: shape[0],
            });
        }
        let items = vision.media_frames.len();
        match vision.slots.iter().flatten().find(|&&item| item >= items) {
            Some(&found) => Err(ModelError::Shape { what: "media item of a slot", found, expected: items }),
            None => Ok(()),
        }
    }

    /// Place of each media item in its sequence.
    pub(crate) fn media_times<T: Float>(&self, vision: &VisionInput<T>) -> Result<Vec<usize>, ModelError> {
        let mut times = vec![0; vision.media_frames.len()];
        if self.config().perceiver.max_num_media.is_none() {
            return Ok(times);
        }
        let mut placed = vec![None; times.len()];
        for slots in &vision.slots {
            if let Some(limit) = self.config().perceiver.max_num_media
                && slots.len() > limit
            {
                return Err(ModelError::TooManyMedia { media: slots.len(), limit });
            }
            for (time, &item) in slots.iter().enumerate() {
                if placed[item].replace(time).is_some_and(|other| other != time) {
                    return Err(ModelError::SharedMedia { item });
                }
                times[item] = time;
            }
        }
        Ok(times)
    }
}
