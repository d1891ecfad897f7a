//! Selects the server and the credentials of a command: flags, variables, or a context.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use muster_client::Client;
use muster_client::contexts::{self, Context, Contexts};

use crate::exit::UsageError;
use crate::output::note;

/// Server and credentials.
///
/// Precedence: flags, the context of `--context`, variables, the current context.
#[derive(Args, Debug, Clone)]
pub(crate) struct Connection {
    /// URL of the server [env: MUSTER_URL]
    #[arg(long, global = true, help_heading = "Server")]
    url: Option<String>,
    /// Refused, because other users of this machine can read arguments: use --token-file,
    /// MUSTER_TOKEN or MUSTER_TOKEN_FILE
    #[arg(long, global = true, hide = true, help_heading = "Server")]
    token: Option<String>,
    /// File with the API token [env: MUSTER_TOKEN_FILE; the token itself: MUSTER_TOKEN]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Server")]
    token_file: Option<PathBuf>,
    /// PEM file of the CA certificate [env: MUSTER_CA]
    #[arg(long, global = true, help_heading = "Server")]
    ca: Option<PathBuf>,
    /// Context to use; default: the current one [env: MUSTER_CONTEXT]
    #[arg(long, global = true, help_heading = "Server")]
    context: Option<String>,
    /// Project, for server-wide tokens
    #[arg(long, global = true, env = "MUSTER_PROJECT", help_heading = "Server")]
    project: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Values from one source.
#[derive(Clone, Debug, Default)]
struct ConnectionValues {
    url: Option<String>,
    token: Option<String>,
    ca: Option<PathBuf>,
    context: Option<String>,
}

impl ConnectionValues {
    fn from_environment() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            url: set("MUSTER_URL"),
            token: set("MUSTER_TOKEN"),
            ca: set("MUSTER_CA").map(PathBuf::from),
            context: set("MUSTER_CONTEXT"),
        }
    }
}

impl Connection {
    fn flags(&self) -> Result<ConnectionValues> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file)
                .map(|text| text.trim().to_owned())
                .with_context(|| format!("failed to read the token file {}", file.display()))
        };
        Ok(ConnectionValues {
            url: self.url.clone(),
            token: self.token_file.as_ref().map(read).transpose()?,
            ca: self.ca.clone(),
            context: self.context.clone(),
        })
    }

    /// Returns the selected server, its token and its CA.
    pub(crate) fn server(&self) -> Result<Context> {
        choose(self.flags()?, ConnectionValues::from_environment(), contexts::load)
    }

    /// Creates a client for the selected server.
    pub(crate) fn client(&self) -> Result<Client> {
        let chosen = self.server()?;
        let client = Client::new(&chosen.url, &chosen.token, chosen.ca.as_deref())?;
        Ok(client
            .with_project(self.project.clone())
            .on_warning(|text| note(format!("warning: {text}"))))
    }

    /// Returns the same connection for another project.
    #[must_use]
    pub(crate) fn for_project(self, project: &str) -> Self {
        Self { project: Some(project.to_owned()), ..self }
    }

    /// Returns the values of flags and variables, for a new context.
    pub(crate) fn new_context(&self) -> Result<Context> {
        let (flags, environment) = (self.flags()?, ConnectionValues::from_environment());
        let (Some(url), Some(token)) =
            (flags.url.or(environment.url), flags.token.or(environment.token))
        else {
            let message = "give --url, and --token-file or MUSTER_TOKEN (and --ca, when the server has a CA of its own)";
            return Err(UsageError(message.to_owned()).into());
        };
        let ca = flags.ca.or(environment.ca).map(std::path::absolute).transpose()?;
        Ok(Context { url, token, ca })
    }
}

/// Invariant: a token is sent only to the server that it was given or stored for.
fn choose(
    flags: ConnectionValues,
    environment: ConnectionValues,
    load: impl FnOnce() -> Result<Contexts>,
) -> Result<Context> {
    // A context that a flag names takes precedence over all variables.
    let environment =
        if flags.context.is_some() { ConnectionValues::default() } else { environment };
    let name = flags.context.or(environment.context);
    let url = flags.url.or(environment.url);
    let token = flags.token.or(environment.token);
    let ca = flags.ca.or(environment.ca);
    if let (Some(url), Some(token), None) = (&url, &token, &name) {
        // The CA of a context is valid only for its own server; an unreadable file is no error
        // here.
        let kept = load().ok().and_then(|contexts| contexts.get(None).ok());
        let ca = ca.or_else(|| kept.filter(|kept| is_same(&kept.url, url))?.ca);
        return Ok(Context { url: url.clone(), token: token.clone(), ca });
    }
    let contexts = load()?;
    let kept = match (&name, &url) {
        (None, Some(_)) => contexts.get(None).ok(),
        _ => Some(contexts.get(name.as_deref())?),
    };
    let url = match (url, &kept) {
        (Some(url), _) => url,
        (None, Some(kept)) => kept.url.clone(),
        (None, None) => return contexts.get(None),
    };
    let kept = kept.filter(|kept| is_same(&kept.url, &url));
    let token =
        token.or_else(|| kept.as_ref().map(|kept| kept.token.clone())).ok_or_else(|| {
            UsageError(format!(
                "no token is known for {url}; give --token-file or MUSTER_TOKEN, or a --context of that server"
            ))
        })?;
    Ok(Context { url, token, ca: ca.or_else(|| kept.and_then(|kept| kept.ca)) })
}

fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Contexts {
        let context = |name: &str| Context {
            url: format!("https://{name}"),
            token: format!("{name}-token"),
            ca: Some(format!("/{name}").into()),
        };
        let contexts = ["a", "b"].map(|name| (name.to_owned(), context(name))).into();
        Contexts { current: Some("a".to_owned()), contexts }
    }

    fn values(text: &str) -> ConnectionValues {
        let mut values = ConnectionValues::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap();
            let value = value.to_owned();
            match key {
                "url" => values.url = Some(value),
                "token" => values.token = Some(value),
                "ca" => values.ca = Some(value.into()),
                _ => values.context = Some(value),
            }
        }
        values
    }

    #[test]
    fn flags_precede_a_named_context_then_variables_then_the_current_context() {
        for (flags, environment, expected) in [
            ("", "", Some("https://a a-token /a")),
            ("", "context=b", Some("https://b b-token /b")),
            ("context=b", "url=https://x token=t ca=/c", Some("https://b b-token /b")),
            ("context=b token=t", "url=https://x", Some("https://b t /b")),
            ("", "url=https://x token=t", Some("https://x t -")),
            ("", "url=https://x token=t ca=/c context=b", Some("https://x t /c")),
            ("", "url=https://a/ token=t", Some("https://a/ t /a")),
            ("url=https://a", "", Some("https://a a-token /a")),
            ("url=https://b context=b", "", Some("https://b b-token /b")),
            // A token of one server is not used for another.
            ("url=https://x", "", None),
            ("url=https://b", "", None),
            ("url=https://x context=b", "", None),
            ("context=c", "url=https://x token=t", None),
        ] {
            let chosen = choose(values(flags), values(environment), || Ok(known())).ok();
            let found = chosen.map(|chosen| {
                let ca = chosen.ca.map_or("-".to_owned(), |ca| ca.display().to_string());
                format!("{} {} {ca}", chosen.url, chosen.token)
            });
            assert_eq!(found.as_deref(), expected, "flags {flags:?}, variables {environment:?}");
        }
        let nothing = choose(values("url=https://x token=t"), ConnectionValues::default(), || {
            anyhow::bail!("HOME is not set")
        });
        assert_eq!(nothing.unwrap().url, "https://x");
    }
}
