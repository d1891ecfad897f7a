//! `muster shell` on a terminal: terminal modes set by a program are reset on detach, and pasted
//! text is not interpreted as an escape.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_tests::binaries::binary;
use muster_tests::{Robot, System, wait};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time after a paste within which further input counts as a part of it.
const AFTER_PASTE: Duration = Duration::from_millis(300);

/// `muster` on a separate terminal.
struct TerminalProcess {
    child: Child,
    keyboard: File,
    output: Arc<Mutex<Vec<u8>>>,
}

impl TerminalProcess {
    fn start(system: &System, args: &[&str]) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let end = || pty.slave.try_clone().unwrap();
        let child = Command::new(binary("muster"))
            .env("MUSTER_TOKEN", &system.api.token)
            .args(["--url", &system.api.url, "--ca"])
            .arg(system.ca())
            .args(args)
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let mut screen = keyboard.try_clone().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let noted = output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails when the other side is closed.
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                noted.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, keyboard, output }
    }

    /// Writes text in one piece, which is read as a key or as a paste.
    fn enter(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    async fn wait_for_output(&self, text: &str) {
        wait::until(&format!("'{text}' to be shown"), WAIT_TIMEOUT, || async {
            self.text().contains(text).then_some(())
        })
        .await;
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait::until("muster shell to end", WAIT_TIMEOUT, || {
            let status = child.try_wait().ok().flatten();
            async move { status }
        })
        .await
    }
}

impl Drop for TerminalProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detaching_from_a_full_screen_program_restores_the_terminal_and_a_paste_is_not_an_escape() {
    let Robot { system, agent: _agent, dir: _dir } = Robot::start("").await;
    let mut shell = TerminalProcess::start(&system, &["shell", "robot"]);
    shell.enter("echo be''gun\r");
    shell.wait_for_output("begun").await;
    let modes = "\\033[?1049h\\033[?1003h\\033[?1006h\\033[?2004h\\033[?25l\\033[31m";
    shell.enter(&format!("printf '{modes}'; echo rea''dy\r"));
    shell.wait_for_output("ready").await;

    // No part of a paste is lost, with any first characters of its lines.
    shell.enter("true\r~?\r~.\recho pas''ted\r");
    shell.wait_for_output("pasted").await;
    assert!(!shell.text().contains("[muster]"), "{}", shell.text());
    assert!(shell.child.try_wait().unwrap().is_none());

    tokio::time::sleep(AFTER_PASTE).await;
    let before = shell.text().len();
    for key in ["\r", "~", "."] {
        shell.enter(key);
    }
    assert!(shell.ended().await.success());
    shell.wait_for_output("muster shell attach").await;
    let after = shell.text().split_off(before);
    for sequence in ["?1049l", "?1003l", "?1006l", "?2004l", "?25h", "0m"] {
        assert!(after.contains(&format!("\u{1b}[{sequence}")), "{sequence}: {after:?}");
    }

    // Escapes can be disabled.
    let session = system.api.list("/api/v1/sessions").await[0]["id"].as_str().unwrap().to_owned();
    let mut shell =
        TerminalProcess::start(&system, &["shell", "attach", &session, "--escape", "none"]);
    shell.enter("\r");
    shell.wait_for_output("ready").await;
    for key in ["\r", "~", ".", "\r"] {
        shell.enter(key);
    }
    shell.enter("exit 7\r");
    assert_eq!(shell.ended().await.code(), Some(7), "{}", shell.text());
}
