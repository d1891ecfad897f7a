//! Tests of the policy: what it allows, and that a broken one allows nothing.

use super::*;

fn policy(text: &str) -> Result<Policy, PolicyError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, text).unwrap();
    Policy::load(&file)
}

fn exec(program: Program, env: &[&str]) -> Action {
    let env = env.iter().map(|&name| name.to_owned()).collect();
    Action::Exec(Exec { program, cwd: None, user: None, env, background: false })
}

fn argv(arguments: &[&str]) -> Action {
    exec(Program::Argv(arguments.iter().map(|&word| word.to_owned()).collect()), &[])
}

fn line(text: &str) -> Action {
    exec(Program::Shell(text.to_owned()), &[])
}

/// Whether a text contains all parts, which are separated by `|`.
fn has_all(text: &str, parts: &str) -> bool {
    parts.split('|').all(|part| text.contains(part))
}

#[test]
fn no_file_allows_everything() {
    let policy = Policy::load(Path::new("/no/such/folder/policy.toml")).unwrap();
    for action in [argv(&["x"]), line("x"), Action::Reboot, Action::RestartAgent] {
        assert_eq!(policy.allows(&action, "root"), Ok(()));
    }
}

#[test]
fn an_invalid_file_allows_nothing_and_reports_the_reason() {
    for (text, expected) in [
        ("[exec]\nenabled = \"yes\"", "line 2"),
        ("[exek]", "exek"),
        ("[exec]\nalow = []", "alow"),
        ("[power", "line 1"),
    ] {
        let problem = policy(text).unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.contains("policy.toml"), "{problem}");
    }
    let dir = tempfile::tempdir().unwrap();
    let problem = Policy::load(dir.path()).unwrap_err().to_string();
    assert!(problem.contains(dir.path().to_str().unwrap()), "{problem}");
    let large = policy(&"#".repeat(300_000)).unwrap_err().to_string();
    assert!(large.contains("256 KiB"), "{large}");
}

#[test]
fn each_rule_is_named_in_its_refusal() {
    let given = policy(
        r#"
        [exec]
        allow = ["/usr/bin/uptime", "systemctl status *"]
        users = ["robot"]
        [shell]
        enabled = false
        [files]
        roots = ["/data"]
        [ports]
        allow = [80]
        [power]
        reboot = false
        restart = true
        [agent]
        diagnostics = false
        "#,
    )
    .unwrap();
    for (action, user, refusal) in [
        (argv(&["/usr/bin/uptime"]), "robot", None),
        (argv(&["systemctl", "status", "ssh"]), "robot", None),
        (argv(&["systemctl", "stop", "ssh"]), "robot", Some("[exec] allow|'systemctl stop")),
        (argv(&["/usr/bin/uptime"]), "root", Some("[exec] users|'root'")),
        (line("uptime"), "robot", Some("shell_lines")),
        (
            exec(Program::Argv(vec!["/usr/bin/uptime".into()]), &["LD_PRELOAD"]),
            "robot",
            Some("[exec] env|'LD_PRELOAD'"),
        ),
        (Action::Reboot, "root", Some("[power] reboot = false")),
        (Action::RestartAgent, "root", None),
        (Action::Diagnostics, "root", Some("[agent] diagnostics = false")),
        (Action::LogLevel { level: "debug".into(), seconds: None }, "root", None),
    ] {
        let outcome = given.allows(&action, user);
        match refusal {
            None => assert_eq!(outcome, Ok(()), "{action:?}"),
            Some(parts) => {
                let reason = outcome.unwrap_err().to_string();
                assert!(has_all(&reason, parts) && reason.contains("policy.toml"), "{reason}");
            }
        }
    }
}

#[test]
fn programs_can_be_forbidden_entirely_or_unrestricted() {
    let none = policy("[exec]\nenabled = false").unwrap();
    assert!(
        none.allows(&argv(&["x"]), "root").unwrap_err().to_string().contains("enabled = false")
    );
    let lines = policy("[exec]\nshell_lines = false").unwrap();
    assert!(lines.allows(&line("x"), "root").is_err());
    assert_eq!(lines.allows(&argv(&["x"]), "root"), Ok(()));
    let both = policy("[exec]\nallow = [\"x\"]\nshell_lines = true\nenv = [\"APP_*\"]").unwrap();
    assert_eq!(both.allows(&line("y"), "root"), Ok(()));
    let x = |name| exec(Program::Argv(vec!["x".into()]), &[name]);
    assert_eq!(both.allows(&x("APP_MODE"), "root"), Ok(()));
    assert!(both.allows(&x("PATH"), "root").is_err());
}

#[test]
fn a_shell_is_allowed_only_if_all_programs_are() {
    for (text, user, refusal) in [
        ("", "root", None),
        ("[power]\nreboot = false", "root", None),
        ("[shell]\nenabled = false", "root", Some("[shell] enabled = false")),
        ("[shell]\nusers = [\"robot\"]", "robot", None),
        ("[shell]\nusers = [\"robot\"]", "root", Some("[shell] users|'root'")),
        ("[exec]\nenabled = false", "root", Some("[exec] enabled = false")),
        ("[exec]\nallow = [\"uptime\"]", "root", Some("[exec] allow")),
        ("[exec]\nshell_lines = false", "root", Some("[exec] shell_lines = false")),
        ("[exec]\nallow = []\nshell_lines = true", "root", None),
        ("[exec]\nenabled = false\n[shell]\nenabled = true", "root", None),
        ("[exec]\nusers = [\"robot\"]", "root", Some("[exec] users|'root'")),
        ("[exec]\nusers = [\"robot\"]\n[shell]\nusers = [\"root\"]", "root", None),
    ] {
        let result = policy(text).unwrap().allows_shell(user);
        match refusal {
            None => assert_eq!(result, Ok(()), "{text}"),
            Some(parts) => {
                let reason = result.unwrap_err().to_string();
                assert!(has_all(&reason, parts) && reason.contains("policy.toml"), "{reason}");
            }
        }
    }
}

#[test]
fn only_named_ports_are_allowed() {
    assert_eq!(policy("").unwrap().allows_port("camera", 80), Ok(()));
    let some = policy("[ports]\nallow = [22, \"camera:*\"]").unwrap();
    assert_eq!(some.allows_port("localhost", 22), Ok(()));
    assert_eq!(some.allows_port("camera", 80), Ok(()));
    let message = some.allows_port("door", 80).unwrap_err().to_string();
    assert!(has_all(&message, "[ports] allow|'door:80'"), "{message}");
    assert!(policy("[ports]\nallow = []").unwrap().allows_port("localhost", 22).is_err());
    for wrong in ["[ports]\nallow = [\"camera\"]", "[ports]\nallow = [0]", "[ports]\nallow = [1.5]"]
    {
        let message = policy(wrong).unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }
}
