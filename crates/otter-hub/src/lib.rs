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

mod cache;
mod checksum;
mod download;
mod error;
mod free_space;
mod glob;
mod http;
mod hub_api;
mod local_source;
mod pull;
mod record;
mod remote_path;
mod repository;
mod resolve;
mod selection;
mod settings;
mod source;
mod target;
#[cfg(feature = "tls")]
mod tls;

pub use cache::Cache;
pub use checksum::{Checksum, Hasher};
pub use error::{HubError, Result};
pub use glob::Glob;
pub use pull::{Observer, Plan, PlannedFile, PullOptions, Pulled, Silent, plan, pull};
pub use record::{RECORD_FILE, Record, RecordedFile};
pub use remote_path::RemotePath;
pub use repository::{Commit, ModelReference, RepositoryId, Revision};
pub use resolve::resolve_model;
pub use selection::{Division, Selection, Skipped};
pub use settings::{Retry, Settings, Token};
pub use source::RemoteFile;
