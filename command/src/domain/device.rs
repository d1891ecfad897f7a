//! The device: registered, pending, enrolled, named, labeled, configured, revoked, deleted.

use muster_schemas::events::{
    Cause, DeviceConfigSet, DeviceDeleted, DeviceEnrolled, DeviceEnrollmentAccepted,
    DeviceEnrollmentRejected, DeviceEnrollmentRequested, DeviceEpochGranted, DeviceForked,
    DeviceLabelsChanged, DeviceRegistered, DeviceRenamed, DeviceRevoked,
};
use muster_schemas::names::{
    ConfigKey, ConfigValue, ConfigVars, DeviceName, LabelKey, LabelValue, Labels, MAX_CONFIG_VARS,
    MAX_LABELS,
};
use muster_schemas::{ConfigVersion, DeviceId, Epoch, Event, Hash, Seq, TokenId};

use super::changes::{
    Changes, apply, check_count, check_label_keys, check_name, effective, replacement,
};
use super::{Conflict, Decider, Decision, NotEnrolled, Rejection};

/// Maximum size of the texts of the config of a state that is kept, in bytes.
const MAX_KEPT_CONFIG_BYTES: usize = 32 * 1024;
/// Config variable that requests a rotation of the device's signing key.
const KEY_ROTATION_VARIABLE: &str = "agent.key_generation";

/// State of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Name; `None` before the device is registered.
    pub name: Option<DeviceName>,
    /// Labels.
    pub labels: Labels,
    /// Config variables.
    pub config: ConfigVars,
    /// Version of the config; 0 when none was ever set.
    pub config_version: ConfigVersion,
    /// Newest epoch; 0 before the first enrollment.
    pub epoch: Epoch,
    /// Fingerprint of the key that was expected when the device was registered.
    pub registered_key: Option<Hash>,
    /// Fingerprint of the signing key that enrolled last.
    pub fingerprint: Option<Hash>,
    /// NATS user key that enrolled last.
    pub nats_key: Option<String>,
    /// Whether its keys are revoked until it enrolls again.
    pub is_revoked: bool,
    /// Its pending enrollment.
    pub pending_enrollment: Option<Enrollment>,
    /// An operator's decision about its pending enrollment.
    pub verdict: Option<Verdict>,
    /// Whether it was deleted.
    pub is_deleted: bool,
}

/// An operator's decision about a pending enrollment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The machine becomes this other device.
    Replaces(DeviceId),
    /// The enrollment was rejected; the reason.
    Rejected(Option<String>),
}

/// Commands on a device.
#[derive(Clone, Debug)]
pub enum DeviceCommand {
    /// Register the device.
    Register {
        /// Name of the device.
        name: DeviceName,
        /// Labels of the device.
        labels: Labels,
        /// Fingerprint of the key that it will enroll with.
        fingerprint: Option<Hash>,
    },
    /// Make its enrollment pending.
    AwaitApproval {
        /// The machine's keys.
        enrollment: Box<Enrollment>,
        /// The device that the machine resembles.
        like: Option<DeviceId>,
    },
    /// Accept its pending enrollment: as itself, or as a known device, which must then enroll with
    /// the pending keys.
    Accept {
        /// The known device.
        replaces: Option<DeviceId>,
    },
    /// Reject its pending enrollment.
    Reject {
        /// Reason.
        reason: Option<String>,
    },
    /// Revoke its keys.
    Revoke {
        /// Reason.
        reason: Option<String>,
    },
    /// Bind keys to it, and start a new epoch.
    Enroll(Box<Enrollment>),
    /// Grant it a new epoch.
    GrantEpoch {
        /// Its current epoch.
        current: Epoch,
        /// Cause of the new epoch.
        cause: Cause,
        /// For a fork: where the branches diverge, with the hashes of the log and of the other
        /// branch.
        fork: Option<ForkPoint>,
    },
    /// Record that an old copy of its data folder, with a revoked key, is in use.
    RecordCopy {
        /// The copy's epoch.
        epoch: Epoch,
        /// First sequence number that the log has and the copy does not.
        seq: Seq,
    },
    /// Rename it.
    Rename(DeviceName),
    /// Set and remove labels.
    ChangeLabels(Changes<LabelKey, LabelValue>),
    /// Replace all labels.
    ReplaceLabels(Labels),
    /// Set and remove config variables.
    SetConfig(Changes<ConfigKey, ConfigValue>),
    /// Replace all config variables.
    ReplaceConfig(ConfigVars),
    /// Request a rotation of its signing key.
    RotateKey,
    /// Delete it; its history is kept.
    Delete,
}

/// Keys and identity hints of an enrolling machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrollment {
    /// Signing key, a COSE_Key.
    pub signing_key: Vec<u8>,
    /// Thumbprint of the signing key.
    pub fingerprint: Hash,
    /// NATS user key.
    pub nats_key: String,
    /// Token that authorizes the enrollment.
    pub token: Option<TokenId>,
    /// Host name of the machine.
    pub hostname: Option<String>,
    /// Hash of its machine id.
    pub machine: Option<Hash>,
    /// Hashes of its MAC addresses.
    pub macs: Vec<Hash>,
}

/// The point where two branches of a history diverge.
#[derive(Clone, Copy, Debug)]
pub struct ForkPoint {
    /// Sequence number.
    pub seq: Seq,
    /// Hash of the log's event.
    pub logged_hash: Option<Hash>,
    /// Hash of the other branch's event.
    pub other_hash: Option<Hash>,
}

impl Device {
    /// Whether the device is registered and not deleted.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.name.is_some() && !self.is_deleted
    }

    /// Rejects an action that requires an enrolled device with valid keys.
    ///
    /// # Errors
    /// When the device has never enrolled, or is revoked; with the reason and a hint.
    pub fn check_enrolled(&self) -> Result<(), Rejection> {
        let name = self.existing_name()?;
        let state = if self.is_revoked {
            NotEnrolled::Revoked
        } else if self.pending_enrollment.is_some() {
            NotEnrolled::Pending
        } else if self.epoch == Epoch::ZERO {
            NotEnrolled::NeverEnrolled
        } else {
            return Ok(());
        };
        Err(Conflict::NotEnrolled { name: name.clone(), state }.into())
    }

    fn existing_name(&self) -> Result<&DeviceName, Rejection> {
        match &self.name {
            Some(name) if !self.is_deleted => Ok(name),
            _ => Err(Rejection::NotFound("device")),
        }
    }

    fn register(&self, name: DeviceName, labels: Labels, fingerprint: Option<Hash>) -> Decision {
        if self.name.is_some() {
            return Err(Conflict::DeviceExists.into());
        }
        check_name(&name)?;
        check_label_keys("labels", labels.keys())?;
        check_count("labels", labels.len(), MAX_LABELS)?;
        Ok(vec![DeviceRegistered { name, labels, fingerprint }.into()])
    }

    fn await_approval(&self, enrollment: Enrollment, similar: Option<DeviceId>) -> Decision {
        self.existing_name()?;
        if self.epoch > Epoch::ZERO || self.pending_enrollment.is_some() {
            return Err(Conflict::CannotBecomePending.into());
        }
        let Enrollment { signing_key, fingerprint, nats_key, token, hostname, machine, macs } =
            enrollment;
        let requested = DeviceEnrollmentRequested {
            signing_key,
            fingerprint,
            nats_key,
            token,
            hostname,
            machine,
            macs,
            like: similar,
        };
        Ok(vec![requested.into()])
    }

    fn pending_enrollment(&self) -> Result<(&DeviceName, &Enrollment), Rejection> {
        let name = self.existing_name()?;
        match &self.pending_enrollment {
            Some(waiting) => Ok((name, waiting)),
            None => Err(Conflict::NotPending(name.clone()).into()),
        }
    }

    fn accept(&self, replaces: Option<DeviceId>) -> Decision {
        let (name, waiting) = self.pending_enrollment()?;
        let accepted = DeviceEnrollmentAccepted { replaces }.into();
        let mut events = vec![accepted];
        match replaces {
            Some(_) => events.push(DeviceDeleted { name: name.clone() }.into()),
            None => events.extend(self.enroll(waiting.clone())?),
        }
        Ok(events)
    }

    fn reject(&self, reason: Option<String>) -> Decision {
        let (name, _) = self.pending_enrollment()?;
        let name = name.clone();
        Ok(vec![DeviceEnrollmentRejected { reason }.into(), DeviceDeleted { name }.into()])
    }

    fn revoke(&self, reason: Option<String>) -> Decision {
        let name = self.existing_name()?;
        if self.epoch == Epoch::ZERO {
            return Err(Conflict::NothingToRevoke(name.clone()).into());
        }
        if self.is_revoked {
            return Ok(Vec::new());
        }
        Ok(vec![DeviceRevoked { reason }.into()])
    }

    fn enroll(&self, enrollment: Enrollment) -> Decision {
        self.existing_name()?;
        let Enrollment { signing_key, fingerprint, nats_key, token, hostname, machine, macs } =
            enrollment;
        let epoch = self.epoch + 1;
        let enrolled = DeviceEnrolled {
            epoch,
            signing_key,
            fingerprint,
            nats_key,
            token,
            hostname,
            machine,
            macs,
        };
        Ok(vec![enrolled.into()])
    }

    fn grant_epoch(&self, current: Epoch, cause: Cause, fork: Option<ForkPoint>) -> Decision {
        self.existing_name()?;
        // After a restored backup a device may be ahead of the log.
        let epoch = self.epoch.max(current).next();
        let granted = DeviceEpochGranted { epoch, previous: current, cause };
        let forked = fork.map(|ForkPoint { seq, logged_hash: logged, other_hash: other }| {
            DeviceForked { epoch: current, seq, logged, other, continues_in: epoch }.into()
        });
        Ok(forked.into_iter().chain([granted.into()]).collect())
    }

    fn rename(&self, name: DeviceName) -> Decision {
        let previous = self.existing_name()?.clone();
        if previous == name {
            return Ok(Vec::new());
        }
        check_name(&name)?;
        Ok(vec![DeviceRenamed { name, previous }.into()])
    }

    fn change_labels(&self, changes: Changes<LabelKey, LabelValue>) -> Decision {
        self.existing_name()?;
        let (set, removed) = effective(&self.labels, changes);
        check_label_keys("labels", set.keys())?;
        let mut after = self.labels.clone();
        apply(&mut after, &set, &removed);
        check_count("labels", after.len(), MAX_LABELS)?;
        if set.is_empty() && removed.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![DeviceLabelsChanged { set, removed }.into()])
    }

    fn set_config(&self, changes: Changes<ConfigKey, ConfigValue>) -> Decision {
        self.existing_name()?;
        for (key, value) in &changes {
            if let Some(Err(error)) = value.as_ref().map(ConfigValue::check) {
                return Err(Rejection::Invalid {
                    field: "vars",
                    rule: format!("the value of {key} {}", error.rule),
                    value: error.value,
                });
            }
        }
        let (set, removed) = effective(&self.config, changes);
        let mut after = self.config.clone();
        apply(&mut after, &set, &removed);
        check_count("vars", after.len(), MAX_CONFIG_VARS)?;
        if set.is_empty() && removed.is_empty() {
            return Ok(Vec::new());
        }
        let version = self.config_version.next();
        Ok(vec![DeviceConfigSet { version, set, removed }.into()])
    }

    /// The request is a config variable, so that an offline device finds it when it reconnects. Its
    /// value is the config's version, which is never reused: so each request is carried out once.
    fn rotate_key(&self) -> Decision {
        self.existing_name()?;
        if self.is_revoked || self.fingerprint.is_none() {
            return Err(Conflict::NothingToRotate.into());
        }
        let key =
            KEY_ROTATION_VARIABLE.parse().map_err(|_| Rejection::NotFound("config variable"))?;
        let version = i64::try_from(self.config_version.next().get()).unwrap_or(i64::MAX);
        self.set_config([(key, Some(ConfigValue::Int(version)))].into())
    }

    fn delete(&self) -> Decision {
        let name = self.existing_name()?.clone();
        Ok(vec![DeviceDeleted { name }.into()])
    }
}

impl Decider for Device {
    type Command = DeviceCommand;

    fn decide(&self, command: DeviceCommand) -> Decision {
        match command {
            DeviceCommand::Register { name, labels, fingerprint } => {
                self.register(name, labels, fingerprint)
            }
            DeviceCommand::AwaitApproval { enrollment, like } => {
                self.await_approval(*enrollment, like)
            }
            DeviceCommand::Accept { replaces } => self.accept(replaces),
            DeviceCommand::Reject { reason } => self.reject(reason),
            DeviceCommand::Revoke { reason } => self.revoke(reason),
            DeviceCommand::Enroll(enrollment) => self.enroll(*enrollment),
            DeviceCommand::GrantEpoch { current, cause, fork } => {
                self.grant_epoch(current, cause, fork)
            }
            DeviceCommand::RecordCopy { epoch, seq } => {
                self.existing_name()?;
                let (logged, other) = (None, None);
                Ok(vec![DeviceForked { epoch, seq, logged, other, continues_in: epoch }.into()])
            }
            DeviceCommand::Rename(name) => self.rename(name),
            DeviceCommand::ChangeLabels(changes) => self.change_labels(changes),
            DeviceCommand::ReplaceLabels(labels) => {
                self.change_labels(replacement(&self.labels, labels))
            }
            DeviceCommand::SetConfig(changes) => self.set_config(changes),
            DeviceCommand::ReplaceConfig(vars) => {
                let mut changes = replacement(&self.config, vars);
                // It is a request to the device, not a setting of the client.
                changes
                    .retain(|key, value| value.is_some() || key.as_str() != KEY_ROTATION_VARIABLE);
                self.set_config(changes)
            }
            DeviceCommand::RotateKey => self.rotate_key(),
            DeviceCommand::Delete => self.delete(),
        }
    }

    fn is_large(&self) -> bool {
        let text = self.config.values().map(|value| match value {
            ConfigValue::Text(text) => text.len(),
            _ => 0,
        });
        text.sum::<usize>() > MAX_KEPT_CONFIG_BYTES
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::DeviceRegistered(event) => {
                self.name = Some(event.name.clone());
                self.labels = event.labels.clone();
                self.registered_key = event.fingerprint;
            }
            Event::DeviceEnrollmentRequested(event) => {
                self.pending_enrollment = Some(Enrollment {
                    signing_key: event.signing_key.clone(),
                    fingerprint: event.fingerprint,
                    nats_key: event.nats_key.clone(),
                    token: event.token,
                    hostname: event.hostname.clone(),
                    machine: event.machine,
                    macs: event.macs.clone(),
                });
            }
            Event::DeviceEnrollmentAccepted(event) => {
                self.pending_enrollment = None;
                self.verdict = event.replaces.map(Verdict::Replaces);
            }
            Event::DeviceEnrollmentRejected(event) => {
                self.pending_enrollment = None;
                self.verdict = Some(Verdict::Rejected(event.reason.clone()));
            }
            Event::DeviceRevoked(_) => self.is_revoked = true,
            Event::DeviceEnrolled(event) => {
                self.is_revoked = false;
                self.epoch = event.epoch;
                self.fingerprint = Some(event.fingerprint);
                self.nats_key = Some(event.nats_key.clone());
            }
            Event::DeviceEpochGranted(event) => self.epoch = event.epoch,
            Event::DeviceRenamed(event) => self.name = Some(event.name.clone()),
            Event::DeviceLabelsChanged(event) => {
                apply(&mut self.labels, &event.set, &event.removed);
            }
            Event::DeviceConfigSet(event) => {
                self.config_version = event.version;
                apply(&mut self.config, &event.set, &event.removed);
            }
            Event::DeviceDeleted(_) => self.is_deleted = true,
            _ => {}
        }
        self
    }
}
