//! Tests of sessions that outlive channels: attached again, shared, watched, ended.

use super::*;
use crate::process::Process;

/// Returns the tag of a program of this test run, so that leftovers of other runs do not match.
fn run_tag(number: u32) -> String {
    format!("31415926{number}.{}", std::process::id())
}

fn is_running(run_tag: &str) -> bool {
    procfs::process::all_processes().unwrap().flatten().any(|process| {
        let is_alive = process.stat().is_ok_and(|stat| stat.state != 'Z');
        is_alive && process.cmdline().is_ok_and(|argv| argv.iter().any(|word| word == run_tag))
    })
}

async fn wait_until_gone(run_tag: &str) {
    for _ in 0..600 {
        if !is_running(run_tag) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{run_tag} still lives");
}

fn with_grace(number: u128, text: &str, grace_seconds: u32) -> Purpose {
    let Purpose::Shell { session, user, command, term, size, .. } = line(number, text) else {
        unreachable!()
    };
    Purpose::Shell { session, user, command, term, size, grace_seconds }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reattach_the_screen_is_restored_and_the_program_has_continued() {
    let (server, running) = greeted().await;
    let mut seen = open(&server, shell(1)).await;
    seen.type_in("echo be''fore; (sleep 1; echo mean''while) & read x; echo got $x\n").await;
    seen.wait_for_text("before").await;
    seen.channel.sender.close("the window was shut").await;
    drop(seen);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut seen = open(&server, attach(1, false)).await;
    seen.until("a screen", |seen| !seen.screens.is_empty()).await;
    let screen = &seen.screens[0];
    assert!(screen.contains("before") && screen.contains("meanwhile"), "{screen}");
    seen.is_attached(1, 0).await;
    seen.type_in("text\n").await;
    seen.wait_for_text("got text").await;
    // A full-screen program, with its modes.
    seen.type_in("printf '\\033[?1049h\\033[?2004h\\033[?1h\\033[HFULL'\n").await;
    seen.wait_for_text("FULL").await;
    drop(seen);
    let mut seen = open(&server, attach(1, false)).await;
    seen.until("a screen", |seen| !seen.screens.is_empty()).await;
    for part in ["\x1b[?1049h", "\x1b[?2004h", "\x1b[?1h", "FULL"] {
        assert!(seen.screens[0].contains(part), "{part:?} is not in {:?}", seen.screens[0]);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_clients_share_a_session_and_read_only_clients_cannot_type() {
    let (server, running) = greeted().await;
    let mut one = open(&server, shell(1)).await;
    let mut two = open(&server, attach(1, false)).await;
    one.is_attached(2, 0).await;
    let mut third = open(&server, attach(1, true)).await;
    for seen in [&mut one, &mut two, &mut third] {
        seen.is_attached(2, 1).await;
    }
    third.type_in("echo for''bidden\n").await;
    third.channel.sender.send(Frame::Resize(TerminalSize { cols: 9, rows: 9 })).await.unwrap();
    // A watcher's frames have no effect that could be awaited; the following command of another
    // client has.
    tokio::time::sleep(Duration::from_millis(300)).await;
    two.type_in("echo from''two; stty size\n").await;
    for seen in [&mut one, &mut two, &mut third] {
        seen.wait_for_text("fromtwo\r\n24 80").await;
        assert!(!seen.text.contains("forbidden") && !seen.text.contains("9 9"), "{}", seen.text);
    }
    // The latest size applies.
    one.channel.sender.send(Frame::Resize(TerminalSize { cols: 100, rows: 30 })).await.unwrap();
    one.type_in("stty size\n").await;
    two.wait_for_text("30 100").await;
    third.channel.sender.close("enough").await;
    one.is_attached(2, 0).await;
    drop(two);
    one.is_attached(1, 0).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_session_ends_after_its_grace_time() {
    let (server, running) = greeted().await;
    let tag = &run_tag(1);
    let mut seen = open(&server, with_grace(1, &format!("sleep {tag}; :"), 1)).await;
    seen.is_attached(1, 0).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(is_running(tag), "a client is attached");
    drop(seen);
    wait_until_gone(tag).await;
    loop {
        // The refusal starts as soon as the session's end was processed.
        match try_open(&server, attach(1, false)).await {
            Err(rejection) => {
                causes(&rejection, ChannelRefusalCause::Invalid, "session");
                break;
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_session_kills_programs_that_ignore_signals() {
    let (server, running) = greeted().await;
    let tag = &run_tag(2);
    let mut seen = open(&server, shell(1)).await;
    let text = format!("trap '' HUP; echo re''ady; sleep {tag}; sleep {tag}; sleep {tag}\n");
    seen.type_in(&text).await;
    seen.wait_for_text("ready\r\n").await;
    let mut ending = open(&server, Purpose::End { session: session(1) }).await;
    assert_eq!(seen.end().await, reason::SESSION_ENDED);
    let exit = seen.exit.unwrap();
    assert_eq!((exit.code, exit.reason.as_deref()), (None, Some(reason::SESSION_TERMINATED)));
    assert_eq!(ending.end().await, reason::SESSION_TERMINATED);
    wait_until_gone(tag).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_channels_survive_a_broker_restart_and_end_with_the_agent() {
    let (server, running) = greeted().await;
    let tag = &run_tag(3);
    let mut seen = open(&server, shell(1)).await;
    seen.type_in("echo be''fore\n").await;
    seen.wait_for_text("before").await;
    let greeted_at = running.agent.status().last_hello;
    server.nats.child().stop().await.unwrap();
    server.nats.child().restart().await.unwrap();
    // The channel continues, and input during the outage is not lost.
    seen.type_in("echo mean''while\n").await;
    seen.wait_for_text("meanwhile").await;
    // Opens are accepted only after the welcome.
    while running.agent.status().last_hello <= greeted_at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(seen);
    let mut seen = open(&server, attach(1, false)).await;
    seen.until("a screen", |seen| !seen.screens.is_empty()).await;
    assert!(seen.screens[0].contains("before"), "{:?}", seen.screens);
    seen.type_in(&format!("trap '' HUP; echo re''ady; sleep {tag}\n")).await;
    seen.wait_for_text("ready\r\n").await;
    running.stop().await;
    assert_eq!(seen.end().await, reason::SESSION_ENDED);
    wait_until_gone(tag).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_a_killed_agent_lose_their_terminal() {
    let server = Server::start().await;
    let process = Process::start(&server).await;
    server.until("the device was greeted", |state| state.hellos > 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tag = &run_tag(4);
    let seen = open(&server, line(1, &format!("sleep {tag}; :"))).await;
    while !is_running(tag) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.kill();
    wait_until_gone(tag).await;
    drop(seen);
}
