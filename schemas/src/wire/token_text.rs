//! The text form of tokens, which names the project and the token's id.
//!
//! `mst_<project>_<id>_<secret>` is an API token, `mse_<project>_<id>_<secret>_<pin>` an enrollment
//! token. The id is a UUID of 32 hexadecimal digits; secret and pin are 32 bytes in base32, lower
//! case, unpadded (52 characters). The pin is the SHA-256 of the CA's SubjectPublicKeyInfo.
//!
//! `msd_<project>_<operation>_<device>_<secret>` is in a download link for a file of an upload.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use uuid::Uuid;

use crate::cose::Hash;
use crate::ids::{DeviceId, OperationId, ProjectId, TokenId};

/// Not the text of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not {0}; check that it was copied completely")]
pub struct InvalidToken(&'static str);

/// An API token. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiTokenText {
    /// The project whose log holds the token; `system` for server-wide admins.
    pub project: ProjectId,
    /// The token's id.
    pub id: TokenId,
    /// The secret.
    pub secret: [u8; 32],
}

/// An enrollment token. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollmentTokenText {
    /// The project that the device joins.
    pub project: ProjectId,
    /// The token's id.
    pub id: TokenId,
    /// The secret.
    pub secret: [u8; 32],
    /// SHA-256 of the CA's SubjectPublicKeyInfo.
    pub pin: Hash,
}

/// The secret of a download link for one file. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct DownloadText {
    /// The project.
    pub project: ProjectId,
    /// The upload's operation.
    pub operation: OperationId,
    /// The upload's device.
    pub device: DeviceId,
    /// The secret.
    pub secret: [u8; 32],
}

fn base32(bytes: &[u8; 32]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn from_base32(text: &str) -> Option<[u8; 32]> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?.try_into().ok()
}

/// Parses `<prefix>_<project>_<id>_<secret>[_<rest>]`.
fn split(text: &str, prefix: &str) -> Option<(ProjectId, TokenId, [u8; 32], Option<String>)> {
    let mut parts = text.split('_');
    if parts.next()? != prefix {
        return None;
    }
    let project = parts.next()?.parse().ok()?;
    let id = parts.next()?;
    if id.len() != 32 {
        return None;
    }
    let id = TokenId(Uuid::try_parse(id).ok()?);
    let secret = from_base32(parts.next()?)?;
    let rest = parts.next().map(str::to_owned);
    parts.next().is_none().then_some((project, id, secret, rest))
}

impl FromStr for ApiTokenText {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match split(text, "mst") {
            Some((project, id, secret, None)) => Ok(Self { project, id, secret }),
            _ => Err(InvalidToken("an API token (mst_…)")),
        }
    }
}

impl FromStr for EnrollmentTokenText {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = InvalidToken("an enrollment token (mse_…)");
        let (project, id, secret, pin) = split(text, "mse").ok_or_else(|| invalid.clone())?;
        let pin = pin.and_then(|pin| from_base32(&pin)).ok_or(invalid)?;
        Ok(Self { project, id, secret, pin: Hash(pin) })
    }
}

impl FromStr for DownloadText {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = |text: &str| {
            let is_simple = text.len() == 32 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
            is_simple.then(|| Uuid::try_parse(text).ok()).flatten()
        };
        let read = || {
            let mut parts = text.strip_prefix("msd_")?.split('_');
            let read = Self {
                project: parts.next()?.parse().ok()?,
                operation: OperationId(id(parts.next()?)?),
                device: DeviceId(id(parts.next()?)?),
                secret: from_base32(parts.next()?)?,
            };
            parts.next().is_none().then_some(read)
        };
        read().ok_or(InvalidToken("a download link's token (msd_…)"))
    }
}

impl fmt::Display for DownloadText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, device) = (self.operation.0.simple(), self.device.0.simple());
        write!(f, "msd_{}_{operation}_{device}_{}", self.project, base32(&self.secret))
    }
}

impl fmt::Debug for DownloadText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Download({} of {} in {})", self.operation, self.device, self.project)
    }
}

impl fmt::Display for ApiTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mst_{}_{}_{}", self.project, self.id.0.simple(), base32(&self.secret))
    }
}

impl fmt::Display for EnrollmentTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secret, pin) = (base32(&self.secret), base32(&self.pin.0));
        write!(f, "mse_{}_{}_{secret}_{pin}", self.project, self.id.0.simple())
    }
}

impl fmt::Debug for ApiTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiToken({} of {})", self.id, self.project)
    }
}

impl fmt::Debug for EnrollmentTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollmentToken({} of {})", self.id, self.project)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_debug_hides_their_secret() {
        let api = ApiTokenText {
            project: ProjectId::default_project(),
            id: TokenId(Uuid::from_u128(7)),
            secret: [0xab; 32],
        };
        assert_eq!(api.to_string().parse(), Ok(api.clone()));
        assert!(!format!("{api:?}").contains(&base32(&api.secret)));

        let enroll = EnrollmentTokenText {
            project: ProjectId::default_project(),
            id: TokenId(Uuid::from_u128(8)),
            secret: [1; 32],
            pin: Hash([2; 32]),
        };
        assert_eq!(enroll.to_string().parse(), Ok(enroll.clone()));
        assert!(enroll.to_string().parse::<ApiTokenText>().is_err());
        assert!(api.to_string().parse::<EnrollmentTokenText>().is_err());
        let download = DownloadText {
            project: ProjectId::default_project(),
            operation: OperationId(Uuid::from_u128(9)),
            device: DeviceId(Uuid::from_u128(10)),
            secret: [3; 32],
        };
        let text = download.to_string();
        assert_eq!(text.parse(), Ok(download.clone()));
        assert!(!format!("{download:?}").contains(&base32(&download.secret)));
        for bad in ["msd_", &text[..text.len() - 1], &format!("{text}_"), &text.to_uppercase()] {
            assert!(bad.parse::<DownloadText>().is_err(), "{bad:?} was taken");
        }
        for bad in ["", "mst", "mst_default", "mst___", "mst_default_x_y", &format!("{api}_")] {
            assert!(bad.parse::<ApiTokenText>().is_err(), "{bad:?} was taken");
        }
    }
}
