//! Contexts: the servers that this command line knows, in `~/.config/muster/contexts.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::exit::NotFound;

/// The name of what `muster up` leaves.
pub(crate) const LOCAL: &str = "local";

/// A server, and who one is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) url: String,
    pub(crate) token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

/// All of them, and which one is meant when none is named.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

fn path() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("XDG_CONFIG_HOME") {
        return Ok(dir.join("muster/contexts.toml"));
    }
    let home = set("HOME").context("HOME is not set, so there is no place for contexts")?;
    Ok(home.join(".config/muster/contexts.toml"))
}

pub(crate) fn load() -> Result<Contexts> {
    let path = path()?;
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            toml::from_str(&text).with_context(|| format!("{} cannot be read", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

pub(crate) fn save(contexts: &Contexts) -> Result<()> {
    let path = path()?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    crate::up::write_private(&path, toml::to_string_pretty(contexts)?.as_bytes())
}

impl Contexts {
    /// The one with this name, or the current one.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<Context> {
        let Some(name) = name.or(self.current.as_deref()) else {
            bail!(
                "no server is known; start one with `muster up`, give --url and --token, or add one with `muster context add`"
            );
        };
        self.contexts.get(name).cloned().ok_or_else(|| {
            let words = "`muster context list` shows what there is";
            NotFound(format!("there is no context '{name}'; {words}")).into()
        })
    }
}

/// Keeps what `muster up` runs as the context `local`, and makes it current unless another is.
/// Answers whether it is current.
pub(crate) fn remember_local(url: &str, token: &str, ca: &Path) -> Result<bool> {
    let mut contexts = load()?;
    let context = Context { url: url.to_owned(), token: token.to_owned(), ca: Some(ca.to_owned()) };
    contexts.contexts.insert(LOCAL.to_owned(), context);
    let is_current = contexts.current.get_or_insert_with(|| LOCAL.to_owned()) == LOCAL;
    save(&contexts)?;
    Ok(is_current)
}
