//! Converts failures to SFTP status codes.

use std::io::ErrorKind;

use russh_sftp::protocol::StatusCode;
use russh_sftp::server::StatusReply;

use super::bounds::Failure;

impl From<Failure> for StatusReply {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Denied(_) => StatusCode::PermissionDenied,
            Failure::Invalid(_) | Failure::Unresponsive(_) => StatusCode::Failure,
            Failure::Io(error) => match error.kind() {
                ErrorKind::NotFound => StatusCode::NoSuchFile,
                ErrorKind::PermissionDenied => StatusCode::PermissionDenied,
                ErrorKind::UnexpectedEof => StatusCode::Eof,
                ErrorKind::Unsupported => StatusCode::OpUnsupported,
                _ => StatusCode::Failure,
            },
        };
        code.with_message(failure.to_string())
    }
}
