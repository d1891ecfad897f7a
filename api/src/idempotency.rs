//! `Idempotency-Key`: a retried write gets the first result.
//!
//! The append id is derived from the key, and the event log keeps append ids for a day. The token
//! and the path are part of the id, so clients cannot collide, and the same key on another path is
//! another request. The body is not part of the id: the log keeps its hash with the id, and a key
//! that is used again with another body is refused with 422.

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use muster_schemas::Hash;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::auth::Principal;
use crate::body::read_body;
use crate::problem::{Kind, Problem};

/// Name of the header.
pub const HEADER: &str = "idempotency-key";
const RULE: &str = "must be 1 to 200 visible ASCII characters";

/// The header, if it was sent, and the request's method and path.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    key: Option<String>,
    request: String,
    body_hash: Option<Hash>,
}

/// Hash of a request's body; set by [`repeatable`].
#[derive(Clone, Copy, Debug)]
struct BodyHash(Hash);

/// Middleware for requests that carry an `Idempotency-Key`.
///
/// It hashes the body. JSON is hashed by its values: neither white space nor the order of fields
/// changes the hash.
///
/// It runs a refused request again: the same request may have been executed elsewhere between
/// the lookup and the decision of this attempt, and then its result is returned.
pub async fn repeatable(request: Request, next: Next) -> Response {
    if !request.headers().contains_key(HEADER) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let bytes = match read_body(Request::from_parts(parts.clone(), body), &()).await {
        Ok(bytes) => bytes,
        Err(problem) => return problem.into_response(),
    };
    parts.extensions.insert(BodyHash(hash_of(&bytes)));
    let attempt = Request::from_parts(parts.clone(), Body::from(bytes.clone()));
    let response = next.clone().run(attempt).await;
    let refusals = [Kind::NotFound, Kind::Conflict, Kind::Gone, Kind::PreconditionFailed];
    if !refusals.into_iter().any(|kind| kind.status() == response.status()) {
        return response;
    }
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

fn hash_of(body: &[u8]) -> Hash {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(mut value) => {
            value.sort_all_objects();
            Hash::of(value.to_string().as_bytes())
        }
        Err(_) => Hash::of(body),
    }
}

impl IdempotencyKey {
    /// Returns the id of this request's append: the same for each retry with the same key, a new
    /// one without a key (a retry inside the server is still safe).
    #[must_use]
    pub fn append_id(&self, principal: &Principal) -> Uuid {
        let Some(key) = &self.key else {
            return Uuid::new_v4();
        };
        let mut hasher = Sha256::new();
        hasher.update(b"muster/idempotency/v1");
        for part in [principal.token.0.as_bytes(), self.request.as_bytes(), key.as_bytes()] {
            hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(part);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(digest.split_at(16).0);
        uuid::Builder::from_custom_bytes(id).into_uuid()
    }

    /// Returns the hash of the body that came with the key; `None` without a key.
    #[must_use]
    pub const fn request_hash(&self) -> Option<Hash> {
        self.body_hash
    }

    /// Whether a key was sent.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        self.key.is_some()
    }
}

/// The header that [`IdempotencyKey`] reads, for the OpenAPI document.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `IdempotencyKey` reads")]
pub struct IdempotencyParam {
    /// A retry with the same key gets the first response. The same key with another body is refused
    /// with 422. Keys are kept for a day.
    #[param(
        rename = "Idempotency-Key", value_type = String, required = false,
        pattern = "^[!-~]+$", min_length = 1, max_length = 200
    )]
    key: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(HEADER).iter();
        let key = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(value), None) => {
                let text = value.to_str().unwrap_or_default();
                let fits = (1..=200).contains(&text.len())
                    && text.bytes().all(|byte| byte.is_ascii_graphic());
                if !fits {
                    return Err(Problem::header("Idempotency-Key", RULE, Some(text.into())));
                }
                Some(text.to_owned())
            }
            (Some(_), Some(_)) => {
                return Err(Problem::header("Idempotency-Key", "was sent twice", None));
            }
        };
        // The query names the project; the part before the path depends on the version of HTTP.
        let target = parts.uri.path_and_query().map_or(parts.uri.path(), |target| target.as_str());
        let request = format!("{} {target}", parts.method);
        let body_hash = match (&key, parts.extensions.get::<BodyHash>()) {
            (Some(_), Some(BodyHash(hash))) => Some(*hash),
            _ => None,
        };
        Ok(Self { key, request, body_hash })
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::TokenId;
    use muster_schemas::events::Role;

    use super::*;

    fn principal(token: u128) -> Principal {
        Principal { token: TokenId(Uuid::from_u128(token)), role: Role::Admin, project: None }
    }

    async fn key(uri: &str, value: &str) -> Result<IdempotencyKey, Problem> {
        let request = axum::http::Request::post(uri).header(HEADER, value);
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        IdempotencyKey::from_request_parts(&mut parts, &()).await
    }

    #[tokio::test]
    async fn the_append_id_depends_on_the_request() {
        let id = async |uri: &str, value: &str, token| {
            key(uri, value).await.unwrap().append_id(&principal(token))
        };
        let first = id("/api/v1/devices", "k", 1).await;
        assert_eq!(first, id("/api/v1/devices", "k", 1).await);
        assert_ne!(first, id("/api/v1/devices", "k", 2).await);
        assert_ne!(first, id("/api/v1/devices", "l", 1).await);
        assert_ne!(first, id("/api/v1/tokens", "k", 1).await);
        assert_ne!(first, id("/api/v1/devices?project=b", "k", 1).await);
        for bad in ["", "a b", &"x".repeat(201)] {
            assert!(key("/", bad).await.is_err(), "{bad:?} was taken");
        }
    }
}
