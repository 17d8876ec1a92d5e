//! Frames through ffmpeg: the protocol with a script in its place, the pictures with a real one where there is one
//! (`OTTER_FFMPEG`, or `ffmpeg` on PATH).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use otter_media::video::{
    FrameSampling, Picture, VideoError, VideoFrame, VideoOptions, find_ffmpeg, open_frames,
};
use otter_media::{AlphaRule, ImageNote, ImageRules};
use tempfile::TempDir;

/// A script that answers `-version` and a run without output as ffmpeg does, and then does `body`.
struct Fake {
    folder: TempDir,
}

impl Fake {
    fn new(body: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("ffmpeg");
        let text = format!(
            "#!/bin/sh\n\
             echo \"$*\" >> {log}\n\
             if [ \"$1\" = -version ]; then echo 'ffmpeg version 6.1-fake'; exit 0; fi\n\
             case \"$*\" in *-map*) ;; *)\n\
               echo '[info]   Duration: 00:00:04.00, start: 0.000000, bitrate: 9 kb/s' >&2\n\
               echo '[info]   Stream #0:0: Video: fake, 2x1, 2 fps, 2 tbr' >&2\n\
               echo '[error] At least one output file must be specified' >&2; exit 1 ;;\n\
             esac\n\
             kept() {{ echo \"[Parsed_showinfo_2 @ 0x1] [info] n: $1 pts: $2 pts_time:$3\" >&2; }}\n\
             echo '[Parsed_showinfo_0 @ 0x1] [info] config in time_base: 1/2, frame_rate: 2/1' >&2\n\
             echo '[Parsed_showinfo_2 @ 0x1] [info] config in time_base: 1/2, frame_rate: 2/1' >&2\n\
             echo '[Parsed_showinfo_0 @ 0x1] [info] n: 0 pts: 1 pts_time:0.5' >&2\n\
             {body}\n",
            log = folder.path().join("log").display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("clip.mp4"), "not looked at").unwrap();
        // A process that another test is just starting may hold the script open for writing for a moment.
        while Command::new(&script).arg("-version").output().is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { folder }
    }

    fn options(&self) -> VideoOptions {
        VideoOptions {
            ffmpeg: Some(self.folder.path().join("ffmpeg")),
            timeout: Duration::from_secs(5),
            ..VideoOptions::default()
        }
    }

    fn frames(&self, options: &VideoOptions) -> Vec<Result<VideoFrame, VideoError>> {
        match open_frames(&self.folder.path().join("clip.mp4"), options) {
            Ok(frames) => frames.collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// The arguments of every call.
    fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

#[test]
fn pictures_meet_their_times() {
    let fake =
        Fake::new("kept 0 1 0.5; printf 'P6 2 1 255 abcdef'; kept 1 7 3.5; printf 'P6 2 1 255 ghijkl'");
    let frames = fake.frames(&fake.options());
    let seen: Vec<(f64, usize, Vec<u8>)> = frames
        .into_iter()
        .map(|frame| {
            let frame = frame.unwrap();
            let Picture::Pixels(image) = frame.picture else { panic!("pixels are expected") };
            assert_eq!((image.width(), image.height()), (2, 1));
            (frame.timestamp, frame.number, image.pixels().to_vec())
        })
        .collect();
    // Times count from the first frame of the file, which is at 0.5 s.
    assert_eq!(seen, [(0.0, 0, b"abcdef".to_vec()), (3.0, 3, b"ghijkl".to_vec())]);
    let calls = fake.calls();
    assert!(calls.contains("-i file:/") && calls.contains("-protocol_whitelist file"), "{calls}");
    assert!(calls.contains("-fps_mode passthrough") && calls.contains("-frames:v 4"), "{calls}");
}

#[test]
fn failures_are_told_in_the_words_of_ffmpeg() {
    for (body, parts) in [
        (
            "echo '[mov @ 0x1] [error] moov atom not found' >&2; exit 1",
            vec!["moov atom not found", "clip.mp4"],
        ),
        ("kept 0 1 0.5; printf 'P6 2 1 255 abc'", vec!["middle of a picture"]),
        (
            "kept 0 1 0.5; printf 'P6 2 1 255 abcdef'; echo '[error] Disk on fire' >&2; exit 3",
            vec!["Disk on fire"],
        ),
        ("echo old version without marks >&2; exit 1", vec!["old version without marks"]),
        ("printf 'hello'", vec!["P6"]),
        ("exit 0", vec!["no frame"]),
    ] {
        let fake = Fake::new(body);
        let error = fake.frames(&fake.options()).pop().unwrap().unwrap_err();
        let reason = if body == "exit 0" { "no_frames" } else { "broken_video" };
        assert_eq!(error.reason(), Some(reason), "{body}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

#[test]
fn a_silent_ffmpeg_is_ended_with_its_children() {
    // The script waits for a child of its own, which must not survive either.
    let fake = Fake::new("sleep 600 & echo $! > \"$(dirname \"$0\")/child\"; wait");
    let options = VideoOptions { timeout: Duration::from_millis(300), ..fake.options() };
    let start = Instant::now();
    let error = fake.frames(&options).pop().unwrap().unwrap_err();
    assert!(matches!(error, VideoError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("--timeout"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
    let child = fs::read_to_string(fake.folder.path().join("child")).unwrap();
    assert_ends(child.trim());
}

#[test]
fn dropping_the_frames_ends_ffmpeg() {
    let fake = Fake::new(
        "echo $$ > \"$(dirname \"$0\")/self\"; kept 0 1 0.5; printf 'P6 2 1 255 abcdef'; sleep 600",
    );
    let mut frames = open_frames(&fake.folder.path().join("clip.mp4"), &fake.options()).unwrap();
    frames.next().unwrap().unwrap();
    drop(frames);
    assert_ends(fs::read_to_string(fake.folder.path().join("self")).unwrap().trim());
}

/// Checks that a process is gone, or about to be collected by whoever inherited it.
#[track_caller]
fn assert_ends(process: &str) {
    if !Path::new("/proc/self/stat").exists() {
        return crate::skip::skipped("proc", "whether a process has ended is not looked at");
    }
    let status = PathBuf::from(format!("/proc/{process}/stat"));
    for _ in 0..100 {
        match fs::read_to_string(&status) {
            Err(_) => return,
            Ok(stat) if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) => {
                return;
            }
            Ok(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    panic!("process {process} is still running");
}

#[test]
fn a_slow_reader_is_no_silence() {
    let fake = Fake::new("for i in 1 2 3 4; do kept 0 $i $i; printf 'P6 2 1 255 abcdef'; done");
    let options = VideoOptions { timeout: Duration::from_millis(400), ..fake.options() };
    let frames = open_frames(&fake.folder.path().join("clip.mp4"), &options).unwrap();
    let mut taken = 0;
    for frame in frames {
        frame.unwrap();
        taken += 1;
        std::thread::sleep(Duration::from_millis(600));
    }
    assert_eq!(taken, 4);
}

#[test]
fn without_ffmpeg_the_message_says_how_to_get_it() {
    let fake = Fake::new("");
    let options = VideoOptions { ffmpeg: Some("/no/such/ffmpeg".into()), ..VideoOptions::default() };
    let error = fake.frames(&options).pop().unwrap().unwrap_err();
    for part in ["/no/such/ffmpeg", "OTTER_FFMPEG", "--ffmpeg", "install"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(error.reason(), None);
    let other = VideoOptions { ffmpeg: Some("/bin/true".into()), ..VideoOptions::default() };
    assert!(fake.frames(&other).pop().unwrap().unwrap_err().to_string().contains("-version"));
}

// ---- with a real ffmpeg

#[track_caller]
fn real() -> Option<PathBuf> {
    let found = find_ffmpeg(None);
    if found.is_err() {
        crate::skip::skipped("ffmpeg", "set OTTER_FFMPEG or install it to run this test");
    }
    found.ok()
}

/// Makes a video with ffmpeg's own test sources.
fn make(ffmpeg: &Path, file: &Path, arguments: &str) {
    let output = Command::new(ffmpeg)
        .args(["-v", "error", "-y"])
        .args(arguments.split(' '))
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Times, numbers and mean gray level of the frames.
fn taken(file: &Path, options: &VideoOptions) -> Vec<(f64, usize, f64)> {
    open_frames(file, options)
        .unwrap()
        .map(|frame| {
            let frame = frame.unwrap();
            let Picture::Pixels(image) = frame.picture else { panic!("pixels are expected") };
            let sum: u64 = image.pixels().iter().map(|&value| u64::from(value)).sum();
            (round(frame.timestamp), frame.number, sum as f64 / image.pixels().len() as f64)
        })
        .collect()
}

fn round(time: f64) -> f64 {
    (time * 1000.0).round() / 1000.0
}

fn times(file: &Path, options: &VideoOptions) -> Vec<f64> {
    taken(file, options).into_iter().map(|(time, ..)| time).collect()
}

#[test]
fn the_alpha_channel_of_webm_is_read() {
    let Some(ffmpeg) = real() else { return };
    let folder = tempfile::tempdir().unwrap();
    for codec in ["libvpx", "libvpx-vp9"] {
        let listing = Command::new(&ffmpeg).args(["-hide_banner", "-encoders"]).output().unwrap();
        if !String::from_utf8_lossy(&listing.stdout).contains(&format!(" {codec} ")) {
            crate::skip::skipped("ffmpeg", "install one with libvpx to run this test");
            return;
        }
        let file = folder.path().join(format!("{codec}.webm"));
        make(
            &ffmpeg,
            &file,
            &format!(
                "-f lavfi -i color=black@0.0:size=64x48:rate=5:duration=1,format=yuva420p -c:v {codec} -auto-alt-ref 0"
            ),
        );
        for (alpha, level) in [(AlphaRule::Drop, 0.0), (AlphaRule::White, 255.0), (AlphaRule::Black, 0.0)] {
            let rules = ImageRules { alpha, ..ImageRules::default() };
            let options = VideoOptions { rules, ..VideoOptions::default() };
            for frame in open_frames(&file, &options).unwrap() {
                let Picture::Pixels(image) = frame.unwrap().picture else { panic!("pixels are expected") };
                assert!(image.notes().contains(ImageNote::VideoAlpha), "{codec} {alpha:?}");
                let sum: u64 = image.pixels().iter().map(|&value| u64::from(value)).sum();
                let mean = sum as f64 / image.pixels().len() as f64;
                assert!((mean - level).abs() < 4.0, "{codec} {alpha:?}: {mean}");
            }
        }
    }
}

#[test]
fn a_real_video_is_sampled_exactly() {
    let Some(ffmpeg) = real() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("- a clip.mkv");
    // Each frame is one level of gray brighter than the one before: the level tells which frame it is.
    make(
        &ffmpeg,
        &file,
        "-f lavfi -i color=black:size=64x48:rate=25:duration=8,format=gray,geq=lum=N -c:v ffv1",
    );
    let with = |sampling| VideoOptions { sampling, ..VideoOptions::default() };
    let check = |options: &VideoOptions, expected: &[(f64, usize, f64)]| {
        let found = taken(&file, options);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!((found.0, found.1), (expected.0, expected.1));
            assert!((found.2 - expected.2).abs() < 1.5, "{found:?} {expected:?}");
        }
    };
    let at = |frames: &[usize]| -> Vec<(f64, usize, f64)> {
        frames.iter().enumerate().map(|(n, &f)| (f as f64 / 25.0, n, f as f64)).collect()
    };
    check(&with(FrameSampling::Fps(1.0)), &at(&[0, 25, 50, 75, 100, 125, 150, 175]));
    check(&with(FrameSampling::Fps(0.25)), &at(&[0, 100]));
    check(&with(FrameSampling::Uniform(4)), &at(&[25, 75, 125, 175]));
    assert_eq!(times(&file, &with(FrameSampling::Fps(1000.0))).len(), 128, "the limit");
    let all = VideoOptions { max_frames: 0, ..with(FrameSampling::Uniform(10_000)) };
    assert_eq!(times(&file, &all), (0..200).map(|n| round(n as f64 / 25.0)).collect::<Vec<_>>());
    let thinned = VideoOptions { max_frames: 4, ..with(FrameSampling::Fps(1.0)) };
    assert!(open_frames(&file, &thinned).unwrap().thinned());
    assert_eq!(times(&file, &thinned), [0.0, 2.0, 4.0, 6.0]);
    // A part agrees with the whole about numbers and pictures.
    let part = VideoOptions { range: Some((2.4, 5.5)), ..with(FrameSampling::Fps(1.0)) };
    check(&part, &[(2.0, 2, 50.0), (3.0, 3, 75.0), (4.0, 4, 100.0), (5.0, 5, 125.0)]);
    let small = VideoOptions { max_side: Some(16), ..with(FrameSampling::Uniform(1)) };
    let frame = open_frames(&file, &small).unwrap().next().unwrap().unwrap();
    let Picture::Pixels(image) = frame.picture else { panic!("pixels are expected") };
    assert_eq!((image.width(), image.height()), (16, 12));
}

#[test]
fn scenes_of_a_real_video_are_found() {
    let Some(ffmpeg) = real() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cuts.mkv");
    make(
        &ffmpeg,
        &file,
        "-f lavfi -i color=black:size=64x48:rate=10:duration=2 -f lavfi -i color=white:size=64x48:rate=10:duration=3 \
         -f lavfi -i color=red:size=64x48:rate=10:duration=2 -filter_complex concat=n=3:v=1 -c:v ffv1",
    );
    let scenes = VideoOptions { sampling: FrameSampling::SceneChange(0.3), ..VideoOptions::default() };
    assert_eq!(times(&file, &scenes), [0.0, 2.0, 5.0]);
    assert_eq!(times(&file, &VideoOptions { max_frames: 0, ..scenes.clone() }), [0.0, 2.0, 5.0]);
    let one = VideoOptions { max_frames: 1, ..scenes };
    assert_eq!(times(&file, &one), [2.0]);
}

#[test]
fn seeking_takes_the_frames_that_decoding_everything_takes() {
    let Some(ffmpeg) = real() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.mp4");
    make(
        &ffmpeg,
        &file,
        "-f lavfi -i testsrc=size=64x48:rate=10:duration=120 -c:v libx264 -preset ultrafast",
    );
    let sought = VideoOptions { sampling: FrameSampling::Uniform(4), ..VideoOptions::default() };
    // The same four with the rule for short parts: every frame, and the middles of four parts.
    let all =
        VideoOptions { sampling: FrameSampling::Uniform(5000), max_frames: 0, ..VideoOptions::default() };
    let all = taken(&file, &all);
    assert_eq!(all.len(), 1200);
    let found = taken(&file, &sought);
    assert_eq!(found.len(), 4);
    for (place, frame) in found.iter().enumerate() {
        let expected = all[150 + 300 * place];
        assert_eq!((frame.0, frame.2), (expected.0, expected.2));
    }
}

#[test]
fn real_damage_is_named() {
    let Some(ffmpeg) = real() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.mp4");
    make(&ffmpeg, &file, "-f lavfi -i testsrc=size=64x48:rate=10:duration=5");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let reason = |file: &Path| {
        let error = match open_frames(file, &VideoOptions::default()) {
            Ok(mut frames) => frames.find_map(Result::err).unwrap(),
            Err(error) => error,
        };
        (error.reason(), error.to_string())
    };
    let (name, message) = reason(&file);
    assert_eq!(name, Some("broken_video"), "{message}");
    assert!(message.contains("moov atom not found"), "{message}");
    fs::write(&file, "just text").unwrap();
    assert_eq!(reason(&file).0, Some("broken_video"));
    fs::write(&file, "").unwrap();
    assert_eq!(reason(&file).0, Some("broken_video"));
    let sound = folder.path().join("sound.wav");
    make(&ffmpeg, &sound, "-f lavfi -i sine=duration=1");
    let (name, message) = reason(&sound);
    assert!(name == Some("broken_video") && message.contains("matches no streams"), "{message}");
}
