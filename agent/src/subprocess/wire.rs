//! Messages between the agent and a helper, CBOR with a length prefix; and descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use muster_schemas::codec;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Maximum size of a message, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Standard input, output and error.
pub(super) const DESCRIPTORS: usize = 3;

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` calls")]
fn invalid(problem: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_string())
}

/// Encodes a message with its length prefix.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let bytes = codec::encode(message);
    let length = u32::try_from(bytes.len()).map_err(invalid)?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(invalid("the message is too large"));
    }
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(bytes);
    Ok(framed)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    codec::decode(bytes).map_err(invalid)
}

/// Decodes the length prefix of a message.
pub(super) fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(invalid("the message is too large"));
    }
    Ok(length)
}

/// Sends one byte, optionally with descriptors.
pub(super) fn send_descriptors(socket: &UnixStream, fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(invalid("too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(b"j")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives the descriptors from [`send_descriptors`].
pub(super) fn receive_descriptors(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(fds)
}

/// The helper's end of the socket.
#[derive(Debug)]
pub(crate) struct Port(pub(super) UnixStream);

impl Port {
    /// Waits for a message; `None` if the agent has closed the socket.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut head = [0; 4];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut bytes = vec![0; length(head)?];
        self.0.read_exact(&mut bytes)?;
        decode(&bytes).map(Some)
    }

    /// Sends a message.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.0.write_all(&encode(message)?)
    }

    /// Returns both ends of a socket, for tests of a job.
    #[cfg(test)]
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self(one), Self(other)))
    }

    /// Returns the socket, for another protocol.
    pub(crate) fn into_socket(self) -> UnixStream {
        self.0
    }
}

/// Paths as bytes: they need not be UTF-8.
pub(crate) mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(path.as_os_str().as_bytes(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let bytes: Vec<u8> = serde_bytes::deserialize(from)?;
        Ok(OsString::from_vec(bytes).into())
    }
}
