//! The behavior of simulated devices.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The behavior of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Name of the profile.
    pub name: &'static str,
    /// Description of the profile.
    pub description: &'static str,
    /// Mean interval between two events.
    pub event_interval: Option<Duration>,
    /// Interval between two metric batches.
    pub metrics_interval: Option<Duration>,
    /// Mean duration of a connection.
    pub mean_online_time: Option<Duration>,
    /// Maximum time for which a device then stays disconnected.
    pub max_offline_time: Duration,
    /// Interval at which all devices reconnect at the same time.
    pub storm_interval: Option<Duration>,
}

const fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

const IDLE: Profile = Profile {
    name: "idle",
    description: "connected, without metrics and events",
    event_interval: None,
    metrics_interval: None,
    mean_online_time: None,
    max_offline_time: Duration::ZERO,
    storm_interval: None,
};

const STEADY: Profile = Profile {
    name: "steady",
    description: "metrics every 10 s, an event every 10 minutes: the agent's defaults",
    event_interval: seconds(600),
    metrics_interval: seconds(10),
    ..IDLE
};

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 5] = [
        IDLE,
        STEADY,
        Self {
            name: "busy",
            description: "metrics every 10 s, an event every 10 s",
            event_interval: seconds(10),
            ..STEADY
        },
        Self {
            name: "churn",
            description: "metrics every 10 s, an event every minute, offline for up to a minute every 5 \
                    minutes",
            event_interval: seconds(60),
            mean_online_time: seconds(300),
            max_offline_time: Duration::from_secs(60),
            ..STEADY
        },
        Self {
            name: "storm",
            description: "metrics every 10 s, an event every minute, all connections closed \
                    simultaneously every minute",
            event_interval: seconds(60),
            storm_interval: seconds(60),
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
    fn the_error_lists_every_profile() {
        let error = "lazy".parse::<Profile>().unwrap_err().to_string();
        for profile in Profile::ALL {
            assert!(error.contains(profile.name), "{error}");
            assert_eq!(profile.name.parse(), Ok(profile));
        }
    }
}
