//! Reasons for the end of a channel, as the other side receives them.
//!
//! Clients compare [`CONNECTION_ENDED`] with the reason that they receive: it never changes.

/// The session of the channel has ended.
pub const SESSION_ENDED: &str = "the session has ended";
/// The session was ended on request.
pub const SESSION_TERMINATED: &str = "the session was ended";
/// The connection or file transfer has ended without an error.
pub const CONNECTION_ENDED: &str = "the connection has ended";
/// The agent process is stopping.
pub const AGENT_STOPS: &str = "the agent is stopping";
