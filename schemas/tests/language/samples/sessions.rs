//! Samples of sessions and channels.

use muster_schemas::cose::Kind;
use muster_schemas::events::{
    SessionAttached, SessionDetached, SessionEnded, SessionKind, SessionRecorded, SessionRefused,
    SessionRequested, ShellEnded,
};
use muster_schemas::wire::{
    ChannelAnswer, ChannelOpen, ChannelRefusal, ChannelRefusalCause, Purpose, TerminalSize,
};
use muster_schemas::{ChannelId, DeviceId, Epoch, ProjectId, SessionId, Timestamp};

use super::{Message, Sample, digest, id};

const NOW: Timestamp = Timestamp(1_795_420_800_000_000);

fn events() -> Vec<Sample> {
    let shell = SessionKind::Shell { user: Some("robot".into()), command: Some("top".into()) };
    vec![
        Sample::event(SessionRequested {
            session: shell,
            address: Some("192.0.2.7".into()),
            recorded: true,
            input_recorded: false,
        }),
        Sample::event(SessionAttached { address: Some("192.0.2.8".into()), watch: true }),
        Sample::event(SessionDetached { reason: "the connection was lost".into() }),
        Sample::event(SessionRefused {
            reason: "shell.enabled of /etc/muster/policy.toml forbids it".into(),
        }),
        Sample::event(SessionRecorded {
            recording: 1,
            chunk: 3,
            bytes: 4096,
            hash: digest("chunk"),
        }),
        Sample::event(SessionEnded {
            exit_code: Some(0),
            reason: "the shell ended".into(),
            bytes_in: 120,
            bytes_out: 4096,
        }),
        Sample::event(ShellEnded {
            session: SessionId(id(31)),
            exit_code: None,
            reason: "nobody was attached for 600 s".into(),
        }),
    ]
}

pub(super) fn samples() -> Vec<Sample> {
    let open = ChannelOpen {
        project: ProjectId::default_project(),
        device: DeviceId(id(1)),
        epoch: Epoch(2),
        channel: ChannelId(id(30)),
        issued_at: NOW,
        expires_at: Timestamp(NOW.micros() + 30_000_000),
        actor: "token:0198c0de-7001-7abc-8def-0123456789ab".into(),
        key: vec![7; 32],
        purpose: Purpose::Shell {
            session: SessionId(id(31)),
            user: Some("robot".into()),
            command: None,
            term: "xterm-256color".into(),
            size: TerminalSize { cols: 120, rows: 40 },
            grace_seconds: 600,
        },
    };
    let response = ChannelAnswer {
        channel: ChannelId(id(30)),
        open: digest("the sealed open"),
        key: Vec::new(),
        refused: Some(ChannelRefusal {
            cause: ChannelRefusalCause::Policy,
            reason: "shell.enabled of /etc/muster/policy.toml forbids it".into(),
        }),
        wide: false,
    };
    let open = Message::ChannelOpen(open);
    let response = Message::ChannelAnswer(response);
    let messages = [
        ("SealedChannelOpen", Message::Sealed(Kind::Open, Box::new(open.clone()))),
        ("ChannelOpen", open),
        ("SealedChannelAnswer", Message::Sealed(Kind::Opened, Box::new(response.clone()))),
        ("ChannelAnswer", response),
    ];
    let messages = messages.into_iter().map(|(name, message)| Sample::newest(name, message));
    events().into_iter().chain(messages).collect()
}
