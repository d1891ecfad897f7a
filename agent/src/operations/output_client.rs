//! Requests to the servers with pieces of outputs and files.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use muster_channel::{Publisher, seal_to};
use muster_schemas::codec;
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{OutputPiece, OutputTaken, output_context};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::identity::Identity;

/// Timeout of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the servers that receive outputs and files.
#[derive(Clone)]
pub(super) struct OutputClient {
    pub(super) identity: Arc<Identity>,
    pub(super) connection: Arc<Connection>,
}

impl OutputClient {
    /// Follows the connection, from its current state.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Publisher>> {
        self.connection.subscribe()
    }

    /// Seals a piece to the project's operation key and encodes it: the broker must not read it.
    pub(super) fn seal(&self, piece: OutputPiece) -> Result<Vec<u8>, String> {
        let Identity { project, device, .. } = &*self.identity;
        let key = self.identity.operation_key().map_err(|error| error.to_string())?;
        let context = output_context(project, *device, &piece);
        let data = seal_to(&key, &context, &piece.data).map_err(|error| error.to_string())?;
        Ok(codec::encode(&OutputPiece { data, sealed: true, ..piece }))
    }

    /// Sends a sealed piece and waits for the server's response.
    pub(super) async fn request(
        &self,
        client: &Client,
        message: Vec<u8>,
    ) -> Result<OutputTaken, String> {
        let subjects = DeviceSubjects::new(&self.identity.project, self.identity.device);
        let request = client.request(subjects.request("output"), message.into());
        let response = timeout(RESPONSE_TIMEOUT, request)
            .await
            .map_err(|_| "no response arrived".to_owned())?
            .map_err(|error| error.to_string())?;
        codec::decode(&response.payload).map_err(|error| error.to_string())
    }
}
