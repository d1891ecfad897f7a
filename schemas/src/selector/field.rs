//! A device's own fields in selectors, and the values that they can have.

use std::fmt;
use std::str::FromStr;

use super::pattern::Pattern;
use super::similar::nearest;

/// A field of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The name.
    Name,
    /// The id.
    Id,
    /// The status, one of [`STATUSES`].
    Status,
    /// The operating system: its full name or its short id.
    Os,
    /// The processor's architecture.
    Arch,
    /// The agent's version.
    Agent,
    /// The host name.
    Hostname,
}

/// The values of [`Field::Status`].
pub const STATUSES: [&str; 6] =
    ["registered", "pending", "online", "offline", "revoked", "deleted"];

impl Field {
    /// All fields.
    pub const ALL: [Self; 7] =
        [Self::Name, Self::Id, Self::Status, Self::Os, Self::Arch, Self::Agent, Self::Hostname];

    /// Its name in a selector.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Id => "id",
            Self::Status => "status",
            Self::Os => "os",
            Self::Arch => "arch",
            Self::Agent => "agent",
            Self::Hostname => "hostname",
        }
    }

    pub(super) fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.as_str() == text)
    }

    /// Whether upper and lower case are the same in its values.
    #[must_use]
    pub const fn ignores_case(self) -> bool {
        matches!(self, Self::Os | Self::Arch | Self::Agent | Self::Hostname)
    }

    /// Whether a value of the field matches the pattern.
    #[must_use]
    pub fn matches(self, pattern: &Pattern, value: &str) -> bool {
        if self.ignores_case() { pattern.matches_any_case(value) } else { pattern.matches(value) }
    }

    /// Refuses a pattern that no device can match.
    pub(super) fn check(self, pattern: &Pattern) -> Result<(), String> {
        let text = pattern.as_str();
        if text.is_empty() {
            return Err(format!("'{self}' is never empty; expected a value"));
        }
        let only = |is_fitting: fn(u8) -> bool| text.bytes().all(|b| b == b'*' || is_fitting(b));
        match self {
            Self::Status if !STATUSES.contains(&text) => {
                let hint = match nearest(text, STATUSES) {
                    Some(near) => format!("; did you mean '{near}'?"),
                    None => String::new(),
                };
                let all = STATUSES.join(", ");
                Err(format!("'{text}' is not a status; expected one of {all}{hint}"))
            }
            Self::Id if !only(|b| b.is_ascii_digit() || b"abcdef-".contains(&b)) => {
                Err(format!("'{text}' is not an id; expected digits, a-f and '-'"))
            }
            Self::Id if pattern.is_exact() && text.len() != 36 => {
                Err(format!("'{text}' is not a whole id; write {text}* for its start"))
            }
            Self::Name
                if !only(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)
                }) =>
            {
                Err(format!("'{text}' is not a device name; expected a-z, 0-9, '-', '.' and '*'"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first numbers of a version; those that are left out are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentVersion(pub [i32; 4]);

impl AgentVersion {
    /// Reads the numbers that a version starts with: of `1.4.0-rc1`, they are 1, 4, 0.
    #[must_use]
    pub fn start_of(text: &str) -> Option<Self> {
        let mut numbers = [0; 4];
        let mut read = 0;
        for (part, place) in text.split('.').zip(&mut numbers) {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let digits = part.get(..end).filter(|digits| (1..=9).contains(&digits.len()));
            let Some(number) = digits.and_then(|digits| digits.parse().ok()) else { break };
            *place = number;
            read += 1;
            if end < part.len() {
                break;
            }
        }
        (read > 0).then_some(Self(numbers))
    }
}

impl FromStr for AgentVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = [0; 4];
        for (index, part) in text.split('.').enumerate() {
            let is_number =
                (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            let place = numbers.get_mut(index).filter(|_| is_number).ok_or(())?;
            *place = part.parse().map_err(|_| ())?;
        }
        Ok(Self(numbers))
    }
}

impl fmt::Display for AgentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.0.iter().rposition(|number| *number != 0).unwrap_or(0);
        for (index, number) in self.0.iter().take(last + 1).enumerate() {
            let dot = if index > 0 { "." } else { "" };
            write!(f, "{dot}{number}")?;
        }
        Ok(())
    }
}
