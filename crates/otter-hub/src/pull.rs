//! A pull: list, choose, check the room, download a few files at a time, make visible, record.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{HubError, Result};
use crate::local::cache::pull_command;
use crate::local::download::Downloads;
use crate::local::free_space::free_bytes;
use crate::local::record::Record;
use crate::local::target::Target;
use crate::names::repository::{Commit, ModelReference, RepositoryId, Revision};
use crate::names::selection::Selection;
use crate::observer::{Observer, Plan, PlannedFile};
use crate::resolve::{check_revision, mirror_folder};
use crate::settings::Settings;
use crate::transport::hub_api::HubRepository;
use crate::transport::local_source::{BlobSource, LocalSource, commit_of_content};
use crate::transport::source::{RemoteFile, Source};

/// Most files at a time: more would gain nothing and burden the hub.
pub const MOST_JOBS: usize = 4;

/// Room that is left on the disk.
const SPARE_BYTES: u64 = 64 << 20;

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The model.
    pub reference: ModelReference,
    /// A folder for the files themselves; otherwise they go into the cache.
    pub out: Option<PathBuf>,
    /// Which of its files.
    pub selection: Selection,
    /// Whether files that are there are read again and compared with their checksums.
    pub verify: bool,
    /// Files at a time, 1 to [`MOST_JOBS`].
    pub jobs: usize,
}

impl PullOptions {
    /// The usual files of a model into the cache, three at a time.
    pub fn new(reference: ModelReference) -> Self {
        Self { reference, out: None, selection: Selection::default(), verify: false, jobs: 3 }
    }
}

/// What came of a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The folder with the files.
    pub folder: PathBuf,
    /// Its record.
    pub record: Record,
}

/// Where a pull takes its files from.
enum Origin<'a> {
    Hub(HubRepository<'a>),
    Local(LocalSource),
}

impl Origin<'_> {
    fn source(&self) -> &dyn Source {
        match self {
            Self::Hub(hub) => hub,
            Self::Local(folder) => folder,
        }
    }
}

/// Lists what [`pull`] would do and changes nothing.
///
/// # Errors
/// As [`pull`], as far as it gets.
pub fn plan(settings: &Settings, options: &PullOptions, stop: &AtomicBool) -> Result<Plan> {
    Ok(prepare(settings, options, stop)?.2)
}

/// Brings a model onto this machine. What an earlier pull left is used; `stop` ends it at the next block.
///
/// # Errors
/// Each names what to do: see [`HubError`].
pub fn pull(
    settings: &Settings,
    options: &PullOptions,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<Pulled> {
    let (origin, target, plan) = prepare(settings, options, stop)?;
    check_room(&target, &plan)?;
    observer.planned(&plan);
    let what = plan.id.to_string();
    let ended = AtomicBool::new(false);
    let downloads = Downloads {
        what: &what,
        target: &target,
        retry: settings.retry,
        verify: options.verify,
        stop: &ended,
        observer,
    };
    let files: Vec<RemoteFile> = plan.files.iter().map(|planned| planned.file.clone()).collect();
    let _lock = downloads.lock_folder()?;
    download_all(settings, options, &origin, &downloads, &files, stop)?;
    let record = Record::new(&plan.id, &plan.revision, &plan.commit, plan.source.clone(), &files);
    let record = target.publish(record, &plan.revision, &files)?;
    Ok(Pulled { folder: plan.folder, record })
}

/// Finds the source, lists it and compares it with what is there.
fn prepare<'a>(
    settings: &Settings,
    options: &'a PullOptions,
    stop: &AtomicBool,
) -> Result<(Origin<'a>, Target, Plan)> {
    let ModelReference { id, .. } = &options.reference;
    let revision = options.reference.revision_or_default();
    let (origin, files, commit) = list(settings, options, &revision, stop)?;
    let (files, skipped) = options.selection.divide(id, files)?;
    let target = match &options.out {
        Some(folder) => Target::folder(folder)?,
        None => Target::cache(&settings.cache, id, &commit),
    };
    let present = |file: &RemoteFile| {
        let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |data| data.len());
        let finished = length(target.place(file)) == file.size && target.place(file).is_file();
        if finished { file.size } else { length(target.incomplete(file)).min(file.size) }
    };
    let files: Vec<PlannedFile> =
        files.into_iter().map(|file| PlannedFile { present: present(&file), file }).collect();
    let source = origin.source().origin();
    let folder = target.visible_folder();
    let plan = Plan { id: id.clone(), revision, commit, source, folder, files, skipped };
    Ok((origin, target, plan))
}

/// The files and the commit, from the mirror, the cache or the hub.
fn list<'a>(
    settings: &Settings,
    options: &'a PullOptions,
    revision: &Revision,
    stop: &AtomicBool,
) -> Result<(Origin<'a>, Vec<RemoteFile>, Commit)> {
    let reference = &options.reference;
    if let Some(mirror) = &settings.mirror {
        let folder = mirror_folder(mirror, reference);
        if !folder.is_dir() {
            return Err(HubError::NotHere {
                what: reference.to_string(),
                problem: format!("the mirror {} has no folder {}", mirror.display(), reference.id),
                advice: "correct --mirror or OTTER_MIRROR, or leave it out to use the hub".to_string(),
            });
        }
        let record = check_revision(&folder, reference)?;
        return local(&folder, &reference.id, record);
    }
    if settings.offline {
        let folder = settings.cache.find(reference).map_err(|error| match error {
            HubError::NotHere { what, problem, .. } => HubError::NotHere {
                what,
                problem: format!("{problem}, and the network may not be used (--offline or HF_HUB_OFFLINE)"),
                advice: format!(
                    "get it where the network may be used (`{}`) and copy the cache, or give a folder with --mirror",
                    pull_command(reference)
                ),
            },
            other => other,
        })?;
        let record = Record::read(&folder)?;
        let commit = folder.file_name().and_then(|name| Commit::parse(&name.to_string_lossy()));
        let (origin, files, of_content) = local(&folder, &reference.id, record)?;
        return Ok((origin, files, commit.unwrap_or(of_content)));
    }
    let hub = HubRepository::open(settings, &reference.id, revision, stop)?;
    let files = hub.list(stop)?;
    let commit = hub.commit.clone();
    Ok((Origin::Hub(hub), files, commit))
}

fn local<'a>(
    folder: &Path,
    id: &RepositoryId,
    record: Option<Record>,
) -> Result<(Origin<'a>, Vec<RemoteFile>, Commit)> {
    let source = LocalSource::new(folder);
    let files = source.list(id, record.as_ref())?;
    let recorded = record.and_then(|record| Commit::parse(&record.commit));
    let commit = recorded.or_else(|| commit_of_content(&files)).ok_or_else(|| HubError::Answer {
        what: id.to_string(),
        problem: format!("{} gives no commit", folder.display()),
    })?;
    Ok((Origin::Local(source), files, commit))
}

fn check_room(target: &Target, plan: &Plan) -> Result<()> {
    let path = target.storage_folder();
    let needed = plan.missing_bytes();
    match free_bytes(&path) {
        Some(free) if needed > 0 && needed.saturating_add(SPARE_BYTES) > free => {
            Err(HubError::Space { path, needed, free })
        }
        _ => Ok(()),
    }
}

/// Downloads with a few threads; the first error, or `stop`, ends all of them.
fn download_all(
    settings: &Settings,
    options: &PullOptions,
    origin: &Origin<'_>,
    downloads: &Downloads<'_>,
    files: &[RemoteFile],
    stop: &AtomicBool,
) -> Result<()> {
    let queue: Mutex<VecDeque<&RemoteFile>> = Mutex::new(files.iter().collect());
    let failure: Mutex<Option<HubError>> = Mutex::new(None);
    let jobs = options.jobs.clamp(1, MOST_JOBS).min(files.len().max(1));
    let running = AtomicUsize::new(jobs);
    let ended = downloads.stop;
    let work = || {
        let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
        while let Some(file) = next().filter(|_| !ended.load(Ordering::Relaxed)) {
            let blob = blob_for(settings, options, file);
            let source = blob.as_ref().map_or(origin.source(), |blob| blob as &dyn Source);
            if let Err(error) = downloads.get(source, file) {
                if let Ok(mut failure) = failure.lock() {
                    failure.get_or_insert(error);
                }
                ended.store(true, Ordering::Relaxed);
            }
        }
        running.fetch_sub(1, Ordering::Release);
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
        let mut interrupted = false;
        while running.load(Ordering::Acquire) > 0 {
            if stop.load(Ordering::Relaxed) {
                ended.store(true, Ordering::Relaxed);
            }
            if ended.load(Ordering::Relaxed) && !interrupted {
                // A read that waits for the network does not look at the flag.
                origin.source().interrupt();
                interrupted = true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    match failure.into_inner() {
        Ok(None) if stop.load(Ordering::Relaxed) => {
            Err(HubError::Stopped { what: downloads.what.to_string() })
        }
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(HubError::Stopped { what: downloads.what.to_string() }),
    }
}

/// For a folder: the file of the cache with the same content.
fn blob_for(settings: &Settings, options: &PullOptions, file: &RemoteFile) -> Option<BlobSource> {
    options.out.as_ref()?;
    let blob = settings.cache.repository(&options.reference.id).blobs().join(file.checksum.digits());
    let is_whole = std::fs::metadata(&blob).is_ok_and(|data| data.is_file() && data.len() == file.size);
    is_whole.then(|| BlobSource::new(blob))
}
