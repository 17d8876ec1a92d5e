//! `otter pull` from a hub on the loopback interface, and the pulled model in other commands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Run, golden};
use crate::hub::{COMMIT, Files, Hub, ID};
use tempfile::TempDir;

/// The golden LLaMA checkpoint as a repository, with what a training run leaves beside it.
fn checkpoint() -> Files {
    let mut files = Files::new();
    for item in std::fs::read_dir(golden("llama/checkpoint")).unwrap() {
        let path = item.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_string(), std::fs::read(&path).unwrap());
    }
    files.insert("optimizer.pt".to_string(), vec![1; 5000]);
    files
}

/// A user's environment with nothing in it but what a test sets.
struct User {
    home: TempDir,
    variables: BTreeMap<&'static str, String>,
}

impl User {
    fn of(hub: &Hub) -> Self {
        let home = tempfile::tempdir().unwrap();
        let variables = BTreeMap::from([
            ("HOME", home.path().to_str().unwrap().to_string()),
            ("HF_HOME", home.path().join("hf").to_str().unwrap().to_string()),
            ("HF_ENDPOINT", hub.url()),
        ]);
        Self { home, variables }
    }

    fn snapshot(&self) -> PathBuf {
        self.home.path().join("hf/hub/models--org--name/snapshots").join(COMMIT)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_otter"));
        command.args(arguments).env_clear().envs(&self.variables).current_dir(self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn otter(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

#[test]
fn a_pulled_model_is_known_by_its_name_without_a_network() {
    let hub = Hub::start(checkpoint());
    let mut user = User::of(&hub);
    user.otter(&["inspect", ID]).error(&["org/name", "no such file or directory", "otter pull org/name"]);
    user.otter(&["pull", ID, "--offline"]).error(&["org/name", "--offline", "copy the cache"]);
    assert_eq!(hub.requests(""), []);

    let plan = user.otter(&["pull", ID, "--dry-run", "--json"]).json();
    assert_eq!(plan["files"].as_array().unwrap().len(), 8);
    assert_eq!(plan["skipped"][0]["path"], "optimizer.pt");
    assert_eq!(plan["total_bytes"], plan["missing_bytes"]);
    assert!(!user.home.path().join("hf").exists(), "a dry run writes nothing");

    let record = user.otter(&["pull", ID, "--json"]).json();
    assert_eq!(record["id"], ID);
    assert_eq!((&record["revision"], &record["commit"]), (&"main".into(), &COMMIT.into()));
    assert_eq!(record["folder"], user.snapshot().to_str().unwrap());
    assert_eq!(record["files"].as_array().unwrap().len(), 8);
    let text = user.otter(&["pull", ID]).success();
    assert!(text.stdout.contains("next:  otter inspect org/name"), "{}", text.stdout);
    assert!(text.stderr.contains("8 files") && text.stderr.contains("0 B to download"), "{}", text.stderr);

    // From here on there is no hub.
    user.variables.insert("HF_ENDPOINT", "http://127.0.0.1:9".to_string());
    user.variables.insert("HF_HUB_OFFLINE", "1".to_string());
    let inspected = user.otter(&["inspect", ID, "--json"]).json();
    assert_eq!(inspected["parameters"]["total"], 990_276);
    assert_eq!(
        user.otter(&["inspect", &format!("{ID}@{COMMIT}"), "--json"]).json()["missing"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let prompt = "<image>User:What is this? GPT:<answer>";
    let image = std::fs::read_dir(golden("images"))
        .unwrap()
        .map(|i| i.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "png"));
    let image = image.unwrap();
    let generate = |model: &str| {
        let arguments = [
            "generate",
            "--model",
            model,
            "--image",
            image.to_str().unwrap(),
            "--prompt",
            prompt,
            "--max-new-tokens",
            "4",
            "--json",
        ];
        user.otter(&arguments).json()
    };
    assert_eq!(generate(ID), generate(golden("llama/checkpoint").to_str().unwrap()));
    user.otter(&["pull", ID]).success();
    user.otter(&["convert", ID, "--out", "converted"]).success();
    assert_eq!(user.otter(&["inspect", "converted", "--json"]).json()["parameters"]["total"], 990_276);
    user.otter(&["convert", "org/other", "--out", "other"]).error(&["otter pull org/other"]);
    user.otter(&["init", "--like", ID, "--tokenizer", ID, "--out", "random"]).success();

    // A run's configuration may name the model so too.
    let config =
        format!("[model]\ninit_from = \"{ID}\"\n[train]\nsteps = 1\n[data]\nmimicit_yaml = \"nope.yaml\"\n");
    std::fs::write(user.home.path().join("run.toml"), config).unwrap();
    let error = user.otter(&["train", "--config", "run.toml", "--plan"]).error(&[]);
    assert!(!error.contains("org/name"), "the model was found: {error}");
    user.otter(&["train", "--config", "run.toml", "--plan", "model.init_from=org/other"])
        .error(&["org/other", "otter pull org/other"]);
}

#[test]
fn a_folder_or_a_mirror_takes_the_place_of_the_hub() {
    let hub = Hub::start(checkpoint());
    let mut user = User::of(&hub);
    user.otter(&["pull", ID, "--out", "mirror/org/name", "--revision", COMMIT]).success();
    assert!(!user.home.path().join("hf").exists(), "the cache is not touched");
    assert_eq!(user.otter(&["inspect", "mirror/org/name", "--json"]).json()["parameters"]["total"], 990_276);
    hub.forget_requests();
    let record = user.otter(&["pull", ID, "--mirror", "mirror", "--json"]).json();
    assert_eq!(record["commit"], COMMIT);
    assert_eq!(user.otter(&["inspect", ID, "--json"]).json()["parameters"]["total"], 990_276);
    std::fs::remove_dir_all(user.home.path().join("hf")).unwrap();
    user.variables.insert("OTTER_MIRROR", "mirror".to_string());
    assert_eq!(user.otter(&["inspect", ID, "--json"]).json()["path"], "mirror/org/name");
    assert_eq!(hub.requests(""), []);
}

#[test]
fn bad_arguments_and_refusals_are_said() {
    let hub = Hub::start(checkpoint());
    let mut user = User::of(&hub);
    user.otter(&["pull", "gpt2"]).error(&["gpt2", "org/name"]);
    user.otter(&["pull", "../../etc"]).error(&["../../etc"]);
    user.otter(&["pull", "org/name@v1", "--revision", "v2"]).error(&["two revisions"]);
    user.otter(&["pull", ID, "--revision", "../x"]).error(&["../x", "branch"]);
    user.otter(&["pull", ID, "--include", "["]).error(&["pattern '['"]);
    user.otter(&["pull", ID, "--jobs", "9"]).usage("1..=4");
    user.otter(&["pull", "org/unknown"]).error(&["org/unknown", "404", "HF_TOKEN"]);
    hub.behave(|b| b.needs_token = Some("hf_secret".to_string()));
    user.otter(&["pull", ID]).error(&["401", "HF_TOKEN"]);
    std::fs::write(user.home.path().join("token file"), "hf_secret\n").unwrap();
    user.variables.insert("HF_TOKEN_PATH", user.home.path().join("token file").to_str().unwrap().to_string());
    user.otter(&["pull", ID]).success();
    let listing = user.otter(&["pull", ID, "--dry-run"]).success().stdout;
    assert!(listing.contains("optimizer.pt  left: state of a training run"), "{listing}");
    assert!(listing.contains("pytorch_model.bin  there"), "{listing}");
    user.variables.insert("HF_ENDPOINT", "huggingface.co".to_string());
    user.otter(&["pull", ID]).error(&["HF_ENDPOINT 'huggingface.co'", "https://"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_what_the_next_pull_uses() {
    let hub = Hub::start(checkpoint());
    let user = User::of(&hub);
    hub.behave(|b| b.pause = Duration::from_millis(20));
    let weights = &checkpoint()["pytorch_model.bin"];
    let blobs = user.home.path().join("hf/hub/models--org--name/blobs");
    let incomplete = blobs.join(format!("{}.incomplete", crate::hub::sha256(weights)));
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.len());
    let child = user.command(&["pull", ID]).spawn().unwrap();
    while length(&incomplete) < 100_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: sends a signal to the child of this test, which has not been waited for.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("received SIGINT")
            && message.contains("\norg/name: stopped")
            && message.contains("goes on from there"),
        "{message}"
    );
    let kept = length(&incomplete);
    assert!(kept >= 100_000 && kept < weights.len() as u64, "{kept}");
    hub.behave(|b| b.pause = Duration::ZERO);
    hub.forget_requests();
    user.otter(&["pull", ID]).success();
    assert_eq!(hub.requests("pytorch_model.bin")[0].range, Some(format!("bytes={kept}-")));
    assert_eq!(&std::fs::read(user.snapshot().join("pytorch_model.bin")).unwrap(), weights);
}
