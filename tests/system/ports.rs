//! Plain OpenSSH to a device: ssh, scp and rsync reach its sshd through `muster connect`, and any
//! program reaches a port through `muster forward`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use muster_backing::ports::free_port;
use muster_tests::binaries::binary;
use muster_tests::text::has_number;
use muster_tests::{Robot, System, wait};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// An sshd of the test that accepts one key.
struct Sshd {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Sshd {
    fn start(dir: &Path) -> Self {
        let dir = dir.join("ssh");
        std::fs::create_dir(&dir).unwrap();
        for name in ["host", "client"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(name))
                .status()
                .unwrap();
            assert!(made.success());
        }
        std::fs::copy(dir.join("client.pub"), dir.join("authorized")).unwrap();
        let port = free_port().unwrap();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {0}/authorized\nStrictModes no\nPasswordAuthentication no\n\
             Subsystem sftp internal-sftp\n",
            dir.display()
        );
        std::fs::write(dir.join("config"), config).unwrap();
        // sshd requires this folder, and its full path as argument 0.
        let _ = std::fs::create_dir_all("/run/sshd");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(dir.join("config"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port, dir }
    }

    /// Common options of all OpenSSH clients.
    fn options(&self, system: &System) -> Vec<String> {
        let token = self.dir.join("token");
        std::fs::write(&token, &system.api.token).unwrap();
        let proxy = format!(
            "ProxyCommand={} --url {} --token-file {} --ca {} connect robot {}",
            binary("muster").display(),
            system.api.url,
            token.display(),
            system.ca().display(),
            self.port
        );
        let known_hosts = format!("UserKnownHostsFile={}", self.dir.join("known").display());
        let key = format!("IdentityFile={}", self.dir.join("client").display());
        let others = ["StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes", "BatchMode=yes"];
        [proxy, known_hosts, key]
            .into_iter()
            .chain(others.map(str::to_owned))
            .flat_map(|option| ["-o".to_owned(), option])
            .collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.exists())
}

fn ran(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_scp_and_rsync_work_with_a_device_s_sshd() {
    if !Path::new("/usr/sbin/sshd").exists() || which("rsync").is_none() {
        eprintln!("skipped: there is no sshd or no rsync; as root: scripts/deps test");
        return;
    }
    let me = Command::new("id").arg("-un").output().unwrap();
    let me = String::from_utf8_lossy(&me.stdout).trim().to_owned();
    let Robot { system, agent: _agent, dir } = Robot::start("").await;
    let sshd = Sshd::start(dir.path());
    let options = sshd.options(&system);
    let output = Command::new("ssh")
        .args(&options)
        .args([format!("{me}@robot"), "echo it-is-$((1+1))".to_owned()])
        .output()
        .unwrap();
    assert_eq!(ran(&output), "it-is-2\n");
    // An interactive session: a terminal on the device, input from the test.
    let mut ssh = Command::new("ssh")
        .args(&options)
        .args(["-tt", &format!("{me}@robot")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    ssh.stdin.take().unwrap().write_all(b"tty; echo typed-$((2+3)); exit 7\n").unwrap();
    let mut shown = String::new();
    ssh.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert_eq!(ssh.wait().unwrap().code(), Some(7), "{shown}");
    assert!(shown.contains("typed-5") && shown.contains("/dev/pts/"), "{shown}");

    // 200 MB, to the device and back.
    let (file, there, back) =
        (dir.path().join("file"), dir.path().join("there"), dir.path().join("back"));
    let bytes: Vec<u8> =
        (0..200_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let scp = |from: &str, to: &str| {
        ran(&Command::new("scp").args(&options).args([from, to]).output().unwrap());
    };
    let remote = format!("{me}@robot:{}", there.display());
    scp(file.to_str().unwrap(), &remote);
    assert!(std::fs::read(&there).unwrap() == bytes, "it is not what was sent");
    scp(&remote, back.to_str().unwrap());
    assert!(std::fs::read(&back).unwrap() == bytes, "it is not what came back");

    let folder = dir.path().join("folder");
    std::fs::create_dir_all(folder.join("inner")).unwrap();
    std::fs::write(folder.join("inner/one"), "1").unwrap();
    std::fs::write(folder.join("two"), "22").unwrap();
    let shell = format!(
        "ssh {}",
        options.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
    );
    let to = format!("{me}@robot:{}/", dir.path().join("synced").display());
    let from = format!("{}/", folder.display());
    ran(&Command::new("rsync").args(["-a", "-e", &shell, &from, &to]).output().unwrap());
    let inner = std::fs::read_to_string(dir.path().join("synced/inner/one")).unwrap();
    assert_eq!(inner, "1");
    // Each connection is an ended session.
    wait::until("all connections to be told as ended", WAIT_TIMEOUT, || async {
        let sessions = system.api.list("/api/v1/sessions").await;
        let is_over =
            |one: &serde_json::Value| one["status"] == "ended" && one["access"]["kind"] == "tcp";
        (sessions.len() == 5 && sessions.iter().all(is_over)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_s_port_is_forwarded_to_a_local_port() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in echo.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut all = Vec::new();
                // Responds only after the end of the input, on a half-closed connection.
                let _ = stream.read_to_end(&mut all);
                all.reverse();
                let _ = stream.write_all(&all);
            });
        }
    });
    let here = free_port().unwrap();
    let mut forward = Command::new(binary("muster"))
        .env("MUSTER_TOKEN", &system.api.token)
        .args(["--url", &system.api.url, "--ca"])
        .arg(system.ca())
        .args(["forward", "robot", &format!("{here}:localhost:{there}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stream = wait::until("the port to be open", WAIT_TIMEOUT, || async {
        TcpStream::connect(("127.0.0.1", here)).ok()
    })
    .await;
    let mut sent = vec![b'x'; 1_000_000];
    sent.push(b'!');
    let (mut write, mut read) = (stream.try_clone().unwrap(), stream);
    read.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    write.write_all(&sent).unwrap();
    write.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = Vec::new();
    read.read_to_end(&mut received).unwrap();
    sent.reverse();
    assert!(received == sent, "{} bytes came back", received.len());
    let _ = forward.kill();
    let _ = forward.wait();
    // A closed port is reported as an error.
    let closed = free_port().unwrap();
    let (code, _, err) = system.muster(&["connect", "robot", &closed.to_string()]);
    assert!(code == 4 && err.contains("os error"), "{code}: {err}");
}

fn connect(system: &System, port: u16) -> Child {
    Command::new(binary("muster"))
        .env("MUSTER_TOKEN", &system.api.token)
        .args(["--url", &system.api.url, "--ca"])
        .arg(system.ca())
        .args(["connect", "robot", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_ends_when_the_remote_side_closes() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ended = |mut child: Child| async move {
        let code = wait::until("connect to end", Duration::from_secs(15), || {
            let code = child.try_wait().unwrap();
            async move { code }
        });
        code.await.code()
    };

    // Closed: standard output ends, and then the program, although its input stays open.
    let mut child = connect(&system, port);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"bye").unwrap();
    drop(stream);
    let _input = child.stdin.take();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "bye");
    assert_eq!(ended(child).await, Some(0));

    // Reset: the data sent to the device was not read.
    let mut child = connect(&system, port);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"unread").unwrap();
    let (stream, _) = listener.accept().unwrap();
    wait::until("the bytes to arrive", WAIT_TIMEOUT, || async {
        stream.peek(&mut [0; 6]).is_ok_and(|count| count == 6).then_some(())
    })
    .await;
    drop(stream);
    assert!(ended(child).await.is_some_and(|code| code != 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_accepts_its_maximum_number_of_connections_and_rejects_one_more() {
    const MAX_CHANNELS: usize = muster_schemas::wire::MAX_DEVICE_CHANNELS;
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in echo.incoming().flatten() {
            std::thread::spawn(move || {
                std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)
            });
        }
    });
    let here = free_port().unwrap();
    let mut forward = Command::new(binary("muster"))
        .env("MUSTER_TOKEN", &system.api.token)
        .args(["--url", &system.api.url, "--ca"])
        .arg(system.ca())
        .args(["forward", "robot", &format!("{here}:localhost:{there}")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let first = wait::until("the port to be open", WAIT_TIMEOUT, || async {
        TcpStream::connect(("127.0.0.1", here)).ok()
    })
    .await;
    let mut open = vec![first];
    open.extend((1..MAX_CHANNELS).map(|_| TcpStream::connect(("127.0.0.1", here)).unwrap()));
    for stream in &mut open {
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).expect("an echo");
    }
    let started_at = std::time::Instant::now();
    let mut more = TcpStream::connect(("127.0.0.1", here)).unwrap();
    more.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    assert!(matches!(more.read(&mut [0]), Ok(0) | Err(_)), "it is refused");
    assert!(started_at.elapsed() < Duration::from_secs(8), "it took {:?}", started_at.elapsed());
    let _ = forward.kill();
    let mut message = String::new();
    forward.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    let _ = forward.wait();
    assert!(has_number(&message, MAX_CHANNELS as u64), "{message}");
}
