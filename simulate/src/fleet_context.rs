//! The context of the devices of a fleet.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::api_client::ApiClient;
use crate::counters::Counters;
use crate::profile::Profile;

/// What the devices of a fleet share: the server, their behavior, and the signals to all of them.
pub(crate) struct FleetContext {
    pub(crate) api: ApiClient,
    /// Host of the server, which replaces 0.0.0.0 in the addresses of brokers.
    pub(crate) host: String,
    pub(crate) tls: rustls::ClientConfig,
    pub(crate) profile: Profile,
    pub(crate) counters: Arc<Counters>,
    /// Permits of concurrent TLS handshakes.
    pub(crate) connecting: Semaphore,
    /// Number of storms: when it changes, all devices reconnect.
    pub(crate) storms: watch::Sender<u64>,
    /// Canceled when no new events must be recorded; events that the log does not have are still
    /// sent.
    pub(crate) ending: CancellationToken,
}
