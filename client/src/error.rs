//! Why a request failed.

/// Failure of a request to the server.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server refused the request.
    #[error("{detail}")]
    Problem {
        /// HTTP status.
        status: u16,
        /// Last segment of the problem's type, such as `not-found`; empty if there is none.
        kind: String,
        /// Message of the server.
        detail: String,
    },
    /// The server is unreachable.
    #[error("cannot reach {url}: {problem}")]
    Unreachable {
        /// URL of the server.
        url: String,
        /// Reason.
        problem: String,
    },
}

/// There is no context with this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no context '{0}'; `muster context list` lists the contexts")]
pub struct NoContext(pub String);
