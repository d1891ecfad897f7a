//! The version of the Docker Engine, from `GET /version` of its API on the device's socket.
//!
//! Plain HTTP/1.0 over the socket, so that the response is neither chunked nor kept open; `bollard`
//! would need a runtime for one short request.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Timeout of an engine's response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of a response, in bytes; it is 1 KB in practice.
const MAX_RESPONSE_BYTES: u64 = 64 * 1024;

/// `None` if there is no socket, no permission, or no response within [`RESPONSE_TIMEOUT`].
pub(super) fn version(root: &Path) -> Option<String> {
    let socket = ["run/docker.sock", "var/run/docker.sock"]
        .iter()
        .map(|path| root.join(path))
        .find(|path| path.exists())?;
    let (sender, answered) = mpsc::channel();
    // A thread, because connecting to a socket with a full queue blocks, and std has no timeout for
    // that. The thread ends automatically: reading and writing have timeouts.
    std::thread::spawn(move || {
        // After the timeout the receiver is dropped.
        let _ = sender.send(query(&socket));
    });
    let body = answered.recv_timeout(RESPONSE_TIMEOUT).ok()?.ok()?;
    parse(&body)
}

fn query(socket: &Path) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.set_write_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut body = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut body)?;
    Ok(body)
}

fn parse(response: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(response).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if head.split(' ').nth(1) != Some("200") {
        return None;
    }
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    json.get("Version")?.as_str().and_then(super::system::printable)
}
