//! One run of ffmpeg: found, started, listened to, and always ended.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::VideoError;
use super::ffmpeg_log::Log;
use crate::{MAX_PIXELS, MAX_SIDE, RgbImage};

/// How often a silent child is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Longest piece of a line of ffmpeg's output that is looked at in one go.
const LINE_BYTES: u64 = 1 << 14;

/// The ffmpeg to run: the given one, `OTTER_FFMPEG`, or `ffmpeg` on PATH.
pub fn find_ffmpeg(given: Option<&Path>) -> Result<PathBuf, VideoError> {
    let (path, from) = match (given, std::env::var_os("OTTER_FFMPEG").filter(|value| !value.is_empty())) {
        (Some(path), _) => (path.to_owned(), "--ffmpeg"),
        (None, Some(path)) => (PathBuf::from(path), "OTTER_FFMPEG"),
        (None, None) => return on_path(),
    };
    if path.is_file() || path.components().count() == 1 {
        return Ok(path);
    }
    Err(VideoError::NoFfmpeg { tried: format!("{from} names {}, which is no file", path.display()) })
}

fn on_path() -> Result<PathBuf, VideoError> {
    let name = format!("ffmpeg{}", std::env::consts::EXE_SUFFIX);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(&name))
        .find(|path| path.is_file())
        .ok_or_else(|| VideoError::NoFfmpeg { tried: "no ffmpeg was found on PATH".to_owned() })
}

/// A running ffmpeg that decodes `path`.
pub struct Process {
    child: Child,
    pictures: Receiver<Result<RgbImage, String>>,
    times: Receiver<f64>,
    log: Arc<Mutex<Log>>,
    path: PathBuf,
    timeout: Duration,
    ended: bool,
}

impl Process {
    /// Starts ffmpeg. Pictures in PPM form are expected on its standard output; `last_filter` is the place of the
    /// `showinfo` filter that tells their times.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        path: &Path,
        timeout: Duration,
        last_filter: usize,
    ) -> Result<Self, VideoError> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C in the terminal asks us to finish the video, and must not end its decoder.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| VideoError::NoFfmpeg {
            tried: format!("{} cannot be started ({error})", program.display()),
        })?;
        let log = Arc::new(Mutex::new(Log::new(last_filter)));
        let (picture_sender, pictures) = sync_channel(1);
        let (time_sender, times) = channel();
        // The threads end with the pipes, which end with the child.
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || read_pictures(BufReader::with_capacity(1 << 16, stdout), &picture_sender));
        }
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let mut stderr = BufReader::new(stderr);
                let mut line = Vec::new();
                while matches!(stderr.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line), Ok(1..)) {
                    let kept = lock(&log).line(&String::from_utf8_lossy(&line));
                    if let Some(kept) = kept {
                        // Nobody listens any more: the pipe is still emptied, so that the child can end.
                        let _ = time_sender.send(kept.0);
                    }
                    line.clear();
                }
            });
        }
        Ok(Self { child, pictures, times, log, path: path.to_owned(), timeout, ended: false })
    }

    /// The next picture and its time, or `None` after the last of a run that succeeded.
    pub fn next_picture(&mut self) -> Result<Option<(f64, RgbImage)>, VideoError> {
        if self.ended {
            return Ok(None);
        }
        let waiting = Instant::now();
        let image = loop {
            match self.pictures.recv_timeout(LOOK_EVERY) {
                Ok(Ok(image)) => break image,
                Ok(Err(message)) => {
                    self.end();
                    return Err(VideoError::broken(&self.path, message));
                }
                Err(RecvTimeoutError::Timeout) => self.check_silence(waiting)?,
                Err(RecvTimeoutError::Disconnected) => return self.finish(waiting).map(|()| None),
            }
        };
        let time = self.times.recv_timeout(self.timeout).map_err(|_| {
            self.end();
            VideoError::broken(&self.path, "ffmpeg gave a picture without its time")
        })?;
        Ok(Some((time, image)))
    }

    /// Waits for the end of a run without pictures.
    pub fn run_to_end(&mut self) -> Result<(), VideoError> {
        while self.next_picture()?.is_some() {}
        Ok(())
    }

    /// Times that were told without a picture, after the run.
    pub fn times(&self) -> Vec<f64> {
        // The end of standard output and that of standard error may come in either order.
        std::iter::from_fn(|| self.times.recv_timeout(self.timeout).ok()).collect()
    }

    /// What ffmpeg has said so far.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn check_silence(&mut self, waiting: Instant) -> Result<(), VideoError> {
        // Silence counts from when we began to wait: before, it may be us who were slow to take its pictures.
        let silent = self.log().heard.elapsed().min(waiting.elapsed());
        if silent < self.timeout {
            return Ok(());
        }
        self.end();
        Err(VideoError::Timeout { path: self.path.clone(), waited: self.timeout })
    }

    /// Standard output is closed: the child should end.
    fn finish(&mut self, waiting: Instant) -> Result<(), VideoError> {
        let status: ExitStatus = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => self.check_silence(waiting)?,
                Err(error) => return Err(VideoError::io(&self.path, error)),
            }
            thread::sleep(Duration::from_millis(2));
        };
        self.ended = true;
        if status.success() {
            return Ok(());
        }
        // The last words may still be on their way through the pipe.
        let until = Instant::now() + Duration::from_secs(1);
        while !self.log().has_error() && Arc::strong_count(&self.log) > 1 && Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        let message = self.log().failure();
        Err(VideoError::broken(&self.path, message))
    }

    fn end(&mut self) {
        self.ended = true;
        // The whole group: `program` may be a script around the real ffmpeg.
        #[cfg(unix)]
        if let Ok(id) = i32::try_from(self.child.id())
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_pictures(mut stdout: impl BufRead, sender: &SyncSender<Result<RgbImage, String>>) {
    loop {
        match read_ppm(&mut stdout) {
            Ok(None) => return,
            Ok(Some(image)) => {
                if sender.send(Ok(image)).is_err() {
                    return;
                }
            }
            Err(message) => {
                let _ = sender.send(Err(message));
                return;
            }
        }
    }
}

/// One binary PPM picture of 8-bit RGB, or `None` at the end of the stream.
fn read_ppm(stream: &mut impl BufRead) -> Result<Option<RgbImage>, String> {
    let mut magic = [0; 2];
    match stream.read(&mut magic[..1]).map_err(|error| error.to_string())? {
        0 => return Ok(None),
        _ => stream.read_exact(&mut magic[1..]).map_err(|_| cut())?,
    }
    if &magic != b"P6" {
        return Err(format!("ffmpeg's picture begins with {magic:02x?}, not with P6"));
    }
    let numbers = [ppm_number(stream)?, ppm_number(stream)?, ppm_number(stream)?];
    let [width, height, levels] = numbers;
    let too_large = width * height > MAX_PIXELS || width.max(height) > u64::from(MAX_SIDE);
    if levels != 255 || width == 0 || height == 0 || too_large {
        return Err(format!(
            "a picture of {width} x {height} pixels with {levels} levels; expected 255 levels and at most {MAX_PIXELS} pixels"
        ));
    }
    let mut pixels = vec![0; (width * height * 3) as usize];
    stream.read_exact(&mut pixels).map_err(|_| cut())?;
    Ok(RgbImage::new(width as usize, height as usize, pixels))
}

fn cut() -> String {
    "ffmpeg ended in the middle of a picture".to_owned()
}

/// A decimal number between white space; one white-space character after it is consumed.
fn ppm_number(stream: &mut impl BufRead) -> Result<u64, String> {
    let mut value = None;
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|_| cut())?;
        match (byte[0], value) {
            (digit @ b'0'..=b'9', _) => {
                let next = value.unwrap_or(0) * 10 + u64::from(digit - b'0');
                if next > 1 << 31 {
                    return Err("a number in the head of ffmpeg's picture is too large".to_owned());
                }
                value = Some(next);
            }
            (b' ' | b'\n' | b'\r' | b'\t', None) => {}
            (b' ' | b'\n' | b'\r' | b'\t', Some(value)) => return Ok(value),
            (other, _) => return Err(format!("byte {other:#04x} in the head of ffmpeg's picture")),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn pictures_of_several_sizes_follow_one_another() {
        let mut stream = Cursor::new(b"P6\n2 1\n255\nabcdefP6 1 1 255 xyz".to_vec());
        let first = read_ppm(&mut stream).unwrap().unwrap();
        assert_eq!((first.width(), first.height(), first.pixels()), (2, 1, &b"abcdef"[..]));
        assert_eq!(read_ppm(&mut stream).unwrap().unwrap().pixels(), b"xyz");
        assert_eq!(read_ppm(&mut stream), Ok(None));
    }

    #[test]
    fn heads_are_not_believed() {
        for (text, part) in [
            (&b"P5\n1 1\n255\nx"[..], "P6"),
            (b"P6\n60000 60000\n255\n", "60000"),
            (b"P6\n99999999999999999999 1\n255\n", "too large"),
            (b"P6\n-1 1\n255\n", "0x2d"),
            (b"P6\n1 1\n65535\nxxxxxx", "65535"),
            (b"P6\n2 2\n255\nabc", "middle"),
            (b"P", "middle"),
        ] {
            let error = read_ppm(&mut Cursor::new(text)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
