//! What ffmpeg says on standard error: times of frames, length and rate of the file, and what went wrong.

use std::time::Instant;

/// Collected from the lines of one run.
#[derive(Debug)]
pub struct Log {
    /// When the last line came.
    pub heard: Instant,
    /// `Duration:` of the file in seconds.
    pub duration: Option<f64>,
    /// Frames a second of the first video stream.
    pub rate: Option<f64>,
    /// Whether the pixels of the first video stream have an alpha channel.
    pub alpha: bool,
    /// The codec of the first video stream.
    pub codec: Option<String>,
    /// Number of frames (copied: packets) that the run reports at its end.
    pub frames: Option<usize>,
    /// Time of the first frame that was decoded.
    pub first_time: Option<f64>,
    first_error: Option<String>,
    last_error: Option<String>,
    last_line: String,
    time_bases: [f64; 2],
    /// The names under which the two `showinfo` filters speak: of all frames, and of those kept.
    filters: [String; 2],
}

/// A frame that was kept, with its time in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept(pub f64);

const ALL: usize = 0;
const KEPT: usize = 1;

impl Log {
    /// For a filter chain with `showinfo` at its start and as filter number `last`.
    pub fn new(last: usize) -> Self {
        Self {
            heard: Instant::now(),
            duration: None,
            rate: None,
            alpha: false,
            codec: None,
            frames: None,
            first_time: None,
            first_error: None,
            last_error: None,
            last_line: String::new(),
            time_bases: [0.0; 2],
            filters: ["Parsed_showinfo_0".to_owned(), format!("Parsed_showinfo_{last}")],
        }
    }

    /// Takes one line.
    pub fn line(&mut self, line: &str) -> Option<Kept> {
        self.heard = Instant::now();
        let line = line.trim();
        let (source, message) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((source, message)) if source.contains(" @ ") => (source, message),
            _ => ("", line),
        };
        let (level, message) = match message.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((level, message)) => (level, message.trim()),
            None => ("", message.trim()),
        };
        if let Some(filter) =
            self.filters.iter().rposition(|name| source.split(' ').next() == Some(name.as_str()))
        {
            return self.frame(filter, message);
        }
        if matches!(level, "error" | "fatal" | "panic") {
            self.first_error.get_or_insert_with(|| message.to_owned());
            self.last_error = Some(message.to_owned());
        } else if self.duration.is_none() && message.starts_with("Duration: ") {
            self.duration = message[10..].split(',').next().and_then(seconds);
        } else if let Some(count) = message.strip_prefix("frame=") {
            self.frames = count.split_whitespace().next().and_then(|count| count.parse().ok());
        } else if self.rate.is_none() && message.contains(" Video: ") {
            if self.codec.is_none() {
                let codec =
                    message.split_once(" Video: ").and_then(|(_, rest)| rest.split([' ', ',']).next());
                self.codec = codec.map(str::to_owned);
            }
            self.alpha |= message.split(", ").any(has_alpha);
            let words = message.split(", ");
            self.rate = words
                .filter_map(|word| word.strip_suffix(" fps"))
                .find_map(|rate| rate.trim().parse().ok())
                .filter(|rate: &f64| *rate > 0.0);
        }
        // WebM keeps the alpha channel beside a stream whose own pixels have none.
        if message.strip_prefix("alpha_mode").is_some_and(|rest| rest.trim_start_matches([' ', ':']) == "1") {
            self.alpha = true;
        }
        if !message.is_empty() {
            message.clone_into(&mut self.last_line);
        }
        None
    }

    fn frame(&mut self, filter: usize, message: &str) -> Option<Kept> {
        if let Some(base) = message.strip_prefix("config in time_base: ") {
            let fraction = base.split(',').next().and_then(|base| base.trim().split_once('/'));
            if let Some((numerator, denominator)) = fraction
                && let (Ok(numerator), Ok(denominator)) =
                    (numerator.parse::<f64>(), denominator.parse::<f64>())
            {
                self.time_bases[filter] = numerator / denominator;
            }
            return None;
        }
        if !message.starts_with("n:") {
            return None;
        }
        // The printed time has six digits; the time base has them all.
        let base = self.time_bases[filter];
        let time = match field(message, "pts:").and_then(|ticks| ticks.parse::<i64>().ok()) {
            Some(ticks) if base.is_finite() && base > 0.0 => Some(ticks as f64 * base),
            _ => field(message, "pts_time:").and_then(|time| time.parse().ok()),
        };
        let time = time.unwrap_or(f64::NAN);
        if filter == ALL {
            self.first_time.get_or_insert(time);
        }
        (filter == KEPT).then_some(Kept(time))
    }

    /// What went wrong: the first and the last error, or the last line of a version that marks none.
    pub fn failure(&self) -> String {
        match (&self.first_error, &self.last_error) {
            (Some(first), Some(last)) if first != last => format!("ffmpeg: {first}; {last}"),
            (Some(first), _) => format!("ffmpeg: {first}"),
            (None, _) if self.last_line.is_empty() => "ffmpeg ended without a word".to_owned(),
            (None, _) => format!("ffmpeg: {}", self.last_line),
        }
    }

    /// Whether ffmpeg reported an error.
    pub fn has_error(&self) -> bool {
        self.first_error.is_some()
    }
}

/// Whether a word such as `yuva420p(tv` names a format of pixels with an alpha channel.
fn has_alpha(word: &str) -> bool {
    let name = word.split('(').next().unwrap_or_default().trim();
    let plain = ["rgba", "bgra", "argb", "abgr", "ya8", "ya16", "yaf", "ayuv64", "vuya", "ayuv", "uyva"];
    plain.iter().any(|format| name.starts_with(format))
        || name.starts_with("yuva")
        || name.starts_with("gbrap")
}

/// The word after a key: `pts:    512` and `pts:512` alike.
fn field<'a>(message: &'a str, key: &str) -> Option<&'a str> {
    let start = message.find(&format!(" {key}"))? + 1 + key.len();
    message[start..].split_whitespace().next()
}

/// `HH:MM:SS.cc` in seconds.
fn seconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    for part in text.trim().split(':') {
        total = total * 60.0 + part.parse::<f64>().ok().filter(|value| *value >= 0.0)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_real_runs_are_read() {
        let mut log = Log::new(2);
        for line in [
            "[info]   Duration: 01:02:03.50, start: 0.080000, bitrate: 37 kb/s",
            "[info]   Stream #0:0[0x1](und): Video: h264 (High), yuv420p(progressive), 320x240, 34 kb/s, 29.97 fps, 25 tbr",
            "[Parsed_showinfo_0 @ 0x7f] [info] config in time_base: 1/12800, frame_rate: 25/1",
            "[Parsed_showinfo_2 @ 0x7f] [info] config in time_base: 1/12800, frame_rate: 25/1",
            "[Parsed_showinfo_0 @ 0x7f] [info] n:   0 pts:   1024 pts_time:0.08    fmt:yuv420p",
        ] {
            assert_eq!(log.line(line), None);
        }
        assert_eq!((log.duration, log.rate, log.first_time), (Some(3723.5), Some(29.97), Some(0.08)));
        assert!(!log.alpha);
        let mut transparent = Log::new(2);
        transparent.line("[info]   Stream #0:0: Video: qtrle (rle  / 0x20656C72), argb(progressive), 64x48, 10 fps, 10 tbr");
        assert!(transparent.alpha);
        for (line, alpha) in [
            ("[info]       alpha_mode      : 1", true),
            ("[info]       alpha_mode      : 0", false),
            ("[info]   Stream #0:0: Video: hevc, ayuv64le(tv), 64x48, 10 fps", true),
            ("[info]   Stream #0:0: Video: hevc, vuya, 64x48, 10 fps", true),
            ("[info]   Stream #0:0: Video: hevc, vuyx, 64x48, 10 fps", false),
        ] {
            let mut log = Log::new(2);
            log.line("[info]   Stream #0:0: Video: vp9 (Profile 0), yuv420p(tv), 64x48, 10 fps, 10 tbr");
            assert_eq!((log.codec.as_deref(), log.alpha), (Some("vp9"), false));
            let mut log = Log::new(2);
            log.line(line);
            assert_eq!(log.alpha, alpha, "{line}");
        }
        let kept =
            "[Parsed_showinfo_2 @ 0x7f] [info] n:   0 pts: 158025728 pts_time:12345.8 duration:    512";
        assert_eq!(log.line(kept), Some(Kept(12345.76)));
        log.line("[info] frame=  250 fps=0.0 q=-1.0 Lsize=N/A time=00:00:09.92 bitrate=N/A speed=8.36e+03x");
        assert_eq!(log.frames, Some(250));
        assert!(!log.has_error());
        log.line("[mov,mp4 @ 0x55] [error] moov atom not found");
        log.line("[error] Error opening input files: Invalid data found when processing input");
        assert_eq!(
            log.failure(),
            "ffmpeg: moov atom not found; Error opening input files: Invalid data found when processing input"
        );
    }

    #[test]
    fn odd_lines_do_no_harm() {
        let mut log = Log::new(2);
        for line in
            ["", "[", "[] [] ", "Duration: N/A", "[Parsed_showinfo_2 @ 0x1] [info] n:", "é", "Duration: 1:x"]
        {
            log.line(line);
        }
        assert_eq!(log.duration, None);
        assert!(
            log.line("[Parsed_showinfo_2 @ 0x1] [info] n: 0 pts: NOPTS").is_some_and(|kept| kept.0.is_nan())
        );
        assert_eq!(Log::new(1).failure(), "ffmpeg ended without a word");
    }
}
