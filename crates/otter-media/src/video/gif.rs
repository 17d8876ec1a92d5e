//! Animated GIF files. Their frames differ from the one before, so that all are decoded, one at a time.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, Limits};

use super::scene::SceneScore;
use super::select::{Selection, plan};
use super::{Frames, Picture, VideoError, VideoFrame, VideoOptions, frame_number};
use crate::DecodedImage;
use crate::ImageRules;
use crate::{MAX_PIXELS, RgbImage};

/// Delays below this are written by programs that mean "as fast as possible"; browsers show them for a tenth of a second.
const SHORTEST_DELAY: f64 = 0.02;
const USUAL_DELAY: f64 = 0.1;

/// Frames with the time at which each is shown.
struct Decoded {
    path: PathBuf,
    frames: image::Frames<'static>,
    time: f64,
    rules: ImageRules,
    /// What comes after the damage is not delivered.
    ended: bool,
}

fn decode(path: &Path, rules: ImageRules) -> Result<Decoded, VideoError> {
    let file = File::open(path).map_err(|error| VideoError::io(path, error))?;
    let broken = |error: image::ImageError| VideoError::broken(path, error.to_string());
    let mut decoder = GifDecoder::new(BufReader::new(file)).map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(VideoError::broken(path, format!("{width} x {height} pixels exceed the limit")));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 16);
    decoder.set_limits(limits).map_err(broken)?;
    Ok(Decoded { path: path.to_owned(), frames: decoder.into_frames(), time: 0.0, rules, ended: false })
}

impl Iterator for Decoded {
    type Item = Result<(f64, RgbImage), VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let frame = match self.frames.next()? {
            Ok(frame) => frame,
            Err(error) => {
                self.ended = true;
                return Some(Err(VideoError::broken(&self.path, error.to_string())));
            }
        };
        let shown = self.time;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay = f64::from(numerator) / f64::from(denominator.max(1)) / 1000.0;
        self.time += if delay < SHORTEST_DELAY { USUAL_DELAY } else { delay };
        let decoded = DecodedImage::new(DynamicImage::ImageRgba8(frame.into_buffer()), false);
        Some(match decoded.into_rgb(self.rules) {
            Ok(image) => Ok((shown, image)),
            Err(_) => Err(VideoError::broken(&self.path, "a frame without pixels")),
        })
    }
}

/// Opens a GIF.
pub fn open(path: &Path, options: &VideoOptions) -> Result<Frames, VideoError> {
    let (from, to) = options.range.unwrap_or((0.0, f64::INFINITY));
    // One pass for the times, because the number of frames stands nowhere in the file.
    let mut counting = decode(path, options.rules)?;
    let mut times = Vec::new();
    for frame in counting.by_ref() {
        times.push(frame?.0);
    }
    let inside: Vec<f64> = times.iter().copied().filter(|time| (from..=to).contains(time)).collect();
    let skipped = times.iter().take_while(|time| **time < from).count();
    if inside.is_empty() {
        return Err(VideoError::NoFrames { path: path.to_owned(), hint: String::new() });
    }
    let seconds = counting.time.min(to) - from;
    let scenes = |threshold: f64| -> Result<Vec<usize>, VideoError> {
        let mut score = SceneScore::default();
        let mut scenes = Vec::new();
        for (index, frame) in decode(path, options.rules)?.skip(skipped).take(inside.len()).enumerate() {
            if score.next(frame?.1) > threshold || index == 0 {
                scenes.push(index);
            }
        }
        Ok(scenes)
    };
    let (selection, thinned) =
        plan(options, &mut || Ok(seconds), &mut || Ok(inside.len()), &mut |threshold| scenes(threshold))?;
    let selection = match selection {
        Selection::Scenes(threshold) => Selection::Listed(scenes(threshold)?),
        other => other,
    };
    let mut place = 0;
    let mut before = None;
    let sampling = options.sampling;
    let frames = decode(path, options.rules)?.skip(skipped).take(inside.len()).enumerate().filter_map(
        move |(index, frame)| {
            let (timestamp, image) = match frame {
                Ok(frame) => frame,
                Err(error) => return Some(Err(error)),
            };
            let kept = selection.keeps(index, timestamp, before);
            before = Some(timestamp);
            kept.then(|| {
                let number = frame_number(sampling, timestamp, place);
                place += 1;
                Ok(VideoFrame { timestamp, number, picture: Picture::Pixels(image) })
            })
        },
    );
    Ok(Frames { frames: Box::new(frames), thinned })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use image::codecs::gif::GifEncoder;
    use image::{Delay, Frame, Rgba, RgbaImage};

    use super::super::{FrameSampling, open_frames};
    use super::*;

    /// A GIF of flat frames of 8 x 6 pixels: gray level and delay in milliseconds of each.
    fn write(path: &Path, frames: &[(u8, u32)]) {
        let mut encoder = GifEncoder::new(File::create(path).unwrap());
        for &(level, delay) in frames {
            let image = RgbaImage::from_pixel(8, 6, Rgba([level, level, level, 255]));
            let delay = Delay::from_numer_denom_ms(delay, 1);
            encoder.encode_frame(Frame::from_parts(image, 0, 0, delay)).unwrap();
        }
    }

    fn levels(path: &Path, sampling: FrameSampling) -> Vec<(f64, u8)> {
        let options = VideoOptions { sampling, ..VideoOptions::default() };
        let frames = open_frames(path, &options).unwrap();
        frames
            .map(|frame| {
                let frame = frame.unwrap();
                let Picture::Pixels(image) = frame.picture else { panic!("a GIF is decoded") };
                assert_eq!((image.width(), image.height()), (8, 6));
                ((frame.timestamp * 1000.0).round() / 1000.0, image.pixels()[0])
            })
            .collect()
    }

    #[test]
    fn frames_have_the_times_of_their_delays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        write(&path, &[(0, 500), (40, 250), (80, 0), (120, 1000), (200, 500)]);
        let all = levels(&path, FrameSampling::Uniform(100));
        assert_eq!(all, [(0.0, 0), (0.5, 40), (0.75, 80), (0.85, 120), (1.85, 200)]);
        assert_eq!(levels(&path, FrameSampling::Fps(1.0)), [(0.0, 0), (1.85, 200)]);
        assert_eq!(levels(&path, FrameSampling::Uniform(1)), [(0.75, 80)]);
        assert_eq!(levels(&path, FrameSampling::SceneChange(0.35)), [(0.0, 0), (0.5, 40), (1.85, 200)]);
    }

    #[test]
    fn a_cut_gif_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        write(&path, &[(0, 500), (40, 250)]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 12]).unwrap();
        let error = open_frames(&path, &VideoOptions::default()).unwrap_err();
        assert_eq!(error.reason(), Some("broken_video"));
        assert!(error.to_string().contains("a.gif"));
    }
}
