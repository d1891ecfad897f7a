//! The device's clocks at one moment, and their relation to the server's clock.

use std::time::SystemTime;

use muster_schemas::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One moment, by all of the device's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The kernel's id of this boot; nil if the kernel does not provide it.
    pub boot: Uuid,
    /// Microseconds since that boot, including suspend (CLOCK_BOOTTIME).
    pub mono: u64,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// Reads the clocks.
    #[must_use]
    pub fn now() -> Self {
        Self { boot: boot_id(), mono: boottime_us(), wall: SystemTime::now().into() }
    }
}

/// The server's time at one moment of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Id of the boot.
    pub boot: Uuid,
    /// The monotonic clock at that moment.
    pub mono: u64,
    /// The server's clock at that moment.
    pub server: Timestamp,
}

impl Anchor {
    /// Returns the server's time at a moment; `None` if the moment belongs to another boot.
    #[must_use]
    pub fn server_time(&self, at: &Moment) -> Option<Timestamp> {
        self.server_time_at(at.boot, at.mono)
    }

    /// Like [`Self::server_time`], for a moment whose wall clock is irrelevant.
    #[must_use]
    pub fn server_time_at(&self, boot: Uuid, mono: u64) -> Option<Timestamp> {
        let elapsed = i64::try_from(i128::from(mono) - i128::from(self.mono)).ok()?;
        (boot == self.boot && !boot.is_nil()).then(|| self.server.plus_micros(elapsed))
    }

    /// The device's wall clock minus the server's, in microseconds.
    #[must_use]
    pub fn skew(&self, at: &Moment) -> Option<i64> {
        self.server_time(at).map(|server| at.wall.micros_since(server))
    }
}

fn boottime_us() -> u64 {
    // Cannot fail for this clock on any Linux since 2.6.39, so the default is irrelevant.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let micros = i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_nsec()) / 1000;
        u64::try_from(micros).unwrap_or(0)
    })
}

fn boot_id() -> Uuid {
    use std::sync::OnceLock;
    // A process belongs to one boot.
    static BOOT: OnceLock<Uuid> = OnceLock::new();
    *BOOT.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(Uuid::nil())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_time_does_not_depend_on_the_wall_clock() {
        let boot = Uuid::from_u128(1);
        let anchor = Anchor { boot, mono: 1_000, server: Timestamp(500_000) };
        for (wall, skew) in [(0, -500_500), (1_000_000, 499_500)] {
            let later = Moment { boot, mono: 1_500, wall: Timestamp(wall) };
            assert_eq!(anchor.server_time(&later), Some(Timestamp(500_500)));
            assert_eq!(anchor.skew(&later), Some(skew));
        }
        let before = Moment { boot, mono: 400, wall: Timestamp(0) };
        assert_eq!(anchor.server_time(&before), Some(Timestamp(499_400)));
        let other = Moment { boot: Uuid::from_u128(2), mono: 1_500, wall: Timestamp(0) };
        assert_eq!(anchor.server_time(&other), None);
    }

    #[test]
    fn the_clocks_of_this_machine_can_be_read() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(first.mono > 0 && second.mono >= first.mono && !first.boot.is_nil());
    }
}
