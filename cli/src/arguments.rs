//! Refuses secrets in arguments: every user of a machine can read them in the process list.
//!
//! The flags exist so that a script that uses one gets a hint instead of "unknown argument"; their
//! values come from the environment, or from a file that `MUSTER_…_FILE` names
//! ([`crate::environment`]).

use clap::parser::{ArgMatches, ValueSource};
use url::Url;

use crate::exit::UsageError;

/// Ids of the arguments whose values are secret, with the variable for each.
const SECRETS: [(&str, &str); 5] = [
    ("token", "MUSTER_TOKEN"),
    ("influx_password", "MUSTER_INFLUX_PASSWORD"),
    ("influx_token", "MUSTER_INFLUX_TOKEN"),
    ("influx_setup_password", "MUSTER_INFLUX_SETUP_PASSWORD"),
    ("password", "MUSTER_GRAFANA_PASSWORD"),
];
/// Ids of the arguments that are URLs, which may contain a password, with the variable for each.
const URLS: [(&str, &str); 8] = [
    ("postgres_url", "MUSTER_POSTGRES_URL"),
    ("influx_url", "MUSTER_INFLUX_URL"),
    ("nats_url", "MUSTER_NATS_URL"),
    ("device_nats_url", "MUSTER_DEVICE_NATS_URL"),
    ("command_url", "MUSTER_COMMAND_URL"),
    ("otlp_url", "MUSTER_OTLP_URL"),
    ("blobs", "MUSTER_BLOBS"),
    ("url", "MUSTER_URL"),
];

/// Checks a command and its subcommands.
pub(crate) fn refuse_secrets(matches: &ArgMatches) -> Result<(), UsageError> {
    for (id, variable) in SECRETS {
        if !given(matches, id).is_empty() {
            return Err(secret_refused(id, variable));
        }
    }
    for (id, variable) in URLS {
        let urls = given(matches, id).into_iter().filter_map(|text| text.parse::<Url>().ok());
        let has_password = |url: Url| {
            url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password")
        };
        if urls.into_iter().any(has_password) {
            return Err(secret_refused(id, variable));
        }
    }
    matches.subcommand().map_or(Ok(()), |(_, matches)| refuse_secrets(matches))
}

/// Returns the values of an argument from the command line, as they were written.
fn given(matches: &ArgMatches, id: &str) -> Vec<String> {
    let is_given = matches.try_contains_id(id).unwrap_or_default()
        && matches.value_source(id) == Some(ValueSource::CommandLine);
    let values = is_given.then(|| matches.get_raw(id)).flatten();
    values.into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect()
}

fn secret_refused(id: &str, variable: &str) -> UsageError {
    let flag = id.replace('_', "-");
    let file = if id == "token" { "--token-file FILE, " } else { "" };
    UsageError(format!(
        "--{flag} would show a secret to every user of this machine, in the list of processes; use \
         {file}{variable}, or {variable}_FILE with a file that contains it"
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Args;

    fn check(line: &str) -> Result<(), String> {
        let matches = Args::command().try_get_matches_from(line.split(' ')).unwrap();
        refuse_secrets(&matches).map_err(|error| error.0)
    }

    #[test]
    fn no_secret_is_accepted_as_an_argument() {
        for line in [
            "muster --token mst_x status",
            "muster device list --token mst_x",
            "muster bootstrap --keys k --postgres-url postgres://a:b@c/d",
            "muster bootstrap --keys k --postgres-url postgres://c --influx-url http://x --influx-token t",
            "muster doctor --keys k --postgres-url postgres://a:b@c/d",
            "muster doctor --keys k --postgres-url postgres:///d?host=/run&password=b",
            "muster grafana user --password x",
            "muster serve --keys k --nats-url n --postgres-url postgres://c --influx-user u --influx-password p",
            "muster serve --keys k --nats-url n,tls://u:p@h --postgres-url postgres://c",
            "muster serve --keys k --nats-url n --postgres-url postgres://c --influx-url http://u:p@h",
            "muster serve --keys k --nats-url n --postgres-url postgres://c --blobs s3://key:secret@bucket",
            "muster up --otlp-url http://u:p@h",
            "muster --url https://u:p@h status",
        ] {
            let error = check(line).unwrap_err();
            assert!(error.contains("_FILE"), "{line}: {error}");
        }
        for line in [
            "muster --token-file f status",
            "muster bootstrap --keys k --postgres-url postgres://a@c/d",
            "muster token create",
        ] {
            check(line).unwrap();
        }
    }

    /// A new flag for a secret must be added to the lists above.
    #[test]
    fn every_argument_with_a_secret_sounding_name_is_checked() {
        fn names(command: &clap::Command, found: &mut Vec<String>) {
            found.extend(command.get_arguments().map(|argument| argument.get_id().to_string()));
            command.get_subcommands().for_each(|command| names(command, found));
        }
        let mut found = Vec::new();
        names(&Args::command(), &mut found);
        let is_listed = |name: &str| SECRETS.iter().chain(&URLS).any(|(id, _)| *id == name);
        // A flag without a value, a file, a number.
        let others = ["token_only", "token_file", "streams_per_token"];
        for name in found {
            let sounds_secret =
                ["token", "password", "secret", "url"].iter().any(|word| name.contains(word));
            assert!(
                !sounds_secret || is_listed(&name) || others.contains(&name.as_str()),
                "{name}"
            );
        }
    }
}
