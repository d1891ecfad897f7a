//! The client side: one HTTPS connection to the API, by URL, token and CA.

pub(crate) mod contexts;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::exit::Refused;
use contexts::Context;

/// Which server, and as whom.
#[derive(Args, Debug, Clone)]
pub(crate) struct Connection {
    /// The server's URL
    #[arg(long, global = true, env = "MUSTER_URL", help_heading = "Server")]
    pub(crate) url: Option<String>,
    /// The API token (mst_…)
    #[arg(
        long,
        global = true,
        env = "MUSTER_TOKEN",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub(crate) token: Option<String>,
    /// The CA's certificate, PEM
    #[arg(long, global = true, env = "MUSTER_CA", help_heading = "Server")]
    pub(crate) ca: Option<PathBuf>,
    /// A server that `muster context` knows; the current one when left out
    #[arg(long, global = true, env = "MUSTER_CONTEXT", help_heading = "Server")]
    pub(crate) context: Option<String>,
    /// The project, for server-wide tokens
    #[arg(long, global = true, env = "MUSTER_PROJECT", help_heading = "Server")]
    pub(crate) project: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Connection {
    /// A client by flags, variables, or the context.
    pub(crate) fn client(&self) -> Result<Client> {
        let known = match (&self.url, &self.token) {
            (Some(_), Some(_)) => None,
            _ => Some(contexts::load()?.get(self.context.as_deref())?),
        };
        let pick = |own: &Option<String>, kept: fn(&Context) -> &String| {
            own.clone().or_else(|| known.as_ref().map(|known| kept(known).clone()))
        };
        let url = pick(&self.url, |known| &known.url).context("no URL is known; give --url")?;
        let token =
            pick(&self.token, |known| &known.token).context("no token is known; give --token")?;
        let ca = self.ca.clone().or_else(|| known.and_then(|known| known.ca));
        let mut client = Client::new(&url, &token, ca.as_deref())?;
        client.project.clone_from(&self.project);
        Ok(client)
    }
}

/// The API of one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    project: Option<String>,
}

impl Client {
    pub(crate) fn new(url: &str, token: &str, ca: Option<&Path>) -> Result<Self> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = ca {
            let pem = std::fs::read(path)
                .with_context(|| format!("cannot read the CA in {}", path.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("{} holds no certificate", path.display()))?;
            http = http.tls_certs_only(certificates);
        }
        let http = http.build().context("cannot set up HTTPS")?;
        let (url, token) = (url.trim_end_matches('/').to_owned(), token.to_owned());
        Ok(Self { http, url, token, project: None })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request =
            self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        match &self.project {
            Some(project) => request.query(&[("project", project)]),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = response.text().await.unwrap_or_default();
        let detail = serde_json::from_str::<Value>(&body)
            .ok()
            .and_then(|problem| problem["detail"].as_str().map(str::to_owned))
            .unwrap_or_else(|| format!("the server answers {status}: {}", body.trim()));
        Err(Refused::Problem { status, detail }.into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Refused {
        let mut problem = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            problem = cause.to_string();
            source = cause.source();
        }
        Refused::Unreachable { url: self.url.clone(), problem }
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value> {
        let response = self.send(request.timeout(Duration::from_secs(60))).await?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).context("the server's answer is not JSON")
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value> {
        self.json(self.request(Method::GET, path).query(query)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// All items of a list, page by page.
    pub(crate) async fn list(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut query = query.to_vec();
        loop {
            let mut page = self.get(path, &query).await?;
            if let Value::Array(found) = page["items"].take() {
                items.extend(found);
            }
            let Some(next) = page["next"].as_str() else { return Ok(items) };
            query.retain(|(name, _)| *name != "cursor");
            query.push(("cursor", next.to_owned()));
        }
    }

    /// A stream of server-sent events, as it comes.
    pub(crate) async fn stream(&self, path: &str, query: &[(&str, String)]) -> Result<Response> {
        let request = self.request(Method::GET, path).query(query);
        self.send(request.header("accept", "text/event-stream")).await
    }
}

/// A part of a path, with everything escaped that could be taken for something else.
pub(crate) fn segment(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
