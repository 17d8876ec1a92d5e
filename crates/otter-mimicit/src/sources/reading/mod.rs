//! What several sources read: annotation files, tables, folders of media, and replies of a chat model.

pub(super) mod annotations;
pub(super) mod csv;
pub(super) mod files;
pub(super) mod pairs;
