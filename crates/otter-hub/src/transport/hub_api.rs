//! What the hub is asked: which commit a revision is, which files it has, and the bytes of one.

use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{HubError, Result};
use crate::local::checksum::Checksum;
use crate::names::remote_path::RemotePath;
use crate::names::repository::{Commit, RepositoryId, Revision};
use crate::settings::Settings;
use crate::transport::http::{Answer, Client};
use crate::transport::source::{Opened, RemoteFile, Source, TransportError};

/// Largest JSON document that is read.
const MOST_JSON_BYTES: u64 = 64 << 20;

/// Most files of a repository that are listed.
const MOST_FILES: usize = 100_000;

/// Largest size of one file that is believed: 16 TiB.
const MOST_FILE_BYTES: u64 = 1 << 44;

#[derive(Deserialize)]
struct ModelInfo {
    sha: Option<String>,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    #[serde(alias = "sha256")]
    oid: Option<String>,
    size: Option<u64>,
}

/// One repository on the hub at one commit.
pub(crate) struct HubRepository<'a> {
    client: Client,
    id: &'a RepositoryId,
    /// The commit that everything is read at.
    pub commit: Commit,
}

impl<'a> HubRepository<'a> {
    /// Asks the hub which commit `revision` is.
    pub(crate) fn open(
        settings: &Settings,
        id: &'a RepositoryId,
        revision: &Revision,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let client = Client::new(settings)?;
        let url = format!("{}/api/models/{id}/revision/{}", client.endpoint(), revision.in_url());
        let what = format!("{id} ({revision})");
        let (info, _) = get_json::<ModelInfo>(&client, &what, &url, stop)?;
        let found = info.sha.unwrap_or_default();
        let commit = Commit::parse(&found).ok_or_else(|| HubError::Answer {
            what: what.clone(),
            problem: format!("its `sha` is {found:?}; expected a commit of 40 hexadecimal digits"),
        })?;
        if let Some(asked) = revision.as_commit().filter(|asked| *asked != commit) {
            return Err(HubError::Answer {
                what,
                problem: format!("it gives commit {commit} where {asked} was asked"),
            });
        }
        Ok(Self { client, id, commit })
    }

    /// All files of the commit. Names that could leave a folder are refused.
    pub(crate) fn list(&self, stop: &AtomicBool) -> Result<Vec<RemoteFile>> {
        let endpoint = self.client.endpoint();
        let what = format!("{} ({})", self.id, self.commit);
        let mut url =
            format!("{endpoint}/api/models/{}/tree/{}?recursive=true&expand=false", self.id, self.commit);
        let mut files: Vec<RemoteFile> = Vec::new();
        loop {
            let (entries, next) = get_json::<Vec<TreeEntry>>(&self.client, &what, &url, stop)?;
            let is_last = entries.is_empty();
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                files.push(self.file(entry)?);
            }
            if files.len() > MOST_FILES {
                let problem = format!("it lists more than {MOST_FILES} files");
                return Err(HubError::Answer { what, problem });
            }
            match next {
                Some(next) if !self.client.is_own(&next) => {
                    return Err(HubError::Answer {
                        what,
                        problem: "the rest of its list is on another host".to_string(),
                    });
                }
                Some(next) if !is_last && next != url => url = next,
                _ => break,
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(pair) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(HubError::Answer { what, problem: format!("it lists {} twice", pair[0].path) });
        }
        Ok(files)
    }

    fn file(&self, entry: TreeEntry) -> Result<RemoteFile> {
        let path = RemotePath::parse(&entry.path).map_err(|problem| HubError::FileName {
            what: self.id.to_string(),
            name: entry.path.clone(),
            problem,
        })?;
        let answer = |problem: String| HubError::Answer { what: format!("{} {path}", self.id), problem };
        let (size, checksum) = match entry.lfs {
            Some(large) => {
                let oid = large.oid.unwrap_or_default();
                let digits = oid.strip_prefix("sha256:").unwrap_or(&oid);
                let checksum = Checksum::sha256(digits)
                    .ok_or_else(|| answer(format!("its `lfs.oid` is {oid:?}; expected a SHA-256")))?;
                (large.size.or(entry.size), checksum)
            }
            None => {
                let oid = entry.oid.unwrap_or_default();
                let checksum = Checksum::git_blob(&oid)
                    .ok_or_else(|| answer(format!("its `oid` is {oid:?}; expected git's SHA-1")))?;
                (entry.size, checksum)
            }
        };
        match size {
            Some(size) if size <= MOST_FILE_BYTES => Ok(RemoteFile { path, size, checksum }),
            Some(size) => Err(answer(format!("its size is {size}; at most {MOST_FILE_BYTES} is believed"))),
            None => Err(answer("it has no size".to_string())),
        }
    }
}

impl Source for HubRepository<'_> {
    fn open(&self, file: &RemoteFile, from: u64) -> Result<Opened, TransportError> {
        let what = format!("{} {}", self.id, file.path);
        let url =
            format!("{}/{}/resolve/{}/{}", self.client.endpoint(), self.id, self.commit, file.path.in_url());
        let answer = self.client.get(&what, &url, from)?;
        let problem =
            |problem: String| TransportError::Final(HubError::Answer { what: what.clone(), problem });
        if let Some(commit) = answer.repository_commit.as_deref().filter(|c| *c != self.commit.as_str()) {
            return Err(problem(format!("it sends commit {commit} where {} was asked", self.commit)));
        }
        let start = if answer.status == 206 {
            start_of_range(&answer, from, file.size).map_err(problem)?
        } else {
            0
        };
        let length = header(&answer, "content-length").and_then(|v| v.parse::<u64>().ok());
        if let Some(length) = length.filter(|length| start + length != file.size) {
            return Err(problem(format!(
                "it sends {length} bytes from byte {start} on; the file has {} bytes",
                file.size
            )));
        }
        Ok(Opened { start, reader: Box::new(answer.body.into_reader()) })
    }

    fn origin(&self) -> String {
        self.client.endpoint().to_string()
    }

    fn interrupt(&self) {
        self.client.shut_down();
    }
}

/// The first byte of a partial answer, which must be the one asked for.
fn start_of_range(answer: &Answer, from: u64, size: u64) -> Result<u64, String> {
    let range = header(answer, "content-range").unwrap_or_default();
    let parsed = range.strip_prefix("bytes ").and_then(|range| {
        let (span, total) = range.split_once('/')?;
        let start = span.split_once('-')?.0.trim().parse::<u64>().ok()?;
        Some((start, total.trim()))
    });
    match parsed {
        Some((start, total)) if start == from && (total == "*" || total.parse() == Ok(size)) => Ok(start),
        _ => Err(format!("it sends the range {range:?}; expected one from byte {from} on, of {size}")),
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}

/// A JSON document, and the address of its continuation if it has one.
fn get_json<T: DeserializeOwned>(
    client: &Client,
    what: &str,
    url: &str,
    stop: &AtomicBool,
) -> Result<(T, Option<String>)> {
    client.patiently(what, stop, || {
        let mut answer = client.get(what, url, 0)?;
        let next = header(&answer, "link").and_then(next_link);
        let text = answer
            .body
            .with_config()
            .limit(MOST_JSON_BYTES)
            .read_to_vec()
            .map_err(|error| TransportError::transient(format!("the answer breaks off: {error}")))?;
        let value = serde_json::from_slice(&text).map_err(|error| HubError::Answer {
            what: what.to_string(),
            problem: format!("not the expected JSON ({error}); is {} a hub?", client.endpoint()),
        })?;
        Ok((value, next))
    })
}

/// The address in `<address>; rel="next"`.
fn next_link(value: &str) -> Option<String> {
    value.split(',').find_map(|link| {
        let (address, relation) = link.split_once(';')?;
        let is_next = relation.contains("rel=\"next\"") || relation.contains("rel=next");
        is_next.then(|| address.trim().trim_start_matches('<').trim_end_matches('>').to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_continuation_is_found_among_links() {
        let value = "<https://h/a?cursor=x>; rel=\"next\", <https://h/b>; rel=\"last\"";
        assert_eq!(next_link(value).as_deref(), Some("https://h/a?cursor=x"));
        assert_eq!(next_link("<https://h/b>; rel=\"last\""), None);
        assert_eq!(next_link("nonsense"), None);
    }
}
