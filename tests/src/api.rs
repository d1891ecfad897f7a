//! An API client for tests that returns status and body of any response.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

/// The API of a system under test, with a token.
#[derive(Clone, Debug)]
pub struct Api {
    /// The client.
    pub http: reqwest::Client,
    /// The base URL.
    pub url: String,
    /// The token that is sent; empty: none.
    pub token: String,
}

impl Api {
    /// Creates a client that trusts this CA.
    ///
    /// # Panics
    /// When the CA cannot be read.
    #[must_use]
    pub fn new(url: &str, token: &str, ca: &Path) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pem = std::fs::read(ca).expect("the CA");
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).expect("a certificate"))
            .timeout(Duration::from_secs(30))
            .build()
            .expect("a client");
        Self { http, url: url.to_owned(), token: token.to_owned() }
    }

    /// The same client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Sends a request; `None` when there is no response.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let sent = self.try_send(method.clone(), path, body).await;
        sent.unwrap_or_else(|| panic!("nothing answered {method} {path}"))
    }

    /// Sends a request with a body and headers.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let mut request = request.bearer_auth(&self.token).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// Sends a GET request; returns status, headers, and the body, which may be incomplete.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn raw(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, reqwest::header::HeaderMap, Vec<u8>) {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while let Ok(Some(bytes)) = response.chunk().await {
            body.extend_from_slice(&bytes);
        }
        (status, headers, body)
    }

    /// Sends a GET request; returns the status without waiting for the body, as for a stream.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn status(&self, path: &str) -> u16 {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    /// Sends a GET request; returns the body.
    ///
    /// # Panics
    /// When the status is not 200.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, None).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// Sends a POST request; returns the body.
    ///
    /// # Panics
    /// When the status is not 2xx.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, response) = self.send(Method::POST, path, Some(body)).await;
        assert!((200..300).contains(&status), "POST {path}: {status} {response}");
        response
    }

    /// Sends a PATCH request; returns the body.
    ///
    /// # Panics
    /// When the status is not 2xx.
    pub async fn patch(&self, path: &str, body: &Value) -> Value {
        let (status, response) = self.send(Method::PATCH, path, Some(body)).await;
        assert!((200..300).contains(&status), "PATCH {path}: {status} {response}");
        response
    }

    /// Reads all pages of a list.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = match &next {
                Some(cursor) => format!("{path}{joint}limit=1000&cursor={cursor}"),
                None => format!("{path}{joint}limit=1000"),
            };
            let mut page = self.get(&page).await;
            if let Value::Array(found) = page["items"].take() {
                items.extend(found);
            }
            match page["next"].as_str() {
                Some(cursor) => next = Some(cursor.to_owned()),
                None => return items,
            }
        }
    }

    /// Creates an enrollment token for `uses` devices.
    pub async fn enrollment_token(&self, uses: u32) -> String {
        let body = serde_json::json!({"name": "test", "max_uses": uses});
        let created = self.post("/api/v1/enrollment-tokens", &body).await;
        created["secret"].as_str().unwrap_or_default().to_owned()
    }
}
