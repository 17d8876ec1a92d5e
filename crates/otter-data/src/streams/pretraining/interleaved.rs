//! From a document to its text and the order of its images.

use super::assignment::best_assignment;
use super::config::{DocumentRules, ImageRule};
use super::document::WebDocument;
use crate::error::SkipReason;
use crate::text::prompt::{END_OF_CHUNK_TOKEN, IMAGE_TOKEN, Piece};

/// An image and the sentence that it stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    /// Position in `image_info`.
    pub(super) image: usize,
    /// Position in `text_list`.
    pub(super) sentence: usize,
}

/// The images of a web page that are used, in the order of `image_info`; `usable` are the positions of those that can be.
pub(super) fn place_images(
    document: &WebDocument,
    usable: &[usize],
    rules: &DocumentRules,
) -> Result<Vec<Placement>, (SkipReason, String)> {
    let placements = match rules.image_rule {
        ImageRule::Matched => matched(document, usable, rules.similarity_threshold),
        ImageRule::Assignment => assigned(document, usable, rules.similarity_threshold),
    };
    let mut placements = placements.map_err(|message| (SkipReason::BadRecord, message))?;
    if let Some(wrong) = placements.iter().find(|placement| placement.sentence >= document.text_list.len()) {
        let message = format!(
            "image {} belongs to sentence {}, but there are {} (from 0)",
            wrong.image,
            wrong.sentence,
            document.text_list.len()
        );
        return Err((SkipReason::BadRecord, message));
    }
    if placements.is_empty() {
        let message = format!(
            "none of its {} images is similar enough to a sentence ({} or more); compare the scale of the similarities",
            usable.len(),
            rules.similarity_threshold
        );
        return Err((SkipReason::NoMatchingImage, message));
    }
    placements.truncate(rules.max_images);
    Ok(placements)
}

fn matched(document: &WebDocument, usable: &[usize], threshold: f64) -> Result<Vec<Placement>, String> {
    let mut placements = Vec::new();
    for &image in usable {
        let info = &document.image_info[image];
        let (Some(similarity), Some(sentence)) = (info.matched_sim, info.matched_text_index) else {
            return Err(format!(
                "image {image} lacks `matched_sim` or `matched_text_index`; use image_rule = \"assignment\""
            ));
        };
        if similarity >= threshold {
            placements.push(Placement { image, sentence });
        }
    }
    Ok(placements)
}

fn assigned(document: &WebDocument, usable: &[usize], threshold: f64) -> Result<Vec<Placement>, String> {
    let matrix = document
        .similarity_matrix
        .as_ref()
        .ok_or("the document lacks `similarity_matrix`; use image_rule = \"matched\"")?;
    if matrix.len() != document.image_info.len() {
        return Err(format!(
            "similarity_matrix has {} rows for {} images",
            matrix.len(),
            document.image_info.len()
        ));
    }
    let rows: Vec<Vec<f64>> = usable.iter().map(|&image| matrix[image].clone()).collect();
    let pairs =
        best_assignment(&rows).ok_or("similarity_matrix has rows of different lengths or is too large")?;
    let similar = pairs.into_iter().filter(|&(row, sentence)| rows[row][sentence] >= threshold);
    Ok(similar.map(|(row, sentence)| Placement { image: usable[row], sentence }).collect())
}

/// The sentences joined by spaces, each image as `<|endofchunk|><image>` before its sentence.
pub(super) fn document_pieces(sentences: Vec<String>, placements: &[Placement]) -> Vec<Piece> {
    let mut images = vec![0_usize; sentences.len()];
    for placement in placements {
        images[placement.sentence] += 1;
    }
    let mut pieces = Vec::new();
    for (position, (sentence, count)) in sentences.into_iter().zip(images).enumerate() {
        if position > 0 {
            add_text(&mut pieces, " ");
        }
        for _ in 0..count {
            pieces.push(Piece::Special(END_OF_CHUNK_TOKEN));
            pieces.push(Piece::Special(IMAGE_TOKEN));
        }
        add_text(&mut pieces, &sentence);
    }
    finish(pieces)
}

/// A synthetic text: pieces, and the marker of each image in the order of the text. The text is cut before image number
/// `max_images` + 1.
pub(super) fn synthetic_pieces(text: &str, max_images: usize) -> (Vec<Piece>, Vec<&str>) {
    let mut pieces = Vec::new();
    let mut markers = Vec::new();
    let mut rest = text;
    while let Some((start, end)) = next_marker(rest) {
        if markers.len() == max_images {
            // As if the end of the chunk stood there.
            rest = rest[..start].strip_suffix(' ').unwrap_or(&rest[..start]);
            break;
        }
        add_text(&mut pieces, &rest[..start]);
        markers.push(&rest[start..end]);
        pieces.push(Piece::Special(END_OF_CHUNK_TOKEN));
        pieces.push(Piece::Special(IMAGE_TOKEN));
        rest = &rest[end..];
    }
    add_text(&mut pieces, rest);
    (finish(pieces), markers)
}

/// The next `_!_IMAGE<n>_!_`.
fn next_marker(text: &str) -> Option<(usize, usize)> {
    const START: &str = "_!_IMAGE";
    const END: &str = "_!_";
    let mut from = 0;
    while let Some(found) = text[from..].find(START) {
        let start = from + found;
        let digits = start + START.len();
        let count = text[digits..].bytes().take_while(u8::is_ascii_digit).count();
        if count > 0 && text[digits + count..].starts_with(END) {
            return Some((start, digits + count + END.len()));
        }
        from = digits;
    }
    None
}

fn add_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Data(last)) => last.push_str(text),
        _ => pieces.push(Piece::Data(text.to_owned())),
    }
}

/// Removes the first end of chunk and the spaces at the marks, and closes the last chunk. Texts between marks are one
/// piece each.
fn finish(mut pieces: Vec<Piece>) -> Vec<Piece> {
    if let Some(first) = pieces.iter().position(|piece| *piece == Piece::Special(END_OF_CHUNK_TOKEN)) {
        pieces.remove(first);
    }
    // One space each, in the order of the original's replacements.
    for (mark, before) in [(END_OF_CHUNK_TOKEN, true), (IMAGE_TOKEN, false), (IMAGE_TOKEN, true)] {
        for at in 0..pieces.len() {
            if pieces[at] != Piece::Special(mark) {
                continue;
            }
            let neighbor = if before { at.checked_sub(1) } else { Some(at + 1) };
            if let Some(Piece::Data(text)) = neighbor.and_then(|at| pieces.get_mut(at)) {
                if before && text.ends_with(' ') {
                    text.pop();
                } else if !before && text.starts_with(' ') {
                    text.remove(0);
                }
            }
        }
    }
    pieces.push(Piece::Special(END_OF_CHUNK_TOKEN));
    pieces.retain(|piece| !matches!(piece, Piece::Data(text) if text.is_empty()));
    pieces
}

/// Sorts placements into the order of their placeholders; images of one sentence keep theirs.
pub(super) fn order_by_sentence(placements: &mut [Placement]) {
    placements.sort_by_key(|placement| placement.sentence);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::text::prompt::pieces_text;

    fn sentences(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn text(texts: &[&str], images_before: &[usize]) -> String {
        let placements: Vec<_> = images_before
            .iter()
            .enumerate()
            .map(|(image, &sentence)| Placement { image, sentence })
            .collect();
        pieces_text(&document_pieces(sentences(texts), &placements))
    }

    #[test]
    fn layout_of_documents() {
        let page = ["My garden.", "The roses bloom.", "So do the lilies.", "Goodbye."];
        for (images, expected) in [
            (
                &[1, 2][..],
                "My garden.<image>The roses bloom.<|endofchunk|><image>So do the lilies. Goodbye.<|endofchunk|>",
            ),
            (&[0], "<image>My garden. The roses bloom. So do the lilies. Goodbye.<|endofchunk|>"),
            (&[3], "My garden. The roses bloom. So do the lilies.<image>Goodbye.<|endofchunk|>"),
            // The order of the images does not change the text.
            (
                &[2, 0],
                "<image>My garden. The roses bloom.<|endofchunk|><image>So do the lilies. Goodbye.<|endofchunk|>",
            ),
            // Two images of one sentence.
            (
                &[1, 1],
                "My garden.<image><|endofchunk|><image>The roses bloom. So do the lilies. Goodbye.<|endofchunk|>",
            ),
        ] {
            assert_eq!(text(&page, images), expected);
        }
        // One space goes at each mark, further ones stay; so does the one at the very end.
        assert_eq!(
            text(&[" a ", " b ", "", "c "], &[1, 2]),
            " a <image>b <|endofchunk|><image>c <|endofchunk|>"
        );
    }

    #[test]
    fn layout_of_synthetic_documents() {
        let page = "Look: _!_IMAGE1_!_ a cat. _!_IMAGE2_!_ A dog, _!_IMAGEx_!_. _!_IMAGE3_!_ A bird.";
        let (pieces, markers) = synthetic_pieces(page, 6);
        assert_eq!(markers, ["_!_IMAGE1_!_", "_!_IMAGE2_!_", "_!_IMAGE3_!_"]);
        assert_eq!(
            pieces_text(&pieces),
            "Look:<image>a cat.<|endofchunk|><image>A dog, _!_IMAGEx_!_.<|endofchunk|><image>A bird.<|endofchunk|>"
        );
        let (pieces, markers) = synthetic_pieces(page, 2);
        assert_eq!(markers.len(), 2);
        assert_eq!(
            pieces_text(&pieces),
            "Look:<image>a cat.<|endofchunk|><image>A dog, _!_IMAGEx_!_.<|endofchunk|>"
        );
    }

    fn rules(image_rule: ImageRule, similarity_threshold: f64, max_images: usize) -> DocumentRules {
        DocumentRules {
            image_rule,
            similarity_threshold,
            min_images: 1,
            max_images,
            min_image_bytes: 0,
            reject_single_image: 0.0,
        }
    }

    fn page(images: &str, matrix: &str) -> WebDocument {
        let json =
            format!(r#"{{"text_list":["a","b","c"],"image_info":[{images}],"similarity_matrix":{matrix}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn both_rules_place_images() {
        let document = page(
            r#"{"matched_sim":0.33,"matched_text_index":2},{"matched_sim":0.4,"matched_text_index":0},
               {"matched_sim":0.31,"matched_text_index":1},{"matched_sim":0.5,"matched_text_index":0}"#,
            "[[0.1,0.2,0.33],[0.4,0.3,0.1],[0.2,0.25,0.1],[0.5,0.1,0.1]]",
        );
        let pairs = |usable: &[usize], rules: &DocumentRules| {
            let placements = place_images(&document, usable, rules);
            placements.map(|found| found.iter().map(|p| (p.image, p.sentence)).collect::<Vec<_>>())
        };
        let all = [0, 1, 2, 3];
        assert_eq!(pairs(&all, &rules(ImageRule::Matched, 0.32, 5)).unwrap(), [(0, 2), (1, 0), (3, 0)]);
        assert_eq!(pairs(&all, &rules(ImageRule::Matched, 0.32, 2)).unwrap(), [(0, 2), (1, 0)]);
        assert_eq!(pairs(&[1, 2], &rules(ImageRule::Matched, 0.32, 5)).unwrap(), [(1, 0)]);
        // Three sentences for four images: image 2 goes without.
        assert_eq!(pairs(&all, &rules(ImageRule::Assignment, 0.24, 6)).unwrap(), [(0, 2), (1, 1), (3, 0)]);
        // Restricted to usable images, and the threshold comes after the assignment.
        assert_eq!(pairs(&[1, 2], &rules(ImageRule::Assignment, 0.24, 6)).unwrap(), [(1, 0), (2, 1)]);
        assert_eq!(pairs(&[1, 2], &rules(ImageRule::Assignment, 0.26, 6)).unwrap(), [(1, 0)]);
        let (reason, message) = pairs(&all, &rules(ImageRule::Assignment, 30.0, 6)).unwrap_err();
        assert_eq!(reason, SkipReason::NoMatchingImage);
        assert!(message.contains("30"), "{message}");
    }

    #[test]
    fn damaged_pages_are_named() {
        let image = r#"{"matched_sim":0.33,"matched_text_index":3}"#;
        for (document, rule, part) in [
            (page(image, "null"), ImageRule::Matched, "sentence 3"),
            (page("{}", "null"), ImageRule::Matched, "matched_sim"),
            (page("{}", "null"), ImageRule::Assignment, "similarity_matrix"),
            (page("{}", "[[1,2,3],[1,2,3]]"), ImageRule::Assignment, "2 rows for 1 images"),
            (page("{},{}", "[[1],[1,2]]"), ImageRule::Assignment, "lengths"),
            (page("{}", "[[1,2,3,9]]"), ImageRule::Assignment, "sentence 3"),
        ] {
            let usable: Vec<usize> = (0..document.image_info.len()).collect();
            let (reason, message) = place_images(&document, &usable, &rules(rule, 0.0, 5)).unwrap_err();
            assert_eq!(reason, SkipReason::BadRecord);
            assert!(message.contains(part), "{message}");
        }
    }

    /// The layout as string replacements, as the original states it.
    fn stated(sentences: &[String], images_before: &[usize]) -> String {
        let mut sentences = sentences.to_vec();
        for &sentence in images_before {
            sentences[sentence] = format!("<|endofchunk|><image>{}", sentences[sentence]);
        }
        let text = sentences
            .join(" ")
            .replacen("<|endofchunk|>", "", 1)
            .replace(" <|endofchunk|>", "<|endofchunk|>");
        text.replace("<image> ", "<image>").replace(" <image>", "<image>") + "<|endofchunk|>"
    }

    proptest::proptest! {
        #[test]
        fn pieces_equal_replacements(
            texts in proptest::collection::vec("[ a]{0,3}", 1..6),
            images in proptest::collection::vec(0_usize..6, 0..6),
        ) {
            let images: Vec<usize> = images.into_iter().filter(|&sentence| sentence < texts.len()).collect();
            let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
            proptest::prop_assert_eq!(text(&refs, &images), stated(&texts, &images));
        }

        #[test]
        fn any_synthetic_text_is_handled_without_panic(page in "([_!é ]|IMAGE|[0-9]|_!_IMAGE1_!_){0,12}", most in 0_usize..3) {
            let (pieces, markers) = synthetic_pieces(&page, most);
            let images = pieces.iter().filter(|piece| **piece == Piece::Special(IMAGE_TOKEN)).count();
            proptest::prop_assert_eq!(images, markers.len());
        }
    }
}
