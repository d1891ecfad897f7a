//! Clients that generators make from the served OpenAPI document: each is type-checked strictly,
//! and a program that uses it does what a first integration needs (`tests/clients/`).
//!
//! What generators lack: none of them reads server-sent events, so that each program reads the
//! stream with the client's own HTTP, and its data with the generated type. The Python client of
//! openapi-generator is not strictly typed itself, and its TypeScript client not for
//! `noUncheckedIndexedAccess`: there, only the program is checked so.

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use muster_tests::api::Api;
use muster_tests::binaries::binary;
use muster_tests::robot::Robot;
use muster_tests::{System, wait};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const DOCUMENTS: [&str; 2] = ["openapi.json", "openapi-3.0.json"];
const STRICT: &[&str] = &[
    "--strict",
    "--target",
    "es2024",
    "--module",
    "nodenext",
    "--lib",
    "es2024,dom,dom.iterable,dom.asynciterable",
];

/// The generators and compilers that `scripts/deps test` has installed.
struct Tools {
    folder: PathBuf,
}

impl Tools {
    fn find() -> Self {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let cache = folder("MUSTER_CACHE")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("muster")))
            .or_else(|| folder("HOME").map(|home| home.join(".cache/muster")))
            .unwrap();
        let folder = cache.join("api-tools");
        assert!(folder.is_dir(), "{} is missing; run: scripts/deps test", folder.display());
        Self { folder }
    }

    /// Runs a tool of the venv in this folder; returns its output.
    async fn run(&self, dir: &Path, tool: &str, args: &[&str]) -> String {
        let path = format!("{}/bin:{}", self.folder.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(self.folder.join("bin").join(tool));
        finish(command.args(args).current_dir(dir).env("PATH", path)).await
    }

    async fn node(&self, dir: &Path, tool: &str, args: &[&str]) -> String {
        let tool = self.folder.join("node_modules/.bin").join(tool);
        let args = [&[tool.to_str().unwrap()], args].concat();
        self.run(dir, "node", &args).await
    }

    /// Generates a client with openapi-generator, which supports OpenAPI 3.0 better than 3.1.
    async fn generate(&self, dir: &Path, generator: &str, output: &str, properties: &str) {
        let args = ["generate", "-i", "../openapi-3.0.json", "-g", generator, "-o", output];
        let parts = "apiDocs=false,modelDocs=false,apiTests=false,modelTests=false";
        let args =
            [&args[..], &["--global-property", parts, "--additional-properties", properties]];
        self.run(dir, "openapi-generator-cli", &args.concat()).await;
    }
}

/// Runs a command; returns its output.
async fn finish(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// Creates a folder for a client, with its program.
fn folder(dir: &Path, name: &str, program: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name);
    let folder = dir.join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(source.join(program), folder.join(program)).unwrap();
    folder
}

async fn openapi_python_client(tools: &Tools, dir: &Path) -> Command {
    let dir = folder(dir, "python", "program.py");
    std::fs::write(dir.join("config.yaml"), "post_hooks: []\n").unwrap();
    let args = ["generate", "--path", "../openapi.json", "--config", "config.yaml"];
    let output = ["--meta", "none", "--output-path", "muster_client", "--fail-on-warning"];
    tools.run(&dir, "openapi-python-client", &[&args[..], &output].concat()).await;
    tools.run(&dir, "mypy", &["--strict", "-p", "muster_client", "-m", "program"]).await;
    python(tools, &dir)
}

async fn openapi_generator_python(tools: &Tools, dir: &Path) -> Command {
    let dir = folder(dir, "openapi-generator-python", "program.py");
    tools.generate(&dir, "python", ".", "packageName=muster_client").await;
    tools.run(&dir, "mypy", &["--strict", "--follow-imports", "silent", "program.py"]).await;
    python(tools, &dir)
}

fn python(tools: &Tools, dir: &Path) -> Command {
    let mut command = Command::new(tools.folder.join("bin/python"));
    command.arg(dir.join("program.py"));
    command
}

async fn typescript_fetch(tools: &Tools, dir: &Path) -> Command {
    let dir = folder(dir, "typescript-fetch", "program.ts");
    tools.generate(&dir, "typescript-fetch", "generated", "importFileExtension=.js").await;
    let package = dir.join("node_modules/muster-client");
    std::fs::create_dir_all(&package).unwrap();
    let manifest = json!({"name": "muster-client", "type": "module", "exports": "./index.js"});
    std::fs::write(package.join("package.json"), manifest.to_string()).unwrap();
    let output = ["--declaration", "--outDir", "node_modules/muster-client"];
    let args = [STRICT, &output, &["generated/index.ts"]].concat();
    tools.node(&dir, "tsc", &args).await;
    typescript(tools, &dir).await
}

async fn openapi_fetch(tools: &Tools, dir: &Path) -> Command {
    let dir = folder(dir, "openapi-fetch", "program.ts");
    let args = ["../openapi.json", "--output", "muster-client.d.ts"];
    tools.node(&dir, "openapi-typescript", &args).await;
    typescript(tools, &dir).await
}

async fn typescript(tools: &Tools, dir: &Path) -> Command {
    let args = [STRICT, &["--noUncheckedIndexedAccess", "program.ts"]].concat();
    tools.node(dir, "tsc", &args).await;
    let mut command = Command::new(tools.folder.join("bin/node"));
    command.arg(dir.join("program.js"));
    command
}

/// Writes the served documents into the folder, and validates them.
async fn fetch_documents(tools: &Tools, system: &System, dir: &Path) {
    for name in DOCUMENTS {
        let document = system.api.get(&format!("/{name}")).await;
        std::fs::write(dir.join(name), document.to_string()).unwrap();
    }
    tools.run(dir, "openapi-spec-validator", &DOCUMENTS).await;
    std::fs::write(dir.join("package.json"), r#"{"type": "module"}"#).unwrap();
    std::os::unix::fs::symlink(tools.folder.join("node_modules"), dir.join("node_modules"))
        .unwrap();
}

/// Creates devices with the label `env=test`, and waits for metrics of `robot`.
async fn prepare(api: &Api) {
    let labels = json!({"labels": {"env": "test"}});
    api.patch("/api/v1/devices/robot", &labels).await;
    for name in ["robot-2", "robot-3"] {
        let body = json!({"name": name, "labels": {"env": "test"}});
        api.post("/api/v1/devices", &body).await;
    }
    api.post("/api/v1/devices", &json!({"name": "other"})).await;
    wait::until("metrics", WAIT_TIMEOUT, || async {
        let path = "/api/v1/devices/robot/metrics?field=mem.used_percent&since=1h&fn=mean";
        let found = api.get(path).await;
        found["series"].as_array().is_some_and(|series| !series.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_clients_run_their_programs() {
    let tools = Tools::find();
    let robot = Robot::start("").await;
    let (api, dir) = (&robot.system.api, tempfile::tempdir().unwrap());
    fetch_documents(&tools, &robot.system, dir.path()).await;
    let clients = tokio::join!(
        openapi_python_client(&tools, dir.path()),
        openapi_generator_python(&tools, dir.path()),
        typescript_fetch(&tools, dir.path()),
        openapi_fetch(&tools, dir.path()),
        prepare(api),
    );
    let file = dir.path().join("file");
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    std::fs::write(&file, &bytes).unwrap();
    for (client, mut program) in [
        ("openapi-python-client", clients.0),
        ("openapi-generator-python", clients.1),
        ("typescript-fetch", clients.2),
        ("openapi-fetch", clients.3),
        // Generated and compiled when the workspace is built.
        ("progenitor", Command::new(binary("muster-client-example"))),
    ] {
        program
            .arg(&file)
            .env("MUSTER_URL", &api.url)
            .env("MUSTER_TOKEN", &api.token)
            .env("MUSTER_CA", robot.system.ca())
            .env("NODE_EXTRA_CA_CERTS", robot.system.ca());
        let output = finish(&mut program).await;
        let mut result: Value = serde_json::from_str(&output).unwrap();
        let points = result.as_object_mut().unwrap().remove("points");
        assert!(points.and_then(|points| points.as_u64()) > Some(0), "{client}: {output}");
        let expected = json!({
            "devices": ["robot", "robot-2", "robot-3"],
            "output": "from robot",
            "event": "DeviceLabelsChanged",
            "role": "viewer",
            "sha256": HEXLOWER.encode(&Sha256::digest(&bytes)),
        });
        assert_eq!(result, expected, "{client}");
        assert_eq!(api.get("/api/v1/devices/robot").await["labels"]["client"], client);
    }
}
