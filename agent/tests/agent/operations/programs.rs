//! Tests of programs: their environment and input, their ends, and that no process of them is left.

use std::time::{Duration, Instant};

use muster_schemas::wire::OutputStream;

use super::*;

async fn output(server: &Server, operation: OperationId, stream: OutputStream) -> String {
    server
        .until("its output is there", |state| {
            state.outputs.get(&(operation, stream)).is_some_and(|it| it.is_complete)
        })
        .await;
    let state = server.state.lock().unwrap();
    String::from_utf8(state.outputs[&(operation, stream)].bytes.clone()).unwrap()
}

#[tokio::test]
async fn a_program_gets_its_input_and_its_end_is_reported() {
    let (server, running) = greeted().await;
    let (signed, bytes) = input(&[("APP", "a b")], b"from stdin");
    let show = Exec {
        env: vec!["APP".to_owned()],
        cwd: Some("/tmp".to_owned()),
        ..line("cat; echo; pwd; env | sort; echo oops >&2; exit 3")
    };
    deliver(&server, &RunOrder { private: Some(signed), ..run(id(1), show) }, Some(bytes)).await;
    let report = end(&server, id(1)).await;
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunFailed"]).await;
    assert_eq!((report.exit_code, report.signal, report.problem), (Some(3), None, None));
    assert!(report.started_at <= report.ended_at && report.peak_memory > 100_000);
    assert_eq!((report.stderr.bytes, report.stderr.kept), (5, 5));
    let out = output(&server, id(1), OutputStream::Stdout).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["from stdin", "/tmp"]);
    assert!(lines.contains(&"APP=a b"), "{out}");
    assert!(lines.contains(&format!("MUSTER_OPERATION={}", id(1)).as_str()), "{out}");
    assert!(!out.contains("CARGO"), "the agent's own environment is not handed on: {out}");
    assert_eq!(output(&server, id(1), OutputStream::Stderr).await, "oops\n");

    deliver(&server, &run(id(2), line("kill -9 $$")), None).await;
    let report = end(&server, id(2)).await;
    assert_eq!((report.exit_code, report.signal), (None, Some(9)));
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    deliver(&server, &run(id(3), line(busy)), None).await;
    let report = end(&server, id(3)).await;
    assert!(report.user_us > 1000, "{report:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_fails_with_its_problem() {
    let (server, running) = greeted().await;
    let long = "x".repeat(300_000);
    for (number, exec, named) in [
        (1, argv(&["no-such-program"]), "'no-such-program'"),
        (2, argv(&["/no/such/program"]), "'/no/such/program'"),
        (3, argv(&["/etc/passwd"]), "os error 13"),
        (4, argv(&["echo", &long]), "E2BIG"),
    ] {
        deliver(&server, &run(id(number), exec), None).await;
        let problem = end(&server, id(number)).await.problem.unwrap();
        assert!(problem.contains(named), "{problem}");
        wait_for_events(&server, id(number), &["RunAccepted", "RunFailed"]).await;
    }
    let many: Vec<(String, String)> =
        (0..10_000).map(|it| (format!("V{it:05}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let (signed, bytes) = input(&many, b"");
    let names = many.iter().map(|(name, _)| (*name).to_owned()).collect();
    let exec = Exec { env: names, ..line("env | grep -c ^V") };
    deliver(&server, &RunOrder { private: Some(signed), ..run(id(5), exec) }, Some(bytes)).await;
    end(&server, id(5)).await;
    assert_eq!(output(&server, id(5), OutputStream::Stdout).await, "10000\n");
    running.stop().await;
}

#[tokio::test]
async fn a_program_runs_as_another_user_with_that_user_s_groups() {
    let (server, running) = greeted().await;
    let order =
        run(id(1), Exec { user: Some("nobody".into()), ..line("id -un; echo $HOME $USER") });
    deliver(&server, &order, None).await;
    if nix::unistd::geteuid().is_root() {
        assert_eq!(end(&server, id(1)).await.exit_code, Some(0));
        let out = output(&server, id(1), OutputStream::Stdout).await;
        assert!(out.starts_with("nobody\n") && out.ends_with(" nobody\n"), "{out}");
        let runs_as_nobody = |event: &Event| matches!(event, Event::RunStarted(it) if it.user.as_deref() == Some("nobody"));
        assert!(server.state.lock().unwrap().events.iter().any(runs_as_nobody));
    } else {
        wait_for_events(&server, id(1), &["RunRejected"]).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_timeout_kills_all_processes_including_those_that_left_the_group() {
    let (server, running) = greeted().await;
    let deaf =
        "trap '' TERM; sleep 7101 & (setsid sleep 7102 >/dev/null 2>&1 &) ; sleep 7103; wait";
    let order = RunOrder { timeout_ms: 1_000, ..run(id(1), line(deaf)) };
    deliver(&server, &order, None).await;
    let report = end(&server, id(1)).await;
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunTimedOut"]).await;
    assert_eq!(report.problem, None);
    for tag in ["7101", "7102", "7103"] {
        assert!(!is_running(tag), "{tag}");
    }
    running.stop().await;
}

#[tokio::test]
async fn children_that_keep_the_outputs_open_do_not_delay_the_end_of_the_run() {
    let (server, running) = greeted().await;
    let started_at = Instant::now();
    deliver(&server, &run(id(1), line("sleep 7201 & echo done")), None).await;
    let report = end(&server, id(1)).await;
    assert!(started_at.elapsed() < Duration::from_secs(10), "{:?}", started_at.elapsed());
    assert_eq!(report.exit_code, Some(0));
    assert!(report.problem.is_some());
    assert_eq!(output(&server, id(1), OutputStream::Stdout).await, "done\n");
    assert!(!is_running("7201"));
    running.stop().await;
}

#[tokio::test]
async fn a_program_in_the_background_outlives_its_run() {
    let (server, running) = greeted().await;
    let file = server.path("came");
    let (signed, bytes) = input(&[], b"late");
    let text = format!("echo noise; cat > {0}.new; mv {0}.new {0}; sleep 7301", file.display());
    let exec = Exec { background: true, ..line(&text) };
    let order = RunOrder { timeout_ms: 100, private: Some(signed), ..run(id(1), exec) };
    deliver(&server, &order, Some(bytes)).await;
    let report = end(&server, id(1)).await;
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunSucceeded"]).await;
    assert_eq!((report.exit_code, report.stdout.bytes), (None, 0));
    until_there(&file).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "late");
    assert!(is_running("7301"));
    let pid = |state: &ServerState| {
        state.events.iter().find_map(|event| match event {
            Event::RunStarted(it) => it.pid,
            _ => None,
        })
    };
    let pid = pid(&server.state.lock().unwrap());
    running.stop().await;
    assert!(is_running("7301"), "it outlives the agent, too");
    let group = nix::unistd::Pid::from_raw(i32::try_from(pid.unwrap()).unwrap());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until_gone("7301").await;
}
