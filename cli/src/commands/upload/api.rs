//! Uploads in the API: their path.

/// Path of the uploads in the API.
pub(super) const UPLOADS: &str = "/api/v1/uploads";
