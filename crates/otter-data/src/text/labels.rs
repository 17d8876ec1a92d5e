//! Which positions are trained.

use otter_input::IGNORE_INDEX;
use serde::{Deserialize, Serialize};

use crate::text::tokenizer::SpecialTokens;

/// How labels are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelRule {
    /// An answer runs from `<answer>` to its own end of chunk; of the end-of-text tokens only the
    /// last token of the row is trained.
    Strict,
    /// The two pairing passes of the original, and every end-of-text token.
    Reference,
}

/// Labels of one row, padded on the right or not, by the given rule.
pub fn label_mask(ids: &[u32], special: &SpecialTokens, rule: LabelRule) -> Vec<i64> {
    match rule {
        LabelRule::Strict => strict_label_mask(ids, special),
        LabelRule::Reference => reference_label_mask(ids, special),
    }
}

fn copy_span(labels: &mut [i64], ids: &[u32], span: std::ops::Range<usize>) {
    for position in span {
        labels[position] = i64::from(ids[position]);
    }
}

/// Each end of chunk closes the nearest `<answer>` before it, so a stray `<answer>` cannot move
/// the pairing of later turns.
pub fn strict_label_mask(ids: &[u32], special: &SpecialTokens) -> Vec<i64> {
    let mut labels = vec![IGNORE_INDEX; ids.len()];
    let mut open = None;
    for (position, &id) in ids.iter().enumerate() {
        if id == special.answer {
            open = Some(position);
        } else if id == special.endofchunk
            && let Some(answer) = open.take()
        {
            copy_span(&mut labels, ids, answer + 1..position + 1);
        }
    }
    let padding = if special.eos == Some(special.pad) {
        // Padding cannot be told from the end of text: the first of the run is the real one.
        ids.iter().rev().take_while(|&&id| id == special.pad).count().saturating_sub(1)
    } else {
        ids.iter().rev().take_while(|&&id| id == special.pad).count()
    };
    let end = ids.len() - padding;
    if end > 1 && special.eos == Some(ids[end - 1]) {
        labels[end - 1] = i64::from(ids[end - 1]);
    }
    if let Some(first) = labels.first_mut() {
        *first = IGNORE_INDEX;
    }
    labels
}

/// The rule of the original's training loop.
pub fn reference_label_mask(ids: &[u32], special: &SpecialTokens) -> Vec<i64> {
    let positions_of = |token: u32| (0..ids.len()).filter(move |&p| ids[p] == token).collect::<Vec<_>>();
    let answers = positions_of(special.answer);
    let ends = positions_of(special.endofchunk);
    let mut labels = vec![IGNORE_INDEX; ids.len()];
    for (position, &id) in ids.iter().enumerate() {
        if special.eos == Some(id) {
            labels[position] = i64::from(id);
        }
    }
    let mut next_end = 0;
    for &answer in &answers {
        while next_end < ends.len() && ends[next_end] < answer {
            next_end += 1;
        }
        if next_end < ends.len() {
            copy_span(&mut labels, ids, answer + 1..ends[next_end] + 1);
            next_end += 1;
        }
    }
    for (&answer, &end) in answers.iter().zip(&ends) {
        copy_span(&mut labels, ids, answer + 1..(end + 1).max(answer + 1));
    }
    if let Some(first) = labels.first_mut() {
        *first = IGNORE_INDEX;
    }
    labels
}

/// Labels of a format whose answers have no end token: the given ids of the text, which begins at `start`, and the end
/// of text, if one stands behind it.
pub(crate) fn span_label_mask(
    ids: &[u32],
    special: &SpecialTokens,
    start: usize,
    trained: &[bool],
) -> Vec<i64> {
    let mut labels = vec![IGNORE_INDEX; ids.len()];
    for (position, _) in trained.iter().enumerate().filter(|(_, trained)| **trained) {
        if let Some(label) = labels.get_mut(start + position) {
            *label = i64::from(ids[start + position]);
        }
    }
    if let (Some(last), Some(&id)) = (labels.last_mut(), ids.last())
        && special.eos == Some(id)
        && trained.contains(&true)
    {
        *last = i64::from(id);
    }
    if let Some(first) = labels.first_mut() {
        *first = IGNORE_INDEX;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: i64 = IGNORE_INDEX;

    fn special() -> SpecialTokens {
        SpecialTokens { bos: Some(0), eos: Some(0), pad: 94, endofchunk: 92, image: 91, answer: 93 }
    }

    #[test]
    fn vectors_of_the_original() {
        let cases: [(&[u32], &[i64]); 3] = [
            (
                &[0, 91, 5, 6, 93, 7, 8, 92, 5, 6, 93, 9, 92, 0, 94, 94],
                &[M, M, M, M, M, 7, 8, 92, M, M, M, 9, 92, 0, M, M],
            ),
            (&[0, 91, 5, 6, 93, 7, 8, 92, 5, 6, 93, 9, 0], &[M, M, M, M, M, 7, 8, 92, M, M, M, M, 0]),
            (&[0, 91, 5, 6, 93, 7, 8, 0], &[M, M, M, M, M, M, M, 0]),
        ];
        for (ids, expected) in cases {
            assert_eq!(reference_label_mask(ids, &special()), expected);
            assert_eq!(strict_label_mask(ids, &special()), expected);
        }
    }

    #[test]
    fn strict_rule_survives_stray_tokens() {
        // `<answer>` typed inside the first question, end of text typed inside the second one.
        let ids = [0, 5, 93, 6, 93, 7, 92, 5, 0, 93, 8, 92, 0];
        assert_eq!(strict_label_mask(&ids, &special()), [M, M, M, M, M, 7, 92, M, M, M, 8, 92, 0]);
        let reference = reference_label_mask(&ids, &special());
        assert_ne!(reference[3], M, "the original trains question tokens here");
        assert_ne!(reference[8], M, "and the end of text inside the question");
    }

    #[test]
    fn padding_equal_to_end_of_text_is_not_trained() {
        let special = SpecialTokens { pad: 0, ..special() };
        assert_eq!(strict_label_mask(&[1, 93, 7, 92, 0, 0, 0], &special), [M, M, 7, 92, 0, M, M]);
    }

    proptest::proptest! {
        #[test]
        fn any_row_is_masked_without_panic(ids in proptest::collection::vec(88_u32..96, 0..40)) {
            for rule in [LabelRule::Strict, LabelRule::Reference] {
                let labels = label_mask(&ids, &special(), rule);
                proptest::prop_assert_eq!(labels.len(), ids.len());
                for (label, id) in labels.iter().zip(&ids) {
                    proptest::prop_assert!(*label == M || *label == i64::from(*id));
                }
            }
        }
    }
}
