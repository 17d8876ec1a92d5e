//! A small hub on the loopback interface: the endpoints that a pull uses, with faults on request.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use otter_hub::{Checksum, Hasher};

/// The repository that every test hub holds.
pub const ID: &str = "org/name";

/// The commit of its branch `main`.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// What the hub does wrong, and what it insists on.
#[derive(Debug, Default)]
pub struct Behavior {
    /// For a file: the next answers break off after so many bytes.
    pub break_after: HashMap<String, VecDeque<usize>>,
    /// Files in which one byte is changed.
    pub corrupt: HashSet<String>,
    /// Whether the whole file comes whatever range is asked for.
    pub ignores_range: bool,
    /// Address that large files are redirected to.
    pub redirect_large_files_to: Option<String>,
    /// The token without which every answer is 401.
    pub needs_token: Option<String>,
    /// Status and error code of every answer below a path.
    pub refuses: Option<(String, u16, &'static str)>,
    /// So many answers are 503 first.
    pub unavailable: usize,
    /// JSON of entries that the listing has besides the files.
    pub more_entries: Vec<String>,
    /// Entries of a page of the listing, and the host of its continuation.
    pub page: Option<(usize, String)>,
    /// A pause after every 16 KiB.
    pub pause: Duration,
    /// The commit that file answers claim to be from.
    pub claims_commit: Option<String>,
}

/// The files of one commit by name.
pub type Files = BTreeMap<String, Vec<u8>>;

pub struct State {
    pub revisions: Mutex<HashMap<String, String>>,
    pub commits: Mutex<HashMap<String, Files>>,
    pub behavior: Mutex<Behavior>,
    pub requests: Mutex<Vec<Request>>,
}

/// A running hub. Its threads end with the test.
pub struct Hub {
    pub address: SocketAddr,
    pub state: Arc<State>,
    scheme: &'static str,
}

/// Files larger than this are in large-file storage.
const LARGE: usize = 1000;

/// Something like a model: a configuration and weights of two sizes.
pub fn model_files() -> Files {
    let weights = |seed: usize, length: usize| (0..length).map(|i| ((i * seed) >> 3) as u8).collect();
    [
        ("config.json", b"{\"architectures\": []}\n".to_vec()),
        ("empty.txt", Vec::new()),
        ("model-00001-of-00002.safetensors", weights(7, 300_000)),
        ("model-00002-of-00002.safetensors", weights(11, 50_000)),
        (
            "model.safetensors.index.json",
            br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#.to_vec(),
        ),
        ("optimizer.pt", weights(3, 2_000)),
        ("sub dir/größe.txt", b"inside\n".to_vec()),
    ]
    .into_iter()
    .map(|(name, content)| (name.to_string(), content))
    .collect()
}

impl Hub {
    pub fn start(files: Files) -> Self {
        Self::start_with(files, "http", serve::<TcpStream>)
    }

    /// A hub behind TLS with a certificate for `localhost` of the test root.
    pub fn start_tls(files: Files) -> Self {
        let pem = |name: &str| std::fs::read(test_certificate(name)).unwrap();
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let _ = rustls_graviola_provider();
        let chain =
            CertificateDer::pem_slice_iter(&pem("server.pem")).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).unwrap();
        let config =
            rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let config = Arc::new(config);
        Self::start_with(files, "https", move |stream, state| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            serve(&mut tls, state);
            tls.conn.send_close_notify();
            let _ = tls.flush();
        })
    }

    fn start_with(
        files: Files,
        scheme: &'static str,
        answer: impl Fn(TcpStream, &State) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            revisions: Mutex::new(HashMap::from([("main".to_string(), COMMIT.to_string())])),
            commits: Mutex::new(HashMap::from([(COMMIT.to_string(), files)])),
            behavior: Mutex::new(Behavior::default()),
            requests: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { address, state, scheme }
    }

    pub fn url(&self) -> String {
        let host = if self.scheme == "https" { "localhost" } else { "127.0.0.1" };
        format!("{}://{host}:{}", self.scheme, self.address.port())
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behavior)) {
        change(&mut self.state.behavior.lock().unwrap());
    }

    /// The requests so far whose path contains `part`.
    pub fn requests(&self, part: &str) -> Vec<Request> {
        self.state.requests.lock().unwrap().iter().filter(|r| r.path.contains(part)).cloned().collect()
    }

    pub fn forget_requests(&self) {
        self.state.requests.lock().unwrap().clear();
    }
}

pub fn test_certificate(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/common/tls").join(name)
}

/// The client under test installs the provider of the process; a server may come first.
fn rustls_graviola_provider() -> Option<()> {
    rustls_graviola::default_provider().install_default().ok()
}

pub fn sha256(content: &[u8]) -> String {
    digits(&Checksum::Sha256(String::new()), content)
}

pub fn git_sha1(content: &[u8]) -> String {
    digits(&Checksum::GitBlob(String::new()), content)
}

fn digits(kind: &Checksum, content: &[u8]) -> String {
    let mut hasher: Hasher = kind.hasher(content.len() as u64);
    hasher.update(content);
    hasher.finish().digits().to_string()
}

fn serve<S: Read + Write>(stream: S, state: &State) {
    let mut stream = BufReader::new(stream);
    let Some(request) = read_request(&mut stream) else { return };
    state.requests.lock().unwrap().push(request.clone());
    let _ = answer(stream.get_mut(), &request, state);
    let _ = stream.get_mut().flush();
}

fn read_request(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace();
    let (method, path) = (parts.next()?.to_string(), parts.next()?.to_string());
    let mut request = Request { method, path, range: None, token: None };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { return Some(request) };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_string()),
            "authorization" => request.token = Some(value.to_string()),
            _ => {}
        }
    }
}

fn answer(stream: &mut impl Write, request: &Request, state: &State) -> std::io::Result<()> {
    let mut refusal = None;
    {
        let mut behavior = state.behavior.lock().unwrap();
        if behavior.unavailable > 0 {
            behavior.unavailable -= 1;
            refusal = Some((503, ""));
        } else if let Some(token) = &behavior.needs_token
            && request.token.as_deref() != Some(&format!("Bearer {token}"))
        {
            refusal = Some((401, "RepoNotFound"));
        } else if let Some((part, status, code)) = &behavior.refuses
            && request.path.contains(part.as_str())
        {
            refusal = Some((*status, *code));
        }
    }
    if let Some((status, code)) = refusal {
        return plain(stream, status, &format!("X-Error-Code: {code}\r\n"), b"");
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let path = decoded(path);
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        let revisions = state.revisions.lock().unwrap();
        let known = state.commits.lock().unwrap().contains_key(revision).then(|| revision.to_string());
        return match revisions.get(revision).cloned().or(known) {
            Some(commit) => plain(
                stream,
                200,
                "",
                format!("{{\"id\": \"{ID}\", \"sha\": \"{commit}\", \"extra\": 1}}").as_bytes(),
            ),
            None => plain(
                stream,
                404,
                "X-Error-Code: RevisionNotFound\r\nX-Error-Message: no such rev\r\n",
                b"{}",
            ),
        };
    }
    if let Some(commit) = path.strip_prefix(&format!("/api/models/{ID}/tree/")) {
        return tree(stream, state, commit, query);
    }
    if let Some(rest) = path.strip_prefix(&format!("/{ID}/resolve/")) {
        let (commit, name) = rest.split_once('/').unwrap_or((rest, ""));
        return file(stream, request, state, commit, name);
    }
    plain(stream, 404, "X-Error-Code: RepoNotFound\r\n", b"{}")
}

fn tree(stream: &mut impl Write, state: &State, commit: &str, query: &str) -> std::io::Result<()> {
    let commits = state.commits.lock().unwrap();
    let Some(files) = commits.get(commit) else { return plain(stream, 404, "", b"{}") };
    let mut entries: Vec<String> =
        vec!["{\"type\": \"directory\", \"path\": \"sub dir\", \"oid\": \"x\"}".to_string()];
    for (name, content) in files {
        let (size, oid) = (content.len(), git_sha1(content));
        let large = match size > LARGE {
            true => format!(
                ", \"lfs\": {{\"oid\": \"{}\", \"size\": {size}, \"pointerSize\": 130}}",
                sha256(content)
            ),
            false => String::new(),
        };
        entries.push(format!(
            "{{\"type\": \"file\", \"path\": \"{name}\", \"size\": {size}, \"oid\": \"{oid}\"{large}}}"
        ));
    }
    let behavior = state.behavior.lock().unwrap();
    entries.extend(behavior.more_entries.clone());
    let start: usize = query.split("cursor=").nth(1).map_or(0, |c| c.parse().unwrap());
    let end = behavior.page.as_ref().map_or(entries.len(), |(page, _)| (start + page).min(entries.len()));
    let link = match &behavior.page {
        Some((_, host)) if end < entries.len() => {
            let next = format!("{host}/api/models/{ID}/tree/{commit}?recursive=true&cursor={end}");
            format!("Link: <{next}>; rel=\"next\"\r\n")
        }
        _ => String::new(),
    };
    plain(stream, 200, &link, format!("[{}]", entries[start..end].join(", ")).as_bytes())
}

fn file(
    stream: &mut impl Write,
    request: &Request,
    state: &State,
    commit: &str,
    name: &str,
) -> std::io::Result<()> {
    let Some(mut content) =
        state.commits.lock().unwrap().get(commit).and_then(|files| files.get(name).cloned())
    else {
        return plain(stream, 404, "X-Error-Code: EntryNotFound\r\n", b"");
    };
    let (mut break_after, pause, ignores_range, redirect, claimed);
    {
        let mut behavior = state.behavior.lock().unwrap();
        break_after = behavior.break_after.get_mut(name).and_then(VecDeque::pop_front);
        if behavior.corrupt.contains(name) {
            let middle = content.len() / 2;
            content[middle] ^= 1;
        }
        pause = behavior.pause;
        ignores_range = behavior.ignores_range;
        redirect = behavior.redirect_large_files_to.clone().filter(|_| content.len() > LARGE);
        claimed = behavior.claims_commit.clone().unwrap_or_else(|| commit.to_string());
    }
    let tag = if content.len() > LARGE { sha256(&content) } else { git_sha1(&content) };
    let mut headers = format!("X-Repo-Commit: {claimed}\r\nETag: \"{tag}\"\r\n");
    if let Some(host) = redirect {
        let size = content.len();
        headers += &format!(
            "Location: {host}{}\r\nX-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {size}\r\n",
            request.path
        );
        return plain(stream, 302, &headers, b"");
    }
    let from = request
        .range
        .as_ref()
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let (status, body) = match from.filter(|_| !ignores_range) {
        Some(from) if from >= content.len() => (416, &content[..0]),
        Some(from) => {
            headers += &format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
            (206, &content[from..])
        }
        None => (200, &content[..]),
    };
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    if request.method == "HEAD" {
        return Ok(());
    }
    for block in body.chunks(16 << 10) {
        let limit = break_after.map_or(block.len(), |left| left.min(block.len()));
        stream.write_all(&block[..limit])?;
        stream.flush()?;
        break_after = break_after.map(|left| left - limit);
        if break_after == Some(0) {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

fn plain(stream: &mut impl Write, status: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match first {
            b'%' => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                rest = &tail[2..];
            }
            byte => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
