//! Tests of several runs: how many run concurrently, in which order, and cancellation in each
//! state.

use muster_agent::outbox::Limits;
use muster_schemas::ConfigVersion;
use muster_schemas::names::ConfigValue;

use super::*;

/// Returns a program that creates a file and waits until another one exists.
fn waiting_for(server: &Server, name: &str) -> Exec {
    let file = server.path(name).display().to_string();
    line(&format!("touch {file}.began; while [ ! -e {file} ]; do sleep 0.05; done"))
}

fn finish(server: &Server, name: &str) {
    std::fs::write(server.path(name), "").unwrap();
}

#[tokio::test]
async fn a_limited_number_of_runs_is_concurrent_and_the_others_wait_in_order() {
    let server = Server::start().await;
    let two = ("runs.at_once".parse().unwrap(), ConfigValue::Int(2));
    server.state.lock().unwrap().config = (ConfigVersion(1), [two].into());
    let running = greet(&server).await;
    for (number, name) in [(9, "a"), (8, "b"), (7, "c"), (6, "d")] {
        deliver(&server, &run(id(number), waiting_for(&server, name)), None).await;
    }
    for name in ["a.began", "b.began"] {
        until_there(&server.path(name)).await;
    }
    wait_for_events(&server, id(6), &["RunAccepted"]).await;
    // An action without a slot does not wait for one.
    deliver(&server, &order(id(5), log_level()), None).await;
    wait_for_events(&server, id(5), &["RunAccepted", "RunStarted", "RunSucceeded"]).await;
    wait_for_events(&server, id(7), &["RunAccepted"]).await;
    // A waiting run is canceled in the queue; a canceled program that hangs frees its slot.
    cancel(&server, id(7)).await;
    wait_for_events(&server, id(7), &["RunAccepted", "RunCanceled"]).await;
    cancel(&server, id(9)).await;
    wait_for_events(&server, id(9), &["RunAccepted", "RunStarted", "RunCanceled"]).await;
    until_there(&server.path("d.began")).await;
    finish(&server, "b");
    finish(&server, "d");
    end(&server, id(8)).await;
    end(&server, id(6)).await;
    assert!(!server.path("c.began").exists());
    // A cancel after the end has no effect.
    cancel(&server, id(8)).await;
    deliver(&server, &run(id(1), argv(&["true"])), None).await;
    end(&server, id(1)).await;
    wait_for_events(&server, id(8), &["RunAccepted", "RunStarted", "RunSucceeded"]).await;
    running.stop().await;
}

fn log_level() -> Action {
    Action::LogLevel { level: "info".to_owned(), seconds: None }
}

#[tokio::test]
async fn a_cancel_that_arrives_before_its_order_is_remembered() {
    let (server, running) = greeted().await;
    cancel(&server, id(1)).await;
    // Both are on the same subject: when the second was handled, the first was, too.
    deliver(&server, &run(id(2), argv(&["true"])), None).await;
    end(&server, id(2)).await;
    running.stop().await;
    let running = greet(&server).await;
    let file = server.path("never");
    let order = run(id(1), argv(&["touch", &file.display().to_string()]));
    deliver(&server, &order, None).await;
    deliver(&server, &order, None).await;
    deliver(&server, &run(id(3), argv(&["true"])), None).await;
    end(&server, id(3)).await;
    wait_for_events(&server, id(1), &["RunCanceled"]).await;
    assert!(!file.exists());
    running.stop().await;
}

#[tokio::test]
async fn a_waiting_run_expires_in_the_queue() {
    let server = Server::start().await;
    let one = ("runs.at_once".parse().unwrap(), ConfigValue::Int(1));
    server.state.lock().unwrap().config = (ConfigVersion(1), [one].into());
    let running = greet(&server).await;
    deliver(&server, &run(id(1), waiting_for(&server, "a")), None).await;
    until_there(&server.path("a.began")).await;
    let soon = now().plus_micros(2_000_000);
    deliver(&server, &RunOrder { expires_at: soon, ..run(id(2), argv(&["true"])) }, None).await;
    wait_for_events(&server, id(2), &["RunAccepted", "RunExpired"]).await;
    finish(&server, "a");
    end(&server, id(1)).await;
    running.stop().await;
}

#[tokio::test]
async fn with_a_full_outbox_no_run_starts_and_no_end_is_lost() {
    let server = Server::start().await;
    let before = server.state.lock().unwrap().hellos;
    let running = Running::start_with(&server, |options| {
        options.limits = Limits { unconfirmed_bytes: 40_000, ..Limits::default() };
    })
    .await;
    server.until("the device was greeted", |state| state.hellos > before).await;
    until_greeted(&running).await;
    deliver(&server, &run(id(1), waiting_for(&server, "a")), None).await;
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted"]).await;
    // Waits until no ack is in flight, which would free space.
    while running.agent.status().outbox.unconfirmed > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.state.lock().unwrap().ignores_events = true;
    for length in [500, 0] {
        let errors = [("x".to_owned(), "y".repeat(length))].into();
        let fill: Event =
            muster_schemas::events::DeviceConfigApplied { version: ConfigVersion(1), errors }
                .into();
        while running.agent.recorder().record(&fill).is_ok() {}
    }
    let dropped = running.agent.status().outbox.dropped;
    // Ignored: there is no room for its events.
    deliver(&server, &run(id(2), argv(&["true"])), None).await;
    finish(&server, "a");
    // Recording the end is retried meanwhile; each failed attempt would count as dropped.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(running.agent.status().outbox.dropped, dropped);
    // The next agent process finds the end unchanged.
    running.stop().await;
    server.state.lock().unwrap().ignores_events = false;
    let running = greet(&server).await;
    assert_eq!(end(&server, id(1)).await.exit_code, Some(0));
    wait_for_events(&server, id(1), &["RunAccepted", "RunStarted", "RunSucceeded"]).await;
    assert_eq!(event_types(&server.state.lock().unwrap(), id(2)), [""; 0]);
    running.stop().await;
}
