//! The containers of docker-compose.yml as plain processes: the same commands and environment, with
//! addresses of this machine instead of the names of a container network.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use muster_backing::find::SearchPath;
use muster_backing::influx::{Credentials, InfluxDb, InfluxOptions};
use muster_backing::ports::free_port;
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use muster_tests::binaries::binary;
use muster_tests::{Api, wait};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::file::{File, Service};

/// A name that resolves to several containers, like in a container network: each connection goes to
/// the next one that accepts it.
pub(super) struct Name {
    pub(super) port: u16,
}

impl Name {
    pub(super) async fn start(ports: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let next = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let (ports, next) = (ports.clone(), next.clone());
                tokio::spawn(async move {
                    for _ in 0..ports.len() {
                        let turn = next.fetch_add(1, Ordering::Relaxed) % ports.len();
                        if let Ok(mut outside) =
                            TcpStream::connect(("127.0.0.1", ports[turn])).await
                        {
                            let _ = copy_bidirectional(&mut inside, &mut outside).await;
                            return;
                        }
                    }
                });
            }
        });
        Self { port }
    }
}

/// A container as a process.
pub(super) struct Container {
    name: String,
    service: Service,
    output: PathBuf,
    child: Option<Child>,
}

impl Container {
    fn command(&self) -> Command {
        let program = match self.service.command[0].as_str() {
            "nats-server" => SearchPath::from_env().nats_server().unwrap(),
            "sh" => "sh".into(),
            own => binary(own),
        };
        let output = OpenOptions::new().create(true).append(true).open(&self.output).unwrap();
        let mut path = binary("muster").parent().unwrap().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command
            .env("PATH", path)
            .args(&self.service.command[1..])
            .envs(&self.service.environment)
            .env("RUST_LOG", "warn,muster=info")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        command
    }

    pub(super) fn start(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
    }

    /// Runs it to completion; panics if it fails.
    fn complete(&self) {
        let status = self.command().status().unwrap();
        assert!(status.success(), "{} failed: {}", self.name, self.output());
    }

    pub(super) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether its health check succeeds.
    pub(super) fn is_healthy(&self) -> bool {
        let mut check = Command::new(binary("muster"));
        check.arg("health").envs(&self.service.environment);
        check.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// The output of `muster doctor` in it, if it reports a problem.
    pub(super) fn doctor_problem(&self) -> Option<String> {
        let mut doctor = Command::new(binary("muster"));
        let output = doctor.arg("doctor").envs(&self.service.environment).output().unwrap();
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        (!output.status.success()).then_some(report)
    }

    pub(super) fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(10).collect();
            let _ = writeln!(std::io::stderr(), "last output of {}:", self.name);
            for line in tail.into_iter().rev() {
                let _ = writeln!(std::io::stderr(), "  {line}");
            }
        }
    }
}

/// All containers, two of each role.
pub(super) struct Composition {
    pub(super) roles: Vec<(Container, Container)>,
    pub(super) agent: Container,
    pub(super) api: Api,
    pub(super) postgres: Postgres,
    _influx: InfluxDb,
    _nats: Container,
    dir: tempfile::TempDir,
}

impl Composition {
    pub(super) async fn up() -> Self {
        // `Api` does the same; the first call takes effect.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = File::read();
        let dir = tempfile::tempdir().unwrap();
        let ports = [(); 10].map(|()| free_port().unwrap());
        let [postgres_port, nats_port, monitor, influx_port, ..] = ports;
        let (ingest, command, query) =
            ([ports[4], ports[5]], [ports[6], ports[7]], [ports[8], ports[9]]);
        let command_name = Name::start(command.to_vec()).await;
        let query_name = Name::start(query.to_vec()).await;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let replacements = [
            ("/var/lib/muster", dir.path().display().to_string()),
            ("0.0.0.0:4222", at(nats_port)),
            ("nats:4222", at(nats_port)),
            ("127.0.0.1:8222", at(monitor)),
            ("command:8444", at(command_name.port)),
            ("query:8443", at(query_name.port)),
            ("postgres:5432", at(postgres_port)),
            ("influxdb:8086", at(influx_port)),
            // The PostgreSQL of these tests has no certificate.
            ("sslmode=require", "sslmode=prefer".to_owned()),
        ]
        .map(|(from, to)| (from.to_owned(), to));
        let container = |name: &str, more: &[(&str, &str)], credentials: Option<&Credentials>| {
            let mut service = file.service(name).translated(&replacements);
            for (from, to) in more {
                service = service.translated(&[((*from).to_owned(), (*to).to_owned())]);
            }
            // An InfluxDB 1.x requires a user where 2.x requires a token.
            if let Some(Credentials::Password { user, password }) = credentials
                && service.environment.contains_key("MUSTER_INFLUX_URL")
            {
                service.environment.retain(|name, _| {
                    name != "MUSTER_INFLUX_TOKEN_FILE"
                        && name != "MUSTER_INFLUX_SETUP_PASSWORD_FILE"
                });
                service.environment.insert("MUSTER_INFLUX_USER".into(), user.clone());
                service.environment.insert("MUSTER_INFLUX_PASSWORD".into(), password.clone());
            }
            let output = dir.path().join(format!("{name}-{}.said", free_port().unwrap()));
            Container { name: name.to_owned(), service, output, child: None }
        };
        container("prepare", &[], None).complete();
        // Reads the password that `prepare` has created.
        let postgres = async {
            let options = PostgresOptions {
                tuning: Tuning::Small,
                port: Some(postgres_port),
                ..PostgresOptions::new(dir.path().join("postgres"))
            };
            Postgres::start(options).await.unwrap()
        };
        let influx = async {
            let options = InfluxOptions {
                port: Some(influx_port),
                ..InfluxOptions::new(dir.path().join("influxdb"))
            };
            InfluxDb::start(options).await.unwrap()
        };
        let (postgres, influx) = tokio::join!(postgres, influx);
        let mut nats = container("nats", &[], None);
        nats.start();
        wait::until("nats-server to be healthy", Duration::from_secs(30), || async {
            let url = format!("http://127.0.0.1:{monitor}/healthz");
            reqwest::get(url).await.ok()?.status().is_success().then_some(())
        })
        .await;
        let credentials = Some(influx.credentials());
        container("bootstrap", &[], credentials).complete();
        let pair = |name: &str, [one, two]: [u16; 2]| {
            let role = |port: u16| {
                let listen = at(port);
                let more = [("0.0.0.0:8443", listen.as_str()), ("0.0.0.0:8444", &listen)];
                let mut role = container(name, &more, credentials);
                role.start();
                role
            };
            (role(one), role(two))
        };
        let roles = vec![pair("ingest", ingest), pair("command", command), pair("query", query)];
        for role in roles.iter().flat_map(|(one, two)| [one, two]) {
            wait::until(&role.name, Duration::from_secs(60), || async {
                role.is_healthy().then_some(())
            })
            .await;
        }
        container("grafana-setup", &[], credentials).complete();
        container("invite", &[], None).complete();
        let mut agent = container("agent", &[], None);
        agent.start();
        let ca = dir.path().join("keys/ca.pem");
        let token = std::fs::read_to_string(dir.path().join("keys/admin-token")).unwrap();
        let api = Api::new(&format!("https://127.0.0.1:{}", query_name.port), token.trim(), &ca);
        Self { roles, agent, api, postgres, _influx: influx, _nats: nats, dir }
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }
}
