//! `otter train` from end to end on a sliver of the toybox: records, exact resume, and what an interrupt, a kill or a
//! full disk leaves behind.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::{otter, strings};
use serde_json::Value;
use tempfile::TempDir;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).canonicalize().unwrap()
}

/// A toybox with room for runs on it.
struct Place {
    directory: TempDir,
}

/// How one `otter train` ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn success(self) -> Self {
        self.ended_with(0)
    }

    #[track_caller]
    fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    #[track_caller]
    fn json(self) -> Value {
        self.success().one_json()
    }

    #[track_caller]
    fn one_json(self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:#?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The message of a run that failed in an orderly way, which may be several lines long and is the last thing said.
    #[track_caller]
    fn error(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        assert_eq!(self.stdout, "", "an error leaves standard output empty");
        let start = if self.stderr.starts_with("error: ") {
            0
        } else {
            self.stderr.find("\nerror: ").expect("an error message") + 1
        };
        let message = &self.stderr[start..];
        for part in parts {
            assert!(message.contains(part), "no '{part}' in: {message}");
        }
        message.to_owned()
    }
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        otter(&arguments!["toybox", "--scale", "0.003", "--out", directory.path().join("data")]).success();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Arguments of a small run in a directory of this place; later overrides replace earlier ones.
    fn arguments(&self, run: &str, more: &[&str]) -> Vec<String> {
        let file = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let mut arguments = vec![
            "train".to_owned(),
            "--config".to_owned(),
            repository("recipes/toybox.toml").to_str().unwrap().to_owned(),
            format!("data.mimicit_yaml={}", file("data/train.yaml")),
            format!("eval.data.mimicit_yaml={}", file("data/eval_2shot.yaml")),
            format!("train.run_dir={}", file(run)),
        ];
        let small = [
            "train.steps=6",
            "train.batch_size=4",
            "train.log_every=1",
            "train.eval_every=0",
            "train.checkpoint_every=0",
            "schedule.warmup_steps=2",
            "eval.max_batches=2",
        ];
        let key = |argument: &str| argument.split('=').next().unwrap().to_owned();
        let epochs = more.iter().any(|m| m.starts_with("train.epochs="));
        let small = small.into_iter().filter(|s| !(epochs && s.starts_with("train.steps=")));
        let small: Vec<&str> = small.collect();
        arguments
            .extend(small.iter().filter(|s| !more.iter().any(|m| key(m) == key(s))).map(|&s| s.to_owned()));
        arguments.extend(more.iter().map(|&m| m.to_owned()));
        arguments
    }

    fn command(&self, run: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otter"));
        command.args(self.arguments(run, more)).stdin(Stdio::null());
        command
    }

    fn train(&self, run: &str, more: &[&str]) -> Ended {
        self.command(run, more).output().unwrap().into()
    }

    fn checkpoint(&self, run: &str, step: u64) -> PathBuf {
        self.path(run).join(format!("checkpoints/step-{step:06}"))
    }

    /// Steps of the checkpoints of a run that bear their final name, ascending.
    fn checkpoints(&self, run: &str) -> Vec<u64> {
        let names = names(&self.path(run).join("checkpoints"));
        names.iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect()
    }

    /// Weights, moments and metrics of a run after a step: what must not depend on how the run got there.
    fn state(&self, run: &str, step: u64) -> [Vec<u8>; 2] {
        ["model/model.safetensors", "trainer.safetensors"]
            .map(|file| std::fs::read(self.checkpoint(run, step).join(file)).unwrap())
    }

    /// The lines of `metrics.jsonl` of one kind.
    fn metrics(&self, run: &str, kind: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    }

    /// Two runs that must be the same, step by step and in every bit of their result.
    #[track_caller]
    fn assert_same(&self, one: &str, other: &str, step: u64) {
        let losses = |run: &str| {
            let of_line = |line: &Value| (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap());
            self.metrics(run, "step").iter().map(of_line).collect::<Vec<_>>()
        };
        assert_eq!(losses(one), losses(other));
        assert!(self.state(one, step) == self.state(other, step), "weights or moments differ");
    }
}

/// Names in a directory, sorted; none where there is no directory.
fn names(folder: &Path) -> Vec<String> {
    let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Reads standard error up to a line that starts with `start`, and gives what was read and what follows.
#[track_caller]
fn wait_for(child: &mut Child, start: &str) -> (String, BufReader<std::process::ChildStderr>) {
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    loop {
        let begin = text.len();
        assert!(reader.read_line(&mut text).unwrap() > 0, "no line '{start}' in: {text}");
        if text[begin..].starts_with(start) {
            return (text, reader);
        }
    }
}

/// Sends a run a signal once it has told about a step, and lets it end.
fn signal_after(command: Command, step: u64, signal: &str) -> Ended {
    signal_at(command, &format!("step {step}/"), signal)
}

/// Sends a run a signal once it has told a line that starts like this, and lets it end.
fn signal_at(mut command: Command, line: &str, signal: &str) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stderr, mut rest) = wait_for(&mut child, line);
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    std::io::Read::read_to_string(&mut rest, &mut stderr).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended { stderr, ..output.into() }
}

#[test]
fn a_run_leaves_its_records_and_can_be_repeated() {
    let place = Place::new();
    let ended = place.train("run", &["train.eval_every=4", "train.checkpoint_every=3", "--json"]).success();

    let told =
        |text: &str| ended.stderr.find(text).unwrap_or_else(|| panic!("no '{text}': {}", ended.stderr));
    assert!(told("memory plan") < told("step 1/6"), "the plan comes before the first step");
    let plan = &ended.stderr[told("memory plan")..told("step 1/6")];
    for item in ["trained weights", "frozen weights", "gradients", "optimizer moments", "total"] {
        assert!(plan.lines().any(|line| line.trim_start().starts_with(item)), "{item}: {plan}");
    }
    for step in 1..=6 {
        let line = ended.stderr.lines().find(|line| line.starts_with(&format!("step {step}/6  ")));
        let line = line.unwrap_or_else(|| panic!("no line of step {step}: {}", ended.stderr));
        assert!(["loss ", "lr ", "samples/s", "eta "].iter().all(|part| line.contains(part)), "{line}");
    }
    assert!(!ended.stderr.contains('\u{1b}'), "control characters although this is no terminal");

    let steps = place.metrics("run", "step");
    assert_eq!(
        steps.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    for line in &steps {
        let positive =
            ["loss", "gradient_norm", "samples_per_second", "step_seconds", "tokens", "target_tokens"];
        for key in positive {
            assert!(line[key].as_f64().unwrap() > 0.0, "{key}: {line}");
        }
        assert_eq!((&line["samples"], &line["samples_skipped"]), (&4.into(), &0.into()));
    }
    let rates: Vec<f64> = steps.iter().map(|line| line["learning_rate"].as_f64().unwrap()).collect();
    assert_eq!(rates[..3], [0.0, 1.5e-3, 3e-3], "two steps of warm-up");
    assert!(rates[3..].is_sorted_by(|a, b| a > b) && rates[3] < 3e-3, "{rates:?}");
    let evaluations = place.metrics("run", "evaluation");
    assert_eq!(evaluations.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 6]);

    let summary = ended.json();
    assert_eq!(summary["outcome"], "completed");
    assert_eq!((&summary["step"], &summary["samples_seen"]), (&6.into(), &24.into()));
    assert_eq!(summary["skipped"], serde_json::json!({}));
    assert_eq!(summary["loss"], steps[5]["loss"]);
    assert_eq!(summary["evaluation"]["loss"], evaluations[1]["loss"]);
    assert_eq!(summary["checkpoint"], place.checkpoint("run", 6).to_str().unwrap());
    let planned = summary["planned_bytes"].as_u64().unwrap();
    assert!(planned > 1 << 20);
    if let Some(peak) = summary["peak_bytes"].as_u64() {
        // Most of so small a run is the program itself; a larger one is within 5 %.
        assert!(peak.abs_diff(planned) * 10 < planned, "{peak} bytes were resident, {planned} planned");
    }

    let files = names(&place.path("run"));
    let events =
        files.iter().find(|name| name.starts_with("events.out.tfevents.")).expect("a TensorBoard file");
    let events = std::fs::read(place.path("run").join(events)).unwrap();
    for tag in ["train/loss", "train/learning_rate", "eval/loss"] {
        assert!(events.windows(tag.len()).any(|window| window == tag.as_bytes()), "{tag}");
    }
    assert_eq!(place.checkpoints("run"), [3, 6]);

    // The saved configuration alone repeats the run.
    let saved = place.path("run/config.toml");
    let other = format!("train.run_dir={}", place.path("again").display());
    otter(&arguments!["train", "--config", saved, other]).success();
    place.assert_same("run", "again", 6);
    // The seed matters, so equality above is no accident.
    place.train("seed", &["train.seed=2"]).success();
    assert!(place.state("run", 6) != place.state("seed", 6));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let place = Place::new();
    place.train("whole", &[]).success();
    let first = place.train("parts", &["train.stop_after=3", "--json"]).json();
    assert_eq!((&first["outcome"], &first["step"]), (&"stopped_early".into(), &3.into()));
    assert_eq!(place.checkpoints("parts"), [3]);
    assert!(place.state("parts", 3) != place.state("whole", 6));

    // Without --resume a run is not overwritten.
    place.train("parts", &[]).error(&[
        place.path("parts").to_str().unwrap(),
        "already holds a run",
        "resume",
    ]);
    // Nor continued with something else.
    let changed = ["--resume", "optimizer.learning_rate=1e-3", "train.batch_size=5"];
    let message = place.train("parts", &changed).error(&["optimizer.learning_rate: 0.003 -> 0.001"]);
    assert!(message.contains("train.batch_size: 4 -> 5"), "{message}");
    assert!(!message.contains("warmup"), "an unchanged key is named: {message}");
    assert_eq!(place.checkpoints("parts"), [3]);

    let second = place.train("parts", &["--resume", "--json"]).json();
    assert_eq!((&second["outcome"], &second["step"]), (&"completed".into(), &6.into()));
    assert_eq!(second["samples_seen"], 24);
    place.assert_same("whole", "parts", 6);
    // A finished run has nothing more to do.
    let third = place.train("parts", &["--resume", "--json"]).json();
    assert_eq!((&third["outcome"], &third["step"]), (&"completed".into(), &6.into()));
    place.assert_same("whole", "parts", 6);
}

#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_happened() {
    let place = Place::new();
    let steps = "train.steps=14";
    place.train("whole", &[steps]).success();

    let ended = signal_after(place.command("parts", &[steps]), 2, "-INT").ended_with(130);
    assert!(ended.stderr.contains("received SIGINT: stopping after this step"), "{}", ended.stderr);
    assert!(ended.stderr.contains("interrupted; resume to go on"), "{}", ended.stderr);
    let made = place.checkpoints("parts");
    assert!(made.len() == 1 && (2..14).contains(&made[0]), "{made:?}");

    // The command that it names.
    let go_on = ended.stdout.lines().find_map(|line| line.strip_prefix("go on: otter ")).expect("a command");
    let mut command = Command::new(env!("CARGO_BIN_EXE_otter"));
    command.args(go_on.split(' ')).arg("--json");
    let summary = signal_after(command, made[0] + 2, "-TERM").ended_with(143).one_json();
    assert_eq!(summary["outcome"], "interrupted");
    let step = summary["step"].as_u64().unwrap();
    assert!((made[0] + 2..14).contains(&step), "{summary}");
    assert_eq!(place.checkpoints("parts"), [made[0], step]);

    place.train("parts", &[steps, "--resume"]).success();
    place.assert_same("whole", "parts", 14);
}

#[test]
fn a_kill_at_any_moment_leaves_a_complete_checkpoint() {
    let place = Place::new();
    let every_step = ["train.steps=500", "train.checkpoint_every=1", "train.keep_checkpoints=2"];
    let resume = [&every_step[..], &["--resume"]].concat();
    let mut newest = 0;
    // Milliseconds after the first step of this process, which is followed by a save; a step with its save takes
    // longer than the differences between them. Some chance on top, so that repeated tests hit other moments.
    for delay in [0, 40, 75, 130, 210] {
        let chance = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos() % 40;
        let mut child = place.command("killed", &resume);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Any first step: a save that the kill hit when it was complete but not yet renamed is taken up by the resume,
        // which then starts one step later than the directory's names tell.
        let (_, rest) = wait_for(&mut child, "step ");
        std::thread::sleep(Duration::from_millis(delay + u64::from(chance)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "the run ended before it was killed");
        drop(rest);

        let left = names(&place.path("killed/checkpoints"));
        let found = place.checkpoints("killed").last().copied().unwrap_or(0);
        assert!(found >= newest, "a checkpoint was lost: {newest}, then {left:?}");
        newest = found;
        if newest > 0 {
            let model = place.checkpoint("killed", newest).join("model");
            let inspection = otter(&arguments!["inspect", model, "--json"]).json();
            assert_eq!(inspection["missing"], serde_json::json!([]), "{left:?}");
            // The first steps leave the gates of the base, which are zero.
            let mut odd = strings(&inspection["odd"]).into_iter();
            assert!(
                odd.all(|text| text.contains("gates of the cross-attention are exactly zero")),
                "{inspection}"
            );
        }
    }
    let last = newest + 2;
    let stop = format!("train.stop_after={last}");
    let summary = place.train("killed", &[&resume[..], &[&stop, "--json"]].concat()).json();
    assert_eq!(summary["step"], last);
    let left = names(&place.path("killed/checkpoints"));
    assert!(left.len() == 2 && left.iter().all(|name| name.starts_with("step-")), "{left:?}");
    place.train("whole", &["train.steps=500", &stop]).success();
    place.assert_same("whole", "killed", last);
}

#[test]
fn a_file_size_limit_while_saving_leaves_the_checkpoint_before() {
    let place = Place::new();
    place.train("whole", &["train.steps=4"]).success();
    let every = ["train.steps=4", "train.checkpoint_every=2"];
    place.train("full", &[&every[..], &["train.stop_after=2"]].concat()).success();
    let before = place.state("full", 2);
    let [model, moments] = [before[0].len(), before[1].len()];
    assert!(model + 4096 < moments, "the limit between them needs room: {model}, {moments}");
    for (limit, file) in [(model / 2, "model.safetensors"), ((model + moments) / 2, "trainer.safetensors")] {
        // In units of 1024 bytes.
        let script = format!("ulimit -f {}; exec \"$0\" \"$@\"", limit / 1024);
        let mut command = Command::new("bash");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_otter")]);
        command.args(place.arguments("full", &[&every[..], &["--resume"]].concat()));
        let ended: Ended = command.output().unwrap().into();
        ended.error(&["step-000004", file, "File too large"]);
        assert_eq!(names(&place.path("full/checkpoints")), ["step-000002"], "{file}");
        assert!(place.state("full", 2) == before, "{file}");
    }
    place.train("full", &[&every[..], &["--resume"]].concat()).success();
    place.assert_same("whole", "full", 4);
}

#[test]
fn a_full_disk_while_saving_leaves_the_checkpoint_before() {
    const CANNOT_MOUNT: i32 = 77;
    let place = Place::new();
    place.train("whole", &["train.steps=4"]).success();
    // A file system of its own with room for one checkpoint and a half, gone together with the shell.
    let script = r#"
        mkdir -p "$RUN" && mount -t tmpfs -o size=17m tmpfs "$RUN" 2>/dev/null || exit 77
        "$OTTER" "$@" train.stop_after=2 >/dev/null 2>&1 || exit 78
        cp -r "$RUN/checkpoints" "$KEPT/before"
        "$OTTER" "$@" --resume; status=$?
        cp -r "$RUN/checkpoints" "$KEPT/after"
        mount -o remount,size=64m "$RUN" && "$OTTER" "$@" --resume >/dev/null 2>&1 && cp -r "$RUN" "$KEPT/full"
        exit $status"#;
    let kept = place.path("kept");
    std::fs::create_dir(&kept).unwrap();
    let run = Command::new("unshare")
        .args(["--mount", "bash", "-c", script, "otter"])
        .args(place.arguments("full", &["train.steps=4", "train.checkpoint_every=2"]))
        .env("OTTER", env!("CARGO_BIN_EXE_otter"))
        .env("RUN", place.path("full"))
        .env("KEPT", &kept)
        .output();
    let ended: Ended = match run {
        Ok(output) if output.status.code() != Some(CANNOT_MOUNT) => output.into(),
        _ => {
            return crate::skip::skipped("mount", "a small file system can only be mounted by root on Linux");
        }
    };
    if ended.stderr.starts_with("unshare:") {
        return crate::skip::skipped("mount", ended.stderr.trim());
    }
    ended.error(&["step-000004", ".safetensors", "No space left on device"]);
    for moment in ["before", "after"] {
        assert_eq!(names(&kept.join(moment)), ["step-000002"], "{moment}");
    }
    for file in ["model/model.safetensors", "trainer.safetensors", "trainer.json"] {
        let read = |moment: &str| std::fs::read(kept.join(moment).join("step-000002").join(file)).unwrap();
        assert!(read("before") == read("after"), "{file}");
    }
    place.assert_same("whole", "kept/full", 4);
}

#[test]
fn a_plan_is_printed_without_a_run() {
    let place = Place::new();
    let temporary = place.path("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let plan = |more: &[&str]| -> Ended {
        let mut command = place.command("run", &[&["--plan"], more].concat());
        command.env("TMPDIR", &temporary).output().unwrap().into()
    };
    let text = plan(&[]).success().stdout;
    assert!(text.starts_with("memory plan\n"), "{text}");
    for item in ["trained weights", "frozen weights", "gradients", "optimizer moments", "logits", "total"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(item)), "no {item}: {text}");
    }
    let json = plan(&["--json"]).json();
    let items = json["items"].as_array().unwrap();
    let bytes = |item: &Value| item["bytes"].as_u64().unwrap();
    assert_eq!(json["total_bytes"], items.iter().map(bytes).sum::<u64>());
    let is_weights = |item: &&Value| item["name"].as_str().unwrap().contains("weights");
    let weights: u64 = items.iter().filter(is_weights).map(bytes).sum();
    let inspection = otter(&arguments!["inspect", repository("assets/toybox-base"), "--json"]).json();
    // The base is stored in 16 bits: frozen matrices stay so, what is trained has 32.
    let total = inspection["parameters"]["total"].as_u64().unwrap();
    assert!((2 * total + 1..4 * total).contains(&weights), "{weights}, {total} parameters");
    // A plan of something impossible is an error and leaves nothing either.
    plan(&["data.image_size=48"]).error(&["data.image_size", "48", "32"]);
    assert!(!place.path("run").exists());
    assert_eq!(names(&temporary), Vec::<String>::new());
}

/// `--memory` chooses what fits and says so; the trained part that a run saved is a model for every command.
#[test]
fn a_memory_limit_is_kept_to_and_a_trained_part_is_a_model() {
    let place = Place::new();
    let mut command = place.command("run", &["model.quantize=q8_0", "train.moments=8bit"]);
    let ended: Ended = command.args(["--memory", "4GiB", "--json"]).output().unwrap().into();
    let ended = ended.success();
    assert!(ended.stderr.contains("nothing has to be made smaller"), "{}", ended.stderr);
    let checkpoint = ended.json()["checkpoint"].as_str().unwrap().to_owned();
    let model = Path::new(&checkpoint).join("model");
    assert_eq!(names(&model), ["trained.json", "trained.safetensors"]);
    let generated =
        otter(&arguments!["generate", "--model", model, "--prompt", "what is this", "--max-new-tokens", "2"]);
    generated.success();
    let inspected = otter(&arguments!["inspect", model]).success().stdout;
    let base = repository("assets/toybox-base");
    let command = format!("otter convert {} --overlay", base.canonicalize().unwrap().display());
    assert!(inspected.contains(&command) || inspected.contains("toybox-base --overlay"), "{inspected}");
    let whole = place.path("whole");
    otter(&arguments!["convert", base, "--overlay", model.join("trained.safetensors"), "--out", whole])
        .success();
    otter(&arguments!["generate", "--model", whole, "--prompt", "what is this", "--max-new-tokens", "2"])
        .success();

    let mut command = place.command("small", &[]);
    let ended: Ended = command.args(["--memory", "2MiB"]).output().unwrap().into();
    ended.error(&["train.memory", "more than the 2.00 MiB given"]);
}

#[test]
fn unknown_keys_and_bad_values_are_named() {
    let place = Place::new();
    let refused = |more: &[&str], parts: &[&str]| {
        place.train("run", more).error(parts);
        assert!(!place.path("run").exists(), "{more:?} left a run directory");
    };
    refused(&["train.batchsize=3"], &["unknown key `train.batchsize`", "`train.batch_size`"]);
    refused(&["optimiser.learning_rate=1"], &["optimiser", "`optimizer"]);
    refused(&["train.batch_size=0"], &["train.batch_size is 0"]);
    refused(&["train.batch_size=some"], &["train.batch_size"]);
    refused(&["optimizer.learning_rate=-1"], &["optimizer.learning_rate is -1"]);
    refused(&["optimizer.learning_rate=nan"], &["optimizer.learning_rate is NaN"]);
    refused(&["train.steps"], &["train.steps", "="]);
    let absent = place.path("absent.toml");
    otter(&arguments!["train", "--config", absent]).error(&["absent.toml", "cannot open"]);
    let absent = place.path("absent").to_str().unwrap().to_owned();
    place.train("model", &[&format!("model.init_from={absent}")]).error(&[&absent]);
    place.train("data", &[&format!("data.mimicit_yaml={absent}")]).error(&[&absent]);
}

#[test]
fn a_missing_picture_is_named_or_counted() {
    const LOST: &str = "TOYATTR_IMG_000003";
    let place = Place::new();
    let file = place.path("data/train/TOYATTR.json");
    let mut images: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(images.as_object_mut().unwrap().remove(LOST).is_some());
    std::fs::write(&file, serde_json::to_vec(&images).unwrap()).unwrap();

    // A batch of more samples than there are: every sample is met in a step or two.
    let whole = ["train.batch_size=16", "train.steps=4"];
    place.train("strict", &whole).error(&[LOST, "TOYATTR_INS_", "train/TOYATTR.json", "missing_image"]);
    let summary =
        place.train("lenient", &[&whole[..], &["data.on_bad_sample=skip", "--json"]].concat()).json();
    assert_eq!(summary["outcome"], "completed");
    let skipped = summary["skipped"]["missing_image"].as_u64().unwrap();
    assert!(skipped > 0, "{summary}");
    let last = place.metrics("lenient", "step").pop().unwrap();
    assert_eq!(last["samples_skipped"], skipped);
    assert_eq!(last["samples_seen"], summary["samples_seen"]);
}

/// Left out: one record without its picture, and one whose question is too long. Console, log and JSON tell of both; a resumed
/// run goes on counting.
#[test]
fn what_is_left_out_is_told() {
    let place = Place::new();
    let edit = |file: &str, change: &dyn Fn(&mut Value)| {
        let path = place.path("data").join(file);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
    };
    edit("train/TOYATTR.json", &|images| {
        assert!(images.as_object_mut().unwrap().remove("TOYATTR_IMG_000003").is_some());
    });
    edit("train/TOYCOUNT_instructions.json", &|records| {
        let record = records["data"].as_object_mut().unwrap().values_mut().next().unwrap();
        record["instruction"] = Value::from("how many ".repeat(300));
    });
    edit("eval/TOYATTR.json", &|images| {
        let first = images.as_object().unwrap().keys().next().unwrap().clone();
        images.as_object_mut().unwrap().remove(&first);
    });
    let lenient = [
        "train.batch_size=16",
        "train.steps=8",
        "data.on_bad_sample=skip",
        "eval.data.on_bad_sample=skip",
        "eval.max_batches=1000",
    ];
    let whole = place.train("whole", &[&lenient[..], &["--json"]].concat()).success();
    let log = std::fs::read_to_string(place.path("whole/log.txt")).unwrap();
    for (text, of) in [(&whole.stderr, "console"), (&log, "log.txt")] {
        for part in [
            "so far",
            "are left out: too_long, for example sample TOYCOUNT_INS_",
            "are left out: missing_image",
            "TOYATTR_IMG_000003",
            " left out (",
            "evaluation samples: ",
        ] {
            assert!(text.contains(part), "{of} has no '{part}': {text}");
        }
    }
    // At once, and once a reason.
    let warnings: Vec<&str> = whole
        .stderr
        .lines()
        .filter(|line| line.starts_with("warning: so far") && line.contains("left out"))
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let summary = whole.json();
    let skipped = |summary: &Value, reason: &str| summary["skipped"][reason].as_u64().unwrap();
    assert!(skipped(&summary, "too_long") > 1 && skipped(&summary, "missing_image") > 1, "{summary}");
    assert!(summary["skipped_examples"]["too_long"].as_str().unwrap().contains("TOYCOUNT_INS_"), "{summary}");
    assert!(summary["evaluation_skipped"]["missing_image"].as_u64().unwrap() > 0, "{summary}");
    let evaluation = place.metrics("whole", "evaluation").pop().unwrap();
    assert!(evaluation["samples"].as_u64() > Some(0) && evaluation["samples_skipped"].as_u64() > Some(0));

    place.train("parts", &[&lenient[..], &["train.stop_after=5"]].concat()).success();
    let parts = place.train("parts", &[&lenient[..], &["--resume", "--json"]].concat()).json();
    for key in ["skipped", "samples_seen", "evaluation_skipped"] {
        assert_eq!(parts[key], summary[key], "{key}");
    }
    // A resumed run that meets no such sample still names one.
    let again = place.train("parts", &[&lenient[..], &["--resume", "--json"]].concat()).json();
    assert!(again["skipped_examples"]["too_long"].as_str().unwrap().contains("TOYCOUNT_INS_"), "{again}");

    // Passes over the data are not what was asked for when steps are made up.
    let epochs = ["train.epochs=3", "train.batch_size=2", "eval.max_batches=1", lenient[3]];
    let ended = place.train("epochs", &[&epochs[..], &["data.on_bad_sample=skip"]].concat()).success();
    assert!(ended.stderr.contains("train.epochs = 3"), "{}", ended.stderr);
    // Nothing to evaluate, nothing to train on.
    let none = ["eval.data.max_seq_len=4", "train.steps=1"];
    place.train("none", &[&none[..], &lenient[2..4]].concat()).error(&["too_long"]);
    place
        .train("nothing", &[&["data.max_seq_len=4"], &lenient[2..4]].concat())
        .error(&["gave no batch", "too_long"]);
}

/// Every change of the number of steps moves the rates of the steps to come, unless they are constant.
#[test]
fn a_resumed_run_keeps_its_schedule() {
    let place = Place::new();
    place.train("run", &["train.steps=4"]).success();
    let rates = |run: &str| {
        let lines = place.metrics(run, "step");
        lines.iter().map(|line| line["learning_rate"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let before = rates("run");
    place.train("run", &["train.steps=9", "--resume"]).error(&[
        "step-000004",
        "begun for 4 steps and now has 9",
        "schedule",
        "step 4 had",
        "step 5 would have",
        "--extend-schedule",
    ]);
    let epochs =
        place.train("run", &["train.epochs=9", "--resume"]).error(&["begun for 4 steps", "schedule"]);
    assert!(epochs.contains("train.epochs"), "{epochs}");
    assert_eq!((rates("run"), place.checkpoints("run")), (before.clone(), vec![4]));
    let saved = std::fs::read_to_string(place.path("run/config.toml")).unwrap();
    assert!(saved.contains("\nsteps = 4\n"), "what was refused is saved: {saved}");
    place.train("run", &["train.steps=2", "--resume"]).error(&["step 4 is made", "train.steps"]);

    let extended = place.train("run", &["train.steps=9", "--resume", "--extend-schedule"]).success();
    let after = rates("run");
    assert_eq!((after.len(), &after[..4]), (9, &before[..]));
    let told = extended.stderr.find("another schedule of the learning rate").expect("a warning");
    assert!(told < extended.stderr.find("step 5/9").unwrap());
    let warning = extended.stderr[told..].lines().next().unwrap();
    for rate in [before[3], after[4], after[8]] {
        assert!(warning.contains(&format!("{rate:.3e}")), "{rate}: {warning}");
    }
    assert!(std::fs::read_to_string(place.path("run/log.txt")).unwrap().contains(warning));
    // From now on it is a run of nine steps.
    place.train("run", &["train.steps=9", "--resume"]).success();

    // A rate that stays needs no word; the same number of steps in other words neither.
    place.train("constant", &["train.steps=4", "schedule.name=constant"]).success();
    place.train("constant", &["train.steps=5", "schedule.name=constant", "--resume"]).success();
    // A warm-up that is a part of the run moves with it.
    let ratio = ["schedule.name=constant", "schedule.warmup_ratio=0.9"];
    let config = std::fs::read_to_string(repository("recipes/toybox.toml")).unwrap();
    let file = place.path("ratio.toml");
    std::fs::write(
        &file,
        config.lines().filter(|line| !line.starts_with("warmup")).collect::<Vec<_>>().join("\n"),
    )
    .unwrap();
    let part = |more: &[&str]| {
        let mut arguments = place.arguments("ratio", &[&ratio[..], more].concat());
        arguments[2] = file.to_str().unwrap().to_owned();
        arguments.retain(|argument| !argument.starts_with("schedule.warmup_steps"));
        let base = format!("model.init_from={}", repository("assets/toybox-base").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_otter"));
        Ended::from(command.args(arguments).arg(base).output().unwrap())
    };
    part(&["train.steps=8", "train.stop_after=2"]).success();
    part(&["train.steps=16", "--resume"]).error(&["begun for 8 steps and now has 16", "schedule"]);

    // Data that has grown.
    let list = place.path("data/train.yaml");
    let text = std::fs::read_to_string(&list).unwrap();
    place.train("grown", &["train.epochs=2", "train.stop_after=1"]).success();
    let shorter = text.replacen("num_samples: -1", "num_samples: 1", 1);
    assert_ne!(shorter, text);
    std::fs::write(&list, shorter).unwrap();
    place.train("grown", &["train.epochs=2", "--resume"]).error(&["samples an epoch", "schedule"]);

    // Nothing to go on from is said.
    std::fs::write(&list, text).unwrap();
    let ended = place.train("new", &["train.steps=1", "--resume"]).success();
    assert!(ended.stderr.contains("no checkpoint to go on from"), "{}", ended.stderr);
}

/// What schedulers, terminals and `nohup` do.
#[test]
fn every_request_to_end_saves() {
    let place = Place::new();
    let steps = ["train.steps=400", "train.log_every=1"];
    for (run, signal, status, name) in [("term", "-TERM", 143, "SIGTERM"), ("hup", "-HUP", 129, "SIGHUP")] {
        let ended = signal_after(place.command(run, &steps), 2, signal).ended_with(status);
        assert!(ended.stderr.contains(&format!("received {name}: stopping")), "{}", ended.stderr);
        let made = place.checkpoints(run);
        assert!(made.len() == 1 && (2..400).contains(&made[0]), "{made:?}");
        let log = std::fs::read_to_string(place.path(run).join("log.txt")).unwrap();
        assert!(log.contains("interrupted; resume to go on") && log.contains("checkpoint "), "{log}");
    }
    // Under nohup the terminal may close.
    let mut command = Command::new("nohup");
    command
        .arg(env!("CARGO_BIN_EXE_otter"))
        .args(place.arguments("nohup", &["train.steps=12"]))
        .stdin(Stdio::null());
    signal_after(command, 2, "-HUP").success();
    assert_eq!(place.checkpoints("nohup"), [12]);
    // `timeout` signals the process and its group.
    let mut command = Command::new("timeout");
    command.args(["4", env!("CARGO_BIN_EXE_otter")]).args(place.arguments("timeout", &steps));
    let ended: Ended = command.stdin(Stdio::null()).output().unwrap().into();
    assert!(ended.stderr.contains("interrupted"), "{ended:?}");
    // Before the first step there is nothing to save, and nothing is left to stumble over.
    let early = signal_at(place.command("early", &steps), "", "-TERM").ended_with(143);
    assert!(early.stderr.contains("interrupted"), "{early:?}");
    place.train(
        "early",
        &["train.steps=2", if place.checkpoints("early").is_empty() { "train.seed=1" } else { "--resume" }],
    );
}

/// A reader that has gone neither stops a run nor makes it panic.
#[test]
fn a_closed_standard_error_does_not_stop_a_run() {
    let place = Place::new();
    let mut child = place.command("run", &["train.steps=6"]).stderr(Stdio::piped()).spawn().unwrap();
    let (_, rest) = wait_for(&mut child, "step 1/");
    drop(rest);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(place.checkpoints("run"), [6]);
    let log = std::fs::read_to_string(place.path("run/log.txt")).unwrap();
    assert!(log.contains("finished after step 6") && log.contains("none left out"), "{log}");
}
