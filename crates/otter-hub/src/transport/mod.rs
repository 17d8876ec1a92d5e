//! Where files come from: the hub over HTTP, or a folder that stands for it.

pub(crate) mod http;
pub(crate) mod hub_api;
pub(crate) mod local_source;
pub(crate) mod source;
#[cfg(feature = "tls")]
pub(crate) mod tls;
