//! The installer: a script that is generated for each request, and the agent's programs.
//!
//! The script is fetched over a connection whose server key is pinned by the installation command,
//! and contains the hash of each program. So a machine installs only what this server provides.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Place, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use muster_api::Problem;
use muster_schemas::Hash;
use tokio_util::io::ReaderStream;

const SCRIPT: &str = include_str!("install.sh");
/// Prefix of an agent's file: `muster-agent-<architecture>`, as `uname -m` prints it.
const PREFIX: &str = "muster-agent-";

/// The agents that this server provides, by architecture.
#[derive(Debug)]
pub(super) struct Installer {
    agents: BTreeMap<String, (PathBuf, Hash)>,
    /// Value for curl's `--pinnedpubkey`.
    pin: String,
}

impl Installer {
    /// Finds agents in a folder, and this machine's own next to this program.
    pub(super) fn new(folder: Option<&Path>, pin: String) -> Result<Self> {
        let mut files = BTreeMap::new();
        let beside = std::env::current_exe()?.with_file_name("muster-agent");
        if beside.is_file() {
            files.insert(own_architecture().to_owned(), beside.clone());
        }
        let folders = [beside.parent(), folder];
        for folder in folders.into_iter().flatten() {
            let entries = std::fs::read_dir(folder)
                .with_context(|| format!("failed to look for agents in {}", folder.display()))?;
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some(architecture) = name.strip_prefix(PREFIX).filter(|it| is_word(it)) {
                    files.insert(architecture.to_owned(), entry.path());
                }
            }
        }
        let mut agents = BTreeMap::new();
        for (architecture, path) in files {
            let bytes = std::fs::read(&path)
                .with_context(|| format!("failed to read the agent {}", path.display()))?;
            agents.insert(architecture, (path, Hash::of(&bytes)));
        }
        Ok(Self { agents, pin })
    }

    /// Returns the routes `/install.sh` and `/agent/{architecture}`.
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/install.sh", get(script))
            .route("/agent/{architecture}", get(agent))
            .with_state(Arc::new(self))
    }

    /// Returns the script for a client that reaches this server at `authority`.
    fn script(&self, authority: &str) -> String {
        let mut agents = String::new();
        for (architecture, (_, hash)) in &self.agents {
            let _ = writeln!(agents, "{architecture} {hash}");
        }
        SCRIPT
            .replace("@URL@", &format!("https://{authority}"))
            .replace("@PIN@", &self.pin)
            .replace("@AGENTS@", agents.trim_end())
    }
}

/// Returns this machine's architecture, as `uname -m` prints it.
fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "arm" => "armv7l",
        other => other,
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Returns the host and port by which the client reached this server. It is inserted into a script,
/// so only the characters of a host and a port are allowed.
fn authority(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let text = named.or_else(|| uri.authority().map(hyper::http::uri::Authority::as_str))?;
    let fits = !text.is_empty()
        && text.len() <= 260
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    fits.then(|| text.to_owned())
}

async fn script(
    State(installer): State<Arc<Installer>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let authority = authority(&headers, &uri)
        .ok_or_else(|| Problem::header("Host", "is not a host and port", None))?;
    let kind = [(header::CONTENT_TYPE, "text/x-shellscript; charset=utf-8")];
    Ok((kind, installer.script(&authority)).into_response())
}

async fn agent(
    State(installer): State<Arc<Installer>>,
    Place(architecture): Place<String>,
) -> Result<Response, Problem> {
    let Some((path, hash)) = installer.agents.get(&architecture) else {
        let have: Vec<&str> = installer.agents.keys().map(String::as_str).collect();
        let message = format!(
            "this server has no agent for '{architecture}'; it has: {}",
            if have.is_empty() { "none".to_owned() } else { have.join(", ") }
        );
        return Err(Problem::not_found(message));
    };
    let file = tokio::fs::File::open(path).await.map_err(|error| Problem::internal(&error))?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ETAG, format!("\"{hash}\"")),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_and_a_port_are_inserted_into_the_script() {
        let of = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            authority(&headers, &Uri::from_static("/install.sh"))
        };
        for good in ["muster.example:8443", "[::1]:8443", "192.0.2.7"] {
            assert_eq!(of(good).as_deref(), Some(good));
        }
        for bad in ["a'; rm -rf /; '", "a b", "$(id)", "a`id`", "a/b"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_script_contains_the_server_its_pin_and_each_agent() {
        let agents = [("x86_64".to_owned(), (PathBuf::from("/agent"), Hash::of(b"agent")))];
        let installer = Installer { agents: agents.into(), pin: "sha256//abc=".to_owned() };
        let script = installer.script("muster.example:8443");
        assert!(script.contains("URL='https://muster.example:8443'"));
        assert!(script.contains("PIN='sha256//abc='"));
        assert!(script.contains(&format!("AGENTS='x86_64 {}'", Hash::of(b"agent"))));
        assert!(!script.contains("@URL@") && !script.contains("@PIN@"));
    }
}
