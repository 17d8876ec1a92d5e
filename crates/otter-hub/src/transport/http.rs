//! GET requests to the hub: redirects, access token, retries, and what a refusal means.
//!
//! The token goes to the hub only, never to a host that a redirect names, and never over an unencrypted connection
//! that leaves this machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body};

use crate::error::{HubError, Result};
use crate::settings::{Retry, Settings, Token};
use crate::transport::source::TransportError;

/// Redirects followed for one request.
const MOST_REDIRECTS: usize = 8;

/// A server may not ask for a longer pause than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Scheme, host and port: what decides whether two addresses are the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        Some(Self { scheme, host, port: uri.port_u16().unwrap_or(port) })
    }

    fn is_encrypted(&self) -> bool {
        self.scheme == "https"
    }

    fn is_this_machine(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// An answer with status 200 or 206.
pub(crate) struct Answer {
    /// 200 or 206.
    pub status: u16,
    /// Headers of the last answer.
    pub headers: HeaderMap,
    /// The commit that the hub (not a host it redirected to) says it served.
    pub repository_commit: Option<String>,
    /// The content.
    pub body: Body,
}

/// Sends requests to one hub.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    retry: Retry,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let endpoint = settings.endpoint.clone();
        let refuse = |problem: &str| HubError::Argument {
            name: "HF_ENDPOINT",
            found: endpoint.clone(),
            problem: problem.to_string(),
        };
        let uri: Uri =
            endpoint.parse().map_err(|_| refuse("expected an address such as https://huggingface.co"))?;
        let origin = Origin::of(&uri)
            .ok_or_else(|| refuse("expected http:// or https:// and a host; for a folder use --mirror"))?;
        if uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(refuse(
                "neither a user name nor a query may stand in it; a token belongs into HF_TOKEN",
            ));
        }
        let silence = Some(settings.retry.silence);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("otter/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_per_read(silence)
            .timeout_per_write(silence);
        // A hub on this machine is never behind the proxy that the environment names.
        let config = if origin.is_this_machine() { config.proxy(None) } else { config };
        #[cfg(feature = "tls")]
        let config = match crate::transport::tls::configuration(settings.certificates.as_deref())? {
            Ok(tls) => config.tls_config(tls),
            Err(problem) if origin.is_encrypted() => return Err(refuse(problem)),
            Err(_) => config,
        };
        #[cfg(not(feature = "tls"))]
        if origin.is_encrypted() {
            return Err(refuse(
                "this build cannot do https (feature `tls` is off); use an http mirror or --mirror DIR",
            ));
        }
        let token = settings.token.clone();
        Ok(Self { agent: Agent::from(config.build()), endpoint, origin, token, retry: settings.retry })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether `url` belongs to the hub itself.
    pub(crate) fn is_own(&self, url: &str) -> bool {
        url.parse::<Uri>().ok().and_then(|uri| Origin::of(&uri)).as_ref() == Some(&self.origin)
    }

    /// Makes waiting requests fail at once; afterwards the client is of no use.
    pub(crate) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// One attempt to get `url`, from byte `from` on if that is not 0. `what` names the file in messages.
    pub(crate) fn get(&self, what: &str, url: &str, from: u64) -> Result<Answer, TransportError> {
        let mut uri = parse_address(what, url)?;
        let mut repository_commit = None;
        for _ in 0..=MOST_REDIRECTS {
            let origin = Origin::of(&uri).ok_or_else(|| bad_address(what, &uri.to_string()))?;
            if self.origin.is_encrypted() && !origin.is_encrypted() {
                return Err(answer(what, format!("it redirects from https to the unencrypted {origin}")));
            }
            let mut request = self.agent.get(uri.clone());
            if let Some(token) = self.token_for(&origin) {
                request = request.header("Authorization", token.header());
            }
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| transport_error(what, &origin, error))?;
            let (parts, body) = response.into_parts();
            let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(clean);
            if origin == self.origin {
                repository_commit = text("x-repo-commit").or(repository_commit);
            }
            match parts.status.as_u16() {
                status @ (200 | 206) => {
                    return Ok(Answer { status, headers: parts.headers, repository_commit, body });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let Some(location) = parts.headers.get("location").and_then(|v| v.to_str().ok()) else {
                        return Err(answer(what, "a redirect without a place to go to".to_string()));
                    };
                    uri = redirected(what, &uri, location)?;
                }
                status @ (408 | 425 | 429 | 500..=599) => {
                    let retry_after =
                        text("retry-after").and_then(|v| v.parse().ok()).map(Duration::from_secs);
                    return Err(TransportError::Transient {
                        problem: format!("{origin} answers {status}"),
                        retry_after,
                    });
                }
                status => {
                    let (code, message) = (text("x-error-code"), text("x-error-message"));
                    return Err(TransportError::Final(self.refusal(what, status, code, message, &origin)));
                }
            }
        }
        Err(answer(what, format!("more than {MOST_REDIRECTS} redirects")))
    }

    /// Repeats `attempt` until it succeeds, fails for good, or failed too often.
    pub(crate) fn patiently<T>(
        &self,
        what: &str,
        stop: &AtomicBool,
        mut attempt: impl FnMut() -> Result<T, TransportError>,
    ) -> Result<T> {
        let mut retry_policy = RetryPolicy::new(self.retry);
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => retry_policy.after(error, what, &self.origin.to_string(), stop)?,
            }
        }
    }

    fn token_for(&self, origin: &Origin) -> Option<&Token> {
        let private = origin.is_encrypted() || origin.is_this_machine();
        self.token.as_ref().filter(|_| private && *origin == self.origin)
    }

    fn refusal(
        &self,
        what: &str,
        status: u16,
        code: Option<String>,
        message: Option<String>,
        origin: &Origin,
    ) -> HubError {
        let id = what.split_whitespace().next().unwrap_or(what);
        let log_in = match (&self.token, self.token_for(&self.origin)) {
            (_, Some(_)) => "the access token in use may lack the right; check it at the hub".to_string(),
            (Some(_), None) => {
                "the access token was not sent because the connection is not encrypted".to_string()
            }
            (None, _) => format!(
                "for a private model set HF_TOKEN to an access token ({}/settings/tokens)",
                self.endpoint
            ),
        };
        let problem = match (status, code.as_deref()) {
            _ if *origin != self.origin => {
                format!("{origin}, where the hub redirected to, refuses; pull again")
            }
            (_, Some("GatedRepo")) => format!(
                "access to this model must be asked for: accept its license at {}/{id}, then pull again with the \
                 access token of that account; {log_in}",
                self.endpoint
            ),
            (_, Some("RevisionNotFound")) => {
                "there is no such branch, tag or commit; check --revision".to_string()
            }
            (_, Some("EntryNotFound")) => "there is no such file at this commit".to_string(),
            (403, _) => format!(
                "access is denied: accept the model's license at {}/{id} if it has one; {log_in}",
                self.endpoint
            ),
            (401 | 404, _) => {
                format!(
                    "there is no such model or revision, or it is not public; check the spelling; {log_in}"
                )
            }
            _ => "this was not expected".to_string(),
        };
        let problem = match message {
            Some(message) if !message.is_empty() => format!("{problem} (the hub says: {message})"),
            _ => problem,
        };
        HubError::Refused { what: what.to_string(), status, problem }
    }
}

/// Counts failures in a row and waits between them.
pub(crate) struct RetryPolicy {
    retry: Retry,
    failures: u32,
}

impl RetryPolicy {
    pub(crate) fn new(retry: Retry) -> Self {
        Self { retry, failures: 0 }
    }

    /// There was progress: failures are counted from zero.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, or gives the error that ends it.
    pub(crate) fn after(
        &mut self,
        error: TransportError,
        what: &str,
        origin: &str,
        stop: &AtomicBool,
    ) -> Result<()> {
        let stopped = || HubError::Stopped { what: what.to_string() };
        let (problem, retry_after) = match error {
            TransportError::Final(error) => return Err(error),
            TransportError::Transient { problem, retry_after } => (problem, retry_after),
        };
        if stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        self.failures += 1;
        if self.failures >= self.retry.attempts {
            return Err(HubError::Network {
                what: what.to_string(),
                origin: origin.to_string(),
                problem,
                attempts: self.failures,
                advice: "check the connection (a proxy is taken from HTTPS_PROXY, another hub from HF_ENDPOINT) and \
                         run the same command again: it goes on where it stopped"
                    .to_string(),
            });
        }
        let doubled = self.retry.first_pause * (1 << (self.failures - 1).min(4));
        let pause = retry_after.map_or(doubled, |asked| asked.min(LONGEST_PAUSE).max(doubled));
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            std::thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

fn answer(what: &str, problem: String) -> TransportError {
    TransportError::Final(HubError::Answer { what: what.to_string(), problem })
}

fn bad_address(what: &str, url: &str) -> TransportError {
    answer(what, format!("'{}' is no http or https address", clean(url)))
}

fn parse_address(what: &str, url: &str) -> Result<Uri, TransportError> {
    url.parse().map_err(|_| bad_address(what, url))
}

/// Text of a server for a message: one line of a bounded length.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The address behind a `Location` header.
fn redirected(what: &str, from: &Uri, location: &str) -> Result<Uri, TransportError> {
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |a| a.as_str());
    let url = if location.contains("://") {
        location.to_string()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    parse_address(what, &url)
}

/// What a failure below HTTP means.
fn transport_error(what: &str, origin: &Origin, error: ureq::Error) -> TransportError {
    match error {
        // What rustls refuses comes as invalid data, during the handshake at least.
        ureq::Error::Io(error) if origin.is_encrypted() && error.kind() == std::io::ErrorKind::InvalidData => {
            TransportError::Final(HubError::Network {
                what: what.to_string(),
                origin: origin.to_string(),
                problem: format!("no secure connection: {error}"),
                attempts: 1,
                advice: "where a proxy replaces certificates, set SSL_CERT_FILE to a PEM file with its root certificate"
                    .to_string(),
            })
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
            answer(what, format!("{origin} cannot be asked: {error}"))
        }
        ureq::Error::HostNotFound => TransportError::transient(format!("the host {} is not found", origin.host)),
        error => TransportError::transient(error.to_string()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn client(endpoint: &str, token: &str) -> Client {
        let mut settings =
            Settings::from_lookup(&|name| (name == "HF_HOME").then(|| "/nowhere".into())).unwrap();
        settings.endpoint = endpoint.to_string();
        settings.token = Token::new(token).unwrap();
        Client::new(&settings).unwrap()
    }

    fn origin(url: &str) -> Origin {
        Origin::of(&url.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_token_goes_to_the_hub_only() {
        let hub = client("https://hub.example", "t");
        assert!(hub.token_for(&origin("https://HUB.example:443/x")).is_some());
        for other in [
            "https://cdn.example",
            "https://hub.example:444",
            "http://hub.example",
            "https://hub.example.org",
        ] {
            assert!(hub.token_for(&origin(other)).is_none(), "{other}");
        }
        assert!(client("http://127.0.0.1:9", "t").token_for(&origin("http://127.0.0.1:9")).is_some());
        let open = client("http://mirror.example", "t");
        assert!(open.token_for(&origin("http://mirror.example")).is_none());
        let error = open.refusal("a/b", 401, None, None, &origin("http://mirror.example")).to_string();
        assert!(error.contains("not encrypted"), "{error}");
    }

    #[test]
    fn redirects_are_read_as_browsers_read_them() {
        let from: Uri = "https://hub.example/a/b?q".parse().unwrap();
        for (location, expected) in [
            ("https://cdn.example/x?s=1", "https://cdn.example/x?s=1"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/c", "https://hub.example/c"),
            ("c", "https://hub.example/a/c"),
        ] {
            assert_eq!(redirected("w", &from, location).unwrap().to_string(), expected);
        }
        assert!(redirected("w", &from, "http://a b/").is_err());
    }

    #[test]
    fn strange_endpoints_are_refused() {
        for bad in
            ["", "huggingface.co", "ftp://a", "https://", "https://user@host", "http://h?x=1", "/srv/models"]
        {
            let mut settings =
                Settings::from_lookup(&|name| (name == "HF_HOME").then(|| "/n".into())).unwrap();
            settings.endpoint = bad.to_string();
            let error = Client::new(&settings).err().unwrap().to_string();
            assert!(error.contains("HF_ENDPOINT"), "{bad}: {error}");
        }
    }
}
