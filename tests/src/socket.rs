//! Websockets of the API, opened as by a browser or the command line.

use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::api::Api;

/// Timeout of every wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A websocket, and the messages received on it.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<reqwest::Upgraded>,
    /// The selected subprotocol.
    pub protocol: Option<String>,
    /// The content of all binary messages.
    pub output: Vec<u8>,
    /// All text messages, as JSON.
    pub messages: Vec<Value>,
}

impl Socket {
    /// Opens a websocket.
    ///
    /// # Errors
    /// When the server refuses; status and problem.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn open(
        api: &Api,
        ca: &Path,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, (u16, Value)> {
        let pem = std::fs::read(ca).expect("the CA");
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).expect("a certificate"))
            .http1_only()
            .build()
            .expect("a client");
        let key: [u8; 16] = rand::random();
        let mut request = http
            .get(format!("{}{path}", api.url))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", BASE64.encode(&key));
        if !api.token.is_empty() {
            request = request.bearer_auth(&api.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        if status != 101 {
            return Err((status, response.json().await.unwrap_or_default()));
        }
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol.and_then(|it| it.to_str().ok()).map(str::to_owned);
        let upgraded = response.upgrade().await.expect("a websocket");
        let stream = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        Ok(Self { stream, protocol, output: Vec::new(), messages: Vec::new() })
    }

    /// Sends terminal input.
    ///
    /// # Panics
    /// When the websocket is closed.
    pub async fn send(&mut self, text: &str) {
        let message = Message::Binary(text.as_bytes().to_vec().into());
        self.stream.send(message).await.expect("a websocket");
    }

    /// Receives the next message; returns false when the websocket has ended.
    ///
    /// # Panics
    /// When no message arrives in time.
    pub async fn next(&mut self) -> bool {
        let next = tokio::time::timeout(WAIT_TIMEOUT, self.stream.next()).await;
        match next.expect("something in time") {
            Some(Ok(Message::Binary(bytes))) => self.output.extend_from_slice(&bytes),
            Some(Ok(Message::Text(text))) => {
                self.messages.push(serde_json::from_str(&text).expect("JSON"));
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
            Some(Ok(_)) => {}
        }
        true
    }

    /// Receives until the server closes the websocket; returns the code and the reason.
    ///
    /// # Panics
    /// When no message arrives in time.
    pub async fn close_frame(&mut self) -> Option<(u16, String)> {
        loop {
            let next = tokio::time::timeout(WAIT_TIMEOUT, self.stream.next()).await;
            match next.expect("something in time")? {
                Ok(Message::Close(frame)) => {
                    return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until the terminal output contains `text`.
    ///
    /// # Panics
    /// When that takes too long, or the websocket ends before.
    pub async fn wait_for_output(&mut self, text: &str) {
        let started_at = std::time::Instant::now();
        while !String::from_utf8_lossy(&self.output).contains(text) {
            let shown = String::from_utf8_lossy(&self.output).into_owned();
            assert!(started_at.elapsed() < WAIT_TIMEOUT, "waited for {text:?}: {shown}");
            assert!(self.next().await, "it ended before {text:?}: {shown} {:?}", self.messages);
        }
    }

    /// Waits for a text message of this type.
    ///
    /// # Panics
    /// When that takes too long, or the websocket ends before.
    pub async fn wait_for_message(&mut self, kind: &str) -> Value {
        loop {
            if let Some(message) = self.messages.iter().find(|message| message["kind"] == kind) {
                return message.clone();
            }
            assert!(
                self.next().await,
                "the session ended before a message {kind}: {:?}",
                self.messages
            );
        }
    }
}
