//! Tests of operations on a device: orders as input, events and outputs as results.

mod builtins;
mod crash;
mod orders;
mod output;
mod programs;
mod queue;
mod uploads;

use std::path::Path;
use std::time::Duration;

use muster_channel::seal_to;
use muster_schemas::cose::Kind;
use muster_schemas::events::{Action, Exec, PrivatePart, Program, RunReport};
use muster_schemas::wire::{CancelOrder, PrivateInput, RunDelivery, RunOrder, input_context};
use muster_schemas::{Epoch, Event, Hash, OperationId, ProjectId, codec};
use uuid::Uuid;

use crate::running::Running;
use crate::support::{Server, ServerState, device, now, operation_key};

fn id(number: u128) -> OperationId {
    OperationId(Uuid::from_u128(number))
}

fn exec(program: Program) -> Exec {
    Exec { program, cwd: None, user: None, env: Vec::new(), background: false }
}

fn argv(args: &[&str]) -> Exec {
    exec(Program::Argv(args.iter().map(|&word| word.to_owned()).collect()))
}

fn line(text: &str) -> Exec {
    exec(Program::Shell(text.to_owned()))
}

fn order(operation: OperationId, action: Action) -> RunOrder {
    RunOrder {
        project: ProjectId::default_project(),
        device: device(),
        epoch: Epoch(1),
        operation,
        issued_at: now(),
        expires_at: now().plus_micros(60_000_000),
        timeout_ms: 20_000,
        actor: "token:test".to_owned(),
        action,
        private: None,
    }
}

fn run(operation: OperationId, exec: Exec) -> RunOrder {
    order(operation, Action::Exec(exec))
}

fn input(env: &[(&str, &str)], stdin: &[u8]) -> (PrivatePart, Vec<u8>) {
    let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let bytes = codec::encode(&PrivateInput { salt: vec![5; 16], env, stdin: stdin.to_vec() });
    let (hash, length, stdin_bytes) = (Hash::of(&bytes), bytes.len() as u64, stdin.len() as u64);
    (PrivatePart { hash, bytes: length, stdin_bytes }, bytes)
}

fn sealed(order: &RunOrder) -> Vec<u8> {
    operation_key().seal(Kind::Run, codec::encode(order))
}

async fn deliver(server: &Server, order: &RunOrder, private: Option<Vec<u8>>) {
    let key = server.state.lock().unwrap().key.unwrap();
    let context = input_context(&order.project, order.device, order.operation);
    let private = private.map(|private| seal_to(&key, &context, &private).unwrap());
    let delivery = RunDelivery { order: sealed(order), private: None, sealed: private };
    server.command("run", codec::encode(&delivery)).await;
}

async fn cancel(server: &Server, operation: OperationId) {
    let order = CancelOrder {
        project: ProjectId::default_project(),
        device: device(),
        epoch: Epoch(1),
        operation,
        issued_at: now(),
    };
    server.command("cancel", operation_key().seal(Kind::Cancel, codec::encode(&order))).await;
}

/// Starts a server and an agent that got its welcome. Timeouts are shorter than on devices.
async fn greeted() -> (Server, Running) {
    let server = Server::start().await;
    let running = greet(&server).await;
    (server, running)
}

async fn greet(server: &Server) -> Running {
    let before = server.state.lock().unwrap().hellos;
    let running = Running::start_with(server, |options| {
        options.operations.kill_after = Duration::from_secs(1);
        options.operations.grace = Duration::from_millis(300);
    })
    .await;
    // A server repeats orders; these tests send them once, so after the welcome.
    server.until("the device was greeted", |state| state.hellos > before).await;
    until_greeted(&running).await;
    running
}

async fn until_greeted(running: &Running) {
    while running.agent.status().last_hello.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the events of an operation, by their types.
fn event_types(state: &ServerState, operation: OperationId) -> Vec<&'static str> {
    let of = |event: &&Event| operation_of(event) == Some(operation);
    state.events.iter().filter(of).map(Event::kind).collect()
}

fn operation_of(event: &Event) -> Option<OperationId> {
    match event {
        Event::RunAccepted(it) => Some(it.operation),
        Event::RunStarted(it) => Some(it.operation),
        Event::RunRejected(it) => Some(it.operation),
        Event::RunExpired(it) => Some(it.operation),
        other => report_of(other).map(|report| report.operation),
    }
}

fn report_of(event: &Event) -> Option<&RunReport> {
    match event {
        Event::RunSucceeded(it) => Some(&it.0),
        Event::RunFailed(it) => Some(&it.0),
        Event::RunTimedOut(it) => Some(&it.0),
        Event::RunCanceled(it) => Some(&it.0),
        Event::RunInterrupted(it) => Some(&it.0),
        _ => None,
    }
}

/// Waits for an operation's end.
async fn end(server: &Server, operation: OperationId) -> RunReport {
    let find = |state: &ServerState| {
        state.events.iter().filter_map(report_of).find(|it| it.operation == operation).cloned()
    };
    server.until(&format!("{operation} ends"), |state| find(state).is_some()).await;
    let state = server.state.lock().unwrap();
    find(&state).unwrap()
}

/// Waits until exactly these events of an operation were recorded.
async fn wait_for_events(server: &Server, operation: OperationId, expected: &[&str]) {
    server
        .until(&format!("of {operation} is told {expected:?}"), |state| {
            event_types(state, operation).len() >= expected.len()
        })
        .await;
    assert_eq!(event_types(&server.state.lock().unwrap(), operation), expected);
}

/// Waits until a file exists.
async fn until_there(file: &Path) {
    for _ in 0..600 {
        if file.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} did not come", file.display());
}

/// Whether a process with this in its command line is running.
fn is_running(text: &str) -> bool {
    procfs::process::all_processes().unwrap().flatten().any(|process| {
        let is_alive = process.stat().is_ok_and(|stat| stat.state != 'Z');
        is_alive && process.cmdline().is_ok_and(|argv| argv.iter().any(|word| word == text))
    })
}

async fn wait_until_gone(text: &str) {
    for _ in 0..200 {
        if !is_running(text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{text} still lives");
}
