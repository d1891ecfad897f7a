//! The initial setup of a server: its administrator and its database. Idempotent, so every start
//! runs it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::credentials::{Credentials, USER, secret};
use super::error::InfluxError;
use super::flavor::Flavor;
use super::http::{Request, Response};
use super::options::InfluxOptions;

pub(super) async fn bootstrap(
    options: &InfluxOptions,
    dir: &Path,
    flavor: Flavor,
    address: SocketAddr,
) -> Result<Credentials, InfluxError> {
    let credentials = Credentials::read_or_create(options, dir, flavor)?;
    match &credentials {
        Credentials::Open => create_database(address, &options.database, None).await?,
        Credentials::Password { user, password } => {
            create_user(address, password).await?;
            create_database(address, &options.database, Some((user, password))).await?;
        }
        Credentials::Token { token, .. } => {
            set_up_v2(address, &options.database, &secret(dir, "password")?, token).await?;
        }
    }
    Ok(credentials)
}

/// Creates the first user, which a server with authentication but without users allows any client.
async fn create_user(address: SocketAddr, password: &str) -> Result<(), InfluxError> {
    let attempt = "create the administrator";
    let request = Request::influxql("SHOW DATABASES", Some((USER, password)));
    if send_request(attempt, &request, address).await?.status == 200 {
        return Ok(());
    }
    let statement = format!("CREATE USER {USER} WITH PASSWORD '{password}' WITH ALL PRIVILEGES");
    let made = send_request(attempt, &Request::influxql(&statement, None), address).await?;
    match made.status {
        200 => check_response(attempt, made),
        401 | 403 => Err(InfluxError::ForeignData),
        _ => Err(InfluxError::Refused { attempt, response: made.body }),
    }
}

async fn create_database(
    address: SocketAddr,
    database: &str,
    basic: Option<(&str, &str)>,
) -> Result<(), InfluxError> {
    let attempt = "create the database";
    let statement =
        format!("CREATE DATABASE \"{}\"", database.replace('\\', "\\\\").replace('"', "\\\""));
    check_response(
        attempt,
        send_request(attempt, &Request::influxql(&statement, basic), address).await?,
    )
}

async fn set_up_v2(
    address: SocketAddr,
    bucket: &str,
    password: &str,
    token: &str,
) -> Result<(), InfluxError> {
    let attempt = "set up the server";
    let state = send_request(attempt, &Request::get("/api/v2/setup"), address).await?;
    let state: Value = serde_json::from_str(&state.body).unwrap_or_default();
    if state["allowed"] == false {
        return Ok(()); // Done at an earlier start.
    }
    let body = json!({ "username": USER, "password": password, "org": bucket, "bucket": bucket, "token": token });
    let made = send_request(attempt, &Request::json("/api/v2/setup", &body), address).await?;
    if made.status == 201 {
        Ok(())
    } else {
        Err(InfluxError::Refused { attempt, response: made.body })
    }
}

async fn send_request(
    operation: &'static str,
    request: &Request<'_>,
    address: SocketAddr,
) -> Result<Response, InfluxError> {
    request
        .send(address)
        .await
        .map_err(|source: io::Error| InfluxError::Http { attempt: operation, source })
}

/// Checks the response: InfluxDB 1.x returns 200 even if the statement failed, with the error in
/// the body.
fn check_response(operation: &'static str, response: Response) -> Result<(), InfluxError> {
    let body: Value = serde_json::from_str(&response.body).unwrap_or_default();
    if response.status == 200
        && body["results"][0].get("error").is_none()
        && body.get("error").is_none()
    {
        Ok(())
    } else {
        Err(InfluxError::Refused { attempt: operation, response: response.body })
    }
}
