//! InfluxQL statements that change a store (1.x).

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;

use crate::client::{InfluxClient, NO_QUERY};
use crate::error::StoreError;

/// Path of the statements.
const PATH: &str = "query";

impl InfluxClient {
    /// Runs a statement with the credentials of the settings.
    pub(crate) async fn execute(&self, statement: &str) -> Result<(), StoreError> {
        self.run(self.request(Method::POST, PATH, NO_QUERY), statement).await
    }

    /// Runs a statement without credentials.
    pub(crate) async fn execute_anonymously(&self, statement: &str) -> Result<(), StoreError> {
        self.run(self.anonymous_request(Method::POST, PATH, NO_QUERY), statement).await
    }

    async fn run(&self, request: RequestBuilder, statement: &str) -> Result<(), StoreError> {
        let request =
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form(statement));
        let (status, body) = self.send_text(request).await?;
        if !status.is_success() {
            return Err(self.error_of(status, &body));
        }
        let response: Value = serde_json::from_str(&body).unwrap_or_default();
        // InfluxQL reports some errors with status 200.
        let error = response["results"][0]["error"].as_str().or_else(|| response["error"].as_str());
        error.map_or(Ok(()), |error| Err(self.refused(error.to_owned())))
    }
}

/// Encodes the statement as the body of a form: a URL may be logged by a proxy, and some statements
/// contain a password.
fn form(statement: &str) -> String {
    let url = Url::parse_with_params("http://form", [("q", statement)]);
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_encoded_for_a_form() {
        let form = form("CREATE USER a WITH PASSWORD 'x+ü'");
        assert_eq!(form, "q=CREATE+USER+a+WITH+PASSWORD+%27x%2B%C3%BC%27");
    }
}
