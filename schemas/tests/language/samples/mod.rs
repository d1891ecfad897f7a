//! One rich sample of every stored or sent shape: what the golden files hold.
//!
//! Shared by the tests and by `examples/write_golden.rs`. Everything is fixed: no clock, no
//! randomness, and Ed25519 signatures are deterministic, so the same bytes come out always.

mod devices;
mod diagnostic;
mod message;
mod older;
mod operations;
mod projects;
mod sessions;
mod tokens;
mod wire;

use muster_schemas::{Event, Hash, SigningKey};
use uuid::Uuid;

pub(crate) use diagnostic::diagnostic;
pub(crate) use message::Message;

/// One shape in one version.
pub(crate) struct Sample {
    /// The type's name, which names the CDDL rule and the golden file.
    pub(crate) name: &'static str,
    /// The version of the shape.
    pub(crate) version: u16,
    /// What the bytes mean today.
    pub(crate) message: Message,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// Is this the shape that is written today?
    pub(crate) is_newest: bool,
}

impl Sample {
    fn event(event: impl Into<Event>) -> Self {
        let event = event.into();
        Self {
            name: event.kind(),
            version: event.version(),
            bytes: event.encode(),
            message: Message::Event(event),
            is_newest: true,
        }
    }

    fn newest(name: &'static str, message: Message) -> Self {
        let bytes = message.encode();
        Self { name, version: 1, message, bytes, is_newest: true }
    }

    /// The golden file's name without its ending.
    pub(crate) fn stem(&self) -> String {
        format!("{}.v{}", self.name, self.version)
    }

    /// The CDDL rule that the bytes follow.
    pub(crate) fn rule(&self) -> String {
        if self.is_newest {
            self.name.to_owned()
        } else {
            format!("{}-v{}", self.name, self.version)
        }
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Sample> {
    [
        devices::samples(),
        tokens::samples(),
        projects::samples(),
        operations::samples(),
        sessions::samples(),
        older::samples(),
        wire::samples(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The key of the device in the samples.
pub(crate) fn device_key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

/// The project's operation key in the samples.
pub(crate) fn operation_key() -> SigningKey {
    SigningKey::from_seed(&[2; 32])
}

fn next_key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

fn id(last: u16) -> Uuid {
    Uuid::from_u128(0x0198_c0de_7000_7abc_8def_0123_4567_0000 | u128::from(last))
}

fn digest(of: &str) -> Hash {
    Hash::of(of.as_bytes())
}

/// A text that keeps the rule of its kind.
fn text<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("the sample '{text}' breaks its own rule"))
}

const NATS_KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
