//! Contexts: servers that the command line can use, in `~/.config/muster/contexts.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use muster_files::write_private;
use serde::{Deserialize, Serialize};

use crate::NoContext;

/// Name of the context that `muster up` creates.
pub const LOCAL: &str = "local";

/// A server, with the credentials for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Context {
    /// URL of the server.
    pub url: String,
    /// API token.
    pub token: String,
    /// PEM file of the CA certificate, if it is not one of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// All contexts, and the current one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Contexts {
    /// Name of the current context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

fn path() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("XDG_CONFIG_HOME") {
        return Ok(dir.join("muster/contexts.toml"));
    }
    let home = set("HOME").context("HOME is not set, so contexts cannot be stored")?;
    Ok(home.join(".config/muster/contexts.toml"))
}

/// Reads the contexts.
///
/// # Errors
/// When the file cannot be read or parsed.
pub fn load() -> Result<Contexts> {
    let path = path()?;
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            toml::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

/// Replaces the contexts.
///
/// # Errors
/// When the file cannot be written.
pub fn save(contexts: &Contexts) -> Result<()> {
    let path = path()?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("failed to create {}", dir.display()))?;
    }
    Ok(write_private(&path, toml::to_string_pretty(contexts)?.as_bytes())?)
}

impl Contexts {
    /// Returns the context with this name, or the current one.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: Option<&str>) -> Result<Context> {
        let Some(name) = name.or(self.current.as_deref()) else {
            bail!(
                "no server is known; start one with `muster up`, give --url and --token-file, or add one with `muster context add`"
            );
        };
        self.contexts.get(name).cloned().ok_or_else(|| NoContext(name.to_owned()).into())
    }
}

/// The context that `muster up` stores for its data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredContext {
    /// Its name.
    pub name: String,
    /// Whether commands use it when no context is named.
    pub is_current: bool,
}

/// Stores the server of `muster up` as a context, and makes it current unless another one is. A
/// context belongs to one data folder, identified by its CA: a second folder gets `local-2`, and so
/// on.
///
/// # Errors
/// When the contexts cannot be read or written.
pub fn store_local(url: &str, token: &str, ca: &Path) -> Result<StoredContext> {
    let mut contexts = load()?;
    let name = local_name(&contexts, ca);
    let context = Context { url: url.to_owned(), token: token.to_owned(), ca: Some(ca.to_owned()) };
    contexts.contexts.insert(name.clone(), context);
    let is_current = *contexts.current.get_or_insert_with(|| name.clone()) == name;
    save(&contexts)?;
    Ok(StoredContext { name, is_current })
}

/// Returns the name of this data folder's context: the existing one, or the first free name. The
/// name of a context whose CA file is missing is free.
fn local_name(contexts: &Contexts, ca: &Path) -> String {
    let mut names = std::iter::once(LOCAL.to_owned()).chain((2..).map(|n| format!("{LOCAL}-{n}")));
    let is_ours = |name: &String| {
        contexts.contexts.get(name).is_none_or(|known| {
            known.ca.as_deref().is_some_and(|known| known == ca || !known.exists())
        })
    };
    let own = contexts
        .contexts
        .iter()
        .find(|(name, known)| name.starts_with(LOCAL) && known.ca.as_deref() == Some(ca));
    match own {
        Some((name, _)) => name.clone(),
        None => names.find(is_ours).unwrap_or_else(|| LOCAL.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_data_folder_gets_its_own_context() {
        let dir = tempfile::tempdir().unwrap();
        let ca = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            path
        };
        let (first, second, third) = (ca("1"), ca("2"), ca("3"));
        let mut contexts = Contexts::default();
        let mut remember = |ca: &Path| {
            let name = local_name(&contexts, ca);
            let context = Context { url: String::new(), token: String::new(), ca: Some(ca.into()) };
            contexts.contexts.insert(name.clone(), context);
            name
        };
        assert_eq!(remember(&first), "local");
        assert_eq!(remember(&second), "local-2");
        assert_eq!((remember(&first), remember(&second)), ("local".into(), "local-2".into()));
        // The first folder was removed, so its name is free again.
        std::fs::remove_file(&first).unwrap();
        assert_eq!(remember(&third), "local");
        // A context that a user added for a server with a public certificate is not changed.
        let context = Context { url: String::new(), token: String::new(), ca: None };
        let contexts = Contexts { contexts: [("local".to_owned(), context)].into(), current: None };
        assert_eq!(local_name(&contexts, &third), "local-2");
    }
}
