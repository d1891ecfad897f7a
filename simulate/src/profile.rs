//! What simulated devices do all day.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How a device behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What it is like.
    pub about: &'static str,
    /// The mean time between two events.
    pub event_every: Option<Duration>,
    /// The time between two metric batches.
    pub metrics_every: Option<Duration>,
    /// The mean time that a device stays connected.
    pub online_for: Option<Duration>,
    /// The longest time that it is then away.
    pub away_for: Duration,
    /// All devices break their connections at once, this often.
    pub storm_every: Option<Duration>,
}

const fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

const IDLE: Profile = Profile {
    name: "idle",
    about: "connected, and silent",
    event_every: None,
    metrics_every: None,
    online_for: None,
    away_for: Duration::ZERO,
    storm_every: None,
};

const STEADY: Profile = Profile {
    name: "steady",
    about: "metrics every 10 s, an event in ten minutes: as the agent by default",
    event_every: seconds(600),
    metrics_every: seconds(10),
    ..IDLE
};

impl Profile {
    /// All of them.
    pub const ALL: [Self; 5] = [
        IDLE,
        STEADY,
        Self {
            name: "busy",
            about: "metrics every 10 s, an event every 10 s",
            event_every: seconds(10),
            ..STEADY
        },
        Self {
            name: "churn",
            about: "metrics every 10 s, an event a minute, away for up to a minute every 5 minutes",
            event_every: seconds(60),
            online_for: seconds(300),
            away_for: Duration::from_secs(60),
            ..STEADY
        },
        Self {
            name: "storm",
            about: "metrics every 10 s, an event a minute, all connections broken at once every minute",
            event_every: seconds(60),
            storm_every: seconds(60),
            ..STEADY
        },
    ];
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// No profile has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no profile '{0}'; use idle, steady, busy, churn or storm")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        let found = Self::ALL.into_iter().find(|profile| profile.name == text);
        found.ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_every_profile() {
        let error = "lazy".parse::<Profile>().unwrap_err().to_string();
        for profile in Profile::ALL {
            assert!(error.contains(profile.name), "{error}");
            assert_eq!(profile.name.parse(), Ok(profile));
        }
    }
}
