//! The few small requests of a start, to a server on loopback: HTTP/1.0, no TLS, one connection per
//! request. The client for regular use is elsewhere.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RESPONSE_BYTES: u64 = 1 << 20;

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: String,
}

/// A request.
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) path: String,
    /// User and password.
    pub(super) basic: Option<(&'a str, &'a str)>,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl<'a> Request<'a> {
    pub(super) fn get(path: &str) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            basic: None,
            content_type: "text/plain",
            body: String::new(),
        }
    }

    /// Builds a request with an InfluxQL statement (1.x).
    pub(super) fn influxql(statement: &str, basic: Option<(&'a str, &'a str)>) -> Self {
        let body = format!("q={}", percent_encoded(statement));
        Self {
            method: "POST",
            path: "/query".into(),
            basic,
            content_type: "application/x-www-form-urlencoded",
            body,
        }
    }

    pub(super) fn json(path: &str, body: &serde_json::Value) -> Self {
        Self {
            method: "POST",
            path: path.into(),
            basic: None,
            content_type: "application/json",
            body: body.to_string(),
        }
    }

    pub(super) async fn send(&self, to: SocketAddr) -> io::Result<Response> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(to)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no response within 10 s"))
        })
    }

    async fn exchange(&self, to: SocketAddr) -> io::Result<Response> {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(self.text(to).as_bytes()).await?;
        let mut response = Vec::new();
        stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
        parse(&String::from_utf8_lossy(&response))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the response is not HTTP"))
    }

    fn text(&self, to: SocketAddr) -> String {
        let Self { method, path, content_type, body, .. } = self;
        let authorization = match self.basic {
            Some((user, password)) => format!(
                "Authorization: Basic {}\r\n",
                BASE64.encode(format!("{user}:{password}").as_bytes())
            ),
            None => String::new(),
        };
        format!(
            "{method} {path} HTTP/1.0\r\nHost: {to}\r\n{authorization}Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

fn parse(response: &str) -> Option<Response> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/")?.split_whitespace().nth(1)?.parse().ok()?;
    Some(Response { status, body: body.into() })
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_encoded_for_a_form() {
        let request = Request::influxql("CREATE USER a WITH PASSWORD 'x+ü'", None);
        assert_eq!(request.body, "q=CREATE%20USER%20a%20WITH%20PASSWORD%20%27x%2B%C3%BC%27");
    }

    #[test]
    fn responses_are_parsed() {
        let response =
            parse("HTTP/1.0 401 Unauthorized\r\nX: y\r\n\r\n{\"error\":\"no\"}").unwrap();
        assert_eq!((response.status, response.body.as_str()), (401, "{\"error\":\"no\"}"));
        assert!(parse("SSH-2.0-OpenSSH").is_none());
    }
}
