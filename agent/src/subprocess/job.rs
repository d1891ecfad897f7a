//! The job of a helper. Each is defined where its results are used; the helper's main function
//! gets the list of all of them.

use std::io;
use std::os::fd::OwnedFd;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::Port;

/// The job of a helper, which the agent sends to it.
pub(crate) trait HelperJob: Serialize + DeserializeOwned {
    /// Name of the job, which precedes it on the socket.
    const NAME: &'static str;

    /// Performs the job, in the helper. The descriptors accompanied it.
    ///
    /// # Errors
    /// When the agent has closed the socket.
    fn perform(self, port: Port, descriptors: Vec<OwnedFd>) -> io::Result<()>;
}

/// A job that a helper can perform: its name, and the function that receives and performs it.
pub(crate) type JobEntry = (&'static str, fn(Port, Vec<OwnedFd>) -> io::Result<()>);

/// Returns the entry of a job for the list of all jobs.
pub(crate) fn job<J: HelperJob>() -> JobEntry {
    (J::NAME, receive_and_perform::<J>)
}

fn receive_and_perform<J: HelperJob>(mut port: Port, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    match port.receive::<J>()? {
        Some(job) => job.perform(port, descriptors),
        None => Ok(()),
    }
}
