//! Models by the name they have on a hub: pulled once, checked, kept in the cache that Python's tools use too.
//!
//! [`pull`] lists a repository at one commit, chooses the files a model needs, downloads what is missing (resuming,
//! several files at once), checks every byte against the checksums of the listing, and records what came from where.
//! [`resolve_model`] turns `org/name` into the folder of such a copy; it never touches the network.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use otter_hub::{PullOptions, Settings, Silent, pull, resolve_model};
//!
//! let settings = Settings::from_env()?;
//! let options = PullOptions::new("luodian/OTTER-Image-MPT7B".parse()?);
//! let pulled = pull(&settings, &options, &AtomicBool::new(false), &Silent)?;
//! assert_eq!(resolve_model("luodian/OTTER-Image-MPT7B".as_ref(), &settings)?, pulled.folder);
//! # Ok::<(), otter_hub::HubError>(())
//! ```
//!
//! The endpoints spoken are `/api/models/{id}/revision/{revision}`, `/api/models/{id}/tree/{commit}` and
//! `/{id}/resolve/{commit}/{file}`.

mod error;
mod local;
mod names;
mod observer;
mod pull;
mod resolve;
mod settings;
mod transport;

pub use error::{HubError, Result};
pub use local::cache::Cache;
pub use local::checksum::{Checksum, Hasher};
pub use local::record::{RECORD_FILE, Record, RecordedFile};
pub use names::glob::Glob;
pub use names::remote_path::RemotePath;
pub use names::repository::{Commit, ModelReference, RepositoryId, Revision};
pub use names::selection::{Division, Selection, Skipped};
pub use observer::{Observer, Plan, PlannedFile, Silent};
pub use pull::{PullOptions, Pulled, plan, pull};
pub use resolve::resolve_model;
pub use settings::{Retry, Settings, Token};
pub use transport::source::RemoteFile;
