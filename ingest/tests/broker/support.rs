//! A broker in operator mode, a log, and devices that are only a socket.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use muster_backing::nats::{Identity, NatsOptions, NatsServer, Preload};
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_eventlog::{ConnectOptions, EventLog, LogOptions};
use muster_schemas::{DeviceId, ProjectId};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use uuid::Uuid;

fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let claims = json!({ "jti": Uuid::new_v4(), "iat": 1_700_000_000, "iss": issuer.public_key(),
        "name": "test", "sub": subject.public_key(), "nats": nats });
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let signed = format!("{}.{}", encode(&head), encode(&claims));
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap()))
}

fn account_jwt(operator: &KeyPair, account: &KeyPair, storage: i64) -> String {
    let limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1, "mem_storage": storage,
        "disk_storage": storage, "streams": storage, "consumer": storage });
    jwt(operator, account, json!({ "type": "account", "version": 2, "limits": limits }))
}

/// A broker and a log; both stop when this is dropped.
pub(crate) struct Backing {
    pub(crate) nats: NatsServer,
    pub(crate) log: EventLog,
    _postgres: Postgres,
    system: KeyPair,
    account: KeyPair,
    _dir: TempDir,
}

impl Backing {
    /// Starts both, with additional broker configuration.
    pub(crate) async fn start(extra: Value) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let (operator, system, account) =
            (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
        let mut options = NatsOptions::new(dir.path().join("nats"));
        options.identity = Some(Identity {
            operator: jwt(&operator, &operator, json!({ "type": "operator", "version": 2 })),
            system_account: system.public_key(),
            preload: vec![
                Preload { account: system.public_key(), jwt: account_jwt(&operator, &system, 0) },
                Preload {
                    account: account.public_key(),
                    jwt: account_jwt(&operator, &account, -1),
                },
            ],
        });
        options.extra = extra.as_object().cloned().unwrap_or_default();
        let postgres = PostgresOptions {
            tuning: Tuning::Throwaway,
            ..PostgresOptions::new(dir.path().join("postgres"))
        };
        let (nats, postgres) = tokio::join!(NatsServer::start(options), Postgres::start(postgres));
        let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
        let connect =
            ConnectOptions { connections: 8, ..ConnectOptions::new(postgres.connection_url()) };
        let log = EventLog::open(&connect, LogOptions::default()).await.unwrap();
        log.ensure_project(&ProjectId::default_project()).await.unwrap();
        Self { nats, log, _postgres: postgres, system, account, _dir: dir }
    }

    /// The account of the devices.
    pub(crate) fn account(&self) -> String {
        self.account.public_key()
    }

    /// A connection to the system account.
    pub(crate) async fn system(&self) -> async_nats::Client {
        self.connect(&self.system).await
    }

    /// A connection to the devices' account with all permissions.
    pub(crate) async fn role(&self) -> async_nats::Client {
        self.connect(&self.account).await
    }

    async fn connect(&self, account: &KeyPair) -> async_nats::Client {
        let user = Arc::new(KeyPair::new_user());
        let jwt = user_jwt(account, &user, json!([]));
        async_nats::ConnectOptions::with_jwt(jwt, move |nonce| {
            let user = user.clone();
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        })
        .connect(format!("nats://127.0.0.1:{}", self.nats.port()))
        .await
        .unwrap()
    }

    /// A device's credentials.
    pub(crate) fn device(&self, n: u128) -> DeviceCredentials {
        let device = DeviceId(Uuid::from_u128(n));
        let user = KeyPair::new_user();
        let tags = json!(["project:default", format!("device:{device}")]);
        DeviceCredentials { device, jwt: user_jwt(&self.account, &user, tags), user }
    }
}

fn user_jwt(account: &KeyPair, user: &KeyPair, tags: Value) -> String {
    let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "tags": tags });
    jwt(account, user, claims)
}

/// Credentials of a device.
pub(crate) struct DeviceCredentials {
    pub(crate) device: DeviceId,
    user: KeyPair,
    jwt: String,
}

impl DeviceCredentials {
    /// Connects with the minimum of the protocol; responds to no ping.
    pub(crate) async fn connect(&self, port: u16) -> BufReader<TcpStream> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
        let nonce = info["nonce"].as_str().unwrap();
        let hello = json!({ "verbose": false, "pedantic": false, "jwt": self.jwt,
            "sig": BASE64URL_NOPAD.encode(&self.user.sign(nonce.as_bytes()).unwrap()) });
        send(&mut stream, &format!("CONNECT {hello}\r\nPING\r\n")).await;
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line, "PONG\r\n");
        stream
    }
}

/// Writes to the broker, in its protocol.
pub(crate) async fn send(stream: &mut BufReader<TcpStream>, text: &str) {
    stream.get_mut().write_all(text.as_bytes()).await.unwrap();
}
