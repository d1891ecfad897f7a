//! A full disk: a failed write is reported with its cause and start time, reading works, and
//! everything continues when space is available.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_eventlog::Cause;
use muster_tests::binaries::binary;
use muster_tests::fleet::Fleet;
use muster_tests::text::has_date;
use muster_tests::{System, wait};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use reqwest::Method;
use serde_json::json;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn disk_full() -> String {
    Cause::DiskFull.to_string()
}

/// A separate file system for PostgreSQL's files.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Moves a folder onto a file system with a few free megabytes.
    fn under(folder: &Path) -> Self {
        let aside = folder.with_extension("aside");
        std::fs::rename(folder, &aside).unwrap();
        std::fs::create_dir(folder).unwrap();
        let options = "size=160m,mode=0700";
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        let disk = Self(folder.to_owned());
        let copied =
            Command::new("cp").arg("-a").arg(aside.join(".")).arg(folder).status().unwrap();
        assert!(copied.success());
        disk
    }

    fn filling(&self) -> PathBuf {
        self.0.join("filling")
    }

    /// Fills the file system completely.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filling()).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free_space(&self) {
        std::fs::remove_file(self.filling()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_disk_is_reported_and_reads_continue() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: to mount a file system needs root");
        return;
    }
    let mut system = System::start().await;
    system.api.post("/api/v1/devices", &json!({"name": "before"})).await;
    assert!(system.stop().await, "{}", system.output());
    let disk = SmallDisk::under(&system.dir().join("postgres"));
    // PostgreSQL's folder belongs to its user.
    let owner = Command::new("chown")
        .arg(format!("--reference={}", system.dir().join("postgres.aside").display()))
        .arg(&disk.0)
        .status()
        .unwrap();
    assert!(owner.success());
    system.restart().await;
    disk.fill();

    // Free pages still allow some writes.
    let mut number = 0;
    let rejection = loop {
        number += 1;
        let body =
            json!({"name": format!("device-{number}"), "labels": {"filler": "x".repeat(128)}});
        let (status, response) =
            system.api.send(Method::POST, "/api/v1/devices", Some(&body)).await;
        // 202: the log has the device, and the read model has no space for it.
        if ![201, 202].contains(&status) {
            break (status, response["type"].clone(), response["detail"].to_string());
        }
        assert!(number < 5_000, "the disk is not full");
    };
    assert_eq!(
        (rejection.0, &rejection.1),
        (507, &"/problems/storage-full".into()),
        "{}",
        rejection.2
    );
    let (status, headers, _) = system.api.raw("/api/v1/devices/before", &[]).await;
    let degraded = headers["muster-degraded"].to_str().unwrap();
    assert!(status == 200 && has_date(degraded), "{degraded}");
    assert!(degraded.contains(&disk_full()), "{degraded}");
    // It serves reads, so it stays in service.
    let (status, ready) = system.api.send(Method::GET, "/readyz", None).await;
    assert_eq!((status, &ready["status"]), (200, &"degraded".into()), "{ready}");
    assert!(ready["degraded"].to_string().contains(&disk_full()), "{ready}");
    let (code, out, err) = system.muster(&["device", "list", "--search", "before"]);
    assert!(code == 0 && out.contains("before"), "{out}{err}");
    assert!(err.contains("warning:") && err.contains(&disk_full()), "{err}");
    let data = system.dir();
    let (code, out, _) = system.muster(&["doctor", "--data", data.to_str().unwrap()]);
    assert!(code == 1 && out.contains(&disk_full()), "{out}");

    disk.free_space();
    wait::until("the database to take writes again", WAIT_TIMEOUT, || async {
        let body = json!({"name": "after"});
        let (status, _) = system.api.send(Method::POST, "/api/v1/devices", Some(&body)).await;
        matches!(status, 201 | 409).then_some(())
    })
    .await;
    wait::until("the API to be ready", WAIT_TIMEOUT, || async {
        (system.api.get("/readyz").await["status"] == "ok").then_some(())
    })
    .await;
    assert!(!system.api.raw("/api/v1/devices", &[]).await.1.contains_key("muster-degraded"));
    assert!(system.stop().await, "{}", system.output());
}

/// Writes to the log succeed and those to a read model fail: on a real disk that depends on the
/// free pages.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_read_model_is_reported_also_by_exec() {
    let fleet = Fleet::start().await;
    let dir = tempfile::tempdir().unwrap();
    let _robot = fleet.robot(dir.path()).await;
    let url = fleet.postgres.connection_url();
    let (owner, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON operations_v2_runs
         FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";
    owner.batch_execute(full).await.unwrap();
    let muster = |args: &[&str]| {
        let mut command = Command::new(binary("muster"));
        command
            .env("MUSTER_TOKEN", &fleet.api.token)
            .args(["--url", &fleet.api.url, "--ca"])
            .arg(fleet.ca())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut exec = muster(&["exec", "robot", "--", "echo", "done"]);
    let mut lines = BufReader::new(exec.stderr.take().unwrap()).lines();
    wait::until("answers to be marked", WAIT_TIMEOUT, || async {
        let (_, headers, _) = fleet.api.raw("/api/v1/operations", &[]).await;
        let text = headers.get("muster-degraded")?.to_str().ok()?.to_owned();
        (text.contains("operations") && text.contains(&disk_full())).then_some(())
    })
    .await;
    let list = muster(&["operation", "list"]).wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&list.stderr);
    assert!(message.contains("warning:") && message.contains(&disk_full()), "{message}");
    let (status, ready) = fleet.api.send(Method::GET, "/readyz", None).await;
    assert_eq!((status, &ready["status"]), (200, &"degraded".into()), "{ready}");
    assert!(ready["degraded"].to_string().contains("operations"), "{ready}");

    let named = lines.find(|line| {
        let line = line.as_ref().unwrap();
        !line.starts_with("warning:") && line.contains(&disk_full())
    });
    assert!(named.is_some());
    owner.batch_execute("DROP TRIGGER full_disk ON operations_v2_runs").await.unwrap();
    let done = exec.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "done\n");
}

/// Command appends, and query, in another process, shows that it cannot: in the header of reads, in
/// `/readyz` and by `muster health`, and that it can again.
#[tokio::test(flavor = "multi_thread")]
async fn query_reports_that_the_log_cannot_be_written() {
    let fleet = Fleet::start().await;
    fleet.api.post("/api/v1/devices", &json!({"name": "before"})).await;
    let url = fleet.postgres.connection_url();
    let (owner, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let full = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON events
         FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";
    owner.batch_execute(full).await.unwrap();
    let body = json!({"name": "refused"});
    let (status, problem) = fleet.api.send(Method::POST, "/api/v1/devices", Some(&body)).await;
    assert_eq!(status, 507, "{problem}");
    wait::until("query to mark its answers", WAIT_TIMEOUT, || async {
        let (status, headers, _) = fleet.api.raw("/api/v1/devices", &[]).await;
        let text = headers.get("muster-degraded")?.to_str().ok()?.to_owned();
        assert_eq!(status, 200);
        assert!(has_date(&text), "{text}");
        text.contains(&disk_full()).then_some(())
    })
    .await;
    let (status, ready) = fleet.api.send(Method::GET, "/readyz", None).await;
    assert_eq!((status, &ready["status"]), (200, &"degraded".into()), "{ready}");
    assert!(ready["degraded"].to_string().contains(&disk_full()), "{ready}");
    owner.batch_execute("DROP TRIGGER full_disk ON events").await.unwrap();
    fleet.api.post("/api/v1/devices", &json!({"name": "after"})).await;
    wait::until("query to be as before", WAIT_TIMEOUT, || async {
        (fleet.api.get("/readyz").await["status"] == "ok").then_some(())
    })
    .await;
    assert!(!fleet.api.raw("/api/v1/devices", &[]).await.1.contains_key("muster-degraded"));
}
