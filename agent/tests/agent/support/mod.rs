//! A server for one device: real TLS, a real nats-server, and the minimum of command and ingest
//! that the protocol needs. It checks every signature, and keeps everything that it receives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use axum_server::tls_rustls::RustlsConfig;
use data_encoding::BASE64URL_NOPAD;
use futures::StreamExt;
use muster_agent::enroll::EnrollOptions;
use muster_backing::nats::{NatsOptions, NatsServer, Tls};
use muster_channel::open_by;
use muster_schemas::cose::{self, Kind, PublicKey};
use muster_schemas::envelope::parse_sealed;
use muster_schemas::metrics::MetricBatch;
use muster_schemas::names::ConfigVars;
use muster_schemas::subjects::{
    ALL_EVENTS, ALL_METRICS, DeviceSubjects, EVENTS_STREAM, METRICS_STREAM,
};
use muster_schemas::wire::{
    Ack, CredentialsProof, CredentialsRequest, CredentialsResponse, EnrollProof, EnrollRequest,
    EnrollResponse, EnrollmentTokenText, FileStored, Hello, KIND_HEADER, MAX_FILE_PIECE_BYTES,
    MAX_OUTPUT_BYTES, NonceRequest, NonceResponse, OutputPiece, OutputStream, OutputTaken, Welcome,
    output_context,
};
use muster_schemas::{
    ConfigVersion, DeviceId, Epoch, Event, Hash, OperationId, ProjectId, Seq, SigningKey,
    Timestamp, TokenId, codec, compress,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData};
use serde_json::{Value, json};
use uuid::Uuid;

/// Waits until the broker has processed this client's messages: `flush` only writes them to the
/// socket.
pub(crate) async fn flush(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    own.next().await.unwrap();
}

/// State of the server.
#[derive(Default)]
pub(crate) struct ServerState {
    /// The enrolled key.
    pub(crate) key: Option<PublicKey>,
    /// Nonce of each enrollment request.
    pub(crate) nonces: Vec<Uuid>,
    /// Whether the response to the next enrollment is lost.
    pub(crate) loses_response: bool,
    /// Lifetime of credentials, in microseconds.
    pub(crate) credentials_lifetime: i64,
    /// The log.
    pub(crate) events: Vec<Event>,
    /// Hash of the log's newest event.
    pub(crate) tip: Hash,
    /// Whether the log ignores all events.
    pub(crate) ignores_events: bool,
    /// Live batches.
    pub(crate) live: Vec<MetricBatch>,
    /// Batches from the device's backlog.
    pub(crate) backfilled: Vec<MetricBatch>,
    /// The config that the server sends.
    pub(crate) config: (ConfigVersion, ConfigVars),
    /// Number of hellos.
    pub(crate) hellos: usize,
    /// Number of requests for credentials.
    pub(crate) credentials: usize,
    /// Whether hellos get no response.
    pub(crate) is_silent: bool,
    /// Output of programs, as it was received.
    pub(crate) outputs: BTreeMap<(OperationId, OutputStream), ReceivedOutput>,
    /// Whether the server accepts no output.
    pub(crate) rejects_output: bool,
    /// Maximum size of an output that the server accepts.
    pub(crate) max_output_bytes: Option<usize>,
    /// Number of bytes by which the server exaggerates how much it has of a file.
    pub(crate) exaggerates_by: u64,
    /// The reason why the server refuses files.
    pub(crate) file_refusal: Option<String>,
}

/// The server's part of an output.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReceivedOutput {
    pub(crate) bytes: Vec<u8>,
    pub(crate) salt: Vec<u8>,
    pub(crate) is_complete: bool,
    pub(crate) pieces: usize,
    pub(crate) compressed: usize,
}

/// The server.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    pub(crate) nats: NatsServer,
    pub(crate) port: u16,
    pub(crate) state: Arc<Mutex<ServerState>>,
    pub(crate) token: EnrollmentTokenText,
    ca: PathBuf,
}

#[derive(Clone)]
struct Context {
    state: Arc<Mutex<ServerState>>,
    broker: String,
}

pub(crate) fn device() -> DeviceId {
    DeviceId(Uuid::from_u128(0x0198_c0de_7000_7abc_8def_0123_4567_89ab))
}

pub(crate) fn operation_key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

impl Server {
    pub(crate) async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Not set in the example that shares this file; it starts no program.
        if let Some(program) = option_env!("CARGO_BIN_EXE_muster-agent") {
            muster_agent::subprocess::set_program(program.into());
        }
        let dir = tempfile::tempdir().unwrap();
        let (tls, pin) = certificates(dir.path());
        let ca = dir.path().join("ca.pem");
        let mut options = NatsOptions::new(dir.path().join("nats"));
        options.tls = Some(tls.clone());
        let nats = NatsServer::start(options).await.unwrap();
        let state = Arc::new(Mutex::new(ServerState {
            credentials_lifetime: 3_600_000_000,
            ..ServerState::default()
        }));
        // An unspecified host: the device must replace it by the URL's host.
        let broker = format!("tls://0.0.0.0:{}", nats.port());
        let context = Context { state: Arc::clone(&state), broker };
        let router = Router::new()
            .route("/api/v1/device/enroll", post(enroll))
            .route("/api/v1/device/nonce", post(nonce))
            .route("/api/v1/device/credentials", post(credentials))
            .with_state(context);
        let config = RustlsConfig::from_pem_file(&tls.certificate, &tls.key).await.unwrap();
        let handle = axum_server::Handle::new();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let serving = axum_server::bind_rustls(address, config).handle(handle.clone());
        tokio::spawn(serving.serve(router.into_make_service()));
        let port = handle.listening().await.unwrap().port();
        let token = EnrollmentTokenText {
            project: ProjectId::default_project(),
            id: TokenId(Uuid::from_u128(5)),
            secret: [9; 32],
            pin,
        };
        let server = Self { dir, nats, port, state, token, ca };
        server.create_streams().await;
        server.serve_broker().await;
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn enroll_options(&self, data: &Path) -> EnrollOptions {
        EnrollOptions {
            data: data.to_owned(),
            url: format!("https://127.0.0.1:{}/", self.port).parse().unwrap(),
            token: self.token.clone(),
            name: None,
            labels: BTreeMap::new(),
            force: false,
        }
    }

    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::ConnectOptions::new()
            .add_root_certificates(self.ca.clone())
            .retry_on_initial_connect()
            .connect(self.nats.url())
            .await
            .unwrap()
    }

    pub(crate) async fn create_streams(&self) {
        let jetstream = jetstream::new(self.client().await);
        for (name, subject) in [(EVENTS_STREAM, ALL_EVENTS), (METRICS_STREAM, ALL_METRICS)] {
            // Like ingest's streams, without their partitions.
            let (source, destination) = if name == EVENTS_STREAM {
                (ALL_EVENTS, "muster.{{wildcard(1)}}.{{wildcard(2)}}.stored.evt")
            } else {
                (ALL_METRICS, "muster.{{wildcard(1)}}.{{wildcard(2)}}.stored.>")
            };
            let config = jetstream::stream::Config {
                name: name.to_owned(),
                subjects: vec![subject.to_owned()],
                no_ack: true,
                republish: Some(jetstream::stream::Republish {
                    source: source.to_owned(),
                    destination: destination.to_owned(),
                    headers_only: true,
                }),
                ..Default::default()
            };
            jetstream.create_stream(config).await.unwrap();
        }
    }

    /// Serves the parts of ingest and command that one device needs.
    async fn serve_broker(&self) {
        let client = self.client().await;
        let (state, subjects) =
            (Arc::clone(&self.state), DeviceSubjects::new(&ProjectId::default_project(), device()));
        let mut events = client.subscribe(ALL_EVENTS).await.unwrap();
        let mut metrics = client.subscribe(ALL_METRICS).await.unwrap();
        let mut hellos = client.subscribe(subjects.request("hello")).await.unwrap();
        let mut outputs = client.subscribe(subjects.request("output")).await.unwrap();
        flush(&client).await;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(message) = events.next() => {
                        if let Some(ack) = append(&state, &message.payload) {
                            let ack = codec::encode(&ack).into();
                            client.publish(subjects.acks(), ack).await.ok();
                        }
                    }
                    Some(message) = metrics.next() => {
                        let batch = MetricBatch::decode(&message.payload).unwrap();
                        let mut state = state.lock().unwrap();
                        if message.subject.ends_with(".backfill") {
                            state.backfilled.push(batch);
                        } else {
                            state.live.push(batch);
                        }
                    }
                    Some(message) = hellos.next() => {
                        let Some(reply) = welcome(&state, &message.payload) else { continue };
                        client.publish(message.reply.unwrap(), reply.into()).await.ok();
                    }
                    Some(message) = outputs.next() => {
                        let Some(next) = receive_piece(&state, &message.payload) else { continue };
                        let reply = codec::encode(&output_response(&state, &message.payload, next));
                        client.publish(message.reply.unwrap(), reply.into()).await.ok();
                    }
                    else => break,
                }
            }
        });
    }

    /// Sends a message to the device on `.cmd`.
    pub(crate) async fn command(&self, kind: &str, body: Vec<u8>) {
        let client = self.client().await;
        let subjects = DeviceSubjects::new(&ProjectId::default_project(), device());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(KIND_HEADER, kind);
        client.publish_with_headers(subjects.commands(), headers, body.into()).await.unwrap();
        client.flush().await.unwrap();
    }

    /// Waits until the server's state meets a condition.
    pub(crate) async fn until(&self, description: &str, condition: impl Fn(&ServerState) -> bool) {
        for _ in 0..600 {
            if condition(&self.state.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it did not come to pass that {description}");
    }
}

fn append(state: &Mutex<ServerState>, bytes: &[u8]) -> Option<Ack> {
    let mut state = state.lock().unwrap();
    if state.ignores_events {
        return None;
    }
    let (message, envelope) = parse_sealed(bytes).unwrap();
    message.verify(Kind::Event, &state.key.unwrap()).unwrap();
    let newest = Seq(state.events.len() as u64);
    let is_next = envelope.seq == newest.next() && envelope.prev == state.tip;
    if is_next {
        state.tip = Hash::of(bytes);
        let event = Event::decode(&envelope.kind, envelope.version, &envelope.data).unwrap();
        state.events.push(event);
    }
    let (seq, hash) = (Seq(state.events.len() as u64), state.tip);
    Some(Ack { epoch: Epoch(1), seq, hash, resend: !is_next && envelope.seq > seq })
}

/// Builds the response to a piece, after which the server has this much.
fn output_response(state: &Mutex<ServerState>, payload: &[u8], next: u64) -> OutputTaken {
    let piece: OutputPiece = codec::decode(payload).unwrap();
    let state = state.lock().unwrap();
    let is_live = piece.stream != OutputStream::File && piece.offset >= MAX_OUTPUT_BYTES;
    let is_end = piece.stream == OutputStream::File && piece.last;
    let receipt = is_end.then(|| {
        let stored = FileStored {
            project: ProjectId::default_project(),
            device: device(),
            operation: piece.operation,
            bytes: next + state.exaggerates_by,
        };
        operation_key().seal(Kind::Stored, codec::encode(&stored))
    });
    OutputTaken {
        next,
        reader: is_live.then_some(false),
        refused: state.file_refusal.clone(),
        receipt,
    }
}

fn receive_piece(state: &Mutex<ServerState>, payload: &[u8]) -> Option<u64> {
    let mut state = state.lock().unwrap();
    if state.rejects_output {
        return None;
    }
    let mut piece: OutputPiece = codec::decode(payload).unwrap();
    assert!(piece.sealed, "output in clear");
    let is_live = piece.stream != OutputStream::File && piece.offset >= MAX_OUTPUT_BYTES;
    if is_live && piece.bytes > 0 {
        // It has no follower.
        return Some(piece.offset);
    }
    let context = output_context(&ProjectId::default_project(), device(), &piece);
    piece.data = open_by(&operation_key(), &context, &piece.data).unwrap();
    let at_most = state.max_output_bytes;
    let taken = state.outputs.entry((piece.operation, piece.stream)).or_default();
    taken.pieces += 1;
    let have = taken.bytes.len() as u64;
    if at_most.is_some_and(|most| taken.bytes.len() >= most) {
        return Some(have);
    }
    if piece.offset == have {
        let data = if piece.compressed {
            taken.compressed += 1;
            compress::decompress(&piece.data, MAX_FILE_PIECE_BYTES).unwrap()
        } else {
            piece.data
        };
        assert_eq!(data.len(), piece.bytes as usize);
        taken.bytes.extend_from_slice(&data);
        taken.is_complete |= piece.last;
        if let Some(salt) = piece.salt {
            taken.salt = salt;
        }
    }
    Some(taken.bytes.len() as u64)
}

fn welcome(state: &Mutex<ServerState>, payload: &[u8]) -> Option<Vec<u8>> {
    let mut state = state.lock().unwrap();
    state.hellos += 1;
    if state.is_silent {
        return None;
    }
    let opened = cose::open(payload, Kind::Hello, &state.key.unwrap()).unwrap();
    let hello: Hello = codec::decode(&opened).unwrap();
    let welcome = Welcome {
        project: hello.project,
        device: hello.device,
        epoch: hello.epoch,
        nonce: hello.nonce,
        time: now(),
        committed_seq: Seq(state.events.len() as u64),
        committed_hash: state.tip,
        config_version: state.config.0,
        config: state.config.1.clone(),
        sealed_config: None,
        is_caught_up: None,
    };
    Some(operation_key().seal(Kind::Welcome, codec::encode(&welcome)))
}

async fn enroll(
    State(context): State<Context>,
    Json(request): Json<EnrollRequest>,
) -> (StatusCode, Json<Value>) {
    let problem = |status, title: &str, detail: &str| {
        (status, Json(json!({"type": "t", "title": title, "detail": detail})))
    };
    let sealed = BASE64URL_NOPAD.decode(request.request.as_bytes()).unwrap();
    let unverified = cose::Unverified::parse(&sealed).unwrap();
    let proof: EnrollProof = codec::decode(unverified.payload()).unwrap();
    let key = PublicKey::from_cose_key(&proof.signing_key).unwrap();
    unverified.verify(Kind::Enroll, &key).unwrap();
    let signature = BASE64URL_NOPAD.decode(request.nats_proof.as_bytes()).unwrap();
    nkeys::KeyPair::from_public_key(&proof.nats_key).unwrap().verify(&sealed, &signature).unwrap();
    let mut state = context.state.lock().unwrap();
    state.nonces.push(proof.nonce);
    if std::mem::take(&mut state.loses_response) {
        state.key = Some(key);
        return problem(StatusCode::BAD_GATEWAY, "Bad gateway", "the answer was lost");
    }
    if state.key.is_some_and(|known| known != key) {
        return problem(StatusCode::CONFLICT, "Token used up", "ask for another one");
    }
    state.key = Some(key);
    let response = EnrollResponse {
        project: ProjectId::default_project(),
        device: device(),
        name: proof.name.unwrap_or_else(|| "robot-7".parse().unwrap()),
        epoch: Epoch(1),
        operation_key: BASE64URL_NOPAD.encode(&operation_key().public().to_cose_key()),
        credentials: issue(&state, &context.broker),
        dropped_labels: Vec::new(),
    };
    (StatusCode::CREATED, Json(serde_json::to_value(response).unwrap()))
}

fn issue(state: &ServerState, broker: &str) -> CredentialsResponse {
    CredentialsResponse {
        jwt: "not.checked.here".to_owned(),
        expires_at: now().plus_micros(state.credentials_lifetime),
        servers: vec![broker.to_owned()],
        server_time: now(),
    }
}

async fn nonce(Json(request): Json<NonceRequest>) -> Json<NonceResponse> {
    assert_eq!(request.device, device());
    Json(NonceResponse { nonce: "nonce".to_owned(), server_time: now() })
}

async fn credentials(
    State(context): State<Context>,
    Json(request): Json<CredentialsRequest>,
) -> Json<CredentialsResponse> {
    let mut state = context.state.lock().unwrap();
    let sealed = BASE64URL_NOPAD.decode(request.request.as_bytes()).unwrap();
    let opened = cose::open(&sealed, Kind::Credentials, &state.key.unwrap()).unwrap();
    let proof: CredentialsProof = codec::decode(&opened).unwrap();
    assert_eq!((proof.device, proof.nonce.as_str()), (device(), "nonce"));
    state.credentials += 1;
    Json(issue(&state, &context.broker))
}

/// Creates a CA, and a server certificate signed by it, as PEM files.
fn certificates(dir: &Path) -> (Tls, Hash) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let pin = Hash::of(&key.subject_public_key_info());
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let server = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&server, &issuer).unwrap();
    let tls =
        Tls { certificate: dir.join("server.pem"), key: dir.join("server.key"), client_ca: None };
    std::fs::write(&tls.certificate, format!("{}{}", leaf.pem(), ca.pem())).unwrap();
    std::fs::write(&tls.key, server.serialize_pem()).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    (tls, pin)
}
