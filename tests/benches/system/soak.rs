//! (s) An hour of churn; runs only on request (`make soak`): simulated devices that connect and
//! disconnect, and two real agents in separate network namespaces, which are killed and whose
//! network is cut. At the end nothing may be lost, and the memory of every process must be flat.
//!
//! Requires root, for the namespaces.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_simulate::{Counters, Fleet, FleetOptions};
use muster_tests::System;
use muster_tests::binaries::binary;
use serde_json::{Value, json};

use crate::process;
use crate::report::{Report, Row};

/// Number of simulated devices.
const DEVICES: usize = 300;
/// Interval between faults of the real agents.
const FAULT_INTERVAL: Duration = Duration::from_secs(20);
/// Share of the time after which memory counts: caches have filled.
const WARM_UP_SHARE: f64 = 0.25;
/// Maximum growth of a process's memory since then, as a factor.
const MAX_GROWTH: f64 = 1.25;

/// A real agent with a separate network link.
struct Agent {
    name: &'static str,
    namespace: String,
    cable: String,
    data: std::path::PathBuf,
    child: Option<Child>,
}

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().expect("ip, of iproute2");
    let message = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {}: {message}(root is needed)", args.join(" "));
}

impl Agent {
    /// Creates the link; the server's end has the address 10.200.`number`.1.
    fn new(number: u8, name: &'static str, dir: &Path) -> Self {
        let (namespace, cable) = (format!("muster-{number}"), format!("muster{number}"));
        let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
        let _ = Command::new("ip").args(["link", "del", &cable]).output();
        ip(&["netns", "add", &namespace]);
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
        ip(&["addr", "add", &format!("10.200.{number}.1/24"), "dev", &cable]);
        ip(&["link", "set", &cable, "up"]);
        let inside = |args: &[&str]| ip(&[&["-n", namespace.as_str()], args].concat());
        inside(&["addr", "add", &format!("10.200.{number}.2/24"), "dev", "eth0"]);
        inside(&["link", "set", "eth0", "up"]);
        inside(&["link", "set", "lo", "up"]);
        Self { name, namespace, cable, data: dir.join(name), child: None }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(binary("muster-agent"));
        command.arg("--data").arg(&self.data).args(args).stdin(Stdio::null());
        command
    }

    fn enroll(&self, url: &str, token: &str) {
        let mut command = self.command(&["enroll", "--url", url, "--name", self.name]);
        let done = command.env("MUSTER_ENROLL_TOKEN", token).output().expect("the agent runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn start(&mut self) {
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.data.with_extension("said"))
            .expect("a file");
        let child = self.command(&["run"]).stdout(Stdio::null()).stderr(output).spawn();
        self.child = Some(child.expect("the agent runs"));
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn cable(&self, is_connected: bool) {
        ip(&["link", "set", &self.cable, if is_connected { "up" } else { "down" }]);
    }

    fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]).output().expect("the agent runs");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill9();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).output();
        let _ = Command::new("ip").args(["link", "del", &self.cable]).output();
    }
}

/// Memory of each process, in megabytes, over time.
#[derive(Default)]
struct Memory(Vec<(f64, Vec<(String, f64)>)>);

impl Memory {
    fn take(&mut self, share: f64, system: &System, agents: &[Agent]) {
        let mut now: Vec<(String, f64)> = Vec::new();
        let mut note = |name: String, pid: u32| now.push((name, process::proportional_mb(pid)));
        note("muster".to_owned(), system.pid());
        for name in ["nats-server", "influxd"] {
            if let Some(pid) = process::find(name, &system.dir()) {
                note(name.to_owned(), pid);
            }
        }
        for agent in agents {
            note(format!("agent {}", agent.name), agent.pid());
        }
        self.0.push((share, now));
    }

    /// The average memory of each process in the second quarter, and at the end.
    fn growth(&self) -> Vec<(String, f64, f64)> {
        let mean = |name: &str, from: f64, to: f64| {
            let all = self.0.iter().filter(|(share, _)| (from..to).contains(share));
            let of = all.flat_map(|(_, now)| now).filter(|(one, mb)| one == name && *mb > 0.0);
            let (count, sum) = of.fold((0.0, 0.0), |(count, sum), (_, mb)| (count + 1.0, sum + mb));
            if count > 0.0 { sum / count } else { 0.0 }
        };
        let names = self.0.first().map(|(_, now)| now.clone()).unwrap_or_default();
        names
            .into_iter()
            .map(|(name, _)| {
                let early = mean(&name, WARM_UP_SHARE, 0.5);
                let late = mean(&name, 0.9, 2.0);
                (name, early, late)
            })
            .collect()
    }
}

/// Runs the churn, and reports the results.
pub(crate) async fn measure(report: &mut Report, minutes: u64, say: &impl Fn(&str)) {
    let lasts = Duration::from_secs(60 * minutes);
    let dir = tempfile::tempdir().unwrap();
    let mut agents = vec![Agent::new(1, "left", dir.path()), Agent::new(2, "right", dir.path())];
    let system = System::start_with(&["--no-agent", "--listen", "0.0.0.0"]).await;
    let port = system.api.url.rsplit(':').next().unwrap().to_owned();
    for (number, agent) in (1..).zip(&mut agents) {
        // Two agents of one machine have similar identity hints, unless the token is for one
        // device.
        let device = system.api.post("/api/v1/devices", &json!({"name": agent.name})).await;
        let body = json!({"name": agent.name, "max_uses": 1, "device": device["id"]});
        let token = system.api.post("/api/v1/enrollment-tokens", &body).await;
        let url = format!("https://10.200.{number}.1:{port}");
        agent.enroll(&url, token["secret"].as_str().unwrap());
        agent.start();
    }
    let options = FleetOptions {
        url: system.api.url.clone(),
        ca: Some(system.ca()),
        token: system.api.enrollment_token(u32::try_from(DEVICES).unwrap()).await,
        devices: DEVICES,
        prefix: "sim".to_owned(),
        profile: "churn".parse().unwrap(),
    };
    let counters = Arc::new(Counters::default());
    let enrolled = Fleet::enroll(&options, &counters).await.unwrap();
    let fleet = Fleet::start(&options, enrolled, Arc::clone(&counters)).unwrap();

    let (started_at, mut memory, mut set) = (Instant::now(), Memory::default(), 0_u64);
    let mut turn = 0_usize;
    while started_at.elapsed() < lasts {
        tokio::time::sleep(FAULT_INTERVAL).await;
        turn += 1;
        let share = started_at.elapsed().as_secs_f64() / lasts.as_secs_f64();
        memory.take(share, &system, &agents);
        for agent in &agents {
            set += 1;
            let path = format!("/api/v1/devices/{}/config", agent.name);
            system.api.patch(&path, &json!({"vars": {"n": set}})).await;
        }
        let agent = &mut agents[turn % 2];
        match (turn / 2) % 4 {
            0 => agent.cable(false),
            1 => agent.cable(true),
            2 => agent.kill9(),
            _ => agent.start(),
        }
        if turn.is_multiple_of(15) {
            let snapshot = counters.snapshot();
            say(&format!(
                "(s) {:.0} %: {} of {} events",
                100.0 * share,
                snapshot.committed,
                snapshot.events
            ));
        }
    }
    for agent in &mut agents {
        agent.cable(true);
        agent.kill9();
        agent.start();
    }
    fleet.finish(Duration::from_secs(120)).await;
    let snapshot = counters.snapshot();
    let real = wait_until_complete(&system, &agents).await;
    add_rows(report, minutes, &snapshot, real, &memory);
}

/// Waits until the log has all events of the agents; returns the number of their events in it,
/// without a gap, and the number of lost ones.
async fn wait_until_complete(system: &System, agents: &[Agent]) -> (u64, u64) {
    let (mut events, mut lost) = (0, 0);
    for agent in agents {
        let started_at = Instant::now();
        let outbox = loop {
            let outbox = agent.status()["outbox"].clone();
            let done = outbox["unconfirmed"] == 0 && outbox["last_seq"].as_u64() > Some(1);
            if done || started_at.elapsed() > Duration::from_secs(120) {
                break outbox;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let path = format!("/api/v1/devices/{}/events?order=asc", agent.name);
        let logged = system.api.list(&path).await;
        let versions: Vec<u64> = logged
            .iter()
            .filter(|event| event["stream"].to_string().contains("device-report/"))
            .map(|event| event["version"].as_u64().unwrap())
            .collect();
        let newest = outbox["last_seq"].as_u64().unwrap_or_default();
        let missing =
            (1..=newest).filter(|seq| versions.get((*seq - 1) as usize) != Some(seq)).count();
        events += versions.len() as u64;
        lost += missing as u64 + outbox["dropped"].as_u64().unwrap_or_default();
    }
    (events, lost)
}

fn add_rows(
    report: &mut Report,
    minutes: u64,
    counters: &muster_simulate::CounterSnapshot,
    (real, real_lost): (u64, u64),
    memory: &Memory,
) {
    let lost = counters.events - counters.committed + counters.differing + real_lost;
    report.add(Row {
        description: format!(
            "(s) {minutes} minutes of churn: {DEVICES} simulated devices, two agents"
        ),
        value: format!(
            "{} events in the log ({real} of the agents'), {} connections, {} points; {lost} lost",
            counters.committed + real,
            counters.connects,
            counters.points
        ),
        peer: String::new(),
        ratio: None,
        target: "nothing lost".to_owned(),
        is_met: Some(lost == 0),
    });
    for (name, early, late) in memory.growth() {
        report.add(Row {
            description: format!("(s) memory of {name} at the end"),
            value: format!("{late:.1} MB"),
            peer: format!("in the second quarter: {early:.1} MB"),
            ratio: Some(late / early),
            target: format!("≤ {:.0} %", 100.0 * MAX_GROWTH),
            is_met: Some(late <= early * MAX_GROWTH),
        });
    }
}
