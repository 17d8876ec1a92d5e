//! Frames of a video with their times: video files through an `ffmpeg` child process, GIF files and folders of images
//! without it.
//!
//! | source | decoded by | frames held at once |
//! |---|---|---|
//! | video file | `ffmpeg`, as a stream of PPM pictures over a pipe | 3, whatever the length |
//! | GIF | the `image` crate, twice: once to count, once to deliver | 2 |
//! | folder of images | nobody: the files' bytes are handed on | 1 |
//!
//! ```no_run
//! use otter_media::video::{FrameSampling, VideoOptions, open_frames};
//!
//! let options = VideoOptions { sampling: FrameSampling::Uniform(16), ..VideoOptions::default() };
//! for frame in open_frames("clip.mp4".as_ref(), &options)? {
//!     let frame = frame?;
//!     println!("{:.3} s", frame.timestamp);
//! }
//! # Ok::<(), otter_media::video::VideoError>(())
//! ```

mod error;
mod ffmpeg;
mod ffmpeg_log;
mod ffmpeg_process;
mod gif;
mod scene;
mod select;
mod sequence;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::VideoError;
pub use ffmpeg_process::find_ffmpeg;
pub use select::spread;
pub use sequence::{image_files, natural_order};

use crate::ImageRules;
use crate::RgbImage;

/// Which frames of a video are taken.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameSampling {
    /// This many: from the middle of as many equal parts. All frames where there are fewer.
    Uniform(usize),
    /// The first frame of every 1/rate seconds. Rates below 1 are meant: 0.5 is a frame every two seconds.
    Fps(f64),
    /// The first frame, and every frame whose scene score (0 to 1, as ffmpeg's `scene`) is above this. 0.3 is usual.
    SceneChange(f64),
}

/// Most frames of one video unless asked otherwise: what a video checkpoint has frame embeddings for.
pub const DEFAULT_MAX_FRAMES: usize = 128;

/// How a video is read.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoOptions {
    /// Which frames.
    pub sampling: FrameSampling,
    /// Most frames; a longer selection is thinned out evenly. 0: no limit.
    pub max_frames: usize,
    /// Part of the video, from and to in seconds.
    pub range: Option<(f64, f64)>,
    /// Longest side in pixels; larger frames of video files are scaled down by ffmpeg.
    pub max_side: Option<u32>,
    /// Images a second in a folder of images, from which their times follow.
    pub sequence_fps: f64,
    /// The program; `None`: `OTTER_FFMPEG`, then `ffmpeg` on PATH.
    pub ffmpeg: Option<PathBuf>,
    /// Longest silence of ffmpeg.
    pub timeout: Duration,
    /// Threads of ffmpeg's decoder; `None`: its own choice.
    pub threads: Option<usize>,
    /// How GIFs are shown where they are transparent, and what images of folders look like where scenes are sought.
    pub rules: ImageRules,
}

impl Default for VideoOptions {
    fn default() -> Self {
        Self {
            sampling: FrameSampling::Fps(1.0),
            max_frames: DEFAULT_MAX_FRAMES,
            range: None,
            max_side: None,
            sequence_fps: 1.0,
            ffmpeg: None,
            timeout: Duration::from_secs(60),
            threads: None,
            rules: ImageRules::default(),
        }
    }
}

impl VideoOptions {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), VideoError> {
        let wrong = |message: String| Err(VideoError::Option(message));
        match self.sampling {
            FrameSampling::Uniform(0) => return wrong("0 frames are asked for; ask for at least 1".into()),
            FrameSampling::Fps(rate) if !(1e-4..=1000.0).contains(&rate) => {
                return wrong(format!("{rate} frames a second; it must be from 0.0001 to 1000"));
            }
            FrameSampling::SceneChange(score) if !(score > 0.0 && score < 1.0) => {
                return wrong(format!("a scene score of {score}; it must be between 0 and 1 (0.3 is usual)"));
            }
            _ => {}
        }
        if !(self.sequence_fps.is_finite() && self.sequence_fps > 0.0) {
            return wrong(format!("{} images a second in folders; it must be above 0", self.sequence_fps));
        }
        match self.range {
            Some((from, to)) if !(from >= 0.0 && to > from && to.is_finite()) => {
                wrong(format!("the part from {from} s to {to} s; the end must come after the start"))
            }
            _ => Ok(()),
        }
    }
}

/// Pixels, or the bytes of an image file as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// Decoded.
    Pixels(RgbImage),
    /// PNG, JPEG or another image format, not looked at.
    Encoded(Vec<u8>),
}

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoFrame {
    /// Seconds after the first frame of the video.
    pub timestamp: f64,
    /// At a fixed rate the number of the 1/rate second that the frame stands for, otherwise its place among those taken.
    pub number: usize,
    /// What it shows.
    pub picture: Picture,
}

/// Frames in order of time. Dropping it ends the decoder.
pub struct Frames {
    frames: Box<dyn Iterator<Item = Result<VideoFrame, VideoError>>>,
    thinned: bool,
}

impl Frames {
    /// Whether the limit left out frames that the sampling asks for.
    pub fn thinned(&self) -> bool {
        self.thinned
    }
}

impl Iterator for Frames {
    type Item = Result<VideoFrame, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.frames.next()
    }
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Frames").field("thinned", &self.thinned).finish_non_exhaustive()
    }
}

/// Opens a video file, a GIF, or a folder of images.
pub fn open_frames(path: &Path, options: &VideoOptions) -> Result<Frames, VideoError> {
    options.check()?;
    let metadata = fs::metadata(path).map_err(|error| VideoError::io(path, error))?;
    if metadata.is_dir() {
        return sequence::open(path, options);
    }
    let mut magic = [0; 6];
    let mut file = fs::File::open(path).map_err(|error| VideoError::io(path, error))?;
    if file.read_exact(&mut magic).is_ok() && (&magic == b"GIF87a" || &magic == b"GIF89a") {
        return gif::open(path, options);
    }
    ffmpeg::open(path, options)
}

/// Whether `path` is something to read as a video rather than as one image: a folder, a GIF, or no image file.
pub fn is_video(path: &Path) -> bool {
    const STILL: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    path.is_dir() || extension.is_some_and(|extension| !STILL.contains(&extension.as_str()))
}

/// The number of a frame, see [`VideoFrame::number`].
fn frame_number(sampling: FrameSampling, timestamp: f64, place: usize) -> usize {
    match sampling {
        FrameSampling::Fps(rate) => select::cell(timestamp, 1.0 / rate),
        _ => place,
    }
}
