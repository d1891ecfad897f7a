//! The system as separate processes: real servers, and one `muster serve` a role, each of which a
//! test may kill and start again.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_backing::influx::{Credentials, InfluxDb, InfluxOptions};
use muster_backing::nats::{Identity, NatsOptions, NatsServer, Preload, Tls};
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_command::keys::KeyStore;
use tempfile::TempDir;

use crate::api::Api;
use crate::binaries::binary;
use crate::wait;

/// One role in a process of its own.
#[derive(Debug)]
pub struct RoleProcess {
    /// `ingest`, `command` or `query`.
    pub role: &'static str,
    args: Vec<String>,
    said: PathBuf,
    child: Option<Child>,
}

impl RoleProcess {
    fn start(&mut self) {
        let said =
            std::fs::OpenOptions::new().create(true).append(true).open(&self.said).expect("a file");
        let child = Command::new(binary("muster"))
            .args(&self.args)
            .env("RUST_LOG", "warn,muster=info")
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a file"))
            .stderr(said)
            .spawn()
            .expect("muster serve starts");
        self.child = Some(child);
    }

    /// kill -9, and start again at once.
    pub fn kill9_and_restart(&mut self) {
        self.kill9();
        self.start();
    }

    /// Ends it as a service manager does, and waits until it is gone.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            crate::system::signal(child.id(), "TERM");
            let _ = child.wait();
        }
    }

    /// Starts it, if it does not run.
    pub fn start_again(&mut self) {
        if self.child.is_none() {
            self.start();
        }
    }

    /// kill -9.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it has said.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let said = self.said();
            let tail: Vec<&str> = said.lines().rev().take(15).collect();
            eprintln!("{} said last:", self.role);
            for line in tail.into_iter().rev() {
                eprintln!("  {line}");
            }
        }
    }
}

/// Servers and roles.
#[derive(Debug)]
pub struct Fleet {
    /// The roles; they end before the servers.
    pub ingest: RoleProcess,
    /// The write side.
    pub command: RoleProcess,
    /// The read side, which is the front door.
    pub query: RoleProcess,
    /// The broker.
    pub nats: NatsServer,
    /// The event log's server.
    pub postgres: Postgres,
    /// The metric store.
    pub influx: InfluxDb,
    /// The front door, as admin.
    pub api: Api,
    keys: KeyStore,
    dir: TempDir,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

impl Fleet {
    /// Starts all of it.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start() -> Self {
        Self::start_tuned(Tuning::Small).await
    }

    /// Starts all of it, PostgreSQL with these settings.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start_tuned(tuning: Tuning) -> Self {
        Self::start_with(tuning, None).await
    }

    /// Starts all of it; devices are told that the broker is there.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start_with(tuning: Tuning, broker: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path();
        let keys = KeyStore::open(&path.join("keys")).expect("keys");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let now = std::time::SystemTime::now().into();
        let certificates = keys.certificates(&names, now).expect("certificates");
        let identity = keys.broker_identity().expect("an identity");
        let preload = vec![
            Preload { account: identity.system_account.clone(), jwt: identity.system_jwt },
            Preload { account: identity.account, jwt: identity.account_jwt },
        ];
        let (postgres, nats, influx) = tokio::try_join!(
            async {
                let options =
                    PostgresOptions { tuning, ..PostgresOptions::new(path.join("postgres")) };
                Postgres::start(options).await.map_err(|error| error.to_string())
            },
            async {
                let options = NatsOptions {
                    listen: Ipv4Addr::LOCALHOST.into(),
                    tls: Some(Tls {
                        certificate: certificates.chain.clone(),
                        key: certificates.key.clone(),
                        client_ca: None,
                    }),
                    identity: Some(Identity {
                        operator: identity.operator_jwt,
                        system_account: identity.system_account,
                        preload,
                    }),
                    ..NatsOptions::new(path.join("nats"))
                };
                NatsServer::start(options).await.map_err(|error| error.to_string())
            },
            async {
                let options = InfluxOptions::new(path.join("influx"));
                InfluxDb::start(options).await.map_err(|error| error.to_string())
            },
        )
        .expect("the servers");

        let output = Command::new(binary("muster"))
            .args(["bootstrap", "--postgres-url", &postgres.connection_url(), "--keys"])
            .arg(keys.dir())
            .output()
            .expect("muster bootstrap runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();

        let (door, command_port) = (free_port(), free_port());
        let command_url = format!("https://127.0.0.1:{command_port}");
        let servers = (&postgres, &nats, &influx);
        let ingest = role("ingest", path, servers, free_port(), None);
        let command = role(
            "command",
            path,
            servers,
            command_port,
            broker.map(|url| ("--device-nats-url", url)),
        );
        let query = role("query", path, servers, door, Some(("--command-url", &command_url)));
        let api =
            Api::new(&format!("https://127.0.0.1:{door}"), &token, &keys.dir().join("ca.pem"));
        let fleet = Self { ingest, command, query, nats, postgres, influx, api, keys, dir };
        fleet.answers().await;
        fleet
    }

    /// Waits until both doors answer.
    pub async fn answers(&self) {
        let token = self.api.with_token("");
        wait::until("the doors to answer", Duration::from_secs(60), || async {
            let ready = self.api.try_send(reqwest::Method::GET, "/readyz", None).await?.0 == 200;
            let body = serde_json::json!({"project": "default",
                "device": "0198c0de-7000-7abc-8def-0123456789ab"});
            let nonce = token.try_send(reqwest::Method::POST, "/api/v1/device/nonce", Some(&body));
            (ready && nonce.await?.0 == 200).then_some(())
        })
        .await;
    }

    /// The CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.keys.dir().join("ca.pem")
    }

    /// A connection to the devices' account that may publish for all of them, as a role has it.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn broker(&self) -> async_nats::Client {
        let credentials = self.keys.role_credentials("ingest").expect("the role's credentials");
        async_nats::ConnectOptions::with_credentials(&credentials.0)
            .expect("credentials")
            .add_root_certificates(self.ca())
            .require_tls(true)
            .connect(format!("tls://127.0.0.1:{}", self.nats.port()))
            .await
            .expect("a connection to the broker")
    }

    /// A second process of a role, beside the first.
    #[must_use]
    pub fn another(&self, name: &'static str) -> RoleProcess {
        let servers = (&self.postgres, &self.nats, &self.influx);
        role(name, self.dir(), servers, free_port(), None)
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn role(
    role: &'static str,
    dir: &Path,
    (postgres, nats, influx): (&Postgres, &NatsServer, &InfluxDb),
    port: u16,
    more: Option<(&str, &str)>,
) -> RoleProcess {
    // Command alone gets the folder of keys.
    let keys = match role {
        "command" => dir.join("keys"),
        role => dir.join("keys/roles").join(role),
    };
    let mut args: Vec<String> = [
        "serve",
        "--role",
        role,
        "--postgres-url",
        &postgres.connection_url(),
        "--nats-url",
        &format!("tls://127.0.0.1:{}", nats.port()),
        "--keys",
        &keys.display().to_string(),
        "--listen",
        &format!("127.0.0.1:{port}"),
    ]
    .map(str::to_owned)
    .to_vec();
    // Command has nothing to do with metrics.
    if role != "command" {
        args.extend(["--influx-url".to_owned(), influx.url()]);
    }
    if let Credentials::Password { user, password } = influx.credentials() {
        args.extend(["--influx-user", user, "--influx-password", password].map(str::to_owned));
    }
    if let Some((flag, value)) = more {
        args.extend([flag.to_owned(), value.to_owned()]);
    }
    let said = dir.join(format!("{role}.said"));
    let mut process = RoleProcess { role, args, said, child: None };
    process.start();
    process
}
