//! Indirect connections to the broker: through an HTTP proxy, and through the server's HTTPS
//! listener.
//!
//! async-nats opens its connections itself, so it gets a loopback port that forwards one
//! connection. Its TLS session is end-to-end with the broker.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use url::Url;

use crate::identity::{Http, HttpError, Identity};
use crate::trust::{PinnedCa, Verifier};

/// Path of the broker tunnel on the server's HTTPS listener.
const TUNNEL_PATH: &str = "/nats";
/// Name of the upgraded protocol.
const PROTOCOL: &str = "nats";
/// Timeout of each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a proxy's response header, in bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// The reason why there is no indirect connection to the broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The proxy made no connection.
    #[error("the proxy {proxy}: {error}")]
    Proxy {
        /// Host and port of the proxy.
        proxy: String,
        /// What happened.
        error: ProxyError,
    },
    /// The server's HTTPS listener made no connection.
    #[error(transparent)]
    Server(#[from] HttpError),
    /// There is no loopback port for the broker's client.
    #[error("failed to listen on the loopback address: {0}")]
    Listen(std::io::Error),
}

/// The reason why a proxy made no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("'{0}' is not supported for the broker; use an http:// proxy")]
    UnsupportedScheme(String),
    #[error("no response within {} s", STEP_TIMEOUT.as_secs())]
    NoResponse,
    #[error("the response is not that of an HTTP proxy")]
    NotHttp,
    #[error("the proxy requires a user and a password: http://USER:PASSWORD@HOST:PORT")]
    AuthenticationRequired,
    /// The response's status and reason.
    #[error("the proxy rejected the connection ({0})")]
    Rejected(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Returns the host and port of a broker's address.
pub(super) fn host_and_port(address: &Url) -> (String, u16) {
    let host = address.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    (host, address.port().unwrap_or(4222))
}

/// Returns the proxy for this address, by `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
pub(crate) fn proxy_for(address: &Url) -> Option<Intercept> {
    let host = address.host_str()?;
    let port = address.port_or_known_default().unwrap_or(4222);
    let uri: Uri = format!("https://{host}:{port}").parse().ok()?;
    Matcher::from_env().intercept(&uri)
}

/// Returns the proxy's host and port for log lines, without its credentials.
pub(crate) fn display(proxy: &Intercept) -> String {
    let uri = proxy.uri();
    let port = uri.port_u16().unwrap_or(80);
    format!("{}:{port}", uri.host().unwrap_or_default())
}

/// Connects through an HTTP proxy (CONNECT, RFC 9110 §9.3.6). Returns the loopback port.
pub(super) async fn through_proxy(proxy: &Intercept, address: &Url) -> Result<u16, TunnelError> {
    let far = open_proxy(proxy, address).await?;
    forward_one_connection(far).await
}

/// Opens a connection to the broker through a proxy.
pub(crate) async fn open_proxy(proxy: &Intercept, address: &Url) -> Result<TcpStream, TunnelError> {
    timeout(STEP_TIMEOUT, connect(proxy, address))
        .await
        .unwrap_or(Err(ProxyError::NoResponse))
        .map_err(|error| TunnelError::Proxy { proxy: display(proxy), error })
}

async fn connect(proxy: &Intercept, address: &Url) -> Result<TcpStream, ProxyError> {
    let uri = proxy.uri();
    if uri.scheme_str() != Some("http") {
        let scheme = uri.scheme_str().unwrap_or_default();
        return Err(ProxyError::UnsupportedScheme(scheme.to_owned()));
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let mut stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
    let _ = stream.set_nodelay(true);
    let target =
        format!("{}:{}", address.host_str().unwrap_or_default(), address.port().unwrap_or(4222));
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(password) = proxy.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(password.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    let mut response = Vec::new();
    // Byte by byte: the data after the response header belongs to the broker.
    while !response.ends_with(b"\r\n\r\n") {
        if response.len() == MAX_HEADER_BYTES {
            return Err(ProxyError::NotHttp);
        }
        response.push(stream.read_u8().await?);
    }
    check_connect_response(&response).map(|()| stream)
}

/// Checks whether the proxy accepted the CONNECT request.
fn check_connect_response(response: &[u8]) -> Result<(), ProxyError> {
    let line = response.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) if status.starts_with('2') => Ok(()),
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("407")) => Err(ProxyError::AuthenticationRequired),
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => {
            let reason = words.next().unwrap_or_default();
            Err(ProxyError::Rejected(format!("{status} {reason}")))
        }
        _ => Err(ProxyError::NotHttp),
    }
}

/// Connects through the server's HTTPS listener, and an HTTP proxy if one is configured. Returns
/// the loopback port.
pub(super) async fn through_listener(identity: &Identity) -> Result<u16, TunnelError> {
    let far = open_listener_tunnel(&identity.url, identity.pinned_ca()).await?;
    forward_one_connection(far).await
}

/// Opens a connection to the broker through a server's HTTPS listener.
pub(crate) async fn open_listener_tunnel(
    url: &Url,
    ca: PinnedCa,
) -> Result<reqwest::Upgraded, TunnelError> {
    let http = Http::new(url, Verifier::new(ca))?;
    Ok(http.upgrade(TUNNEL_PATH, PROTOCOL).await?)
}

/// Listens on a loopback port and forwards one connection to the remote end.
async fn forward_one_connection(
    mut remote: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<u16, TunnelError> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(TunnelError::Listen)?;
    let port = listener.local_addr().map_err(TunnelError::Listen)?.port();
    tokio::spawn(async move {
        let Ok(Ok((mut near, _))) = timeout(STEP_TIMEOUT, listener.accept()).await else { return };
        let _ = near.set_nodelay(true);
        drop(listener);
        // Ends when either side closes; the client detects it.
        let _ = copy_bidirectional(&mut near, &mut remote).await;
    });
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_refusal_is_explained() {
        for (response, expected) in [
            (&b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"[..], ""),
            (b"HTTP/1.0 204 \r\n\r\n", ""),
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "USER:PASSWORD"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "(403 Forbidden)"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "HTTP"),
            (b"\r\n\r\n", "HTTP"),
        ] {
            let message = check_connect_response(response)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                message.contains(expected) && message.is_empty() == expected.is_empty(),
                "{message}"
            );
        }
    }
}
