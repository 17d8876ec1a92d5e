//! Pulls from a hub on the loopback interface: whole, pinned, interrupted, damaged, refused, hostile, twice at once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crate::common::{COMMIT, Hub, ID, git_sha1, model_files, sha256};
use otter_hub::{
    Cache, Glob, HubError, Observer, Plan, PullOptions, Pulled, RECORD_FILE, Record, Retry, Settings, Silent,
    Token, plan, pull, resolve_model,
};
use tempfile::TempDir;

const LARGE: &str = "model-00001-of-00002.safetensors";

/// A cache of its own, and retries that cost no time.
struct Place {
    folder: TempDir,
    settings: Settings,
}

impl Place {
    fn new(hub: &Hub) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: hub.url(),
            token: None,
            cache: Cache::new(folder.path().join("hub")),
            mirror: None,
            offline: false,
            certificates: None,
            retry: Retry {
                attempts: 4,
                first_pause: Duration::from_millis(1),
                silence: Duration::from_secs(5),
            },
        };
        Self { folder, settings }
    }

    fn repository(&self) -> PathBuf {
        self.settings.cache.root().join("models--org--name")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    fn incomplete(&self, file: &str) -> PathBuf {
        self.repository().join("blobs").join(format!("{}.incomplete", sha256(&model_files()[file])))
    }

    fn pull(&self, options: &PullOptions) -> Result<Pulled, HubError> {
        pull(&self.settings, options, &AtomicBool::new(false), &Silent)
    }

    #[track_caller]
    fn error(&self, options: &PullOptions, parts: &[&str]) -> String {
        let text = self.pull(options).unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "no '{part}' in: {text}");
        }
        text
    }
}

fn options() -> PullOptions {
    PullOptions::new(ID.parse().unwrap())
}

#[track_caller]
fn assert_model(folder: &Path) {
    for (name, content) in model_files().iter().filter(|(name, _)| *name != "optimizer.pt") {
        assert_eq!(&std::fs::read(folder.join(name)).unwrap(), content, "{name}");
    }
    assert!(!folder.join("optimizer.pt").exists());
}

#[test]
fn a_pull_fills_the_cache_as_the_hub_tools_do() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    let pulled = place.pull(&options()).unwrap();
    assert_eq!(pulled.folder, place.snapshot());
    assert_model(&pulled.folder);
    let repository = place.repository();
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let link = std::fs::read_link(pulled.folder.join(LARGE)).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&model_files()[LARGE])));
    let link = std::fs::read_link(pulled.folder.join("sub dir/größe.txt")).unwrap();
    assert_eq!(link, Path::new("../../../blobs").join(git_sha1(b"inside\n")));

    // Every file was asked for at the commit, never at the branch.
    let files = hub.requests("/resolve/");
    assert_eq!(files.len(), 5, "all but the empty one");
    assert!(
        files.iter().all(|r| r.path.contains(COMMIT) && r.range.is_none() && r.token.is_none()),
        "{files:?}"
    );

    let record: Record =
        serde_json::from_slice(&std::fs::read(pulled.folder.join(RECORD_FILE)).unwrap()).unwrap();
    assert_eq!(record, pulled.record);
    assert_eq!((record.id.as_str(), record.revision.as_str(), record.commit.as_str()), (ID, "main", COMMIT));
    assert_eq!(record.source, hub.url());
    let large = record.files.iter().find(|file| file.path == LARGE).unwrap();
    assert_eq!(
        (large.size, large.checksum.clone()),
        (300_000, format!("sha256:{}", sha256(&model_files()[LARGE])))
    );
    let small = record.files.iter().find(|file| file.path == "config.json").unwrap();
    assert_eq!(small.checksum, format!("git-sha1:{}", git_sha1(&model_files()["config.json"])));

    // The second time only the listing is asked for.
    hub.forget_requests();
    place.pull(&options()).unwrap();
    assert_eq!(hub.requests("/resolve/"), []);
    assert_eq!(hub.requests("").len(), 2);

    // hf-hub reads the cache as its own.
    let theirs = hf_hub::Cache::new(place.settings.cache.root().to_path_buf()).model(ID.to_string());
    assert_eq!(
        theirs.get(LARGE).unwrap().canonicalize().unwrap(),
        pulled.folder.join(LARGE).canonicalize().unwrap()
    );
}

#[test]
fn what_another_tool_left_in_the_cache_is_found() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    let theirs = hf_hub::Cache::new(place.settings.cache.root().to_path_buf()).model(ID.to_string());
    theirs.create_ref(COMMIT).unwrap();
    let snapshot = theirs.pointer_path(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    let find = || resolve_model(Path::new(ID), &place.settings);
    for (name, lacks) in [
        ("config.json", "config.json, weights missing"),
        ("model.safetensors.index.json", "weights missing"),
        (LARGE, "model-00001-of-00002.safetensors, model-00002-of-00002.safetensors"),
        ("model-00002-of-00002.safetensors", "incomplete: model-00002-of-00002.safetensors missing"),
    ] {
        let error = find().unwrap_err().to_string();
        assert!(error.contains(lacks) && error.contains("otter pull org/name"), "{error}");
        std::fs::write(snapshot.join(name), &model_files()[name]).unwrap();
    }
    assert_eq!(find().unwrap(), snapshot);
}

#[test]
fn a_commit_or_a_branch_is_pinned() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    let newer = "f".repeat(40);
    let mut files = model_files();
    files.insert("config.json".to_string(), b"{\"newer\": 1}\n".to_vec());
    hub.state.commits.lock().unwrap().insert(newer.clone(), files);
    hub.state.revisions.lock().unwrap().insert("refs/pr/1".to_string(), newer.clone());

    let pinned = PullOptions::new(format!("{ID}@{COMMIT}").parse().unwrap());
    assert_eq!(place.pull(&pinned).unwrap().folder, place.snapshot());
    assert!(!place.repository().join("refs").exists(), "a commit makes no reference");
    let resolved = |name: &str| resolve_model(Path::new(name), &place.settings);
    assert_eq!(resolved(&format!("{ID}@{COMMIT}")).unwrap(), place.snapshot());
    let error = resolved(ID).unwrap_err().to_string();
    assert!(error.contains(&format!("write {ID}@{COMMIT}")), "{error}");

    let branch = PullOptions::new(format!("{ID}@refs/pr/1").parse().unwrap());
    let pulled = place.pull(&branch).unwrap();
    assert_eq!(pulled.record.commit, newer);
    assert_eq!(pulled.record.revision, "refs/pr/1");
    assert_eq!(std::fs::read(pulled.folder.join("config.json")).unwrap(), b"{\"newer\": 1}\n");
    assert_eq!(std::fs::read_to_string(place.repository().join("refs/refs/pr/1")).unwrap(), newer);
    assert_eq!(resolved(&format!("{ID}@refs/pr/1")).unwrap(), pulled.folder);

    // A branch that moved is another snapshot; the old one stays.
    hub.state.revisions.lock().unwrap().insert("main".to_string(), newer.clone());
    assert_eq!(place.pull(&options()).unwrap().record.commit, newer);
    assert!(place.snapshot().join("config.json").exists());

    hub.behave(|b| b.claims_commit = Some(COMMIT.to_string()));
    let other = Place::new(&hub);
    other.error(&options(), &["sends commit 0123", "where ffff"]);
}

/// Sums up what it is told.
#[derive(Default)]
struct Watching {
    bytes: AtomicI64,
    notes: Mutex<Vec<String>>,
}

impl Observer for Watching {
    fn planned(&self, plan: &Plan) {
        assert!(plan.total_bytes() >= plan.missing_bytes());
    }
    fn bytes(&self, change: i64) {
        self.bytes.fetch_add(change, Ordering::Relaxed);
    }
    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_string());
    }
}

#[test]
fn a_broken_connection_goes_on_where_it_broke() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    hub.behave(|b| drop(b.break_after.insert(LARGE.to_string(), VecDeque::from([150_000, 100_000]))));
    let watching = Watching::default();
    let pulled = pull(&place.settings, &options(), &AtomicBool::new(false), &watching).unwrap();
    assert_model(&pulled.folder);
    let ranges: Vec<_> = hub.requests(LARGE).into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=150000-".to_string()), Some("bytes=250000-".to_string())]);
    let total: u64 = pulled.record.files.iter().map(|file| file.size).sum();
    assert_eq!(watching.bytes.load(Ordering::Relaxed), i64::try_from(total).unwrap());
    let notes = watching.notes.lock().unwrap().join("\n");
    assert!(notes.contains("150000 of 300000 bytes"), "{notes}");
}

#[test]
fn what_an_ended_process_left_is_used() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    // No byte comes after the first break: the pull gives up and leaves what it has.
    hub.behave(|b| drop(b.break_after.insert(LARGE.to_string(), VecDeque::from([100_000, 0, 0, 0, 0]))));
    let error = place.error(&options(), &[ID, LARGE, "after 4 attempts", "run the same command again"]);
    assert!(error.contains(&hub.url()), "{error}");
    assert_eq!(std::fs::metadata(place.incomplete(LARGE)).unwrap().len(), 100_000);
    assert!(!place.snapshot().exists(), "nothing incomplete is visible");
    let listed = plan(&place.settings, &options(), &AtomicBool::new(false)).unwrap();
    assert_eq!(listed.files.iter().find(|f| f.file.path.as_str() == LARGE).unwrap().present, 100_000);

    hub.forget_requests();
    hub.behave(|b| b.break_after.clear());
    assert_model(&place.pull(&options()).unwrap().folder);
    let requests = hub.requests(LARGE);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].range.as_deref(), Some("bytes=100000-"));
    assert!(!place.incomplete(LARGE).exists());
}

#[test]
fn a_server_without_ranges_starts_again_and_an_endless_one_is_given_up() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    hub.behave(|b| {
        b.ignores_range = true;
        b.break_after.insert(LARGE.to_string(), VecDeque::from([150_000]));
    });
    assert_model(&place.pull(&options()).unwrap().folder);
    let ranges: Vec<_> = hub.requests(LARGE).into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=150000-".to_string())]);

    let other = Place::new(&hub);
    hub.behave(|b| drop(b.break_after.insert(LARGE.to_string(), VecDeque::from([150_000; 99]))));
    hub.forget_requests();
    other.error(&options(), &["after 4 attempts"]);
    assert_eq!(hub.requests(LARGE).len(), 4, "only the first brought more than there was");
}

#[test]
fn unavailable_for_a_moment_is_no_failure() {
    let hub = Hub::start(model_files());
    hub.behave(|b| b.unavailable = 3);
    assert_model(&Place::new(&hub).pull(&options()).unwrap().folder);
    hub.behave(|b| b.unavailable = 1000);
    Place::new(&hub).error(&options(), &["answers 503", "after 4 attempts", "HF_ENDPOINT"]);
}

#[test]
fn bytes_with_a_wrong_checksum_are_refused_and_removed() {
    let files = model_files();
    let flipped = |name: &str| {
        let mut content = files[name].clone();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        content
    };
    for (name, expected, found) in [
        (LARGE, sha256(&files[LARGE]), sha256(&flipped(LARGE))),
        ("config.json", git_sha1(&files["config.json"]), git_sha1(&flipped("config.json"))),
    ] {
        let hub = Hub::start(model_files());
        let place = Place::new(&hub);
        hub.behave(|b| assert!(b.corrupt.insert(name.to_string())));
        place.error(&options(), &[ID, name, &found, &expected, "wrong checksum", "removed"]);
        assert_eq!(hub.requests(name).len(), 1, "a whole file is not tried again");
        let blobs = place.repository().join("blobs");
        assert!(!blobs.join(&expected).exists() && !blobs.join(format!("{expected}.incomplete")).exists());
        assert!(!place.snapshot().exists());
        hub.behave(|b| b.corrupt.clear());
        assert_model(&place.pull(&options()).unwrap().folder);
    }
}

#[test]
fn a_damaged_beginning_is_fetched_again() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    std::fs::create_dir_all(place.repository().join("blobs")).unwrap();
    std::fs::write(place.incomplete(LARGE), vec![255; 1000]).unwrap();
    assert_model(&place.pull(&options()).unwrap().folder);
    let ranges: Vec<_> = hub.requests(LARGE).into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [Some("bytes=1000-".to_string()), None]);

    // Longer than the file will be, or whole but not yet renamed.
    for (content, requests) in [(vec![0; 400_000], 1), (model_files()[LARGE].clone(), 0)] {
        let place = Place::new(&hub);
        std::fs::create_dir_all(place.repository().join("blobs")).unwrap();
        std::fs::write(place.incomplete(LARGE), content).unwrap();
        hub.forget_requests();
        assert_model(&place.pull(&options()).unwrap().folder);
        assert_eq!(hub.requests(LARGE).len(), requests);
    }
}

#[test]
fn damage_in_the_cache_is_found_on_request() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    let blob = place.repository().join("blobs").join(sha256(&model_files()[LARGE]));
    place.pull(&options()).unwrap();
    std::fs::write(&blob, vec![0; 300_000]).unwrap();
    hub.forget_requests();
    place.pull(&options()).unwrap();
    assert_eq!(hub.requests(LARGE), [], "sizes agree, and contents are not read");
    place.pull(&PullOptions { verify: true, ..options() }).unwrap();
    assert_model(&place.snapshot());
    // Another size is noticed without being asked.
    std::fs::write(&blob, b"short").unwrap();
    let error = resolve_model(Path::new(ID), &place.settings).unwrap_err().to_string();
    assert!(error.contains(LARGE) && error.contains("incomplete"), "{error}");
    place.pull(&options()).unwrap();
    assert_model(&place.snapshot());
}

#[test]
fn offline_uses_the_cache_alone() {
    let hub = Hub::start(model_files());
    let mut place = Place::new(&hub);
    place.settings.offline = true;
    place.error(
        &options(),
        &["org/name", "no copy of revision main", "--offline or HF_HUB_OFFLINE", "otter pull org/name"],
    );
    place.settings.offline = false;
    place.pull(&options()).unwrap();
    hub.forget_requests();
    place.settings.offline = true;
    assert_eq!(place.pull(&options()).unwrap().folder, place.snapshot());
    let out = place.folder.path().join("out");
    assert_model(&place.pull(&PullOptions { out: Some(out), ..options() }).unwrap().folder);
    std::fs::remove_file(place.snapshot().join(LARGE)).unwrap();
    place.error(&options(), &[LARGE, "missing", "otter pull org/name"]);
    assert_eq!(hub.requests(""), [], "no request was made");
}

#[test]
fn the_token_is_for_the_hub_only() {
    let storage = Hub::start(model_files());
    let hub = Hub::start(model_files());
    hub.behave(|b| {
        b.needs_token = Some("hf_secret".to_string());
        b.redirect_large_files_to = Some(storage.url());
    });
    let mut place = Place::new(&hub);
    place.error(&options(), &["org/name", "401", "HF_TOKEN", "/settings/tokens"]);
    place.settings.token = Token::new("hf_wrong").unwrap();
    let error = place.error(&options(), &["401", "may lack the right"]);
    assert!(!error.contains("hf_wrong"), "{error}");
    place.settings.token = Token::new("hf_secret").unwrap();
    storage.behave(|b| drop(b.break_after.insert(LARGE.to_string(), VecDeque::from([5000]))));
    assert_model(&place.pull(&options()).unwrap().folder);
    assert!(hub.requests(LARGE).iter().all(|r| r.token.as_deref() == Some("Bearer hf_secret")));
    let stored = storage.requests("");
    assert_eq!(stored.len(), 3, "{stored:?}");
    assert!(stored.iter().all(|r| r.token.is_none()), "{stored:?}");
    assert!(stored.iter().any(|r| r.range.as_deref() == Some("bytes=5000-")), "the range goes along");
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    let unknown = PullOptions::new("org/other".parse().unwrap());
    place.error(&unknown, &["org/other", "404", "check the spelling"]);
    let revision = PullOptions::new("org/name@nope".parse().unwrap());
    place.error(
        &revision,
        &["org/name (nope)", "404", "no such branch, tag or commit", "the hub says: no such rev"],
    );
    for (status, code, parts) in [
        (403, "GatedRepo", ["accept its license at", "/org/name,", "HF_TOKEN"]),
        (403, "", ["access is denied", "license at", "HF_TOKEN"]),
        (401, "", ["not public", "spelling", "HF_TOKEN"]),
        (418, "", ["org/name", "418", "not expected"]),
    ] {
        hub.behave(|b| b.refuses = Some(("/resolve/".to_string(), status, code)));
        place.error(&options(), &parts);
    }
}

#[test]
fn hostile_listings_are_refused_before_anything_is_written() {
    let oid = git_sha1(b"");
    let file = |name: &str, rest: &str| format!("{{\"type\": \"file\", \"path\": \"{name}\", {rest}}}");
    let plain = format!("\"size\": 0, \"oid\": \"{oid}\"");
    for (entry, parts) in [
        (file("../escape", &plain), ["\"../escape\"", "leaves its folder"]),
        (file("a/../../b", &plain), ["a/../../b", "leaves its folder"]),
        (file("/etc/passwd", &plain), ["/etc/passwd", "absolute"]),
        (file("a\\\\b", &plain), ["backslash", "refused"]),
        (file("a\\u0000b", &plain), ["control character", "refused"]),
        (file("C:/x", &plain), ["C:/x", "drive"]),
        (file("", &plain), ["file name", "1 to 1024"]),
        (file("config.json", &plain), ["config.json", "twice"]),
        (file("x.json", "\"size\": 5, \"oid\": \"../../../../evil\""), ["x.json", "git's SHA-1"]),
        (file("x.json", "\"size\": 5, \"lfs\": {\"oid\": \"ab\", \"size\": 5}"), ["x.json", "SHA-256"]),
        (file("x.json", &format!("\"oid\": \"{oid}\"")), ["x.json", "no size"]),
        (file("x.json", &format!("\"size\": 99999999999999999, \"oid\": \"{oid}\"")), ["x.json", "believed"]),
        (
            file("x.json", &format!("\"size\": 17592186044416, \"oid\": \"{oid}\"")),
            ["bytes are needed", "free"],
        ),
        ("7".to_string(), ["not the expected JSON", "is http"]),
    ] {
        let hub = Hub::start(model_files());
        let place = Place::new(&hub);
        hub.behave(|b| b.more_entries.push(entry.clone()));
        place.error(&options(), &parts);
        assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 0, "{entry}");
        assert_eq!(hub.requests("/resolve/"), []);
    }
}

#[test]
fn a_file_longer_or_shorter_than_listed_is_refused() {
    for (change, part) in [(100_i32, "sends 300100 bytes"), (-100, "sends 299900 bytes")] {
        let storage = Hub::start({
            let mut files = model_files();
            let length = usize::try_from(300_000 + change).unwrap();
            files.get_mut(LARGE).unwrap().resize(length, 0);
            files
        });
        let hub = Hub::start(model_files());
        hub.behave(|b| b.redirect_large_files_to = Some(storage.url()));
        Place::new(&hub).error(&options(), &[LARGE, part, "300000"]);
    }
}

#[test]
fn a_long_listing_comes_in_pages() {
    let hub = Hub::start(model_files());
    hub.behave(|b| b.page = Some((3, hub.url())));
    assert_model(&Place::new(&hub).pull(&options()).unwrap().folder);
    assert_eq!(hub.requests("/tree/").len(), 3);
    for elsewhere in ["http://127.0.0.1:9", ""] {
        hub.behave(|b| b.page = Some((3, elsewhere.to_string())));
        Place::new(&hub).error(&options(), &["org/name", "on another host"]);
    }
}

#[test]
fn two_pulls_at_once_share_the_work() {
    let hub = Hub::start(model_files());
    hub.behave(|b| b.pause = Duration::from_millis(20));
    let place = Place::new(&hub);
    let out = place.folder.path().join("out");
    let to_folder = PullOptions { out: Some(out.clone()), ..options() };
    std::thread::scope(|scope| {
        let tasks: Vec<_> = [options(), options(), to_folder.clone(), to_folder]
            .into_iter()
            .map(|options| scope.spawn(move || (options.clone(), options)))
            .map(|task| task.join().unwrap().0)
            .map(|options| {
                let place = &place;
                scope.spawn(move || place.pull(&options).unwrap())
            })
            .collect();
        for task in tasks {
            assert_model(&task.join().unwrap().folder);
        }
    });
    // Once for the cache; once for the folder, unless the cache had it by then.
    assert!(hub.requests(LARGE).len() <= 2, "{:?}", hub.requests(LARGE));
    let leftovers: Vec<_> = std::fs::read_dir(place.repository().join("blobs"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() != 40 && name.len() != 64)
        .collect();
    assert_eq!(leftovers, [""; 0]);
}

#[test]
fn stopping_leaves_what_was_downloaded() {
    let hub = Hub::start(model_files());
    hub.behave(|b| b.pause = Duration::from_millis(50));
    let place = Place::new(&hub);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let task = scope.spawn(|| pull(&place.settings, &options(), &stop, &Silent));
        while std::fs::metadata(place.incomplete(LARGE)).map_or(0, |data| data.len()) < 40_000 {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        let error = task.join().unwrap().unwrap_err();
        assert!(matches!(error, HubError::Stopped { .. }), "{error}");
    });
    let kept = std::fs::metadata(place.incomplete(LARGE)).unwrap().len();
    assert!((40_000..300_000).contains(&kept), "{kept}");
    hub.behave(|b| b.pause = Duration::ZERO);
    hub.forget_requests();
    assert_model(&place.pull(&options()).unwrap().folder);
    assert_eq!(hub.requests(LARGE)[0].range, Some(format!("bytes={kept}-")));
}

#[test]
fn a_silent_server_is_left_at_once_when_stopped() {
    let hub = Hub::start(model_files());
    hub.behave(|b| b.pause = Duration::from_secs(60));
    let mut place = Place::new(&hub);
    place.settings.retry.silence = Duration::from_secs(60);
    let stop = AtomicBool::new(false);
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        let task = scope.spawn(|| pull(&place.settings, &options(), &stop, &Silent));
        while std::fs::metadata(place.incomplete(LARGE)).map_or(0, |data| data.len()) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(task.join().unwrap(), Err(HubError::Stopped { .. })));
    });
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());

    // Without a stop, silence is a broken connection.
    place.settings.retry.silence = Duration::from_millis(200);
    hub.behave(|b| b.pause = Duration::from_secs(2));
    assert_eq!(place.settings.retry.attempts, 4);
    let watching = Watching::default();
    hub.forget_requests();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let task = scope.spawn(|| pull(&place.settings, &options(), &stop, &watching));
        while hub.requests(LARGE).len() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        hub.behave(|b| b.pause = Duration::ZERO);
        assert_model(&task.join().unwrap().unwrap().folder);
    });
}

#[test]
fn a_folder_of_its_own_holds_plain_files() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    let out = place.folder.path().join("models/otter");
    let to_folder = PullOptions { out: Some(out.clone()), ..options() };
    hub.behave(|b| drop(b.break_after.insert(LARGE.to_string(), VecDeque::from([1000]))));
    assert_eq!(place.pull(&to_folder).unwrap().folder, out);
    assert_model(&out);
    assert!(std::fs::symlink_metadata(out.join(LARGE)).unwrap().is_file());
    assert!(!place.repository().exists(), "the cache stays as it was");
    assert_eq!(resolve_model(&out, &place.settings).unwrap(), out);

    // The next commit replaces what this one brought, and takes away what it lacks.
    let newer = "a".repeat(40);
    let mut files = model_files();
    files.insert("config.json".to_string(), b"{\"newer\": 1}\n".to_vec());
    files.remove("empty.txt");
    hub.state.commits.lock().unwrap().insert(newer.clone(), files);
    hub.state.revisions.lock().unwrap().insert("main".to_string(), newer.clone());
    assert_eq!(place.pull(&to_folder).unwrap().record.commit, newer);
    assert_eq!(std::fs::read(out.join("config.json")).unwrap(), b"{\"newer\": 1}\n");
    assert!(!out.join("empty.txt").exists());

    // A file of the user's is not replaced.
    let own = place.folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("config.json"), "mine").unwrap();
    let error =
        place.error(&PullOptions { out: Some(own.clone()), ..options() }, &["config.json", "other content"]);
    assert!(error.contains("choose another --out"), "{error}");
    assert_eq!(std::fs::read(own.join("config.json")).unwrap(), b"mine");
}

#[test]
fn the_cache_serves_a_folder() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    place.pull(&options()).unwrap();
    hub.forget_requests();
    let out = place.folder.path().join("out");
    assert_model(&place.pull(&PullOptions { out: Some(out), ..options() }).unwrap().folder);
    assert_eq!(hub.requests("/resolve/"), []);
}

#[test]
fn patterns_choose_and_records_add_up() {
    let hub = Hub::start(model_files());
    let place = Place::new(&hub);
    let mut some = options();
    some.selection.include = vec![Glob::parse("*.json").unwrap()];
    let first = place.pull(&some).unwrap();
    assert_eq!(first.record.files.len(), 2);
    some.selection.include = vec![Glob::parse("optimizer.pt").unwrap()];
    let names = |pulled: &Pulled| pulled.record.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>();
    assert_eq!(
        names(&place.pull(&some).unwrap()),
        ["config.json", "model.safetensors.index.json", "optimizer.pt"]
    );
    some.selection.include = vec![Glob::parse("*.gguf").unwrap()];
    place.error(&some, &["none of its 7 files", "--include"]);
}

#[test]
fn a_mirror_folder_stands_for_the_hub() {
    let hub = Hub::start(model_files());
    let mut place = Place::new(&hub);
    let mirror = place.folder.path().join("mirror");
    let folder = mirror.join("org/name");
    for (name, content) in model_files() {
        std::fs::create_dir_all(folder.join(&name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(&name), content).unwrap();
    }
    place.settings.mirror = Some(mirror.clone());
    // Used where it stands, or copied.
    assert_eq!(resolve_model(Path::new(ID), &place.settings).unwrap(), folder);
    let pulled = place.pull(&options()).unwrap();
    assert_model(&pulled.folder);
    assert_eq!(pulled.record.source, folder.display().to_string());
    assert_eq!(pulled.record.commit.len(), 40);
    let again = place.pull(&options()).unwrap();
    assert_eq!(again.record, pulled.record, "the same content is the same commit");
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    assert_ne!(place.pull(&options()).unwrap().record.commit, pulled.record.commit);
    assert_eq!(hub.requests(""), []);

    place.error(&PullOptions::new("org/other".parse().unwrap()), &["has no folder org/other", "--mirror"]);
    let revision = PullOptions::new("org/name@v1".parse().unwrap());
    place.error(&revision, &["does not say which revision"]);

    // What `--out` made is a mirror that knows its commit, and is checked against its record.
    place.settings.mirror = None;
    let out = mirror.join("org/recorded");
    let to_mirror = PullOptions { out: Some(out.clone()), ..options() };
    place.pull(&to_mirror).unwrap();
    std::fs::rename(&out, mirror.join("org/x")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(mirror.join("org/x"), &folder).unwrap();
    place.settings.mirror = Some(mirror.clone());
    let copy = place.folder.path().join("copy");
    let from_mirror =
        PullOptions { out: Some(copy.clone()), ..PullOptions::new(format!("{ID}@main").parse().unwrap()) };
    place.settings.cache = Cache::new(place.folder.path().join("another"));
    assert_eq!(place.pull(&from_mirror).unwrap().record.commit, COMMIT);
    std::fs::write(folder.join(LARGE), vec![0; 300_000]).unwrap();
    std::fs::remove_dir_all(&copy).unwrap();
    place.error(&from_mirror, &[LARGE, "wrong checksum"]);
}

#[test]
fn https_is_checked_against_the_given_roots() {
    let hub = Hub::start_tls(model_files());
    let mut place = Place::new(&hub);
    place.settings.retry.attempts = 1;
    place.error(&options(), &["no secure connection", "SSL_CERT_FILE"]);
    place.settings.certificates = Some(crate::common::test_certificate("root.pem"));
    place.settings.token = Token::new("hf_secret").unwrap();
    assert_model(&place.pull(&options()).unwrap().folder);
    assert!(hub.requests("").iter().all(|r| r.token.as_deref() == Some("Bearer hf_secret")));

    // An encrypted hub does not hand over to an open connection.
    let open = Hub::start(model_files());
    hub.behave(|b| b.redirect_large_files_to = Some(open.url()));
    let mut other = Place::new(&hub);
    other.settings.certificates = place.settings.certificates.clone();
    other.error(&options(), &["from https to the unencrypted"]);

    let empty = place.folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing\n").unwrap();
    other.settings.certificates = Some(empty);
    other.error(&options(), &["SSL_CERT_FILE", "no certificate"]);
}
