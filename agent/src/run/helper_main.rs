//! The main function of a helper process.

use std::process::ExitCode;

use crate::files::FilesJob;
use crate::operations::UploadJob;
use crate::subprocess::{Launch, job, perform_job};

/// Performs the job that the agent sends over standard input.
#[must_use]
pub fn run_helper() -> ExitCode {
    match perform_job(&[job::<Launch>(), job::<FilesJob>(), job::<UploadJob>()]) {
        Ok(()) => ExitCode::SUCCESS,
        // The agent detects the closed socket; there is no other recipient of a report.
        Err(_) => ExitCode::FAILURE,
    }
}
