//! The kinds of problems: all that a client can receive, with what each means and what to do.

use axum::http::StatusCode;

/// Declares the kinds, each with the last part of its `type`, its title, its status, what it means
/// and what to do.
macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $kind:ident, $name:literal, $title:literal, $status:ident, $action:literal;)+) => {
        /// The kind of a problem; each has a stable `type`, a title and a status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[doc = $meaning])+ $kind,)+
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// Returns the last part of `type`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// Returns the title.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)+ }
            }

            /// Returns the status of the response.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)+ }
            }

            /// Returns what it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => concat!($($meaning),+),)+ }
            }

            /// Returns what a client can do.
            #[must_use]
            pub const fn action(self) -> &'static str {
                match self { $(Self::$kind => $action,)+ }
            }
        }
    };
}

kinds! {
    /// A field of the body, a parameter or a header breaks a rule.
    Validation, "validation", "Validation failed", BAD_REQUEST,
        "`errors` names all of them, each with its location (`pointer`, `parameter` or `header`), the rule and the value. Correct them and send the request again.";
    /// The token is missing, unknown, expired or revoked, or a signature is invalid.
    Unauthorized, "unauthorized", "Unauthorized", UNAUTHORIZED,
        "Send `Authorization: Bearer TOKEN` with a valid API token.";
    /// The role or the project of the token does not allow the request.
    Forbidden, "forbidden", "Forbidden", FORBIDDEN,
        "Use a token with a role that may do this; docs/api.md has a table of roles.";
    /// The resource does not exist, or the token cannot see it.
    NotFound, "not-found", "Not found", NOT_FOUND,
        "Check the id or the name, and the project.";
    /// The path exists, but does not support the method.
    MethodNotAllowed, "method-not-allowed", "Method not allowed", METHOD_NOT_ALLOWED,
        "See the operations of the path in the OpenAPI document.";
    /// The request conflicts with the current state of the resource.
    Conflict, "conflict", "Conflict", CONFLICT,
        "Read the resource again, and decide again.";
    /// Another device of the project has this name.
    NameTaken, "name-taken", "The name is taken", CONFLICT,
        "`device` is the device that has it. Choose another name, or rename or delete that device.";
    /// A project with this id exists.
    ProjectExists, "project-exists", "The project exists already", CONFLICT,
        "Use it, or choose another id.";
    /// An archived project is read-only.
    ProjectArchived, "project-archived", "The project is archived", CONFLICT,
        "Restore it: `PATCH /api/v1/projects/{project}` with `{\"status\": \"active\"}`.";
    /// The server has the maximum number of these resources.
    LimitReached, "limit-reached", "A limit is reached", CONFLICT,
        "Delete some, or raise the limit where it is a setting.";
    /// The operation, run or session has ended, so that it cannot be changed.
    AlreadyEnded, "already-ended", "It has already ended", CONFLICT,
        "Nothing has to be done; request a new one if necessary.";
    /// The device is not connected, and the request needs a connection.
    DeviceOffline, "device-offline", "The device is offline", CONFLICT,
        "Wait until its `status` is `online`, or use an operation, which waits for the device.";
    /// The device has never enrolled, or its enrollment is pending.
    DeviceNotEnrolled, "device-not-enrolled", "The device is not enrolled", CONFLICT,
        "Enroll it, or accept its pending enrollment.";
    /// The keys of the device are revoked.
    DeviceRevoked, "device-revoked", "The device is revoked", CONFLICT,
        "Enroll it again, with an enrollment token that names the device.";
    /// The resource existed, and was deleted or erased, or has expired.
    Gone, "gone", "Gone", GONE,
        "It does not come back.";
    /// `If-Match` does not match the current version of the resource.
    PreconditionFailed, "precondition-failed", "Precondition failed", PRECONDITION_FAILED,
        "Read the resource again, apply the change to it, and send its new `ETag`.";
    /// `Muster-Min-Position` or a position in a parameter is beyond the end of the log.
    PositionNotInLog, "position-not-in-log", "The log does not have the position", PRECONDITION_FAILED,
        "Send a position that a response of this server contained. After a restore of an older backup, positions start again at its end.";
    /// The body is larger than 256 KiB.
    TooLarge, "too-large", "Content too large", PAYLOAD_TOO_LARGE,
        "Send less in one request.";
    /// The path with its query is longer than 32 KiB.
    UriTooLong, "uri-too-long", "URI too long", URI_TOO_LONG,
        "Shorten the selector or the list of values.";
    /// `Range` requests a part that the file does not have.
    RangeNotSatisfiable, "range-not-satisfiable", "Range not satisfiable", RANGE_NOT_SATISFIABLE,
        "Request a part within the size, which is in `Content-Range`.";
    /// The body is not JSON in UTF-8.
    UnsupportedMediaType, "unsupported-media-type", "Unsupported media type", UNSUPPORTED_MEDIA_TYPE,
        "Send `Content-Type: application/json` without another charset.";
    /// The response would have too many series or points.
    TooMuch, "too-much", "Response too large", UNPROCESSABLE_ENTITY,
        "Request a shorter range, a longer step, or fewer series.";
    /// The `Idempotency-Key` was used for a request with another body.
    IdempotencyKeyReused, "idempotency-key-reused", "Idempotency key reused", UNPROCESSABLE_ENTITY,
        "Send a new key with each new request, and the same body with each retry.";
    /// The client or its token sends more requests than the limit allows.
    TooManyRequests, "too-many-requests", "Too many requests", TOO_MANY_REQUESTS,
        "Wait for the seconds in `Retry-After`.";
    /// The token has the maximum number of live streams, downloads and websockets open.
    TooManyStreams, "too-many-streams", "Too many live streams", TOO_MANY_REQUESTS,
        "Close some, or use several tokens.";
    /// The headers are larger than 64 KiB.
    HeadersTooLarge, "headers-too-large", "Request header fields too large", REQUEST_HEADER_FIELDS_TOO_LARGE,
        "Send fewer or shorter headers.";
    /// The server failed.
    Internal, "internal", "Internal server error", INTERNAL_SERVER_ERROR,
        "`correlation` names the entry in the log of the server.";
    /// The disk of the database or of the blob store is full; nothing was written.
    StorageFull, "storage-full", "Insufficient storage", INSUFFICIENT_STORAGE,
        "Free space on it.";
    /// A service that the request needs is unavailable.
    Unavailable, "unavailable", "Service unavailable", SERVICE_UNAVAILABLE,
        "Retry after the seconds in `Retry-After`.";
    /// The read model did not reach the position in time.
    NotYet, "not-yet", "Gateway timeout", GATEWAY_TIMEOUT,
        "Retry after the seconds in `Retry-After`.";
}

impl Kind {
    /// Returns its `type`: the path of a page that explains it.
    #[must_use]
    pub fn path(self) -> String {
        format!("/problems/{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documentation_has_each_kind() {
        let documented = include_str!("../../../docs/api.md");
        for kind in Kind::ALL {
            let (status, meaning) = (kind.status().as_u16(), kind.meaning().trim());
            let row = format!("| `{}` | {status} | {meaning} | {} |", kind.name(), kind.action());
            assert!(documented.contains(&row), "docs/api.md lacks this row:\n{row}");
        }
    }

    #[test]
    fn each_kind_has_a_name_of_its_own_and_an_error_status() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
            assert!(
                kind.meaning().trim().ends_with('.') && kind.action().ends_with('.'),
                "{kind:?}"
            );
        }
    }
}
