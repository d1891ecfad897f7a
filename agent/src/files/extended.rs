//! The fields of an extended SFTP request.

use super::bounds::{Failure, FileResult};

/// Parses a request's fields, which the library passes as bytes.
pub(super) struct RequestFields<'a>(pub(super) &'a [u8]);

impl RequestFields<'_> {
    fn take<const N: usize>(&mut self) -> FileResult<[u8; N]> {
        let wrong = || Failure::Invalid("the request is too short".to_owned());
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(wrong)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn text(&mut self) -> FileResult<String> {
        let length = u32::from_be_bytes(self.take()?) as usize;
        let wrong = || Failure::Invalid("a string is missing in the request".to_owned());
        let (text, rest) = self.0.split_at_checked(length).ok_or_else(wrong)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| wrong())
    }

    pub(super) fn number(&mut self) -> FileResult<u64> {
        Ok(u64::from_be_bytes(self.take()?))
    }
}
