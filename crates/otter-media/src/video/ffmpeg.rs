//! Video files: what is asked of ffmpeg for each way of sampling.
//!
//! The filter chain is `showinfo, select, [scale,] showinfo`: the first tells that ffmpeg is alive even while nothing is
//! kept, the last tells the times of what is kept. Pictures come as PPM, which carries its own size.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ffmpeg_process::{Process, find_ffmpeg};
use super::select::{Selection, plan};
use super::{FrameSampling, Frames, Picture, VideoError, VideoFrame, VideoOptions, frame_number};
use crate::AlphaRule;
use crate::RgbImage;
use crate::{ImageNote, ImageNotes};

/// Parts longer than this are reached by seeking instead of decoding everything between two frames.
const SEEK_FROM_SECONDS: f64 = 20.0;

/// A seek stops this much before the frame it is after: times in files are rounded.
const SEEK_MARGIN: f64 = 1e-3;

/// A video file and the program that reads it.
#[derive(Clone)]
struct Reader {
    program: PathBuf,
    path: PathBuf,
    options: VideoOptions,
    /// Version 5.1 renamed an option that later versions no longer have under its old name.
    modern: bool,
    /// The pixels of the file have an alpha channel.
    alpha: bool,
    /// The decoder that reads the alpha channel where ffmpeg's own does not.
    decoder: Option<&'static str>,
}

/// What the head of a file says.
#[derive(Clone)]
struct Head {
    duration: Option<f64>,
    rate: Option<f64>,
    alpha: bool,
    codec: Option<String>,
}

/// Opens a video file.
pub fn open(path: &Path, options: &VideoOptions) -> Result<Frames, VideoError> {
    let program = find_ffmpeg(options.ffmpeg.as_deref())?;
    let modern = is_modern(&program)?;
    let mut reader = Reader {
        program,
        path: path.to_owned(),
        options: options.clone(),
        modern,
        alpha: false,
        decoder: None,
    };
    let head = reader.head()?;
    reader.alpha = head.alpha;
    if head.alpha && options.rules.alpha != AlphaRule::Drop {
        reader.decoder = alpha_decoder(&reader.program, head.codec.as_deref());
    }
    if let Some(frames) = reader.seek_uniform(&head)? {
        return Ok(frames);
    }
    let (selection, thinned) = plan(
        options,
        &mut || match (options.range, head.duration) {
            (Some((from, to)), duration) => Ok((duration.unwrap_or(to).min(to) - from).max(0.0)),
            (None, Some(duration)) => Ok(duration),
            (None, None) => reader.frame_times("1").map(|times| times.last().copied().unwrap_or(0.0)),
        },
        &mut || reader.count(),
        &mut |threshold| reader.scenes(threshold),
    )?;
    let process = reader.decode(&selection, options.range)?;
    let frames = Pictures { process, reader, place: 0, failed: false };
    Ok(Frames { frames: Box::new(frames), thinned })
}

/// Whether the version is 5.1 or newer; builds without a number are.
fn is_modern(program: &Path) -> Result<bool, VideoError> {
    let output = std::process::Command::new(program)
        .arg("-version")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| VideoError::NoFfmpeg {
            tried: format!("{} cannot be started ({error})", program.display()),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(version) = text.strip_prefix("ffmpeg version ") else {
        return Err(VideoError::NoFfmpeg {
            tried: format!("{} -version does not answer as ffmpeg does", program.display()),
        });
    };
    let mut numbers = version.trim_start_matches('n').split(['.', '-', ' ']).map(str::parse::<u32>);
    Ok(match (numbers.next(), numbers.next()) {
        (Some(Ok(5)), Some(Ok(minor))) => minor >= 1,
        (Some(Ok(major)), _) => major > 5,
        _ => true,
    })
}

/// The decoder of a codec that reads an alpha channel, if it is not ffmpeg's own and ffmpeg has it.
fn alpha_decoder(program: &Path, codec: Option<&str>) -> Option<&'static str> {
    let wanted = match codec? {
        "vp8" => "libvpx",
        "vp9" => "libvpx-vp9",
        _ => return None,
    };
    let listing = std::process::Command::new(program)
        .args(["-hide_banner", "-decoders"])
        .stdin(std::process::Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&listing.stdout);
    text.lines().any(|line| line.split_whitespace().nth(1) == Some(wanted)).then_some(wanted)
}

impl Reader {
    fn arguments(&self, before_input: &[OsString], after_input: &[OsString]) -> Vec<OsString> {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let mut arguments = words("-hide_banner -nostdin -nostats -loglevel level+info");
        if let Some(threads) = self.options.threads {
            arguments.extend(["-threads".into(), threads.to_string().into()]);
        }
        // A playlist that names addresses or other files' contents is data, too: it gets no network.
        arguments.extend(words("-protocol_whitelist file"));
        arguments.extend_from_slice(before_input);
        if let Some(decoder) = self.decoder {
            arguments.extend(["-c:v".into(), decoder.into()]);
        }
        let mut input = OsString::from("file:");
        input.push(&self.path);
        arguments.extend(["-i".into(), input]);
        arguments.extend_from_slice(after_input);
        arguments
    }

    fn start(
        &self,
        before: &[OsString],
        after: &[OsString],
        last_filter: usize,
    ) -> Result<Process, VideoError> {
        let arguments = self.arguments(before, after);
        Process::start(&self.program, &arguments, &self.path, self.options.timeout, last_filter)
    }

    /// Opens the file without decoding it.
    fn head(&self) -> Result<Head, VideoError> {
        let mut process = self.start(&[], &[], 1)?;
        // Without an output ffmpeg always ends with an error; the real one comes again with the next run.
        match process.run_to_end() {
            Ok(()) | Err(VideoError::Broken { .. }) => {}
            Err(other) => return Err(other),
        }
        let log = process.log();
        Ok(Head { duration: log.duration, rate: log.rate, alpha: log.alpha, codec: log.codec.clone() })
    }

    fn showinfo(&self) -> &'static str {
        // Check sums of every frame would cost a tenth of the time.
        if self.modern { "showinfo=checksum=0" } else { "showinfo" }
    }

    /// `-ss` and `-t` before the input.
    fn seek(from: f64, seconds: Option<f64>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["-ss".into(), format!("{from:.6}").into()];
        if let Some(seconds) = seconds {
            arguments.extend(["-t".into(), format!("{seconds:.6}").into()]);
        }
        arguments
    }

    /// The start of the decoded part: on the grid of a fixed rate, so that parts agree about numbers of frames.
    fn part(&self) -> Option<(f64, f64)> {
        let (from, to) = self.options.range?;
        Some(match self.options.sampling {
            FrameSampling::Fps(rate) => ((from * rate + 1e-6).floor() / rate, to),
            _ => (from, to),
        })
    }

    fn output(&self, chain: &str, most: Option<usize>, pictures: bool) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["-map", "0:v:0", "-an", "-sn", "-dn", "-vf"].map(Into::into).into();
        arguments.push(chain.into());
        let passthrough = if self.modern { ["-fps_mode", "passthrough"] } else { ["-vsync", "passthrough"] };
        arguments.extend(passthrough.map(Into::into));
        if let Some(most) = most {
            arguments.extend(["-frames:v".into(), most.max(1).to_string().into()]);
        }
        let form: &[&str] = if pictures {
            &["-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"]
        } else {
            &["-f", "null", "-"]
        };
        arguments.extend(form.iter().map(Into::into));
        arguments
    }

    /// Starts to decode the frames of a selection.
    fn decode(&self, selection: &Selection, range: Option<(f64, f64)>) -> Result<Process, VideoError> {
        let origin = if range.is_some() { "0" } else { "start_t" };
        let info = self.showinfo();
        let select = format!("select='{}'", selection.expression(origin));
        let (scale, last) = match self.options.max_side {
            Some(side) => (
                format!(
                    "scale=w='max(1,round(iw*min(1,{side}/max(iw,ih))))':h='max(1,round(ih*min(1,{side}/max(iw,ih))))':\
                     flags=lanczos,"
                ),
                3,
            ),
            None => (String::new(), 2),
        };
        let (ground, filters) = self.ground();
        let (chain, last) = (format!("{info},{select},{ground}{scale}{info}"), last + filters);
        let before = self.part().map_or_else(Vec::new, |(from, to)| Self::seek(from, Some(to - from)));
        self.start(&before, &self.output(&chain, selection.most(), true), last)
    }

    /// Filters that show a transparent picture over the color of the rule, and how many they are.
    fn ground(&self) -> (&'static str, usize) {
        match self.options.rules.alpha {
            AlphaRule::White if self.alpha => ("format=gbrap,negate,premultiply=inplace=1,negate,", 4),
            AlphaRule::Black if self.alpha => ("format=gbrap,premultiply=inplace=1,", 2),
            AlphaRule::White | AlphaRule::Black | AlphaRule::Drop => ("", 0),
        }
    }

    /// A picture with a note where it may be transparent.
    fn noted(&self, image: RgbImage) -> Picture {
        Picture::Pixels(if self.alpha {
            image.with_notes(ImageNotes::from_iter([ImageNote::VideoAlpha]))
        } else {
            image
        })
    }

    /// Times of the frames for which an expression holds, without their pictures.
    fn frame_times(&self, expression: &str) -> Result<Vec<f64>, VideoError> {
        let info = self.showinfo();
        let before = self.part().map_or_else(Vec::new, |(from, to)| Self::seek(from, Some(to - from)));
        let chain = format!("{info},select='{expression}',{info}");
        let mut process = self.start(&before, &self.output(&chain, None, false), 2)?;
        process.run_to_end()?;
        Ok(process.times())
    }

    /// Number of frames, counted rather than computed from the head: rates vary, and heads are wrong.
    fn count(&self) -> Result<usize, VideoError> {
        if self.options.range.is_some() {
            return Ok(self.frame_times("1")?.len());
        }
        // One packet a frame; copying them decodes nothing.
        let copied = ["-map", "0:v:0", "-c", "copy", "-f", "null", "-"].map(OsString::from);
        let mut process = self.start(&[], &copied, 1)?;
        process.run_to_end()?;
        let counted = process.log().frames;
        counted.map_or_else(|| Ok(self.frame_times("1")?.len()), Ok)
    }

    /// Numbers of the frames at which scenes begin.
    fn scenes(&self, threshold: f64) -> Result<Vec<usize>, VideoError> {
        let all = self.frame_times("1")?;
        let scenes = self.frame_times(&Selection::Scenes(threshold).expression("0"))?;
        // Both lists are in order and the second is part of the first.
        let mut index = 0;
        let mut numbers = Vec::with_capacity(scenes.len());
        for time in scenes {
            while index < all.len() && all[index] != time {
                index += 1;
            }
            if index < all.len() {
                numbers.push(index);
                index += 1;
            }
        }
        Ok(numbers)
    }

    /// For a few frames far apart: each is sought by itself.
    fn seek_uniform(&self, head: &Head) -> Result<Option<Frames>, VideoError> {
        let FrameSampling::Uniform(wanted) = self.options.sampling else { return Ok(None) };
        let (Some(duration), Some(rate)) = (head.duration, head.rate) else { return Ok(None) };
        let limit = if self.options.max_frames == 0 { usize::MAX } else { self.options.max_frames };
        let wanted_here = wanted.min(limit);
        let (from, to) = self.options.range.map_or((0.0, duration), |(from, to)| (from, to.min(duration)));
        let part = (to - from) / wanted_here as f64;
        if part < SEEK_FROM_SECONDS {
            return Ok(None);
        }
        // The frame on the screen in the middle of each part: the first one later than that minus its own length.
        let times: Vec<f64> = (0..wanted_here)
            .map(|index| (from + (index as f64 + 0.5) * part - 1.0 / rate + SEEK_MARGIN).max(0.0))
            .collect();
        let seeking = Seeking { reader: self.clone(), times, place: 0, delivered: 0, failed: false };
        Ok(Some(Frames { frames: Box::new(seeking), thinned: wanted > limit }))
    }
}

/// The frames of one run.
struct Pictures {
    process: Process,
    reader: Reader,
    place: usize,
    failed: bool,
}

impl Iterator for Pictures {
    type Item = Result<VideoFrame, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let (time, image) = match self.process.next_picture() {
            Ok(Some(picture)) => picture,
            Ok(None) if self.place > 0 => return None,
            Ok(None) => {
                self.failed = true;
                let hint = if self.process.log().has_error() {
                    format!(" ({})", self.process.log().failure())
                } else {
                    " that was asked for".to_owned()
                };
                return Some(Err(VideoError::NoFrames { path: self.reader.path.clone(), hint }));
            }
            Err(error) => {
                self.failed = true;
                return Some(Err(error));
            }
        };
        // Times count from the first frame of the file, or from where a part was asked to begin.
        let timestamp = match self.reader.part() {
            Some((from, _)) => from + time,
            None => time - self.process.log().first_time.unwrap_or(0.0),
        };
        let timestamp = if timestamp.is_finite() { timestamp.max(0.0) } else { self.place as f64 };
        let number = frame_number(self.reader.options.sampling, timestamp, self.place);
        self.place += 1;
        Some(Ok(VideoFrame { timestamp, number, picture: self.reader.noted(image) }))
    }
}

/// Frames that are each reached by a seek.
struct Seeking {
    reader: Reader,
    times: Vec<f64>,
    place: usize,
    delivered: usize,
    failed: bool,
}

impl Seeking {
    fn one(&self, time: f64) -> Result<Option<(f64, RgbImage)>, VideoError> {
        let selection = Selection::Listed(vec![0]);
        let mut alone = self.reader.clone();
        // `decode` seeks to the start of the part.
        alone.options.range = Some((time, time + SEEK_FROM_SECONDS));
        alone.options.sampling = FrameSampling::Uniform(1);
        let mut process = alone.decode(&selection, alone.options.range)?;
        Ok(process.next_picture()?.map(|(after, image)| (time + after, image)))
    }
}

impl Iterator for Seeking {
    type Item = Result<VideoFrame, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed && self.place < self.times.len() {
            let time = self.times[self.place];
            self.place += 1;
            match self.one(time) {
                // The head promised more than there is.
                Ok(None) => {}
                Ok(Some((timestamp, image))) => {
                    let number = self.delivered;
                    self.delivered += 1;
                    return Some(Ok(VideoFrame { timestamp, number, picture: self.reader.noted(image) }));
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        if !self.failed && self.delivered == 0 {
            self.failed = true;
            let hint = " that was asked for".to_owned();
            return Some(Err(VideoError::NoFrames { path: self.reader.path.clone(), hint }));
        }
        None
    }
}
