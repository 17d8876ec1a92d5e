//! Where files go: the cache that Python's tools use too, or a folder; downloads, checks, and the record of what came from where.

pub(crate) mod cache;
pub(crate) mod checksum;
pub(crate) mod download;
pub(crate) mod free_space;
pub(crate) mod record;
pub(crate) mod target;
pub(crate) mod whole_file;
