//! Requests to the servers with pieces of outputs and files.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, RequestError};
use muster_channel::{Publisher, SealedError, seal_to};
use muster_schemas::codec::{self, DecodeError};
use muster_schemas::cose::CoseError;
use muster_schemas::subjects::DeviceSubjects;
use muster_schemas::wire::{OutputPiece, OutputTaken, output_context};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::identity::Identity;

/// Timeout of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why a piece was not sent, or its response was not received.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// The project's operation key is invalid.
    #[error(transparent)]
    Key(#[from] CoseError),
    #[error(transparent)]
    Seal(#[from] SealedError),
    #[error("no response arrived")]
    NoResponse,
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The response is invalid.
    #[error(transparent)]
    Response(#[from] DecodeError),
}

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
    pub(super) fn seal(&self, piece: OutputPiece) -> Result<Vec<u8>, OutputError> {
        let Identity { project, device, .. } = &*self.identity;
        let key = self.identity.operation_key()?;
        let context = output_context(project, *device, &piece);
        let data = seal_to(&key, &context, &piece.data)?;
        Ok(codec::encode(&OutputPiece { data, sealed: true, ..piece }))
    }

    /// Sends a sealed piece and waits for the server's response.
    pub(super) async fn request(
        &self,
        client: &Client,
        message: Vec<u8>,
    ) -> Result<OutputTaken, OutputError> {
        let subjects = DeviceSubjects::new(&self.identity.project, self.identity.device);
        let request = client.request(subjects.request("output"), message.into());
        let response =
            timeout(RESPONSE_TIMEOUT, request).await.map_err(|_| OutputError::NoResponse)??;
        Ok(codec::decode(&response.payload)?)
    }
}
