//! The system as separate processes: real servers, and one `muster serve` for each role, which a
//! test can kill and restart.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_backing::influx::{Credentials, InfluxDb, InfluxOptions};
use muster_backing::nats::{Identity, NatsOptions, NatsServer, Preload, Tls};
use muster_backing::ports::free_port;
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_command::keys::{KeyStore, Listener, RoleCredentials};
use tempfile::TempDir;

use crate::agent::AgentProcess;
use crate::api::Api;
use crate::binaries::binary;
use crate::{robot, wait};

/// One role as a separate process.
#[derive(Debug)]
pub struct RoleProcess {
    /// `ingest`, `command` or `query`.
    pub role: &'static str,
    args: Vec<String>,
    variables: Vec<(String, String)>,
    port: u16,
    output: PathBuf,
    child: Option<Child>,
}

impl RoleProcess {
    /// The URL of its own listener.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn start(&mut self) {
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.output)
            .expect("a file");
        let child = Command::new(binary("muster"))
            .args(&self.args)
            .env("RUST_LOG", "warn,muster=info")
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .expect("muster serve starts");
        self.child = Some(child);
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills it with SIGKILL and restarts it immediately.
    pub fn kill9_and_restart(&mut self) {
        self.kill9();
        self.start();
    }

    /// Stops it with SIGTERM, like a service manager, and waits until it has ended.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            crate::system::signal(child.id(), "TERM");
            let _ = child.wait();
        }
    }

    /// Starts it unless it runs.
    pub fn restart(&mut self) {
        if self.child.is_none() {
            self.start();
        }
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it has exited.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Its output.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(15).collect();
            eprintln!("last output of {}:", self.role);
            for line in tail.into_iter().rev() {
                eprintln!("  {line}");
            }
        }
    }
}

/// Servers and roles.
#[derive(Debug)]
pub struct Fleet {
    /// The role ingest. The roles are declared before the servers, so that they end first.
    pub ingest: RoleProcess,
    /// The write side.
    pub command: RoleProcess,
    /// The read side, which has the devices' and operators' listener.
    pub query: RoleProcess,
    /// The broker.
    pub nats: NatsServer,
    /// The other brokers of a cluster.
    pub more_brokers: Vec<NatsServer>,
    /// The PostgreSQL server of the event log.
    pub postgres: Postgres,
    /// The metric store.
    pub influx: InfluxDb,
    /// A client of query's listener, as admin.
    pub api: Api,
    keys: KeyStore,
    dir: TempDir,
}

impl Fleet {
    /// Starts everything.
    ///
    /// # Panics
    /// When a process does not start.
    pub async fn start() -> Self {
        Self::start_with(Tuning::Small, &[]).await
    }

    /// Starts everything, PostgreSQL with these settings, the roles with these variables.
    ///
    /// # Panics
    /// When a process does not start.
    pub async fn start_with(tuning: Tuning, variables: &[(&str, &str)]) -> Self {
        Self::start_all(tuning, variables, 1).await
    }

    /// Starts everything with a cluster of three brokers, each of which holds every stream.
    ///
    /// # Panics
    /// When a process does not start.
    pub async fn start_clustered() -> Self {
        Self::start_all(Tuning::Small, &[("MUSTER_STREAM_COPIES", "3")], 3).await
    }

    async fn start_all(tuning: Tuning, variables: &[(&str, &str)], brokers: usize) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path();
        let keys = KeyStore::open(&path.join("keys")).expect("keys");
        let (postgres, mut brokers, influx) = start_servers(path, &keys, tuning, brokers).await;

        let output = Command::new(binary("muster"))
            .env("MUSTER_POSTGRES_URL", postgres.connection_url())
            .args(["bootstrap", "--keys"])
            .arg(keys.dir())
            .output()
            .expect("muster bootstrap runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();

        let (query_port, command_port) =
            (free_port().expect("a port"), free_port().expect("a port"));
        let command_url = format!("https://127.0.0.1:{command_port}");
        let broker_urls: Vec<String> =
            brokers.iter().map(|nats| format!("tls://127.0.0.1:{}", nats.port())).collect();
        let nats = brokers.remove(0);
        let servers = (broker_urls.join(","), &influx);
        let mut ingest = role("ingest", path, &servers, free_port().expect("a port"), None);
        let mut command = role("command", path, &servers, command_port, None);
        let mut query = role("query", path, &servers, query_port, Some(&command_url));
        for role in [&mut ingest, &mut command, &mut query] {
            role.variables.extend(to_owned_pairs(variables));
            role.start();
        }
        let api = Api::new(
            &format!("https://127.0.0.1:{query_port}"),
            &token,
            &keys.dir().join("ca.pem"),
        );
        let more_brokers = brokers;
        let fleet =
            Self { ingest, command, query, nats, more_brokers, postgres, influx, api, keys, dir };
        fleet.wait_until_ready().await;
        fleet
    }

    /// Waits until the listeners of query and command respond.
    pub async fn wait_until_ready(&self) {
        let token = self.api.with_token("");
        wait::until("the listeners to respond", Duration::from_secs(60), || async {
            let ready = self.api.try_send(reqwest::Method::GET, "/readyz", None).await?.0 == 200;
            let body = serde_json::json!({"project": "default",
                "device": "0198c0de-7000-7abc-8def-0123456789ab"});
            let nonce = token.try_send(reqwest::Method::POST, "/api/v1/device/nonce", Some(&body));
            (ready && nonce.await?.0 == 200).then_some(())
        })
        .await;
    }

    /// The path of the CA certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.keys.dir().join("ca.pem")
    }

    /// Connects to the devices' account with a role's permission to publish for all devices.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn broker(&self) -> async_nats::Client {
        self.connect(&self.keys.role_credentials("ingest").expect("the role's credentials")).await
    }

    /// Connects to the broker's system account.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn broker_system(&self) -> async_nats::Client {
        self.connect(&self.keys.system_credentials().expect("the system's credentials")).await
    }

    async fn connect(&self, credentials: &RoleCredentials) -> async_nats::Client {
        async_nats::ConnectOptions::with_credentials(&credentials.0)
            .expect("credentials")
            .add_root_certificates(self.ca())
            .require_tls(true)
            // A short delay, so that a subscriber misses little after the broker restarts.
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(self.broker_urls())
            .await
            .expect("a connection to the broker")
    }

    /// Starts the real agent on this machine as device `robot`, in a folder under `dir`, and waits
    /// until it is online.
    ///
    /// # Panics
    /// When enrollment fails, or it does not come online.
    pub async fn robot(&self, dir: &Path) -> AgentProcess {
        let token = self.api.enrollment_token(1).await;
        let mut agent = AgentProcess::enroll(dir, &self.api.url, &token, "robot");
        agent.start();
        robot::online(&self.api).await;
        agent
    }

    /// Starts a second process of a role, in addition to the first.
    #[must_use]
    pub fn start_another(&self, name: &'static str) -> RoleProcess {
        self.start_another_with(name, &[])
    }

    /// Starts a second process of a role, with these variables.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_another_with(
        &self,
        name: &'static str,
        variables: &[(&str, &str)],
    ) -> RoleProcess {
        let servers = (self.broker_urls().join(","), &self.influx);
        let mut another = role(name, self.dir(), &servers, free_port().expect("a port"), None);
        another.variables.extend(to_owned_pairs(variables));
        another.start();
        another
    }

    /// The URLs of the brokers.
    #[must_use]
    pub fn broker_urls(&self) -> Vec<String> {
        let all = std::iter::once(&self.nats).chain(&self.more_brokers);
        all.map(|nats| format!("tls://127.0.0.1:{}", nats.port())).collect()
    }

    /// The URL by which a role (`ingest`, `command`, `query`) reaches the database.
    #[must_use]
    pub fn database_url(&self, role: &str) -> String {
        database_url(self.dir(), role)
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// The system's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn to_owned_pairs(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

/// Starts PostgreSQL, the brokers, and InfluxDB.
async fn start_servers(
    path: &Path,
    keys: &KeyStore,
    tuning: Tuning,
    brokers: usize,
) -> (Postgres, Vec<NatsServer>, InfluxDb) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let now = std::time::SystemTime::now().into();
    let certificates = keys.certificates(Listener::Broker, &names, now).expect("certificates");
    let identity = keys.broker_identity().expect("an identity");
    let accounts = identity.accounts.into_iter();
    let preload = accounts.map(|(account, jwt)| Preload { account, jwt }).collect();
    let routes: Vec<u16> = (0..brokers).map(|_| free_port().expect("a port")).collect();
    let identity = Identity {
        operator: identity.operator_jwt,
        system_account: identity.system_account,
        preload,
    };
    let tls = Tls { certificate: certificates.chain, key: certificates.key, client_ca: None };
    let nodes = (0..brokers).map(|node| {
        let options = NatsOptions {
            listen: Ipv4Addr::LOCALHOST.into(),
            tls: Some(tls.clone()),
            identity: Some(identity.clone()),
            ..node_options(path, node, &routes)
        };
        async { NatsServer::start(options).await.map_err(|error| error.to_string()) }
    });
    tokio::try_join!(
        async {
            let options = PostgresOptions { tuning, ..PostgresOptions::new(path.join("postgres")) };
            Postgres::start(options).await.map_err(|error| error.to_string())
        },
        // The servers of a cluster wait for each other.
        futures::future::try_join_all(nodes),
        async {
            let options = InfluxOptions::new(path.join("influx"));
            InfluxDb::start(options).await.map_err(|error| error.to_string())
        },
    )
    .expect("the servers")
}

/// Options of one broker of the cluster with these route ports; standalone when there is only one.
fn node_options(path: &Path, node: usize, routes: &[u16]) -> NatsOptions {
    if routes.len() == 1 {
        return NatsOptions::new(path.join("nats"));
    }
    let mut options = NatsOptions::new(path.join(format!("nats-{node}")));
    options.server_name = format!("muster-{node}");
    let urls: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let cluster = serde_json::json!({
        "name": "muster", "listen": format!("127.0.0.1:{}", routes[node]), "routes": urls,
    });
    options.extra.insert("cluster".to_owned(), cluster);
    options
}

/// The URL by which a role connects to the database, with its own database user.
fn database_url(dir: &Path, role: &str) -> String {
    let file = match role {
        "command" => "postgres-url-command".to_owned(),
        role => format!("roles/{role}/postgres-url"),
    };
    std::fs::read_to_string(dir.join("keys").join(file)).expect("muster bootstrap wrote it")
}

fn role(
    role: &'static str,
    dir: &Path,
    (broker_urls, influx): &(String, &InfluxDb),
    port: u16,
    command_url: Option<&str>,
) -> RoleProcess {
    // Only command gets the key folder.
    let keys = match role {
        "command" => dir.join("keys"),
        role => dir.join("keys/roles").join(role),
    };
    let mut args: Vec<String> = [
        "serve",
        "--role",
        role,
        "--nats-url",
        broker_urls,
        "--keys",
        &keys.display().to_string(),
        "--listen",
        &format!("127.0.0.1:{port}"),
    ]
    .map(str::to_owned)
    .to_vec();
    // Command does not use metrics.
    if role != "command" {
        args.extend(["--influx-url".to_owned(), influx.url()]);
    }
    let mut variables = vec![("MUSTER_POSTGRES_URL".to_owned(), database_url(dir, role))];
    if let Credentials::Password { user, password } = influx.credentials() {
        args.extend(["--influx-user", user].map(str::to_owned));
        variables.push(("MUSTER_INFLUX_PASSWORD".to_owned(), password.to_owned()));
    }
    if let Some(url) = command_url {
        args.extend(["--command-url".to_owned(), url.to_owned()]);
    }
    let output = dir.join(format!("{role}.said"));
    RoleProcess { role, args, variables, port, output, child: None }
}
