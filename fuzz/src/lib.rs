//! Bodies of the fuzz targets: one plain function for each decoder that faces the network.
//!
//! Each must return for any bytes, and checks a round trip: a decoded value is encoded and decoded
//! again to the same value. `tests/decoders` runs the same functions on stable.

use muster_api::Cursor;
use muster_channel::{Frame, KeyExchange, Side};
use muster_ingest::presence::{Advisory, ServerList};
use muster_metric_store::{Origin, encode as to_lines};
use muster_schemas::cose::{Kind, PublicKey, Unverified};
use muster_schemas::envelope::{DeviceEnvelope, parse_sealed};
use muster_schemas::metrics::MetricBatch;
use muster_schemas::selector::{MAX_LENGTH, Selector};
use muster_schemas::wire::{
    Ack, ApiTokenText, CancelOrder, ChannelAnswer, ChannelOpen, ConfigUpdate, CredentialsProof,
    EnrollProof, EnrollmentTokenText, Hello, MAX_PIECE_BYTES, OutputPiece, OutputTaken,
    PrivateInput, RunDelivery, RunOrder, Welcome,
};
use muster_schemas::{
    DeviceId, Epoch, Event, Hash, ProjectId, Seq, SigningKey, StreamName, codec, compress, subjects,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A target's body.
pub type Body = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Body)] = &[
    ("sealed_event", sealed_event),
    ("event_data", event_data),
    ("metric_batch", metric_batch),
    ("hello", hello),
    ("enroll_proof", enroll_proof),
    ("credentials_proof", credentials_proof),
    ("token_text", token_text),
    ("selector", selector),
    ("line_protocol", line_protocol),
    ("query_string", query_string),
    ("ack", ack),
    ("welcome", welcome),
    ("config_update", config_update),
    ("advisory", advisory),
    ("connections", connections),
    ("run_order", run_order),
    ("output_piece", output_piece),
    ("channel_open", channel_open),
    ("channel_frame", channel_frame),
    ("channel_message", channel_message),
];

/// The broker's advisory about a closed connection, reduced to the fields that are read.
const ADVISORY: &[u8] = br#"{"type":"io.nats.server.advisory.v1.client_disconnect","server":
{"name":"muster","id":"NDEVGVRK"},"client":{"id":9,"host":"10.0.0.7","tags":["project:default",
"device:0198c0de-7000-7abc-8def-0123456789ab"]},"reason":"Stale Connection"}"#;

/// The broker's list of connections, reduced in the same way.
const CONNECTIONS: &[u8] = br#"{"server":{"name":"muster","id":"NDEVGVRK"},"data":{
"now":"2026-11-24T04:13:54.415915981Z","total":2,"offset":0,"connections":[{"cid":9,"ip":"10.0.0.7",
"last_activity":"2026-11-24T04:13:50Z","rtt":"68\u00b5s","tags":["project:default",
"device:0198c0de-7000-7abc-8def-0123456789ab"]},{"cid":10,"last_activity":"2026-11-24T04:13:50Z"}]}}"#;

/// The seeds of a target: the golden files, with a prefix where the target needs one.
#[must_use]
pub fn seeds(target: &str, golden: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    match target {
        "token_text" => vec![
            format!("mst_default_{}_{}", "0".repeat(32), "a".repeat(52)).into(),
            format!("mse_default_{}_{1}_{1}", "0".repeat(32), "a".repeat(52)).into(),
        ],
        "selector" => vec![
            b"env=prod,site in (a,b),!retired,x!=1,y notin (z),name==r".to_vec(),
            b"not (os='Debian *' or agent>=1.4) and disk[path=/data].used_percent > 90%".to_vec(),
            b"label.os=a or metric.\"my.app\".rate!=2.5GiB, system.uptime<1h30m".to_vec(),
        ],
        "query_string" => {
            vec![
                b"limit=10&after=AQ&selector=env%3Dprod&deep=true&from=1.5&project=default"
                    .to_vec(),
            ]
        }
        "advisory" => vec![ADVISORY.to_vec()],
        "connections" => vec![CONNECTIONS.to_vec()],
        "channel_frame" => {
            let kinds = 0..=8_u8;
            let golden = golden.iter().flat_map(|(_, bytes)| {
                kinds.clone().map(move |kind| [&[kind], bytes.as_slice()].concat())
            });
            golden.chain([vec![1, 0, 4, 0, 0], vec![2], b"\x03done".to_vec(), vec![4]]).collect()
        }
        // Each one opens a channel, which is slow, so there are only a few.
        "channel_message" => vec![vec![0; 8 + 16], vec![7; 100]],
        "event_data" => golden
            .iter()
            .filter_map(|(stem, bytes)| {
                let (kind, version) = stem.split_once(".v")?;
                let index = Event::TYPES.iter().position(|(known, _)| *known == kind)?;
                let head = [u8::try_from(index).ok()?, version.parse().ok()?];
                Some([&head[..], bytes].concat())
            })
            .collect(),
        _ => golden.iter().map(|(_, bytes)| bytes.clone()).collect(),
    }
}

/// Checks that a decoded value survives encoding and decoding. Compares bytes, because NaN does not
/// equal NaN.
fn reads_back<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<T>(bytes) {
        let written = codec::encode(&value);
        let again = codec::decode::<T>(&written).map(|value| codec::encode(&value));
        assert_eq!(again.as_ref(), Ok(&written));
    }
}

/// Parses a signed message of this kind, verifies it with a key, and decodes its payload as `T`.
fn sealed<T: Serialize + DeserializeOwned>(kind: Kind, bytes: &[u8]) {
    reads_back::<T>(bytes);
    if let Ok(message) = Unverified::parse(bytes) {
        reads_back::<T>(message.payload());
        let key = SigningKey::from_seed(&[1; 32]).public();
        let claimed = message.payload().to_vec();
        if let Ok(payload) = message.verify(kind, &key) {
            assert_eq!(payload, claimed);
        }
    }
}

/// A device's event from the broker.
pub fn sealed_event(bytes: &[u8]) {
    if let Ok((message, envelope)) = parse_sealed(bytes) {
        assert!(envelope.epoch >= Epoch::FIRST && envelope.seq >= Seq::FIRST);
        assert_eq!(DeviceEnvelope::read(&message), Ok(envelope.clone()));
        let _ = Event::decode(&envelope.kind, envelope.version, &envelope.data);
    }
    sealed::<DeviceEnvelope>(Kind::Event, bytes);
}

/// The data of an event: the first byte selects the type, the second the version.
pub fn event_data(bytes: &[u8]) {
    let [index, version, data @ ..] = bytes else { return };
    let (kind, _) = Event::TYPES[usize::from(*index) % Event::TYPES.len()];
    if let Ok(event) = Event::decode(kind, u16::from(*version), data) {
        let written = event.encode();
        let again = Event::decode(kind, event.version(), &written).map(|event| event.encode());
        assert_eq!(again, Ok(written));
    }
}

/// A metric batch from the broker.
pub fn metric_batch(bytes: &[u8]) {
    if let Ok(batch) = MetricBatch::decode(bytes) {
        assert_eq!(MetricBatch::decode(&batch.encode()), Ok(batch));
    }
}

/// A hello, signed or only its payload.
pub fn hello(bytes: &[u8]) {
    sealed::<Hello>(Kind::Hello, bytes);
}

/// An enrollment request, signed or only its payload, and its key.
pub fn enroll_proof(bytes: &[u8]) {
    sealed::<EnrollProof>(Kind::Enroll, bytes);
    if let Ok(key) = PublicKey::from_cose_key(bytes) {
        assert_eq!(PublicKey::from_cose_key(&key.to_cose_key()), Ok(key));
    }
}

/// A device's request for credentials, signed or only its payload.
pub fn credentials_proof(bytes: &[u8]) {
    sealed::<CredentialsProof>(Kind::Credentials, bytes);
}

/// The text forms of tokens, streams and subjects.
pub fn token_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<ApiTokenText>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    if let Ok(token) = text.parse::<EnrollmentTokenText>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    if let Ok(stream) = text.parse::<StreamName>() {
        assert_eq!(stream.to_string().parse(), Ok(stream));
    }
    let _ = subjects::parse(text);
    let _ = subjects::parse_stored(text);
}

/// A selector reads back as printed. Numbers can be longer than with their unit.
pub fn selector(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(selector) = text.parse::<Selector>() {
        let printed = selector.to_string();
        if printed.len() <= MAX_LENGTH {
            assert_eq!(printed.parse().as_ref(), Ok(&selector));
        }
    }
}

/// A decoded batch becomes exactly one line per point.
pub fn line_protocol(bytes: &[u8]) {
    let Ok(batch) = MetricBatch::decode(bytes) else { return };
    let (project, device) = (ProjectId::default_project(), DeviceId(uuid::Uuid::nil()));
    let lines = to_lines(&batch, &Origin { project: &project, device, name: "robot-7" });
    assert_eq!(lines.count(), batch.points.len());
    assert_eq!(lines.as_str().matches('\n').count(), batch.points.len());
}

/// A query string, and the cursor in it.
pub fn query_string(bytes: &[u8]) {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read, and not looked at")]
    struct Parameters {
        limit: Option<u32>,
        after: Option<String>,
        selector: Option<String>,
        deep: Option<bool>,
        from: Option<f64>,
        device: Option<DeviceId>,
        at: Option<muster_schemas::Timestamp>,
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = muster_api::params::parse::<Parameters>(text);
    let _ = Cursor::decode::<(String, u64)>(Some(text));
}

/// An ack, as decoded by a device.
pub fn ack(bytes: &[u8]) {
    reads_back::<Ack>(bytes);
}

/// The response to a hello, signed or only its payload, as decoded by a device.
pub fn welcome(bytes: &[u8]) {
    sealed::<Welcome>(Kind::Welcome, bytes);
}

/// A config update, signed or only its payload, as decoded by a device.
pub fn config_update(bytes: &[u8]) {
    sealed::<ConfigUpdate>(Kind::Config, bytes);
}

/// A broker's advisory about a connection: the subject alone decides between opened and closed.
pub fn advisory(bytes: &[u8]) {
    let parse = |verb| Advisory::parse(&format!("$SYS.ACCOUNT.A.{verb}"), bytes);
    assert_eq!(parse("OTHER").ok(), Some(None));
    let opened = parse("CONNECT");
    assert!(!matches!(opened, Ok(Some(Advisory::Closed { .. }))));
    let closed = parse("DISCONNECT");
    assert_eq!(opened.is_ok(), closed.is_ok());
    assert!(!matches!(closed, Ok(None | Some(Advisory::Opened(_)))));
}

/// The broker's list of connections, parsed as its first page and as a further one.
pub fn connections(bytes: &[u8]) {
    let Ok(mut list) = ServerList::parse(bytes) else { return };
    let _ = list.parse_page(bytes);
    // The same page again adds nothing, and must not be requested indefinitely.
    assert_eq!(list.next_page(1), None);
}

/// An order, its cancellation, and its private input, as decoded by a device.
pub fn run_order(bytes: &[u8]) {
    reads_back::<RunDelivery>(bytes);
    reads_back::<PrivateInput>(bytes);
    sealed::<RunOrder>(Kind::Run, bytes);
    sealed::<CancelOrder>(Kind::Cancel, bytes);
}

/// A piece of a program's output, as decoded by a server: no piece exceeds the maximum size.
pub fn output_piece(bytes: &[u8]) {
    reads_back::<OutputPiece>(bytes);
    reads_back::<OutputTaken>(bytes);
    if let Ok(piece) = codec::decode::<OutputPiece>(bytes)
        && let Some(whole) = compress::decompress(&piece.data, MAX_PIECE_BYTES)
    {
        assert!(whole.len() <= MAX_PIECE_BYTES);
    }
}

/// A channel's open, as decoded by a device, and its response, as decoded by a server.
pub fn channel_open(bytes: &[u8]) {
    sealed::<ChannelOpen>(Kind::Open, bytes);
    sealed::<ChannelAnswer>(Kind::Opened, bytes);
}

/// A frame of an opened channel.
pub fn channel_frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(&bytes.to_vec().into()) {
        assert_eq!(Frame::decode(&frame.encode().into()).as_ref(), Ok(&frame));
    }
}

/// A message on a channel: a message that the other side did not encrypt is refused, and a genuine
/// one is accepted afterwards.
pub fn channel_message(bytes: &[u8]) {
    let (Ok(server), Ok(device)) = (KeyExchange::new(), KeyExchange::new()) else { return };
    // The key in an open can be any bytes.
    if let Ok(other) = KeyExchange::new() {
        let _ = other.agree(Side::Device, bytes, &Hash([1; 32]));
    }
    let (of_server, of_device) = (server.public().to_vec(), device.public().to_vec());
    let server = server.agree(Side::Server, &of_device, &Hash([1; 32]));
    let device = device.agree(Side::Device, &of_server, &Hash([1; 32]));
    let (Ok(mut server), Ok(mut device)) = (server, device) else {
        panic!("two halves agree");
    };
    assert!(device.open.open(bytes).is_err());
    let message = server.seal.seal(|to| to.extend_from_slice(bytes));
    assert_eq!(message.and_then(|message| device.open.open(&message)).as_deref(), Ok(bytes));
}
