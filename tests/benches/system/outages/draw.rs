//! What one outage is like, drawn from a seed.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Most events that a device records during one outage.
const MAX_BURST: u64 = 300;

/// The component that has the outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Component {
    /// nats-server.
    Broker,
    /// The role that writes the log.
    Ingest,
    /// The role that responds to hellos.
    Command,
    /// The database of the log.
    Postgres,
    /// All of these.
    All,
    /// The roles; when they return, the stream is deleted and the log is an older backup.
    Restored,
}

impl Component {
    pub(super) const ALL: [Self; 6] =
        [Self::Broker, Self::Ingest, Self::Command, Self::Postgres, Self::All, Self::Restored];
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broker => "broker",
            Self::Ingest => "ingest",
            Self::Command => "command",
            Self::Postgres => "PostgreSQL",
            Self::All => "broker, PostgreSQL, ingest and command",
            Self::Restored => "restored backup, lost stream",
        })
    }
}

/// One outage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) number: u64,
    pub(super) component: Component,
    /// Whether it is frozen (SIGSTOP): its connections stay open without a response.
    pub(super) is_frozen: bool,
    pub(super) length: Duration,
    /// Events that each agent records while it lasts.
    pub(super) burst: u64,
}

impl Outage {
    /// Draws the outage of this number. A backup is restored only where `may_restore`.
    pub(super) fn draw(
        number: u64,
        seed: u64,
        length: &RangeInclusive<f64>,
        may_restore: bool,
    ) -> Self {
        let mut random = StdRng::seed_from_u64(seed + number);
        let component = if may_restore && random.random_bool(0.3) {
            Component::Restored
        } else {
            Component::ALL[random.random_range(0..5)]
        };
        // As many of 1 to 2 s as of 30 to 60 s.
        let (shortest, longest) = (length.start().ln(), length.end().ln());
        let seconds = (shortest + (longest - shortest) * random.random::<f64>()).exp();
        let can_freeze = !matches!(component, Component::All | Component::Restored);
        Self {
            number,
            component,
            is_frozen: can_freeze && random.random_bool(0.25),
            length: Duration::from_secs_f64(seconds),
            burst: random.random_range(0..=MAX_BURST),
        }
    }
}
