//! Tests of orders: which are accepted, and how often.

use muster_schemas::cose::Kind;
use muster_schemas::events::{Action, RefusalCause};
use muster_schemas::wire::RunDelivery;
use muster_schemas::{DeviceId, Epoch, Event, OperationId, ProjectId, SigningKey, codec};
use uuid::Uuid;

use super::*;

fn refusal(state: &ServerState, operation: OperationId) -> Option<(RefusalCause, String)> {
    state.events.iter().find_map(|event| match event {
        Event::RunRejected(it) if it.operation == operation => Some((it.cause, it.reason.clone())),
        _ => None,
    })
}

async fn wait_for_refusal(server: &Server, operation: OperationId) -> (RefusalCause, String) {
    server.until("it is refused", |state| refusal(state, operation).is_some()).await;
    refusal(&server.state.lock().unwrap(), operation).unwrap()
}

#[tokio::test]
async fn a_repeated_order_is_executed_once() {
    let (server, running) = greeted().await;
    let file = server.path("marks");
    let order = run(id(1), line(&format!("echo x >> {}", file.display())));
    let all = ["RunAccepted", "RunStarted", "RunSucceeded"];
    for _ in 0..3 {
        deliver(&server, &order, None).await;
    }
    wait_for_events(&server, id(1), &all).await;
    // Replayed, and signed again.
    deliver(&server, &order, None).await;
    let reissued = RunOrder { expires_at: now().plus_micros(90_000_000), ..order.clone() };
    deliver(&server, &reissued, None).await;
    running.stop().await;
    let running = greet(&server).await;
    deliver(&server, &order, None).await;
    // A later order was handled, so this one was, too.
    deliver(&server, &run(id(2), argv(&["true"])), None).await;
    wait_for_events(&server, id(2), &all).await;
    wait_for_events(&server, id(1), &all).await;
    assert_eq!(std::fs::read_to_string(file).unwrap(), "x\n");
    let accepted = |state: &ServerState| {
        state.events.iter().find_map(|event| match event {
            Event::RunAccepted(it) if it.operation == id(1) => Some(it.order),
            _ => None,
        })
    };
    let taken = Hash::of(&sealed(&order));
    assert_eq!(accepted(&server.state.lock().unwrap()), Some(taken));
    running.stop().await;
}

#[tokio::test]
async fn an_order_for_another_device_or_by_another_key_is_ignored() {
    let (server, running) = greeted().await;
    let mine = run(id(1), argv(&["true"]));
    let foreign = [
        RunOrder { device: DeviceId(Uuid::from_u128(7)), ..mine.clone() },
        RunOrder { project: "other".parse::<ProjectId>().unwrap(), ..mine.clone() },
        RunOrder { epoch: Epoch(2), ..mine.clone() },
        RunOrder { epoch: Epoch::ZERO, ..mine.clone() },
    ];
    for order in &foreign {
        deliver(&server, order, None).await;
    }
    for (key, kind) in
        [(SigningKey::from_seed(&[8; 32]), Kind::Run), (operation_key(), Kind::Config)]
    {
        let order = key.seal(kind, codec::encode(&mine));
        server
            .command("run", codec::encode(&RunDelivery { order, private: None, sealed: None }))
            .await;
    }
    for rubbish in [&b""[..], b"rubbish", &[0xff; 100]] {
        server.command("run", rubbish.to_vec()).await;
        server.command("cancel", rubbish.to_vec()).await;
        server.command("dance", rubbish.to_vec()).await;
    }
    deliver(&server, &run(id(2), argv(&["true"])), None).await;
    end(&server, id(2)).await;
    assert_eq!(event_types(&server.state.lock().unwrap(), id(1)), [""; 0]);
    // None of them affects it.
    deliver(&server, &mine, None).await;
    end(&server, id(1)).await;
    running.stop().await;
}

#[tokio::test]
async fn an_expired_order_is_reported_once_as_expired() {
    let (server, running) = greeted().await;
    let late = RunOrder { expires_at: now().plus_micros(-1), ..run(id(1), argv(&["true"])) };
    deliver(&server, &late, None).await;
    deliver(&server, &late, None).await;
    // Nor is it accepted with a new signature.
    deliver(&server, &run(id(1), argv(&["true"])), None).await;
    deliver(&server, &run(id(2), argv(&["true"])), None).await;
    end(&server, id(2)).await;
    wait_for_events(&server, id(1), &["RunExpired"]).await;
    running.stop().await;
}

#[tokio::test]
async fn without_a_hello_nothing_starts() {
    let server = Server::start().await;
    server.state.lock().unwrap().is_silent = true;
    let running = Running::start(&server).await;
    server.until("the device says hello", |state| state.hellos > 0).await;
    let order = run(id(1), argv(&["true"]));
    deliver(&server, &order, None).await;
    // A cancel does not need the time; it finds nothing to cancel, because the order was ignored.
    cancel(&server, id(1)).await;
    server.state.lock().unwrap().is_silent = false;
    until_greeted(&running).await;
    deliver(&server, &order, None).await;
    wait_for_events(&server, id(1), &["RunCanceled"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_refusal_has_a_cause_and_names_the_problem() {
    let (server, running) = greeted().await;
    let (signed, bytes) = input(&[("A", "secret-value")], b"");
    let with_env = Exec { env: vec!["A".to_owned()], ..argv(&["true"]) };
    let private = |number| RunOrder { private: Some(signed), ..run(id(number), with_env.clone()) };
    for (order, bytes, cause, named) in [
        (private(1), None, RefusalCause::PrivatePart, ""),
        (private(2), Some(vec![1; bytes.len()]), RefusalCause::PrivatePart, ""),
        (run(id(3), argv(&[])), None, RefusalCause::Invalid, "program"),
        (run(id(4), argv(&["a\0b"])), None, RefusalCause::Invalid, "NUL"),
        (
            run(id(5), Exec { user: Some("nobody-here".into()), ..argv(&["true"]) }),
            None,
            RefusalCause::Invalid,
            "'nobody-here'",
        ),
        (
            run(id(6), Exec { cwd: Some("/no/such".into()), ..argv(&["true"]) }),
            None,
            RefusalCause::Invalid,
            "'/no/such'",
        ),
    ] {
        deliver(&server, &order, bytes).await;
        let (found, reason) = wait_for_refusal(&server, order.operation).await;
        assert_eq!(found, cause, "{reason}");
        assert!(reason.contains(named) && !reason.contains("secret-value"), "{reason}");
        // Problems that need the file system are detected after the run is in the journal.
        let expected: &[&str] = match order.operation == id(6) {
            true => &["RunAccepted", "RunRejected"],
            false => &["RunRejected"],
        };
        wait_for_events(&server, order.operation, expected).await;
    }
    deliver(&server, &private(7), Some(bytes)).await;
    assert_eq!(end(&server, id(7)).await.exit_code, Some(0));
    running.stop().await;
}

#[tokio::test]
async fn an_order_of_an_unknown_kind_is_rejected_by_name() {
    let (server, running) = greeted().await;
    #[derive(serde::Serialize)]
    struct Unknown {
        project: ProjectId,
        device: DeviceId,
        epoch: u64,
        operation: OperationId,
        expires_at: muster_schemas::Timestamp,
        action: std::collections::BTreeMap<&'static str, &'static str>,
    }
    let order = Unknown {
        project: ProjectId::default_project(),
        device: device(),
        epoch: 1,
        operation: id(1),
        expires_at: now().plus_micros(60_000_000),
        action: [("kind", "fly")].into(),
    };
    let order = operation_key().seal(Kind::Run, codec::encode(&order));
    server.command("run", codec::encode(&RunDelivery { order, private: None, sealed: None })).await;
    assert_eq!(wait_for_refusal(&server, id(1)).await.0, RefusalCause::Unsupported);
    running.stop().await;
}

#[tokio::test]
async fn the_owner_s_policy_is_checked_for_each_order() {
    let (server, running) = greeted().await;
    let policy = server.path("policy.toml");
    std::fs::write(&policy, "[exec]\nallow = [\"true\"]\n[power]\nreboot = false\n").unwrap();
    for (order, rule, named) in [
        (run(id(1), argv(&["false"])), "[exec] allow", "'false'"),
        (run(id(2), line("true")), "shell_lines", "true"),
        (order(id(3), Action::Reboot), "[power] reboot = false", ""),
    ] {
        deliver(&server, &order, None).await;
        let (cause, reason) = wait_for_refusal(&server, order.operation).await;
        assert_eq!(cause, RefusalCause::Policy);
        assert!(reason.contains(rule) && reason.contains(named), "{reason}");
        assert!(reason.contains("policy.toml"), "{reason}");
    }
    deliver(&server, &run(id(4), argv(&["true"])), None).await;
    end(&server, id(4)).await;
    std::fs::write(&policy, "[exec\n").unwrap();
    deliver(&server, &run(id(5), argv(&["true"])), None).await;
    let (_, reason) = wait_for_refusal(&server, id(5)).await;
    assert!(reason.contains("policy.toml") && reason.contains("line 1"), "{reason}");
    std::fs::remove_file(&policy).unwrap();
    deliver(&server, &run(id(6), line("true")), None).await;
    end(&server, id(6)).await;
    running.stop().await;
}
