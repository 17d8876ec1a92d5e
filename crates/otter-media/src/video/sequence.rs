//! A folder of images as a video: files in natural order, their bytes untouched.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use super::scene::SceneScore;
use super::select::{Selection, plan};
use super::{Frames, Picture, VideoError, VideoFrame, VideoOptions, frame_number};
use crate::ImageRules;
use crate::load_image_file;

const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "gif"];

/// Image files directly in a folder, in natural order.
pub fn image_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let known = path
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)));
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort_by(|a, b| {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        natural_order(&name(a), &name(b))
    });
    Ok(files)
}

/// Order in which runs of digits count as numbers: `2` before `10`. Equal numbers: the shorter writing first.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (Some(first), Some(second)) = (left.chars().next(), right.chars().next()) else {
            return left.len().cmp(&right.len()).then_with(|| a.len().cmp(&b.len())).then_with(|| a.cmp(b));
        };
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (one, rest_of_left) = split_number(left);
            let (other, rest_of_right) = split_number(right);
            (left, right) = (rest_of_left, rest_of_right);
            one.len().cmp(&other.len()).then_with(|| one.cmp(other))
        } else {
            (left, right) = (&left[first.len_utf8()..], &right[second.len_utf8()..]);
            first.cmp(&second)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The digits at the start without leading zeros, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}

/// Opens a folder of images.
pub fn open(folder: &Path, options: &VideoOptions) -> Result<Frames, VideoError> {
    let files = image_files(folder).map_err(|error| VideoError::io(folder, error))?;
    if files.is_empty() {
        return Err(VideoError::NoFrames {
            path: folder.to_owned(),
            hint: format!(": the folder holds no image file ({})", EXTENSIONS.join(", ")),
        });
    }
    let rate = options.sequence_fps;
    let (from, to) = options.range.unwrap_or((0.0, f64::INFINITY));
    let files: Vec<(f64, PathBuf)> = files
        .into_iter()
        .enumerate()
        .map(|(index, file)| (index as f64 / rate, file))
        .filter(|(time, _)| (from..=to).contains(time))
        .collect();
    let (selection, thinned) =
        plan(options, &mut || Ok(files.len() as f64 / rate), &mut || Ok(files.len()), &mut |threshold| {
            scenes(&files, threshold, options.rules)
        })?;
    let selection = match selection {
        Selection::Scenes(threshold) => Selection::Listed(scenes(&files, threshold, options.rules)?),
        other => other,
    };
    let times: Vec<f64> = files.iter().map(|(time, _)| *time).collect();
    let kept: Vec<(f64, PathBuf)> = files
        .into_iter()
        .enumerate()
        .filter(|(index, (time, _))| {
            selection.keeps(*index, *time, index.checked_sub(1).map(|before| times[before]))
        })
        .map(|(_, file)| file)
        .collect();
    let sampling = options.sampling;
    let frames = kept.into_iter().enumerate().map(move |(place, (timestamp, file))| {
        let bytes = fs::read(&file).map_err(|error| VideoError::io(&file, error))?;
        let number = frame_number(sampling, timestamp, place);
        Ok(VideoFrame { timestamp, number, picture: Picture::Encoded(bytes) })
    });
    Ok(Frames { frames: Box::new(frames), thinned })
}

fn scenes(files: &[(f64, PathBuf)], threshold: f64, rules: ImageRules) -> Result<Vec<usize>, VideoError> {
    let mut score = SceneScore::default();
    let mut scenes = Vec::new();
    for (index, (_, file)) in files.iter().enumerate() {
        let image =
            load_image_file(file, rules).map_err(|error| VideoError::broken(file, error.to_string()))?;
        if score.next(image) > threshold || index == 0 {
            scenes.push(index);
        }
    }
    Ok(scenes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::super::{FrameSampling, open_frames};
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["f10.png", "f2.png", "f1.png", "f01.png", "g.png", "f1b.png", "f"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["f", "f1.png", "f01.png", "f1b.png", "f2.png", "f10.png", "g.png"]);
    }

    proptest! {
        #[test]
        fn natural_order_is_an_order(a in "[a0-2é]{0,6}", b in "[a0-2é]{0,6}", c in "[a0-2é]{0,6}") {
            prop_assert_eq!(natural_order(&a, &b), natural_order(&b, &a).reverse());
            prop_assert_eq!(natural_order(&a, &b) == Ordering::Equal, a == b);
            if natural_order(&a, &b).is_le() && natural_order(&b, &c).is_le() {
                prop_assert!(natural_order(&a, &c).is_le());
            }
        }
    }

    #[test]
    fn a_folder_gives_its_bytes_in_order_with_times() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..12 {
            fs::write(folder.path().join(format!("frame_{number}.jpg")), [number]).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "no image").unwrap();
        let options = VideoOptions {
            sampling: FrameSampling::Uniform(3),
            sequence_fps: 2.0,
            ..VideoOptions::default()
        };
        let frames: Vec<(f64, usize, Picture)> = open_frames(folder.path(), &options)
            .unwrap()
            .map(Result::unwrap)
            .map(|frame| (frame.timestamp, frame.number, frame.picture))
            .collect();
        let expected = [(1.0, 0, 2), (3.0, 1, 6), (5.0, 2, 10)]
            .map(|(time, number, byte)| (time, number, Picture::Encoded(vec![byte])));
        assert_eq!(frames, expected);
        let part = VideoOptions {
            range: Some((2.0, 3.0)),
            sampling: FrameSampling::Fps(2.0),
            sequence_fps: 2.0,
            ..VideoOptions::default()
        };
        let numbers: Vec<usize> =
            open_frames(folder.path(), &part).unwrap().map(|frame| frame.unwrap().number).collect();
        assert_eq!(numbers, [4, 5, 6]);
        let empty = tempfile::tempdir().unwrap();
        let error = open_frames(empty.path(), &options).unwrap_err();
        assert_eq!(error.reason(), Some("no_frames"));
    }
}
