//! Enrollment: a machine proves that it holds both its keys, a token authorizes it, and it receives
//! a name, an epoch and broker credentials.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use muster_schemas::cose::{Kind, Unverified};
use muster_schemas::events::EnrollmentTokenCreated;
use muster_schemas::names::{DeviceName, LabelKey, Labels, device_name_from_host};
use muster_schemas::wire::{
    ContinueProof, EnrollProof, EnrollRequest, EnrollResponse, EnrollWaiting, EnrollmentTokenText,
};
use muster_schemas::{DeviceId, Hash, ProjectId, PublicKey, StreamName, StreamVersion, codec};
use nkeys::{KeyPair, KeyPairType};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::accounts::BrokerAccounts;
use super::credentials::Credentials;
use crate::clock::now;
use crate::device_keys::DeviceKeys;
use crate::domain::device::{Device, DeviceCommand, Enrollment, Verdict};
use crate::domain::enrollment_token::{EnrollmentToken, EnrollmentTokenCommand};
use crate::domain::name::{Name, NameCommand};
use crate::domain::{Conflict, Decider, Rejection, TokenRefusal};
use crate::error::CommandError;
use crate::executor::{Executor, Loaded, Part, until_appended};
use crate::keys::KeyStore;
use crate::request::Request;

/// Number of names that are tried when a host's own name is in use: `robot`, `robot-2` … `robot-9`;
/// then `robot-` and the end of the device's id.
const MAX_NAME_ATTEMPTS: usize = 10;

/// Interval at which a pending device repeats its request, in seconds.
const RETRY_AFTER_SECS: u32 = 5;

/// An enrollment request whose proofs are valid.
struct VerifiedEnrollment {
    proof: EnrollProof,
    token: EnrollmentTokenText,
    fingerprint: Hash,
    /// Hash of the signed proof.
    request: Hash,
    /// The message signed by the previous key.
    previous: Option<Vec<u8>>,
}

/// The response to an enrollment request.
#[derive(Clone, Debug)]
pub enum EnrollOutcome {
    /// The device is enrolled.
    Enrolled(Box<EnrollResponse>),
    /// The enrollment is pending until an operator decides.
    Pending(EnrollWaiting),
}

/// Which device a machine becomes.
enum EnrollTarget {
    /// A known device.
    Existing(DeviceId),
    /// A new device.
    New,
    /// A new device whose enrollment is pending, and the device that it resembles.
    Pending(Option<DeviceId>),
}

/// Verifies both proofs: the signing key and the NATS key have signed the request.
fn verify_proofs(request: &EnrollRequest) -> Result<VerifiedEnrollment, CommandError> {
    let unproved = |what: &str| CommandError::IdentityNotProven(what.to_owned());
    let decode = |field: &str, text: &str| {
        BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| {
            CommandError::IdentityNotProven(format!("{field} is not unpadded base64url"))
        })
    };
    let sealed = decode("request", &request.request)?;
    let message = Unverified::parse(&sealed)
        .map_err(|error| CommandError::IdentityNotProven(error.to_string()))?;
    let proof: EnrollProof = codec::decode(message.payload())
        .map_err(|error| CommandError::IdentityNotProven(format!("request: {error}")))?;
    let key = PublicKey::from_cose_key(&proof.signing_key)
        .map_err(|error| CommandError::IdentityNotProven(format!("signing_key: {error}")))?;
    message
        .verify(Kind::Enroll, &key)
        .map_err(|error| CommandError::IdentityNotProven(format!("request: {error}")))?;
    let nats_key = KeyPair::from_public_key(&proof.nats_key)
        .ok()
        .filter(|key| key.key_pair_type() == KeyPairType::User)
        .ok_or_else(|| unproved("nats_key is not the public key of a NATS user"))?;
    nats_key
        .verify(&sealed, &decode("nats_proof", &request.nats_proof)?)
        .map_err(|_| unproved("nats_proof is not a signature of the NATS key over the request"))?;
    let token = proof.token.parse().map_err(|_| Rejection::from(TokenRefusal::NotAToken))?;
    let previous = request.previous.as_deref().map(|text| decode("previous", text)).transpose()?;
    let request = Hash::of(&sealed);
    Ok(VerifiedEnrollment { fingerprint: key.thumbprint(), proof, token, request, previous })
}

/// Returns the append's id: a device that received no response sends the same keys and nonce again.
fn append_id(verified: &VerifiedEnrollment) -> Uuid {
    let mut hasher = Sha256::new();
    hasher.update(b"muster/enroll/v1");
    hasher.update(verified.fingerprint.0);
    hasher.update(verified.proof.nonce.as_bytes());
    hasher.update(verified.token.id.0.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(digest.split_at(16).0);
    uuid::Builder::from_custom_bytes(id).into_uuid()
}

/// Returns the name for the `n`th attempt, within the maximum length of names.
fn nth_name(requested: &DeviceName, n: usize, device: DeviceId) -> DeviceName {
    let suffix = match n {
        1 => return requested.clone(),
        MAX_NAME_ATTEMPTS => format!("-{:012x}", device.0.as_u128() & 0xffff_ffff_ffff),
        n => format!("-{n}"),
    };
    let keep: String = requested.as_str().chars().take(63 - suffix.len()).collect();
    format!("{}{suffix}", keep.trim_end_matches(['-', '.']))
        .parse()
        .unwrap_or_else(|_| requested.clone())
}

/// Enrolls devices.
#[derive(Clone, Debug)]
pub struct Enrollments {
    executor: Executor,
    keys: Arc<KeyStore>,
    device_keys: DeviceKeys,
    credentials: Credentials,
    accounts: BrokerAccounts,
    /// Serializes enrollments with one token: all of them append to its stream.
    locks: Arc<[Mutex<()>; 64]>,
}

impl Enrollments {
    pub(super) fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        device_keys: DeviceKeys,
        credentials: Credentials,
        accounts: BrokerAccounts,
    ) -> Self {
        let locks = Arc::new(std::array::from_fn(|_| Mutex::default()));
        Self { executor, keys, device_keys, credentials, accounts, locks }
    }

    /// Enrolls a device.
    ///
    /// # Errors
    /// When a proof is invalid, the token does not authorize it, a requested name is in use, or the
    /// log cannot be used.
    pub async fn enroll(&self, enroll: &EnrollRequest) -> Result<EnrollOutcome, CommandError> {
        let proved = verify_proofs(enroll)?;
        if proved.token.project.is_system() {
            return Err(Rejection::from(TokenRefusal::SystemProject).into());
        }
        let request = Request::unconditional(
            proved.token.project.clone(),
            format!("token:{}", proved.token.id),
            append_id(&proved),
        );
        let device = match self.executor.first_result(&request).await? {
            Some((_, events)) => events
                .iter()
                .find_map(|event| event.stream.device())
                .ok_or(Rejection::NotFound("device"))?,
            None => self.append_enrollment(&request, &proved).await?,
        };
        self.outcome(&request.project, device, &proved).await
    }

    async fn append_enrollment(
        &self,
        request: &Request,
        verified: &VerifiedEnrollment,
    ) -> Result<DeviceId, CommandError> {
        let token_stream = StreamName::Token(verified.token.id);
        let fresh = DeviceId(Uuid::now_v7());
        let slot = usize::from(verified.token.id.0.as_bytes()[15]) % self.locks.len();
        let _turn = match self.locks.get(slot) {
            Some(slot) => Some(slot.lock().await),
            None => None,
        };
        let done = until_appended(|| async {
            let token = self.load_token(&request.project, &token_stream).await?;
            let secret = Hash::of(&verified.token.secret);
            token.state.check_secret(secret)?;
            let who = self.resolve_target(&token.state, verified).await?;
            let device = if let EnrollTarget::Existing(device) = who { device } else { fresh };
            let used =
                token.state.decide(EnrollmentTokenCommand::Use { secret, device, now: now() })?;
            let created = token.state.created.as_ref();
            let labels = created.map(|created| merge_labels(&verified.proof.labels, created));
            let labels = labels.unwrap_or_default();
            let config = created.map(|created| created.config.clone()).unwrap_or_default();
            let stream = StreamName::Device(device);
            let loaded = self.executor.load::<Device>(&request.project, &stream).await?;
            let mut parts = vec![(token_stream.clone(), token.version, used)];
            let (mut state, mut events) = (loaded.state, Vec::new());
            if !state.exists() && state.name.is_none() {
                let (name, part) = self.free_name(&request.project, device, verified).await?;
                parts.extend(part);
                events =
                    state.decide(DeviceCommand::Register { name, labels, fingerprint: None })?;
                state = events.iter().fold(state, Device::evolve);
                let config = config.into_iter().map(|(key, value)| (key, Some(value))).collect();
                let config = state.decide(DeviceCommand::SetConfig(config))?;
                state = config.iter().fold(state, Device::evolve);
                events.extend(config);
            }
            let enrollment = Box::new(enrollment(verified));
            events.extend(state.decide(match who {
                EnrollTarget::Pending(like) => DeviceCommand::AwaitApproval { enrollment, like },
                EnrollTarget::Existing(_) | EnrollTarget::New => DeviceCommand::Enroll(enrollment),
            })?);
            parts.push((stream, loaded.version, events));
            let appended = self.executor.try_append(request, parts).await?;
            Ok(appended.map(|_| (device, matches!(who, EnrollTarget::Existing(_)))))
        })
        .await;
        // The append has revoked the previous keys of a known device. An error of the log may hide
        // an append that succeeded.
        if !matches!(done, Ok((_, false)) | Err(CommandError::Rejected(_))) {
            self.accounts.notify_revocation();
        }
        done.map(|(device, _)| device)
    }

    /// Returns the device that the machine becomes: the one for which the token was created, the
    /// one that its previous key proves, or the one that was registered with its key, unless it was
    /// revoked. Otherwise a new device, whose enrollment is pending when the token requires
    /// approval, or when a device with the same machine id or MAC address exists: those are not
    /// secret, so they prove nothing.
    async fn resolve_target(
        &self,
        token: &EnrollmentToken,
        verified: &VerifiedEnrollment,
    ) -> Result<EnrollTarget, CommandError> {
        let project = &verified.token.project;
        let created = token.created.as_ref();
        if let Some(device) = created.and_then(|created| created.device) {
            return Ok(EnrollTarget::Existing(device));
        }
        if let Some(sealed) = &verified.previous {
            return Ok(EnrollTarget::Existing(self.continued_device(verified, sealed).await?));
        }
        let expecting =
            self.executor.log.device_registered_with_key(project, verified.fingerprint).await?;
        let holders = self.executor.log.devices_with_key(project, verified.fingerprint).await?;
        let mut registered = None;
        for device in expecting.into_iter().chain(holders) {
            let loaded = self.executor.load::<Device>(project, &StreamName::Device(device)).await?;
            if loaded.state.is_revoked {
                return Err(Rejection::from(TokenRefusal::DeviceRevoked).into());
            }
            // The event decides, not the table of identity hints.
            let is_expected = loaded.state.registered_key == Some(verified.fingerprint);
            if is_expected && loaded.state.exists() {
                registered = registered.or(Some(device));
            }
        }
        if let Some(device) = registered {
            return Ok(EnrollTarget::Existing(device));
        }
        let like = self.similar_device(verified).await?;
        let approval = created.is_some_and(|created| created.approval);
        Ok(if approval || like.is_some() { EnrollTarget::Pending(like) } else { EnrollTarget::New })
    }

    /// Returns the device that this machine resembles.
    async fn similar_device(
        &self,
        verified: &VerifiedEnrollment,
    ) -> Result<Option<DeviceId>, CommandError> {
        let EnrollProof { machine, macs, .. } = &verified.proof;
        let macs = macs.get(..MAX_MACS).unwrap_or(macs);
        Ok(self.executor.log.similar_device(&verified.token.project, *machine, macs).await?)
    }

    /// Returns the device whose previous key has signed that it is this machine.
    async fn continued_device(
        &self,
        verified: &VerifiedEnrollment,
        sealed: &[u8],
    ) -> Result<DeviceId, CommandError> {
        let unproved = |what: String| CommandError::IdentityNotProven(format!("previous: {what}"));
        let message = Unverified::parse(sealed).map_err(|error| unproved(error.to_string()))?;
        let claimed: ContinueProof =
            codec::decode(message.payload()).map_err(|error| unproved(error.to_string()))?;
        let known = self.device_keys.load(&verified.token.project, claimed.device).await?;
        let key = known.access.key(&message.kid());
        let key = key.ok_or_else(|| {
            unproved(format!(
                "device {} no longer has this key; enroll as a new device, or with a token that \
                 was made for it",
                claimed.device
            ))
        })?;
        message.verify(Kind::Continue, key).map_err(|error| unproved(error.to_string()))?;
        if (&claimed.project, claimed.request) != (&verified.token.project, verified.request) {
            return Err(unproved("it was made for another request".to_owned()));
        }
        Ok(claimed.device)
    }

    async fn load_token(
        &self,
        project: &ProjectId,
        stream: &StreamName,
    ) -> Result<Loaded<EnrollmentToken>, CommandError> {
        let Some((first, newest)) = self.executor.log.read_stream_ends(project, stream).await?
        else {
            return Ok(Loaded { state: EnrollmentToken::default(), version: StreamVersion::ZERO });
        };
        // An event without authority would hide the last authentic one: read all of them.
        if !(self.executor.log.is_authentic(project, &first)
            && self.executor.log.is_authentic(project, &newest))
        {
            return self.executor.load(project, stream).await;
        }
        let version = newest.stream_version;
        let state = EnrollmentToken::from_ends(&first.event()?, &newest.event()?, version);
        Ok(Loaded { state, version })
    }

    /// Returns the requested name, or the first free one derived from the host name.
    async fn free_name(
        &self,
        project: &ProjectId,
        device: DeviceId,
        verified: &VerifiedEnrollment,
    ) -> Result<(DeviceName, Vec<Part>), CommandError> {
        let requested_name = verified.proof.name.clone();
        let tries = if requested_name.is_some() { 1 } else { MAX_NAME_ATTEMPTS };
        let base = requested_name.unwrap_or_else(|| {
            device_name_from_host(verified.proof.hostname.as_deref().unwrap_or("device"))
        });
        for n in 1..=tries {
            let name = nth_name(&base, n, device);
            let stream = StreamName::Name(name.clone());
            let held = self.executor.load::<Name>(project, &stream).await?;
            if let Ok(reserved) = held.state.decide(NameCommand::Reserve(device)) {
                return Ok((name, vec![(stream, held.version, reserved)]));
            }
        }
        Err(Rejection::from(Conflict::NamesInUse(base)).into())
    }

    async fn outcome(
        &self,
        project: &ProjectId,
        device: DeviceId,
        verified: &VerifiedEnrollment,
    ) -> Result<EnrollOutcome, CommandError> {
        let mut device = device;
        let mut state =
            self.executor.load::<Device>(project, &StreamName::Device(device)).await?.state;
        if state.pending_enrollment.is_some() {
            return pending_response(project, device, state).map(EnrollOutcome::Pending);
        }
        match &state.verdict {
            Some(Verdict::Rejected(reason)) => {
                let reason = reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
                let detail = format!("an operator rejected this device{reason}");
                return Err(Rejection::Refused(detail).into());
            }
            Some(Verdict::Replaces(other)) => {
                device = *other;
                state =
                    self.executor.load::<Device>(project, &StreamName::Device(device)).await?.state;
            }
            None => {}
        }
        if state.fingerprint != Some(verified.fingerprint) || !state.exists() {
            return Err(Rejection::from(Conflict::EnrollmentEnded).into());
        }
        // A repeated request must not restore access after a revocation.
        if state.is_revoked {
            return Err(Rejection::from(TokenRefusal::DeviceRevoked).into());
        }
        let name = state.name.ok_or(Rejection::NotFound("device"))?;
        let operation_key = self.keys.operation_key(project)?.public().to_cose_key();
        Ok(EnrollOutcome::Enrolled(Box::new(EnrollResponse {
            project: project.clone(),
            device,
            name,
            epoch: state.epoch,
            operation_key: BASE64URL_NOPAD.encode(&operation_key),
            credentials: self.credentials.issue(project, device, &verified.proof.nats_key)?,
            dropped_labels: self.dropped_labels(project, device, verified).await?,
        })))
    }

    /// Returns the labels that the device sent and its token does not allow.
    async fn dropped_labels(
        &self,
        project: &ProjectId,
        device: DeviceId,
        verified: &VerifiedEnrollment,
    ) -> Result<Vec<LabelKey>, CommandError> {
        if verified.proof.labels.is_empty() {
            return Ok(Vec::new());
        }
        let stream = StreamName::Token(verified.token.id);
        let token = self.load_token(&verified.token.project, &stream).await?.state.created;
        let dropped =
            token.map(|token| dropped_keys(&verified.proof.labels, &token)).unwrap_or_default();
        if !dropped.is_empty() {
            let keys: Vec<&str> = dropped.iter().map(LabelKey::as_str).collect();
            tracing::warn!(
                %project, %device, token = %verified.token.id, labels = keys.join(","),
                "labels that a device requested were dropped: its token does not allow them"
            );
        }
        Ok(dropped)
    }
}

/// Returns the response to a pending enrollment. It names no other device: anyone with a token can
/// claim any machine id.
fn pending_response(
    project: &ProjectId,
    device: DeviceId,
    state: Device,
) -> Result<EnrollWaiting, CommandError> {
    let name = state.name.ok_or(Rejection::NotFound("device"))?;
    let project = project.clone();
    Ok(EnrollWaiting { project, device, name, retry_after: RETRY_AFTER_SECS })
}

/// Maximum number of a machine's MAC addresses that are compared.
const MAX_MACS: usize = 16;

/// Returns the labels that the device may set, overridden by those of the token.
fn merge_labels(own: &Labels, token: &EnrollmentTokenCreated) -> Labels {
    let mut labels = own.clone();
    labels.retain(|key, _| token.allow_labels.contains(key));
    labels.extend(token.labels.clone());
    labels
}

/// Returns the keys of labels that the device sent and may not set.
fn dropped_keys(own: &Labels, token: &EnrollmentTokenCreated) -> Vec<LabelKey> {
    own.keys().filter(|key| !token.allow_labels.contains(*key)).cloned().collect()
}

fn enrollment(verified: &VerifiedEnrollment) -> Enrollment {
    let EnrollProof { signing_key, nats_key, hostname, machine, macs, .. } = &verified.proof;
    Enrollment {
        signing_key: signing_key.clone(),
        fingerprint: verified.fingerprint,
        nats_key: nats_key.clone(),
        token: Some(verified.token.id),
        hostname: hostname.as_ref().map(|host| host.chars().take(255).collect()),
        machine: *machine,
        macs: macs.iter().copied().take(MAX_MACS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_follow_the_name_rule() {
        let long: DeviceName = "x".repeat(63).parse().unwrap();
        let device = DeviceId(Uuid::from_u128(0x0198_c0de_7000_7abc_8123_4567_89ab_cdef));
        for n in [1, 2, MAX_NAME_ATTEMPTS] {
            assert!(nth_name(&long, n, device).as_str().len() <= 63);
        }
        let robot = "robot".parse().unwrap();
        assert_eq!(nth_name(&robot, 2, device).as_str(), "robot-2");
        assert_eq!(nth_name(&robot, MAX_NAME_ATTEMPTS, device).as_str(), "robot-456789abcdef");
    }
}
