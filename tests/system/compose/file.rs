//! docker-compose.yml as parsed by these tests: command and environment of each service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_norway::Value;

/// The root folder of the repository.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The file.
pub(super) struct File(Value);

/// Command and environment of a container.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
}

impl File {
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string(root().join("docker-compose.yml")).unwrap();
        let mut file: Value = serde_norway::from_str(&text).unwrap();
        // A merged mapping may contain a merge itself.
        for _ in 0..3 {
            file.apply_merge().unwrap();
        }
        Self(file)
    }

    /// Name and raw definition of each service.
    pub(super) fn services(&self) -> impl Iterator<Item = (&str, &Value)> {
        let services = self.0["services"].as_mapping().unwrap();
        services.iter().map(|(name, service)| (name.as_str().unwrap(), service))
    }

    /// A service, with the default for each `${NAME:-default}`.
    pub(super) fn service(&self, name: &str) -> Service {
        let service = &self.0["services"][name];
        let command = service["command"].as_sequence().unwrap();
        let environment = service["environment"].as_mapping();
        Service {
            command: command.iter().map(|word| with_defaults(word.as_str().unwrap())).collect(),
            environment: environment
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    (name.as_str().unwrap().to_owned(), with_defaults(value.as_str().unwrap()))
                })
                .collect(),
        }
    }
}

/// Replaces variables by their defaults, like compose does for unset ones.
pub(super) fn with_defaults(text: &str) -> String {
    let text = text.replace("$$", "\0");
    let mut parts = text.split("${");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').unwrap();
        filled.push_str(variable.split_once(":-").unwrap().1);
        filled.push_str(rest);
    }
    filled.replace('\0', "$")
}

impl Service {
    /// The same, with paths and names of containers replaced.
    pub(super) fn translated(&self, replacements: &[(String, String)]) -> Self {
        let translate = |text: &String| {
            replacements
                .iter()
                .fold(text.clone(), |text, (from, to)| text.replace(from.as_str(), to))
        };
        Self {
            command: self.command.iter().map(translate).collect(),
            environment: self
                .environment
                .iter()
                .map(|(name, value)| (name.clone(), translate(value)))
                .collect(),
        }
    }
}
