//! Tests of shells: input, output, and their ends.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_responds_knows_its_size_and_reports_its_exit() {
    let (server, running) = greeted().await;
    let spy = server.client().await;
    let mut traffic = spy.subscribe(">").await.unwrap();
    flush(&spy).await;
    let mut seen = open(&server, shell(1)).await;
    seen.is_attached(1, 0).await;
    seen.type_in("echo hid''den; stty size\n").await;
    seen.wait_for_text("hidden\r\n24 80\r\n").await;
    seen.channel.sender.send(Frame::Resize(TerminalSize { cols: 132, rows: 43 })).await.unwrap();
    seen.type_in("stty size; stty -a | grep -c ' iutf8'\n").await;
    seen.wait_for_text("43 132\r\n1\r\n").await;
    seen.type_in("printf '\\303\\251\\342\\202\\254 = é€\\n'; echo $TERM:$LANG:$USER:$HOME\n")
        .await;
    seen.wait_for_text("é€ = é€\r\nxterm:").await;
    assert!(seen.text.to_ascii_lowercase().contains("utf-8"), "{}", seen.text);
    seen.type_in("exit 7\n").await;
    assert_eq!(seen.end().await, reason::SESSION_ENDED);
    assert_eq!(seen.exit, Some(Exit { code: Some(7), reason: None }));
    // The broker has seen none of the plaintext.
    let (mut messages, mut bytes) = (0, 0);
    while let Ok(Some(message)) =
        tokio::time::timeout(Duration::from_millis(300), traffic.next()).await
    {
        messages += 1;
        bytes += message.payload.len();
        for word in [&b"hidden"[..], b"hid''den", b"stty", b"xterm:", b"43 132"] {
            let is_in = message.payload.windows(word.len()).any(|part| part == word);
            assert!(!is_in, "{} holds what was typed", message.subject);
        }
    }
    assert!(messages > 10 && bytes > 500, "{messages} {bytes}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_is_a_login_shell_of_the_agent_s_user() {
    let (server, running) = greeted().await;
    let Purpose::Shell { session, user, term, size, grace_seconds, .. } = shell(1) else {
        panic!()
    };
    let purpose = Purpose::Shell { session, user, command: None, term, size, grace_seconds };
    let mut seen = open(&server, purpose).await;
    seen.type_in("echo \"<$0>\" \"$SHELL\" $((6*7)); pwd\n").await;
    seen.until("a name with a dash", |seen| seen.text.contains("<-")).await;
    seen.wait_for_text(" 42\r\n").await;
    seen.type_in("exit 0\n").await;
    seen.end().await;
    assert_eq!(seen.exit.as_ref().and_then(|exit| exit.code), Some(0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_runs_instead_of_a_shell_and_all_its_output_arrives() {
    let (server, running) = greeted().await;
    let mut seen = open(&server, line(1, "echo one; seq 1 20000; exit 3")).await;
    assert_eq!(seen.end().await, reason::SESSION_ENDED);
    assert!(seen.text.starts_with("one\r\n") && seen.text.ends_with("\r\n20000\r\n"));
    assert_eq!(seen.text.lines().count(), 20001);
    assert_eq!(seen.exit, Some(Exit { code: Some(3), reason: None }));
    let mut seen = open(&server, line(2, "kill -9 $$")).await;
    seen.end().await;
    assert_eq!(seen.exit.unwrap().reason.as_deref(), Some("Killed"));
    // EOF in the terminal is the end of the input.
    let mut seen = open(&server, line(3, "stty -echo; echo ready; cat; echo done")).await;
    seen.wait_for_text("ready").await;
    seen.type_in("text\n").await;
    seen.channel.sender.send(Frame::Eof).await.unwrap();
    seen.wait_for_text("text\r\ndone\r\n").await;
    seen.end().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_paste_arrives_completely() {
    let (server, running) = greeted().await;
    let file = server.path("pasted");
    let mut seen = open(&server, shell(1)).await;
    seen.type_in(&format!("stty -echo; echo re''ady; cat > {}\n", file.display())).await;
    seen.wait_for_text("ready").await;
    let text: String = (0..20_000).map(|at| format!("{at:>50}é\n")).collect();
    assert!(text.len() > 1_000_000);
    seen.type_in(&text).await;
    seen.type_in("\x04echo wr''itten\n").await;
    seen.wait_for_text("written").await;
    assert!(std::fs::read_to_string(&file).unwrap() == text, "it is not what was pasted");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_program_that_floods_the_terminal() {
    let (server, running) = greeted().await;
    let mut seen = open(&server, shell(1)).await;
    seen.type_in("yes flood\n").await;
    seen.until("a flood", |seen| seen.text.len() > 2_000_000).await;
    let requested_at = std::time::Instant::now();
    seen.type_in("\x03").await;
    seen.type_in("echo ca''lm\n").await;
    seen.text.clear();
    seen.wait_for_text("calm\r\n").await;
    assert!(requested_at.elapsed() < Duration::from_secs(2), "{:?}", requested_at.elapsed());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_requires_root_and_must_exist() {
    let (server, running) = greeted().await;
    let as_user = |number, name: &str| {
        let Purpose::Shell { session, term, size, grace_seconds, .. } = shell(number) else {
            unreachable!()
        };
        let (user, command) = (Some(name.to_owned()), Some("id -un; id -Gn; tty".to_owned()));
        Purpose::Shell { session, user, command, term, size, grace_seconds }
    };
    let rejection = refusal(&server, as_user(1, "no-such-user")).await;
    causes(&rejection, ChannelRefusalCause::Invalid, "'no-such-user'");
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let with_a_shell = passwd.lines().filter(|line| line.ends_with("sh")).find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? != "0").then_some(name)
    });
    if nix::unistd::geteuid().is_root() {
        let mut seen = open(&server, as_user(2, with_a_shell.unwrap_or("nobody"))).await;
        seen.end().await;
        match with_a_shell {
            Some(name) => {
                assert!(seen.text.starts_with(&format!("{name}\r\n")), "{}", seen.text);
                assert!(seen.text.contains("/dev/pts/"), "{}", seen.text);
            }
            // A user without a login shell gets no shell.
            None => assert_eq!(seen.exit.unwrap().code, Some(1), "{}", seen.text),
        }
    } else {
        let rejection = refusal(&server, as_user(2, "root")).await;
        causes(&rejection, ChannelRefusalCause::Invalid, "root");
    }
    running.stop().await;
}
