//! Which positions are trained in pre-training. Rows have no padding yet.

use crate::text::tokenizer::SpecialTokens;
use otter_input::IGNORE_INDEX;

/// Of a caption: everything but the first token of the row and `<image>`. The end-of-text token is trained.
pub fn caption_label_mask(ids: &[u32], special: &SpecialTokens) -> Vec<i64> {
    let trained = |position: usize, id: u32| position > 0 && id != special.image;
    let label =
        |(position, &id): (usize, &u32)| if trained(position, id) { i64::from(id) } else { IGNORE_INDEX };
    ids.iter().enumerate().map(label).collect()
}

/// Of a document: from behind each `<image>` up to and including the next end of chunk. Text before the first image, text
/// between an end of chunk and the next image, and the end-of-text token are not trained.
pub fn interleaved_label_mask(ids: &[u32], special: &SpecialTokens) -> Vec<i64> {
    let mut labels = vec![IGNORE_INDEX; ids.len()];
    let mut in_chunk = false;
    for (position, &id) in ids.iter().enumerate() {
        if id == special.image {
            in_chunk = true;
            continue;
        }
        if in_chunk && position > 0 {
            labels[position] = i64::from(id);
        }
        if id == special.endofchunk {
            in_chunk = false;
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: i64 = IGNORE_INDEX;
    const BOS: u32 = 1;
    const EOS: u32 = 2;
    const PAD: u32 = 90;
    const IMAGE: u32 = 91;
    const END: u32 = 92;

    fn special() -> SpecialTokens {
        SpecialTokens { bos: Some(BOS), eos: Some(EOS), pad: PAD, endofchunk: END, image: IMAGE, answer: 93 }
    }

    #[test]
    fn captions_train_their_end() {
        assert_eq!(
            caption_label_mask(&[BOS, IMAGE, 5, 6, END, EOS], &special()),
            [M, M, 5, 6, i64::from(END), i64::from(EOS)]
        );
        // Without BOS the image takes the first column.
        assert_eq!(caption_label_mask(&[IMAGE, 5, END], &special()), [M, 5, i64::from(END)]);
    }

    #[test]
    fn documents_train_their_chunks() {
        let end = i64::from(END);
        assert_eq!(
            interleaved_label_mask(&[BOS, 5, IMAGE, 6, 7, END, IMAGE, 8, END, EOS], &special()),
            [M, M, M, 6, 7, end, M, 8, end, M]
        );
        // Text after an end of chunk without an image, two images in a row, a row that was cut.
        assert_eq!(
            interleaved_label_mask(&[IMAGE, 6, END, 7, IMAGE, END, IMAGE, 8], &special()),
            [M, 6, end, M, M, end, M, 8]
        );
        assert_eq!(interleaved_label_mask(&[5, 6, END, 7], &special()), [M; 4]);
    }

    /// The rule as the original's loop states it, position by position.
    fn stated(ids: &[u32]) -> Vec<i64> {
        let next_image = |from: usize| (from..ids.len()).find(|&at| ids[at] == IMAGE).unwrap_or(ids.len());
        let mut labels: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        labels[..next_image(0)].fill(M);
        for end in (0..ids.len()).filter(|&at| ids[at] == END) {
            labels[end + 1..next_image(end + 1)].fill(M);
        }
        for (label, &id) in labels.iter_mut().zip(ids) {
            if id == IMAGE {
                *label = M;
            }
        }
        if let Some(first) = labels.first_mut() {
            *first = M;
        }
        labels
    }

    proptest::proptest! {
        #[test]
        fn documents_as_stated(ids in proptest::collection::vec(89_u32..94, 0..30)) {
            proptest::prop_assert_eq!(interleaved_label_mask(&ids, &special()), stated(&ids));
        }
    }
}
