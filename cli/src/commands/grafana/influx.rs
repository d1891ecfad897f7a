//! Creates a user of InfluxDB 1.x that may read one database. 2.x and 3.x use tokens, which an
//! administrator creates there.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use crate::serve::MetricStore;

/// Name of the user.
pub(super) const USER: &str = "muster_grafana";

/// Creates the user with this password, or sets its password, and grants read access to the
/// database.
pub(super) async fn grant_access(
    store: &MetricStore,
    administrator: (&str, &str),
    password: &str,
) -> Result<()> {
    let mut http = reqwest::Client::builder().timeout(Duration::from_secs(15));
    if store.url.starts_with("http://") {
        // A minimal container has no CA certificates, and HTTP needs none.
        http = http.tls_certs_only([]);
    }
    let http = http.build()?;
    let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
    let database = store.database.replace('\\', "\\\\").replace('"', "\\\"");
    let ask = async |statement: String| -> Result<Option<String>> {
        let response = http
            .post(format!("{}/query", store.url.trim_end_matches('/')))
            .basic_auth(administrator.0, Some(administrator.1))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(&statement))
            .send()
            .await
            .with_context(|| format!("failed to query InfluxDB at {}", store.url))?;
        let status = response.status();
        let body: Value = response.json().await.unwrap_or_default();
        let error = body["results"][0]["error"].as_str().or_else(|| body["error"].as_str());
        match error {
            Some(error) => Ok(Some(error.to_owned())),
            None if status.is_success() => Ok(None),
            None => Ok(Some(status.to_string())),
        }
    };
    // The first statement creates the user, the second one updates an existing user.
    let made = ask(format!("CREATE USER {USER} WITH PASSWORD '{quoted}'")).await?;
    if made.is_some()
        && let Some(error) = ask(format!("SET PASSWORD FOR {USER} = '{quoted}'")).await?
    {
        bail!("InfluxDB refused to create the user {USER}: {error}");
    }
    if let Some(error) = ask(format!("GRANT READ ON \"{database}\" TO {USER}")).await? {
        bail!("InfluxDB refused to grant {USER} read access to {}: {error}", store.database);
    }
    Ok(())
}

/// Encodes the statement as the body of a form; proxies could log it in a URL.
fn form(statement: &str) -> String {
    let url = Url::parse_with_params("http://form", [("q", statement)]);
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}
