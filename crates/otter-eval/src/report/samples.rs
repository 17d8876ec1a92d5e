//! Sample cards of a report from evaluated queries: the prompt's turns, their pictures, and what the model said.

use otter_data::prompt::{ANSWER_TOKEN, END_OF_CHUNK_TOKEN, IMAGE_TOKEN};
use otter_data::{Dataset, ImageTable, Sample};

use crate::error::EvaluationError;
use crate::evaluate::EvaluationRecord;
use crate::report::{SampleCard, Turn};

/// Memory for one row group of a parquet image table.
const PARQUET_CACHE: usize = 64 << 20;

/// The card of a query of `dataset`, which must be the data set for the record's number of shots. Pictures are the
/// files as they are in the image table of the query's set; one that is elsewhere is shown as a placeholder.
///
/// # Errors
/// A sample or image table that cannot be read.
pub fn sample_card(dataset: &Dataset, record: &EvaluationRecord) -> Result<SampleCard, EvaluationError> {
    let sample = dataset.sample_in_epoch(record.index, 0, false)?;
    if sample.id != record.id {
        let message = format!(
            "the record was evaluated at place {} of its data set, where '{}' stands now; give the data set for {} shots",
            record.index, sample.id, record.shots
        );
        return Err(EvaluationError::Sample { id: record.id.clone(), message });
    }
    let sets = dataset.config().resolved_sets()?;
    let images = sets.into_iter().find(|set| set.name == sample.set).and_then(|set| set.images);
    let table = images.map(|path| ImageTable::open(&path, PARQUET_CACHE)).transpose()?;
    let mut turns = turns(&sample, &mut |id| match &table {
        Some(table) => Ok(table.encoded(id)?.unwrap_or_default()),
        None => Ok(Vec::new()),
    })?;
    let query = turns.pop().unwrap_or_default();
    Ok(SampleCard::from_record(record, turns, Turn { answer: String::new(), ..query }))
}

/// The turns of a sample, read back from its text; each takes as many media items as it has placeholders.
fn turns(
    sample: &Sample,
    picture: &mut dyn FnMut(&str) -> Result<Vec<u8>, EvaluationError>,
) -> Result<Vec<Turn>, EvaluationError> {
    let mut media = sample.media.iter();
    let mut turns = Vec::new();
    for text in sample.text.split_terminator(END_OF_CHUNK_TOKEN) {
        let (question, answer) = text.split_once(ANSWER_TOKEN).unwrap_or((text, ""));
        let placeholders = question.matches(IMAGE_TOKEN).count();
        let mut images = Vec::new();
        for frame in media.by_ref().take(placeholders).flat_map(|item| &item.frames) {
            images.push(picture(&frame.image_id)?);
        }
        let question = question.replace(IMAGE_TOKEN, "");
        let mut question = question.trim();
        for (before, after) in [("User:", "GPT:"), ("[INST]", "[/INST]")] {
            question = question.strip_suffix(after).unwrap_or(question).trim_end();
            question = question.strip_prefix(before).unwrap_or(question).trim_start();
        }
        turns.push(Turn { images, question: question.to_owned(), answer: answer.trim().to_owned() });
    }
    Ok(turns)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use otter_data::{Frame, Group, MediaItem};

    #[test]
    fn turns_are_read_back_with_their_pictures() {
        let item = |ids: &[&str]| MediaItem {
            frames: ids
                .iter()
                .map(|id| Frame {
                    image_id: (*id).to_owned(),
                    table: 0,
                    pixels: std::sync::Arc::from([]),
                    original_size: (0, 0),
                    notes: otter_data::ImageNotes::default(),
                })
                .collect(),
        };
        let mut sample = Sample {
            id: "q".into(),
            set: "s".into(),
            group: Group::ImageTextInContext,
            text: "<image>User:what is this ? GPT:<answer>wugpim<|endofchunk|>\
                   <image><image>User:what changed ? GPT:<answer>the size<|endofchunk|>"
                .into(),
            input_ids: Vec::new(),
            labels: Vec::new(),
            media: vec![item(&["a"]), item(&["b"]), item(&["c", "d"])],
            context_ids: Vec::new(),
            dropped_turns: 0,
        };
        let mut read = |id: &str| Ok(id.as_bytes().to_vec());
        let found = turns(&sample, &mut read).unwrap();
        let expected =
            [("what is this ?", "wugpim", vec!["a"]), ("what changed ?", "the size", vec!["b", "c", "d"])];
        assert_eq!(found.len(), 2);
        for (turn, (question, answer, images)) in found.iter().zip(expected) {
            assert_eq!((turn.question.as_str(), turn.answer.as_str()), (question, answer));
            assert_eq!(turn.images, images.iter().map(|id| id.as_bytes().to_vec()).collect::<Vec<_>>());
        }
        sample.text = "[INST]<image>\nwhat ?[/INST]<answer>x<|endofchunk|>".into();
        assert_eq!(turns(&sample, &mut read).unwrap()[0].question, "what ?");
    }
}
