//! A fleet of simulated devices: all enroll, then behave according to their profile until they end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api_client::{ApiClient, ApiError};
use crate::counters::{Counters, add};
use crate::device::Device;
use crate::enrollment::Enrolled;
use crate::fleet_context::FleetContext;
use crate::profile::Profile;

/// Maximum number of concurrent enrollments.
const MAX_CONCURRENT_ENROLLMENTS: usize = 32;
/// Maximum number of concurrent TLS handshakes.
const MAX_CONCURRENT_HANDSHAKES: usize = 256;

/// Options of a fleet.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Address of the server.
    pub url: String,
    /// File of the server's CA.
    pub ca: Option<PathBuf>,
    /// Enrollment token of all devices.
    pub token: String,
    /// Number of devices.
    pub devices: usize,
    /// Prefix of the host names; a number follows.
    pub prefix: String,
    /// Behavior of the devices.
    pub profile: Profile,
}

/// The reason why the fleet cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A device could not enroll.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The CA is not valid for the broker.
    #[error("the CA is invalid: {0}")]
    Tls(String),
    /// The server's response is invalid.
    #[error("the server's operation key is invalid")]
    OperationKey,
}

/// A running fleet.
pub struct Fleet {
    context: Arc<FleetContext>,
    devices: Vec<JoinHandle<()>>,
    storms: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Enrolls all devices, without connecting them. The counters are updated meanwhile.
    ///
    /// # Errors
    /// When a device is refused.
    #[boxed]
    pub async fn enroll(
        options: &FleetOptions,
        counters: &Counters,
    ) -> Result<Vec<Enrolled>, FleetError> {
        let client = ApiClient::new(&options.url, options.ca.as_deref())?;
        let mut joining = stream::iter(0..options.devices)
            .map(|number| {
                let (client, token) = (client.clone(), options.token.clone());
                let name = format!("{}-{number}", options.prefix);
                async move { client.enroll(&token, &name).await }
            })
            .buffer_unordered(MAX_CONCURRENT_ENROLLMENTS);
        let mut enrolled = Vec::with_capacity(options.devices);
        while let Some(one) = joining.next().await {
            enrolled.push(one?);
            add(&counters.enrolled, 1);
        }
        Ok(enrolled)
    }

    /// Starts devices that have enrolled.
    ///
    /// # Errors
    /// When the CA or a server's response is invalid.
    pub fn start(
        options: &FleetOptions,
        enrolled: Vec<Enrolled>,
        counters: Arc<Counters>,
    ) -> Result<Self, FleetError> {
        let host = reqwest::Url::parse(&options.url).ok();
        let host = host.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let context = Arc::new(FleetContext {
            api: ApiClient::new(&options.url, options.ca.as_deref())?,
            host,
            tls: tls(options)?,
            profile: options.profile,
            counters,
            connecting: Semaphore::new(MAX_CONCURRENT_HANDSHAKES),
            storms: watch::Sender::new(0),
            ending: CancellationToken::new(),
        });
        let mut devices = Vec::with_capacity(enrolled.len());
        for (number, enrolled) in enrolled.into_iter().enumerate() {
            let device = Device::new(number, enrolled, Arc::clone(&context))
                .ok_or(FleetError::OperationKey)?;
            devices.push(tokio::spawn(device.run()));
        }
        let storms = options.profile.storm_interval.map(|every| {
            let context = Arc::clone(&context);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(every).await;
                    context.storms.send_modify(|storm| *storm += 1);
                }
            })
        });
        Ok(Self { context, devices, storms })
    }

    /// Makes all devices disconnect now and reconnect immediately.
    pub fn storm(&self) {
        self.context.storms.send_modify(|storm| *storm += 1);
    }

    /// Ends the fleet: no new events are recorded, and the log has this long to receive the rest.
    #[boxed]
    pub async fn finish(self, timeout: Duration) {
        if let Some(storms) = &self.storms {
            storms.abort();
        }
        self.context.ending.cancel();
        let stops: Vec<_> = self.devices.iter().map(JoinHandle::abort_handle).collect();
        let mut left: FuturesUnordered<_> = self.devices.into_iter().collect();
        let all = async { while left.next().await.is_some() {} };
        if tokio::time::timeout(timeout, all).await.is_err() {
            for stop in stops {
                stop.abort();
            }
        }
    }
}

fn tls(options: &FleetOptions) -> Result<rustls::ClientConfig, FleetError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let broken = |error: String| FleetError::Tls(error);
    let Some(ca) = &options.ca else {
        return Err(broken(
            "give it with --ca: the broker's certificate is verified with it".to_owned(),
        ));
    };
    let mut roots = rustls::RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(ca).map_err(|error| broken(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| broken(error.to_string()))?;
        roots.add(certificate).map_err(|error| broken(error.to_string()))?;
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
