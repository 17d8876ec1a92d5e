//! Packed rows in f64: loss, hidden states and every gradient equal those of the same sequences in rows of their own.

use otter_model::config::{CrossAttentionConfig, OtterConfig};
use otter_model::{LossScale, ModelError, Otter, TextInput, VisionInput};
use otter_nn::layers::cross_entropy::LossSum;
use otter_nn::testing::gradient_check::{random_parameters, random_tensor};
use otter_nn::{Device, Float, Gradients, Parameters, Segment, Segments, Tensor};

use crate::small_models::{IMAGE, config, other_language_models};

/// Sequences with the media items of their placeholders; the labels follow from the ids.
struct Sequences {
    ids: Vec<Vec<u32>>,
    slots: Vec<Vec<usize>>,
}

/// Two images; a video and a shared image; no image; more placeholders than media; a placeholder first; a lone token;
/// media without a placeholder.
fn sequences() -> Sequences {
    Sequences {
        ids: vec![
            vec![1, IMAGE, 5, IMAGE, 7, 8, 2],
            vec![1, 4, IMAGE, 6, IMAGE, 9],
            vec![1, 4, 5, 6, 7],
            vec![1, IMAGE, 5, IMAGE, 8, IMAGE, 4, 2],
            vec![IMAGE, 9, 8],
            vec![6],
            vec![1, 9, 4],
        ],
        slots: vec![vec![0, 1], vec![2, 1], vec![], vec![1, 0], vec![2], vec![], vec![0]],
    }
}

fn vision(slots: Vec<Vec<usize>>) -> VisionInput<f64> {
    VisionInput {
        pixels: random_tensor("pixels", &[4, 3, 4, 4]),
        media_frames: vec![0..1, 1..2, 2..4],
        slots,
    }
}

/// Every token but placeholders and padding is a label, the first one of a sequence too: it must count for nothing.
fn label(id: u32) -> i64 {
    if id == IMAGE { -100 } else { i64::from(id) }
}

impl Sequences {
    /// One sequence a row.
    fn padded(&self) -> (TextInput, Vec<i64>) {
        let rows: Vec<Vec<usize>> = (0..self.ids.len()).map(|i| vec![i]).collect();
        let (text, labels, _) = self.rows(&rows, 0);
        (TextInput { segments: None, ..text }, labels)
    }

    /// The sequences `rows[r]` in row r, with `spare` tokens of padding after the longest.
    fn rows(&self, rows: &[Vec<usize>], spare: usize) -> (TextInput, Vec<i64>, Vec<Vec<usize>>) {
        let tokens = |row: &Vec<usize>| row.iter().map(|&i| self.ids[i].len()).sum::<usize>();
        let length = rows.iter().map(tokens).max().unwrap_or(0) + spare;
        let (mut ids, mut labels) = (vec![0; rows.len() * length], vec![-100; rows.len() * length]);
        let mut attention_mask = vec![false; ids.len()];
        let (mut list, mut slots) = (Vec::new(), Vec::new());
        for (row, members) in rows.iter().enumerate() {
            let mut start = 0;
            for &member in members {
                let own = &self.ids[member];
                for (at, &id) in (row * length + start..).zip(own) {
                    (ids[at], labels[at], attention_mask[at]) = (id, label(id), true);
                }
                list.push(Segment { row, start, len: own.len() });
                slots.push(self.slots[member].clone());
                start += own.len();
            }
        }
        let segments = Segments::new(rows.len(), length, list).ok();
        assert!(segments.is_some());
        let text =
            TextInput { ids, attention_mask, batch: rows.len(), length, segments, media_token_id: IMAGE };
        (text, labels, slots)
    }
}

fn run<T: Float>(
    otter: &Otter,
    parameters: &Parameters<T>,
    (vision, text, labels): (Option<&VisionInput<T>>, &TextInput, &[i64]),
    recompute: bool,
) -> Result<(LossSum, Gradients<T>), ModelError> {
    let mut gradients = Gradients::new(parameters);
    let scale = LossScale::Mean;
    let loss = otter.forward_backward(parameters, vision, text, labels, scale, recompute, &mut gradients)?;
    Ok((loss, gradients))
}

/// Largest difference of two gradients, as a part of the largest entry of their tensor. A tensor whose true gradient is
/// zero (a key's bias) holds rounding only: nothing is measured against less than 1e-4 of the largest entry of all.
fn difference<T: Float>(a: &Gradients<T>, b: &Gradients<T>) -> f64 {
    let largest = |values: &[T]| values.iter().map(|g| g.to_f64().abs()).fold(0.0, f64::max);
    let least = 1e-4 * largest(&a.flat());
    let differences = a.ranges().iter().flatten().map(|range| {
        let (a, b) = (&a.flat()[range.clone()], &b.flat()[range.clone()]);
        let apart = a.iter().zip(b).map(|(a, b)| (a.to_f64() - b.to_f64()).abs()).fold(0.0, f64::max);
        apart / largest(a).max(least)
    });
    differences.fold(0.0, f64::max)
}

/// Several ways to put the seven sequences into rows: all in one, in order; shuffled; several rows with padding.
fn packings() -> Vec<(Vec<Vec<usize>>, usize)> {
    vec![
        (vec![vec![0, 1, 2, 3, 4, 5, 6]], 0),
        (vec![vec![3, 6, 5, 1, 0, 4, 2]], 3),
        (vec![vec![2, 0], vec![5, 3, 6], vec![4, 1]], 0),
        (vec![vec![6], vec![0, 1, 3, 2], vec![5, 4]], 2),
    ]
}

fn configurations() -> Vec<(String, OtterConfig)> {
    let mut list = vec![("llama".to_owned(), config())];
    // Cross-attention before every layer.
    let dense = CrossAttentionConfig { every_n_layers: 1, ..config().cross_attention };
    list.push(("llama, dense".to_owned(), OtterConfig { cross_attention: dense, ..config() }));
    for text in other_language_models() {
        let tie_word_embeddings = text.must_be_tied();
        let name = format!("{text:?}");
        let name = name.split('{').next().unwrap_or_default().trim().to_owned();
        list.push((name, OtterConfig { text, tie_word_embeddings, ..config() }));
    }
    list
}

#[test]
fn packed_rows_equal_rows_of_their_own() -> Result<(), ModelError> {
    let sequences = sequences();
    let (padded, padded_labels) = sequences.padded();
    let media = vision(sequences.slots.clone());
    for (name, config) in configurations() {
        let (otter, specs) = Otter::new(&config)?;
        let parameters = random_parameters(&specs);
        let (loss, expected) = run(&otter, &parameters, (Some(&media), &padded, &padded_labels), false)?;
        assert!(loss.targets > 15 && expected.flat().iter().any(|&g| g != 0.0));
        let mut worst = 0f64;
        for (rows, spare) in packings() {
            let (text, labels, slots) = sequences.rows(&rows, spare);
            let packed_media = vision(slots);
            for recompute in [false, true] {
                let input = (Some(&packed_media), &text, labels.as_slice());
                let (packed, gradients) = run(&otter, &parameters, input, recompute)?;
                assert_eq!(packed.targets, loss.targets, "{name} {rows:?}");
                let apart = (packed.sum - loss.sum).abs() / loss.sum;
                assert!(apart < 1e-13, "{name} {rows:?}: loss {} instead of {}", packed.sum, loss.sum);
                worst = worst.max(difference(&expected, &gradients));
            }
            let plain = otter.loss(&parameters, Some(&packed_media), &text, &labels)?;
            assert!((plain.sum - loss.sum).abs() < 1e-13 * loss.sum);
        }
        println!("{name}: largest relative difference of a gradient {worst:.1e}");
        assert!(worst < 1e-12, "{name}: gradients differ by {worst:e}");
    }
    Ok(())
}

/// The same in f32, the arithmetic of a training run.
#[test]
fn packed_rows_equal_rows_of_their_own_to_rounding() -> Result<(), ModelError> {
    let sequences = sequences();
    let (padded, padded_labels) = sequences.padded();
    for (name, config) in configurations() {
        let (otter, specs) = Otter::new(&config)?;
        let parameters = random_parameters(&specs).cast::<f32>();
        let media = |slots: Vec<Vec<usize>>| {
            let VisionInput { pixels, media_frames, slots } = vision(slots);
            VisionInput { pixels: pixels.cast::<f32>(), media_frames, slots }
        };
        let own = media(sequences.slots.clone());
        let (loss, expected) = run(&otter, &parameters, (Some(&own), &padded, &padded_labels), false)?;
        for (rows, spare) in packings() {
            let (text, labels, slots) = sequences.rows(&rows, spare);
            let packed = media(slots);
            let (found, gradients) = run(&otter, &parameters, (Some(&packed), &text, &labels), false)?;
            assert!((found.sum - loss.sum).abs() < 1e-6 * loss.sum, "{name}");
            let apart = difference(&expected, &gradients);
            println!("{name}: largest relative difference of a gradient {apart:.1e}");
            assert!(apart < 1e-4, "{name}: gradients differ by {apart:e}");
        }
    }
    Ok(())
}

#[test]
fn packed_text_without_any_image() -> Result<(), ModelError> {
    let ids = vec![vec![1, 4, 5], vec![1, 9, 8, 7, 2], vec![6, 6]];
    let sequences = Sequences { slots: vec![vec![]; ids.len()], ids };
    let (padded, padded_labels) = sequences.padded();
    let (otter, specs) = Otter::new(&config())?;
    let parameters = random_parameters(&specs);
    let (text, labels, slots) = sequences.rows(&[vec![2, 1, 0]], 0);
    let (loss, expected) = run(&otter, &parameters, (None, &padded, &padded_labels), false)?;
    for media in [None, Some(vision(slots))] {
        let (packed, gradients) = run(&otter, &parameters, (media.as_ref(), &text, &labels), false)?;
        assert!((packed.sum - loss.sum).abs() < 1e-13 * loss.sum);
        assert!(difference(&expected, &gradients) < 1e-12);
    }
    Ok(())
}

/// Changing one segment leaves the hidden states of all others as they are, bit for bit.
#[test]
fn nothing_crosses_a_border() -> Result<(), ModelError> {
    let sequences = sequences();
    for (name, config) in configurations() {
        let (otter, specs) = Otter::new(&config)?;
        let parameters = random_parameters(&specs);
        let (text, _, slots) = sequences.rows(&[vec![0, 1, 2, 3, 4, 5, 6]], 2);
        let whole = otter.forward(&parameters, Some(&vision(slots.clone())), &text, &mut |_, _| {})?;
        let width = whole.width();
        let Some(segments) = &text.segments else { unreachable!("the rows are packed") };
        for changed in segments.list() {
            let mut other = text.clone();
            for id in &mut other.ids[segments.tokens(changed)] {
                *id = if *id == IMAGE { IMAGE } else { 10 - *id };
            }
            // Its media as well.
            let mut other_slots = slots.clone();
            let index = segments.list().iter().position(|segment| segment == changed).unwrap_or(0);
            other_slots[index].iter_mut().for_each(|item| *item = 1);
            let media = vision(other_slots);
            let hidden = otter.forward(&parameters, Some(&media), &other, &mut |_, _| {})?;
            for (token, (a, b)) in whole.data().chunks(width).zip(hidden.data().chunks(width)).enumerate() {
                let own = segments.tokens(changed).contains(&token);
                assert!(own || a == b, "{name}: token {token} depends on segment {index}");
            }
        }
    }
    Ok(())
}

#[test]
fn log_probabilities_stand_at_their_labels() -> Result<(), ModelError> {
    let sequences = sequences();
    let (otter, specs) = Otter::new(&config())?;
    let parameters = random_parameters(&specs);
    let (padded, padded_labels) = sequences.padded();
    let media = vision(sequences.slots.clone());
    let own = otter.log_probabilities(&parameters, Some(&media), &padded, &padded_labels)?;
    let (text, labels, slots) = sequences.rows(&[vec![0, 1, 2], vec![3, 4, 5, 6]], 1);
    let packed = otter.log_probabilities(&parameters, Some(&vision(slots)), &text, &labels)?;
    let Some(segments) = &text.segments else { unreachable!("the rows are packed") };
    for (index, segment) in segments.list().iter().enumerate() {
        let found = &packed[segments.tokens(segment)];
        let expected = &own[index * padded.length..][..segment.len];
        assert_eq!(found[0], None);
        for (found, expected) in found.iter().zip(expected) {
            match (found, expected) {
                (Some(a), Some(b)) => assert!((a - b).abs() < 1e-12),
                (found, expected) => assert_eq!(found, expected),
            }
        }
    }
    Ok(())
}

#[test]
fn wrong_segments_are_named() -> Result<(), ModelError> {
    let (otter, specs) = Otter::new(&config())?;
    let parameters = Parameters::<f32>::initialize(&specs, 1, Device::Cpu);
    let list = |len| vec![Segment { row: 0, start: 0, len: 2 }, Segment { row: 0, start: 2, len }];
    let text = |segments: Segments, masked: usize| TextInput {
        attention_mask: (0..5).map(|i| i + masked < 5).collect(),
        segments: Some(segments),
        ..TextInput::single(vec![1, 4, 1, 5, 6], IMAGE)
    };
    let loss = |text: &TextInput, labels: [i64; 5]| otter.loss(&parameters, None, text, &labels);
    let error = loss(&text(Segments::new(1, 5, list(2))?, 0), [-100; 5]);
    assert_eq!(error, Err(ModelError::SegmentMask { row: 0, position: 4, visible: true }));
    let error = loss(&text(Segments::new(1, 5, list(3))?, 1), [-100; 5]);
    assert_eq!(error, Err(ModelError::SegmentMask { row: 0, position: 4, visible: false }));
    let error = loss(&text(Segments::new(1, 5, list(2))?, 1), [-100, -100, -100, -100, 6]);
    assert_eq!(error, Err(ModelError::LabelOnPadding { row: 0, position: 4, label: 6 }));
    let error = loss(&text(Segments::new(1, 6, list(3))?, 0), [-100; 5]);
    assert!(matches!(error, Err(ModelError::Shape { found: 6, expected: 5, .. })));
    // One list of media a row instead of one a segment.
    let media = VisionInput {
        pixels: Tensor::zeros(&[1, 3, 4, 4], Device::Cpu),
        media_frames: std::iter::once(0..1).collect(),
        slots: vec![vec![]],
    };
    let right = text(Segments::new(1, 5, list(3))?, 0);
    let error = otter.forward(&parameters, Some(&media), &right, &mut |_, _| {}).map(|_| ());
    let what = "sequences of the vision input";
    assert_eq!(error, Err(ModelError::Shape { what, found: 1, expected: 2 }));
    Ok(())
}
