//! For a test, or a part of one, that needs something which a machine may lack. Every crate that has such tests includes this file.
//!
//! A test that would pass without having tested anything says so with [`skipped`]: one line on standard error, which is also
//! appended to the file that `OTTER_TEST_SKIPS` names. Where `OTTER_TEST_REQUIRE` names the part, such as in
//! `OTTER_TEST_REQUIRE=python,ffmpeg`, the test fails instead. Parts: `python`, `ffmpeg`, `mount`, `proc`, `avx2`, `avx512`.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write;

/// Says that the calling test is not run for lack of `part`, or fails where `part` is required.
#[track_caller]
pub(crate) fn skipped(part: &str, why: impl Display) {
    let place = std::panic::Location::caller();
    let line = format!("skipped: {}:{}: no {part}: {why}\n", place.file(), place.line());
    assert!(!is_required(part, std::env::var_os("OTTER_TEST_REQUIRE").as_deref()), "required, but {line}");
    // Not `eprint!`, which the test runner keeps back in tests that pass.
    std::io::stderr().write_all(line.as_bytes()).expect("standard error");
    if let Some(list) = std::env::var_os("OTTER_TEST_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&list);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("OTTER_TEST_SKIPS: {}: {error}", list.display()));
    }
}

fn is_required(part: &str, parts: Option<&OsStr>) -> bool {
    let parts = parts.map(OsStr::to_string_lossy).unwrap_or_default();
    parts.split(',').any(|required| required.trim() == part)
}

#[test]
fn a_part_is_required_by_its_name() {
    let required = |parts: &str| is_required("ffmpeg", Some(OsStr::new(parts)));
    assert!(required("ffmpeg") && required("python, ffmpeg"));
    assert!(!required("python") && !required("") && !required("ffmpeg2"));
    assert!(!is_required("ffmpeg", None));
}
