//! Rows of Parquet files by their ids, one page decoded at a time and kept for a while.

pub(crate) mod file;
pub(crate) mod page_cache;
mod plain_page;
pub(crate) mod table;
