//! Websockets to the server, with the same TLS settings as other requests.

use anyhow::{Context, Result};
use async_recursion::async_recursion as boxed;
use data_encoding::BASE64;
use muster_api_types::sessions::SessionControl;
use reqwest::header;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::Client;

/// A websocket.
pub type Socket = WebSocketStream<reqwest::Upgraded>;

/// Encodes a message to the server about the session.
#[must_use]
pub fn control(message: &SessionControl) -> Message {
    Message::Text(json!(message).to_string().into())
}

impl Client {
    /// Opens a websocket. A refusal by the server is an error as for any request.
    ///
    /// # Errors
    /// When the server is unreachable or refuses it.
    #[boxed]
    pub async fn socket(&self, path: &str, query: &[(&str, String)]) -> Result<Socket> {
        let url = format!("{}{path}", self.url);
        let key: [u8; 16] = rand::random();
        let mut request = self
            .upgrading
            .get(url)
            .bearer_auth(&self.token)
            .query(query)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, BASE64.encode(&key))
            .header(header::SEC_WEBSOCKET_PROTOCOL, "muster.v1");
        if let Some(project) = &self.project {
            request = request.query(&[("project", project)]);
        }
        let response = self.send(request).await?;
        let upgraded = response.upgrade().await.context("failed to open a websocket")?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }
}
