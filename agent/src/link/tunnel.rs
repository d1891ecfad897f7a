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

use crate::identity::{Http, Identity};
use crate::trust::{PinnedCa, Verifier};

/// Path of the broker tunnel on the server's HTTPS listener.
const TUNNEL_PATH: &str = "/nats";
/// Name of the upgraded protocol.
const PROTOCOL: &str = "nats";
/// Timeout of each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a proxy's response header, in bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;

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
pub(super) async fn through_proxy(proxy: &Intercept, address: &Url) -> Result<u16, String> {
    let far = open_proxy(proxy, address).await?;
    forward_one_connection(far).await
}

/// Opens a connection to the broker through a proxy.
pub(crate) async fn open_proxy(proxy: &Intercept, address: &Url) -> Result<TcpStream, String> {
    timeout(STEP_TIMEOUT, connect(proxy, address))
        .await
        .unwrap_or_else(|_| Err(format!("no response within {} s", STEP_TIMEOUT.as_secs())))
        .map_err(|problem| format!("the proxy {}: {problem}", display(proxy)))
}

async fn connect(proxy: &Intercept, address: &Url) -> Result<TcpStream, String> {
    let uri = proxy.uri();
    if uri.scheme_str() != Some("http") {
        let scheme = uri.scheme_str().unwrap_or_default();
        return Err(format!("'{scheme}' is not supported for the broker; use an http:// proxy"));
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let mut stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| error.to_string())?;
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
    stream.write_all(&request).await.map_err(|error| error.to_string())?;
    let mut response = Vec::new();
    // Byte by byte: the data after the response header belongs to the broker.
    while !response.ends_with(b"\r\n\r\n") {
        if response.len() == MAX_HEADER_BYTES {
            return Err("the response is not that of an HTTP proxy".to_owned());
        }
        response.push(stream.read_u8().await.map_err(|error| error.to_string())?);
    }
    check_connect_response(&response).map(|()| stream)
}

/// Checks whether the proxy accepted the CONNECT request.
fn check_connect_response(response: &[u8]) -> Result<(), String> {
    let line = response.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) if status.starts_with('2') => Ok(()),
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("407")) => {
            Err("the proxy requires a user and a password: http://USER:PASSWORD@HOST:PORT"
                .to_owned())
        }
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => {
            let reason = words.next().unwrap_or_default();
            Err(format!("the proxy rejected the connection ({status} {reason})"))
        }
        _ => Err("the response is not that of an HTTP proxy".to_owned()),
    }
}

/// Connects through the server's HTTPS listener, and an HTTP proxy if one is configured. Returns
/// the loopback port.
pub(super) async fn through_listener(identity: &Identity) -> Result<u16, String> {
    let far = open_listener_tunnel(&identity.url, identity.pinned_ca()).await?;
    forward_one_connection(far).await
}

/// Opens a connection to the broker through a server's HTTPS listener.
pub(crate) async fn open_listener_tunnel(
    url: &Url,
    ca: PinnedCa,
) -> Result<reqwest::Upgraded, String> {
    let http = Http::new(url, Verifier::new(ca)).map_err(|error| error.to_string())?;
    http.upgrade(TUNNEL_PATH, PROTOCOL).await.map_err(|error| error.to_string())
}

/// Listens on a loopback port and forwards one connection to the remote end.
async fn forward_one_connection(
    mut remote: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<u16, String> {
    let listen = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok::<_, std::io::Error>((listener, port))
    };
    let (listener, port) = listen
        .await
        .map_err(|error| format!("failed to listen on the loopback address: {error}"))?;
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
            let message = check_connect_response(response).err().unwrap_or_default();
            assert!(
                message.contains(expected) && message.is_empty() == expected.is_empty(),
                "{message}"
            );
        }
    }
}
