//! Bicubic and Lanczos resampling of 8-bit RGB, equal to Pillow's to the last bit.
//!
//! The filter (bicubic: a = -0.5; Lanczos: three lobes) is widened when shrinking (antialias). Weights are fixed-point numbers
//! with 22 fraction bits, and the result is rounded to 8 bits after each of the two passes. The
//! order of the passes therefore shows; it is that of Pillow 13 (earlier versions always began
//! along the rows, which differs by one level here and there in tall images).

use std::ops::Range;

use super::resize_passes::{resize_columns, resize_rows};
use super::resize_weights::{BICUBIC, Filter, LANCZOS, Weights};
use super::rgb::RgbImage;

/// Resizes to `width` x `height`, both at least 1; the aspect ratio is not kept.
pub fn resize_bicubic(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let (width, height) = (width.max(1), height.max(1));
    resize_bicubic_window(image, (width, height), 0..width, 0..height)
}

/// As [`resize_bicubic`] with the Lanczos filter of three lobes, which the original's converters use.
pub fn resize_lanczos(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let (width, height) = (width.max(1), height.max(1));
    resize_window(LANCZOS, image, (width, height), 0..width, 0..height)
}

/// The part `columns` x `rows` of the image resized to `size` (width, height). Only that part is
/// computed, so a very long image needs no more memory than its crop. The ranges must not be empty
/// and must lie inside `size`.
pub fn resize_bicubic_window(
    image: &RgbImage,
    size: (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
) -> RgbImage {
    resize_window(BICUBIC, image, size, columns, rows)
}

fn resize_window(
    filter: Filter,
    image: &RgbImage,
    size: (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
) -> RgbImage {
    let (width, height) = (columns.len(), rows.len());
    let source_row_bytes = image.width() * 3;
    let across =
        (size.0 != image.width()).then(|| Weights::new(filter, image.width(), size.0, columns.clone()));
    let down = (size.1 != image.height()).then(|| Weights::new(filter, image.height(), size.1, rows.clone()));
    let resample_across = |input: &[u8]| match &across {
        Some(weights) => resize_rows(input, source_row_bytes, weights),
        None => crop_columns(input, source_row_bytes, columns),
    };
    // Input rows that reach the output.
    let needed = down.as_ref().map_or(rows, Weights::inputs);
    let input = &image.pixels()[needed.start * source_row_bytes..needed.end * source_row_bytes];
    let pixels = match &down {
        None => resample_across(input),
        Some(weights) if columns_first((image.width(), image.height()), size) => {
            resample_across(&resize_columns(input, source_row_bytes, needed.start, weights))
        }
        Some(weights) => resize_columns(&resample_across(input), width * 3, needed.start, weights),
    };
    match RgbImage::new(width, height, pixels) {
        Some(resized) => resized,
        None => unreachable!("both passes fill width x height pixels"),
    }
}

/// Whether the pass along the columns comes first: when the height loses more than twice as many
/// pixels as the width. Found by comparing both orders with Pillow 13.0.0 on a grid of sizes.
fn columns_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    lost(from.1, to.1) > 0 && lost(from.1, to.1) > 2 * lost(from.0, to.0)
}

fn crop_columns(input: &[u8], row_bytes: usize, columns: Range<usize>) -> Vec<u8> {
    let mut cropped = Vec::with_capacity(input.len() / row_bytes * columns.len() * 3);
    for row in input.chunks_exact(row_bytes) {
        cropped.extend_from_slice(&row[columns.start * 3..columns.end * 3]);
    }
    cropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_stays_flat() {
        for (from, to) in [((7, 5), (3, 9)), ((1, 1), (4, 4)), ((40, 3), (1, 1))] {
            let image = RgbImage::new(from.0, from.1, vec![200; from.0 * from.1 * 3]).expect("sizes fit");
            let resized = resize_bicubic(&image, to.0, to.1);
            assert_eq!((resized.width(), resized.height()), to);
            assert!(resized.pixels().iter().all(|&value| value == 200));
        }
    }

    fn patterned(width: usize, height: usize) -> RgbImage {
        let pixels = (0..width * height * 3).map(|i| (i * 37 % 251) as u8).collect();
        RgbImage::new(width, height, pixels).expect("sizes fit")
    }

    #[test]
    fn lanczos_equals_recorded_values_of_pillow() {
        let small = resize_lanczos(&patterned(7, 5), 3, 4);
        let expected = [
            99, 74, 121, 163, 109, 88, 117, 159, 133, 98, 118, 161, 167, 73, 130, 160, 150, 77, 99, 145, 113,
            92, 119, 158, 167, 115, 117, 140, 174, 90, 109, 154, 90, 82, 97, 147,
        ];
        assert_eq!(small.pixels(), expected);
        let tall = resize_lanczos(&patterned(40, 90), 16, 9);
        assert_eq!(tall.pixels()[..8], [121, 124, 124, 123, 131, 116, 125, 121]);
        let sum: usize =
            tall.pixels().iter().enumerate().map(|(at, &value)| (at + 1) * usize::from(value)).sum();
        assert_eq!(sum, 11_691_307);
    }

    #[test]
    fn a_window_equals_the_same_part_of_the_whole() {
        let image = patterned(50, 40);
        for size in [(20, 90), (50, 17), (120, 40), (50, 40)] {
            let whole = resize_bicubic(&image, size.0, size.1);
            let part = resize_bicubic_window(&image, size, 3..17, 5..16);
            for y in 0..11 {
                let start = ((y + 5) * size.0 + 3) * 3;
                assert_eq!(part.pixels()[y * 42..(y + 1) * 42], whole.pixels()[start..start + 42]);
            }
        }
    }
}
