//! Enrollment: one token, one request, one identity.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use muster_files::write_private;
use muster_schemas::cose::{CoseError, Kind, PublicKey};
use muster_schemas::names::{DeviceName, LabelKey, Labels};
use muster_schemas::wire::{
    ContinueProof, EnrollProof, EnrollRequest, EnrollResponse, EnrollWaiting, EnrollmentTokenText,
};
use muster_schemas::{DeviceId, Hash, ProjectId, codec};
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::clock::{Anchor, Moment};
use crate::identity::{Credentials, DeviceKeys, Http, HttpError, Identity, to_pem};
use crate::inventory;
use crate::store::{self, Folder, Store, StoreError, key};
use crate::trust::{PinnedCa, Verifier};

/// File of the pinned CA in the data folder, PEM: for other programs; the agent itself reads its
/// database.
pub const CA_FILE: &str = "ca.pem";

/// Options of an enrollment.
#[derive(Clone)]
pub struct EnrollOptions {
    /// The data folder.
    pub data: PathBuf,
    /// Address of the servers: `https://host:port`.
    pub url: Url,
    /// The enrollment token.
    pub token: EnrollmentTokenText,
    /// Requested name of the device.
    pub name: Option<DeviceName>,
    /// Labels of the device.
    pub labels: Labels,
    /// Whether to enroll an enrolled device again; its previous state is kept as a backup.
    pub force: bool,
}

/// Result of an enrollment.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The new identity of the device.
    pub identity: Identity,
    /// Path of the previous state's backup, if there is one.
    pub backup: Option<PathBuf>,
}

/// The reason why the device is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It is already enrolled.
    #[error(
        "this device is already enrolled as {who}; run `muster-agent run`, or enroll it again \
         with --force"
    )]
    AlreadyEnrolled {
        /// Its name, id, project and servers.
        who: String,
    },
    /// The URL is not that of a server.
    #[error("'{0}' is not the URL of a muster server; write it as https://host:port")]
    Url(String),
    /// Accessing the data folder failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Creating the keys failed.
    #[error("failed to create the device's keys: {0}")]
    Keys(String),
    /// The server was unreachable, or refused the request.
    #[error("failed to enroll at the server")]
    Http(#[from] HttpError),
    /// The server's response contains no valid operation key.
    #[error(
        "the server's response contains no valid operation key; check that it is a muster server"
    )]
    OperationKey(#[source] CoseError),
    /// The server's response is for another project than the token's.
    #[error(
        "the server enrolled this device in project {given}, but the token is for project {}; \
         nothing was stored",
        .requested
    )]
    Project {
        /// Project of the response.
        given: muster_schemas::ProjectId,
        /// Project of the token.
        requested: muster_schemas::ProjectId,
    },
}

/// A requested enrollment. It is kept until the server's response is received.
#[derive(Serialize, Deserialize)]
struct Pending {
    /// Hash of the token: another token is another enrollment.
    token: Hash,
    keys: DeviceKeys,
    nonce: Uuid,
    /// Previous identity of this machine: its key proves that the machine is the same device.
    #[serde(default)]
    before: Option<PreviousIdentity>,
}

/// A previous identity of this machine.
#[derive(Serialize, Deserialize)]
struct PreviousIdentity {
    project: ProjectId,
    device: DeviceId,
    keys: DeviceKeys,
}

impl PreviousIdentity {
    /// Signs the request with the previous identity's key.
    fn seal(&self, request: &[u8]) -> String {
        let Self { project, device, keys } = self;
        let request = Hash::of(request);
        let proof = ContinueProof { project: project.clone(), device: *device, request };
        BASE64URL_NOPAD.encode(&keys.signing().seal(Kind::Continue, codec::encode(&proof)))
    }
}

/// The server's response.
#[derive(Deserialize)]
#[serde(untagged)]
enum EnrollReply {
    Joined(Box<EnrollResponse>),
    Waits(EnrollWaiting),
}

/// Returns the fingerprint of the signing key of this machine, or of the key with which it will
/// enroll; creates the key if there is none.
///
/// # Errors
/// When accessing the data folder fails.
pub fn fingerprint(data: &Path) -> Result<Hash, EnrollError> {
    let store = Store::open(Folder::open(data)?)?;
    if let Some(identity) = store.get::<Identity>(key::IDENTITY)? {
        return Ok(identity.keys.signing().thumbprint());
    }
    Ok(next_keys(&store)?.signing().thumbprint())
}

/// Enrolls this device. A repeated request after a lost response yields the same device.
///
/// # Errors
/// [`EnrollError`].
pub async fn enroll(options: EnrollOptions) -> Result<Enrolled, EnrollError> {
    let mut url = options.url.clone();
    if url.scheme() != "https" || url.host_str().is_none() {
        return Err(EnrollError::Url(url.into()));
    }
    url.set_path("/");
    url.set_query(None);
    let mut store = Store::open(Folder::open(&options.data)?)?;
    let mut backup = None;
    let mut before = None;
    if let Some(existing) = store.get::<Identity>(key::IDENTITY)? {
        if !options.force {
            let Identity { name, device, project, url, .. } = existing;
            let who = format!("{name} ({device}) in project {project} at {url}");
            return Err(EnrollError::AlreadyEnrolled { who });
        }
        before = Some(PreviousIdentity {
            project: existing.project.clone(),
            device: existing.device,
            keys: existing.keys.clone(),
        });
        let path = back_up(store, &options.data)?;
        tracing::info!(backup = %path.display(), "the previous state was moved to a backup");
        backup = Some(path);
        store = Store::open(Folder::open(&options.data)?)?;
    }
    let pending = pending(&store, &options.token, before)?;
    let (identity, credentials) = request_enrollment(&options, &url, pending).await?;
    let anchor = Anchor {
        boot: credentials.boot,
        mono: credentials.mono,
        server: credentials.response.server_time,
    };
    write_private(&options.data.join(CA_FILE), to_pem(&identity.ca).as_bytes())
        .map_err(StoreError::from)?;
    store.write(|transaction| {
        store::put(transaction, key::IDENTITY, &identity)?;
        store::put(transaction, key::CREDENTIALS, &credentials)?;
        store::put(transaction, key::ANCHOR, &anchor)?;
        store::remove(transaction, key::NEXT_KEYS)?;
        store::remove(transaction, key::PENDING_ENROLLMENT)
    })?;
    Ok(Enrolled { identity, backup })
}

/// Renames the database, so that enrolling again loses nothing.
fn back_up(store: Store, data: &Path) -> Result<PathBuf, StoreError> {
    let from = store.folder().database();
    let at = Moment::now().wall.seconds();
    let to = data.join(format!("agent-before-{at}.redb"));
    // Closed first: writes to an open file would follow it to its new name.
    drop(store);
    std::fs::rename(&from, &to).map_err(|source| StoreError::File {
        attempted: "move to a backup",
        path: from,
        source,
    })?;
    Ok(to)
}

/// Returns the keys and nonce of this enrollment: those of an earlier attempt with the same token,
/// or new ones.
fn pending(
    store: &Store,
    token: &EnrollmentTokenText,
    previous: Option<PreviousIdentity>,
) -> Result<Pending, EnrollError> {
    let token = Hash::of(token.to_string().as_bytes());
    if let Some(pending) = store.get::<Pending>(key::PENDING_ENROLLMENT)?
        && pending.token == token
    {
        return Ok(pending);
    }
    let keys = next_keys(store)?;
    // Another attempt with a different token keeps the previous identity.
    let earlier = store.get::<Pending>(key::PENDING_ENROLLMENT)?.and_then(|pending| pending.before);
    let pending = Pending { token, keys, nonce: Uuid::new_v4(), before: previous.or(earlier) };
    store.put(key::PENDING_ENROLLMENT, &pending)?;
    Ok(pending)
}

/// Returns the keys with which this machine will enroll.
fn next_keys(store: &Store) -> Result<DeviceKeys, EnrollError> {
    if let Some(keys) = store.get::<DeviceKeys>(key::NEXT_KEYS)? {
        return Ok(keys);
    }
    let keys = DeviceKeys::generate().map_err(|error| EnrollError::Keys(error.to_string()))?;
    store.put(key::NEXT_KEYS, &keys)?;
    Ok(keys)
}

/// Retries for about ten minutes while the server is busy, as when a whole fleet enrolls
/// concurrently.
async fn retry_while_busy<A, F: Future<Output = Result<A, HttpError>>>(
    request: impl Fn() -> F,
) -> Result<A, HttpError> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    for _ in 0..25 {
        match request().await {
            Err(error) if error.is_busy() => {
                let wait = backoff.next_delay(rand::random());
                tracing::warn!(%error, wait = ?wait, "the server is busy; retrying");
                tokio::time::sleep(wait).await;
            }
            answered => return answered,
        }
    }
    request().await
}

/// Repeats the request until the response is final; an operator's approval may take hours.
async fn join(
    http: &Http,
    mut request: EnrollRequest,
    fingerprint: &Hash,
) -> Result<EnrollResponse, HttpError> {
    let mut is_reported = false;
    loop {
        let result = retry_while_busy(|| http.post("/api/v1/device/enroll", &request)).await;
        match result {
            Ok(EnrollReply::Joined(joined)) => return Ok(*joined),
            Ok(EnrollReply::Waits(EnrollWaiting { name, retry_after, .. })) => {
                if !is_reported {
                    is_reported = true;
                    tracing::warn!(
                        "waiting for an operator to accept this device as '{name}' (key \
                         {fingerprint}): muster device accept {name}"
                    );
                }
                tokio::time::sleep(Duration::from_secs(retry_after.clamp(1, 60).into())).await;
            }
            // The server does not know the previous identity: enroll as a new device.
            Err(HttpError::Refused { status: 401, ref problem, .. })
                if request.previous.is_some() && problem.contains("previous:") =>
            {
                tracing::warn!(%problem, "enrolling as a new device");
                request.previous = None;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn request_enrollment(
    options: &EnrollOptions,
    url: &Url,
    pending: Pending,
) -> Result<(Identity, Credentials), EnrollError> {
    let (hostname, machine) = inventory::host_identity(Path::new("/"));
    let macs = inventory::network_cards();
    let unusable = |error: &dyn std::fmt::Display| EnrollError::Keys(error.to_string());
    let signing = pending.keys.signing();
    let proof = EnrollProof {
        token: options.token.to_string(),
        signing_key: signing.public().to_cose_key(),
        nats_key: pending.keys.nats_public().map_err(|error| unusable(&error))?,
        name: options.name.clone(),
        labels: options.labels.clone(),
        hostname,
        machine,
        macs,
        nonce: pending.nonce,
    };
    let sealed = signing.seal(Kind::Enroll, codec::encode(&proof));
    let request = EnrollRequest {
        request: BASE64URL_NOPAD.encode(&sealed),
        nats_proof: pending.keys.nats_proof(&sealed).map_err(|error| unusable(&error))?,
        previous: pending.before.as_ref().map(|before| before.seal(&sealed)),
    };
    let verifier = Verifier::new(PinnedCa::Pin(options.token.pin));
    let http = Http::new(url, std::sync::Arc::clone(&verifier))?;
    let response = join(&http, request, &signing.thumbprint()).await?;
    if response.project != options.token.project {
        return Err(EnrollError::Project {
            given: response.project,
            requested: options.token.project.clone(),
        });
    }
    if !response.dropped_labels.is_empty() {
        let keys: Vec<&str> = response.dropped_labels.iter().map(LabelKey::as_str).collect();
        tracing::warn!(
            labels = keys.join(","),
            "the server dropped these labels: the enrollment token does not allow them (muster token create --allow-labels)"
        );
    }
    let operation_key = BASE64URL_NOPAD
        .decode(response.operation_key.as_bytes())
        .map_err(|_| EnrollError::OperationKey(CoseError::BadKey("not valid base64url")))?;
    PublicKey::from_cose_key(&operation_key).map_err(EnrollError::OperationKey)?;
    // This verifier has verified the connection of the response.
    let ca = verifier.ca().map(|ca| ca.to_vec()).unwrap_or_default();
    let identity = Identity {
        url: url.clone(),
        project: response.project,
        device: response.device,
        name: response.name,
        epoch: response.epoch,
        enrolled_at: response.credentials.server_time,
        keys: pending.keys,
        operation_key,
        ca,
    };
    Ok((identity, Credentials::new(response.credentials, &Moment::now())))
}
