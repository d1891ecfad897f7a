//! Any sample's value, with the one way to write it and the one way to read it.

use muster_schemas::codec::{decode, encode};
use muster_schemas::cose::{Kind, open};
use muster_schemas::metrics::MetricBatch;
use muster_schemas::wire::{
    Ack, CancelOrder, ChannelAnswer, ChannelOpen, ConfigUpdate, ContinueProof, CredentialsProof,
    EnrollProof, FileStored, Hello, OutputPiece, OutputTaken, PrivateInput, RunDelivery, RunOrder,
    Welcome,
};
use muster_schemas::{DeviceEnvelope, Event, SigningKey};

use super::{device_key, operation_key};

/// A value of any of the shapes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Event(Event),
    Envelope(DeviceEnvelope),
    Batch(MetricBatch),
    Enroll(EnrollProof),
    Credentials(CredentialsProof),
    Continue(ContinueProof),
    Hello(Hello),
    Welcome(Welcome),
    Config(ConfigUpdate),
    Ack(Ack),
    RunOrder(RunOrder),
    RunDelivery(RunDelivery),
    PrivateInput(PrivateInput),
    CancelOrder(CancelOrder),
    OutputPiece(OutputPiece),
    OutputTaken(OutputTaken),
    FileStored(FileStored),
    ChannelOpen(ChannelOpen),
    ChannelAnswer(ChannelAnswer),
    Sealed(Kind, Box<Message>),
}

impl Message {
    /// Today's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Event(event) => event.encode(),
            Self::Envelope(envelope) => encode(envelope),
            Self::Batch(batch) => batch.encode(),
            Self::Enroll(proof) => encode(proof),
            Self::Credentials(proof) => encode(proof),
            Self::Continue(proof) => encode(proof),
            Self::Hello(hello) => encode(hello),
            Self::Welcome(welcome) => encode(welcome),
            Self::Config(config) => encode(config),
            Self::Ack(ack) => encode(ack),
            Self::RunOrder(order) => encode(order),
            Self::RunDelivery(delivery) => encode(delivery),
            Self::PrivateInput(input) => encode(input),
            Self::CancelOrder(order) => encode(order),
            Self::OutputPiece(piece) => encode(piece),
            Self::OutputTaken(taken) => encode(taken),
            Self::FileStored(stored) => encode(stored),
            Self::ChannelOpen(open) => encode(open),
            Self::ChannelAnswer(response) => encode(response),
            Self::Sealed(kind, message) => signer(*kind).seal(*kind, message.encode()),
        }
    }

    /// Reads stored bytes of a type and version.
    pub(crate) fn decode(name: &str, version: u16, bytes: &[u8]) -> Result<Self, String> {
        fn read<T: serde::de::DeserializeOwned>(
            bytes: &[u8],
            wrap: impl FnOnce(T) -> Message,
        ) -> Result<Message, String> {
            decode(bytes).map(wrap).map_err(|error| error.to_string())
        }
        let sealed = |kind, inner: &str| {
            let payload =
                open(bytes, kind, &signer(kind).public()).map_err(|error| error.to_string())?;
            let message = Self::decode(inner, version, &payload)?;
            Ok(Self::Sealed(kind, Box::new(message)))
        };
        match name {
            "DeviceEnvelope" => read(bytes, Self::Envelope),
            "MetricBatch" => {
                MetricBatch::decode(bytes).map(Self::Batch).map_err(|error| error.to_string())
            }
            "EnrollProof" => read(bytes, Self::Enroll),
            "CredentialsProof" => read(bytes, Self::Credentials),
            "ContinueProof" => read(bytes, Self::Continue),
            "Hello" | "ConfirmedHello" => read(bytes, Self::Hello),
            "Welcome" | "CaughtUpWelcome" | "SecretConfigWelcome" => read(bytes, Self::Welcome),
            "ConfigUpdate" | "SecretConfigUpdate" => read(bytes, Self::Config),
            "Ack" => read(bytes, Self::Ack),
            "RunOrder" | "UploadOrder" => read(bytes, Self::RunOrder),
            "RunDelivery" | "SealedRunDelivery" => read(bytes, Self::RunDelivery),
            "PrivateInput" => read(bytes, Self::PrivateInput),
            "CancelOrder" => read(bytes, Self::CancelOrder),
            "OutputPiece" | "FilePiece" | "SealedOutputPiece" => read(bytes, Self::OutputPiece),
            "FileStored" => read(bytes, Self::FileStored),
            "SealedFileStored" => sealed(Kind::Stored, "FileStored"),
            "OutputTaken" | "FileRefused" | "FileTaken" | "LiveOutputTaken" => {
                read(bytes, Self::OutputTaken)
            }
            "ChannelOpen" => read(bytes, Self::ChannelOpen),
            "ChannelAnswer" => read(bytes, Self::ChannelAnswer),
            "SealedChannelOpen" => sealed(Kind::Open, "ChannelOpen"),
            "SealedChannelAnswer" => sealed(Kind::Opened, "ChannelAnswer"),
            "SealedRunOrder" => sealed(Kind::Run, "RunOrder"),
            "SealedCancelOrder" => sealed(Kind::Cancel, "CancelOrder"),
            "SealedEvent" => sealed(Kind::Event, "DeviceEnvelope"),
            "SealedEnrollProof" => sealed(Kind::Enroll, "EnrollProof"),
            "SealedCredentialsProof" => sealed(Kind::Credentials, "CredentialsProof"),
            "SealedContinueProof" => sealed(Kind::Continue, "ContinueProof"),
            "SealedHello" => sealed(Kind::Hello, "Hello"),
            "SealedWelcome" => sealed(Kind::Welcome, "Welcome"),
            "SealedConfigUpdate" => sealed(Kind::Config, "ConfigUpdate"),
            "UploadReport" => Self::decode("RunSucceeded", version, bytes),
            event => {
                Event::decode(event, version, bytes).map(Self::Event).map_err(|e| e.to_string())
            }
        }
    }
}

fn signer(kind: Kind) -> SigningKey {
    match kind {
        Kind::Welcome | Kind::Config | Kind::Run | Kind::Cancel | Kind::Open | Kind::Stored => {
            operation_key()
        }
        _ => device_key(),
    }
}
