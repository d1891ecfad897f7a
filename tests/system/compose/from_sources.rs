//! `docker compose up` as in README.md, from the sources: the Dockerfile's build stage compiles
//! them, without a network, in an image that is made from this machine's toolchain.
//!
//! It takes minutes, so only `make test-image` runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::engine::{Engine, cached};
use super::file::{File, with_defaults};
use super::{stack, stand_ins};

/// Cargo's settings in the image: crates come from the copied cache, and the profiles `dist` and
/// `dist-agent` are compiled without optimization. The sources and the command stay as in the Dockerfile.
const CARGO_CONFIG: &str = r#"
[net]
offline = true
[profile.dist]
opt-level = 0
lto = false
codegen-units = 256
[profile.dist-agent]
opt-level = 0
"#;

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Adds files of a folder to an archive, under another folder.
fn append(archive: &Path, from: &Path, to: &str, names: &[&str]) {
    let mut tar = Command::new("tar");
    tar.arg("--append").arg("--file").arg(archive).arg("--directory").arg(from);
    // Targets of symbolic links stay as they are.
    run(tar.arg(format!("--transform=s,^,{to}/,S")).args(names));
}

/// An image with this machine's Rust and the crates in cargo's cache, under the name `tag`.
fn rust_image(engine: &Engine, base: &Path, tag: &str) {
    let archive = engine.dir().join("rust.tar");
    std::fs::copy(base, &archive).unwrap();
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).unwrap().trim());
    append(&archive, &sysroot, "usr/local/rust", &["bin/cargo", "bin/rustc", "lib"]);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cargo"));
    append(&archive, &home, "usr/local/cargo", &["registry/cache", "registry/index"]);
    std::fs::write(engine.dir().join("config.toml"), CARGO_CONFIG).unwrap();
    append(&archive, engine.dir(), "usr/local/cargo", &["config.toml"]);
    engine.succeeds(&[
        "import",
        "--change",
        "ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "--change",
        "ENV CARGO_HOME=/usr/local/cargo",
        archive.to_str().unwrap(),
        tag,
    ]);
    std::fs::remove_file(archive).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make test-image"]
async fn docker_compose_up_builds_the_image_from_sources_and_every_service_becomes_healthy() {
    let made = |name: &str| {
        cached(name).unwrap_or_else(|| panic!("no {name}; as root: scripts/deps image"))
    };
    let (base, build_base) = (made("debian-base.tar"), made("debian-build.tar"));
    let engine = Engine::start(true).await.unwrap();
    engine.succeeds(&["import", base.to_str().unwrap(), "muster-base:test"]);
    rust_image(&engine, &build_base, "muster-rust:test");
    let file = File::read();
    stand_ins::build(&engine, |service| {
        let (_, service) = file.services().find(|(name, _)| *name == service).unwrap();
        with_defaults(service["image"].as_str().unwrap())
    });
    let images =
        [("MUSTER_RUST_IMAGE", "muster-rust:test"), ("MUSTER_BASE_IMAGE", "muster-base:test")];
    let is_run = stack::becomes_healthy(&engine, &file, &["up", "--detach"], &images).await;
    assert!(is_run, "there is no docker compose; as root: scripts/deps test");
}
