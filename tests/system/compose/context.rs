//! The image's build context and its folders, checked without an engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::file::root;

/// Whether this tracked file is in the build context. `.dockerignore` lists only whole paths and
/// folders.
fn is_sent(path: &str, ignored: &[String]) -> bool {
    !ignored.iter().any(|ignored| {
        path.strip_prefix(ignored.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[test]
fn the_build_context_is_a_complete_workspace() {
    let text = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let ignored: Vec<String> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    assert!(ignored.iter().all(|line| !line.contains(['*', '!', '?'])), "{ignored:?}");
    let listed = Command::new("git").arg("ls-files").current_dir(root()).output().unwrap();
    assert!(listed.status.success());
    let context = tempfile::tempdir().unwrap();
    for path in String::from_utf8(listed.stdout).unwrap().lines() {
        let from = root().join(path);
        if is_sent(path, &ignored) && from.exists() {
            let to = context.path().join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }
    // A command that compiles both of the Dockerfile's packages, for a program that does not exist:
    // cargo reads all manifests, requires the files of all targets, and then compiles nothing.
    // (`cargo metadata` does not require them.)
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--offline", "--profile", "dist", "-p", "muster"])
        .args(["-p", "muster-agent", "--bin", "no-such-program"])
        .env("CARGO_TARGET_DIR", context.path().join("target"))
        .current_dir(context.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(errors.contains("no bin target named `no-such-program`"), "{errors}");
}

#[test]
fn the_image_has_a_folder_for_each_volume() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let line = dockerfile.lines().find(|line| line.contains("for name in")).unwrap();
    let made: Vec<&str> = line
        .split("for name in ")
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .unwrap()
        .split_whitespace()
        .collect();
    let compose = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    let mounted = compose.match_indices(":/var/lib/muster/").map(|(at, found)| {
        let rest = &compose[at + found.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        &rest[..end]
    });
    let mut count = 0;
    for name in mounted {
        assert!(
            made.contains(&name),
            "{name} is mounted, and not made in {}",
            Path::new("Dockerfile").display()
        );
        count += 1;
    }
    assert!(count > 5, "{count}");
}

/// Docker without BuildKit builds every stage above the last one, from the same context: each of
/// them may need only the sources.
#[test]
fn only_the_build_stage_copies_from_the_context() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let (mut stage, mut copies) = ("", Vec::new());
    for line in dockerfile.lines() {
        if line.starts_with("FROM ") {
            stage = line.rsplit(' ').next().unwrap();
        } else if line.starts_with("COPY ") && !line.contains("--from=") {
            copies.push((stage, line));
        }
    }
    assert_eq!(copies, [("build", "COPY . .")]);
}
