//! Directories and files to and from a model.
