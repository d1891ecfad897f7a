//! Samples of what goes between devices and servers.

use muster_schemas::cose::Kind;
use muster_schemas::events::{Cause, DeviceConfigApplied};
use muster_schemas::metrics::{FieldValue, MetricBatch, Point};
use muster_schemas::wire::{
    Ack, ConfigUpdate, ContinueProof, CredentialsProof, EnrollProof, EnrollmentTokenText,
};
use muster_schemas::wire::{Hello, NewEpoch, Welcome};
use muster_schemas::{
    ConfigVersion, DeviceEnvelope, DeviceId, Epoch, Event, Hash, ProjectId, Seq, Timestamp, TokenId,
};

use super::{Message, NATS_KEY, Sample, device_key, devices, digest, id, text};

const NOW: Timestamp = Timestamp(1_795_420_800_000_000);

fn project() -> ProjectId {
    ProjectId::default_project()
}

fn device() -> DeviceId {
    DeviceId(id(1))
}

fn envelope() -> DeviceEnvelope {
    let event: Event = DeviceConfigApplied {
        version: ConfigVersion(4),
        errors: std::collections::BTreeMap::new(),
    }
    .into();
    DeviceEnvelope {
        project: project(),
        device: device(),
        epoch: Epoch(2),
        seq: Seq(17),
        prev: digest("the event before"),
        boot: id(9),
        mono: 81_000_000,
        time: NOW,
        kind: event.kind().to_owned(),
        version: event.version(),
        data: event.encode(),
    }
}

fn batch() -> MetricBatch {
    let application = Point {
        offset: -5_000_000,
        ..Point::new("my_app")
            .tag("queue", "jobs")
            .field("waiting", 3_i64)
            .field("ok", true)
            .field("note", FieldValue::Text("ünïcode, \"quoted\"".into()))
            .field("lowest", i64::MIN)
    };
    MetricBatch {
        time: NOW,
        points: vec![
            Point::new("cpu")
                .tag("cpu", "cpu-total")
                .field("usage_user", 12.5)
                .field("usage_idle", 87.1),
            Point::new("mem").field("total", i64::MAX).field("available_percent", 42.0),
            application,
        ],
    }
}

fn token() -> String {
    EnrollmentTokenText {
        project: project(),
        id: TokenId(id(2)),
        secret: [7; 32],
        pin: digest("the certificate authority"),
    }
    .to_string()
}

pub(super) fn samples() -> Vec<Sample> {
    let enroll = EnrollProof {
        token: token(),
        signing_key: device_key().public().to_cose_key(),
        nats_key: NATS_KEY.into(),
        name: Some(text("robot-7")),
        labels: devices::labels(),
        hostname: Some("Robot 7".into()),
        machine: Some(digest("machine")),
        macs: Vec::new(),
        nonce: id(10),
    };
    let credentials =
        CredentialsProof { project: project(), device: device(), nonce: "q83vEjRWeJA".into() };
    let request = digest("the sealed enroll proof");
    let proof = ContinueProof { project: project(), device: device(), request };
    let hello = Hello {
        project: project(),
        device: device(),
        epoch: Epoch(2),
        nonce: id(11),
        last_seq: Seq(17),
        time: NOW,
        agent_version: "0.1.0".into(),
        config_version: ConfigVersion(4),
        new_epoch: Some(NewEpoch {
            cause: Cause::Fork,
            seq: Seq(16),
            hash: Some(digest("other branch")),
            request: id(12),
        }),
        confirmed_seq: None,
    };
    let confirmed = Hello { new_epoch: None, confirmed_seq: Some(Seq(15)), ..hello.clone() };
    let welcome = Welcome {
        project: project(),
        device: device(),
        epoch: Epoch(3),
        nonce: id(11),
        time: NOW,
        committed_seq: Seq::ZERO,
        committed_hash: Hash::ZERO,
        config_version: ConfigVersion(4),
        config: devices::config(),
        sealed_config: None,
        is_caught_up: None,
    };
    let caught_up = Welcome { is_caught_up: Some(true), ..welcome.clone() };
    let sealed_config = Some(vec![0xe5; 60]);
    let secret_welcome = Welcome { sealed_config: sealed_config.clone(), ..welcome.clone() };
    let config = ConfigUpdate {
        project: project(),
        device: device(),
        epoch: Epoch(3),
        version: ConfigVersion(5),
        vars: devices::config(),
        sealed_vars: None,
    };
    let secret_config = ConfigUpdate { sealed_vars: sealed_config, ..config.clone() };
    let ack = Ack { epoch: Epoch(2), seq: Seq(17), hash: digest("the event"), resend: true };

    let plain = [
        ("DeviceEnvelope", Message::Envelope(envelope())),
        ("MetricBatch", Message::Batch(batch())),
        ("EnrollProof", Message::Enroll(enroll)),
        ("CredentialsProof", Message::Credentials(credentials)),
        ("ContinueProof", Message::Continue(proof)),
        ("Hello", Message::Hello(hello)),
        ("ConfirmedHello", Message::Hello(confirmed)),
        ("Welcome", Message::Welcome(welcome)),
        ("CaughtUpWelcome", Message::Welcome(caught_up)),
        ("SecretConfigWelcome", Message::Welcome(secret_welcome)),
        ("ConfigUpdate", Message::Config(config)),
        ("SecretConfigUpdate", Message::Config(secret_config)),
        ("Ack", Message::Ack(ack)),
    ];
    let sealed: Vec<_> = plain
        .iter()
        .filter_map(|(name, message)| {
            let (sealed, kind) = match *name {
                "DeviceEnvelope" => ("SealedEvent", Kind::Event),
                "EnrollProof" => ("SealedEnrollProof", Kind::Enroll),
                "ContinueProof" => ("SealedContinueProof", Kind::Continue),
                "CredentialsProof" => ("SealedCredentialsProof", Kind::Credentials),
                "Hello" => ("SealedHello", Kind::Hello),
                "Welcome" => ("SealedWelcome", Kind::Welcome),
                "ConfigUpdate" => ("SealedConfigUpdate", Kind::Config),
                _ => return None,
            };
            Some((sealed, Message::Sealed(kind, Box::new(message.clone()))))
        })
        .collect();
    plain.into_iter().chain(sealed).map(|(name, message)| Sample::newest(name, message)).collect()
}
