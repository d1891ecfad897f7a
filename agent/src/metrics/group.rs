//! The groups of metrics that a device can report, by their measurement's name.
//!
//! Intervals and collectors are defined elsewhere.

use std::fmt;
use std::str::FromStr;

/// One group: one measurement of Telegraf's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Group {
    /// Usage of each core and of all together, in percent.
    Cpu,
    /// Memory.
    Mem,
    /// Swap space and its traffic.
    Swap,
    /// Load, number of CPUs, uptime.
    System,
    /// Processes by state.
    Processes,
    /// File systems by mount point.
    Disk,
    /// Block devices' counters.
    Diskio,
    /// Network interfaces' counters.
    Net,
    /// Wireless links' quality.
    Wireless,
    /// Temperature sensors.
    Temp,
    /// Batteries.
    Battery,
    /// The agent itself.
    MusterAgent,
}

impl Group {
    /// All groups, in the order in which they are collected.
    pub const ALL: [Self; 12] = [
        Self::Cpu,
        Self::Mem,
        Self::Swap,
        Self::System,
        Self::Processes,
        Self::Disk,
        Self::Diskio,
        Self::Net,
        Self::Wireless,
        Self::Temp,
        Self::Battery,
        Self::MusterAgent,
    ];

    /// The measurement's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Mem => "mem",
            Self::Swap => "swap",
            Self::System => "system",
            Self::Processes => "processes",
            Self::Disk => "disk",
            Self::Diskio => "diskio",
            Self::Net => "net",
            Self::Wireless => "wireless",
            Self::Temp => "temp",
            Self::Battery => "battery",
            Self::MusterAgent => "muster_agent",
        }
    }

    const fn bit(self) -> u16 {
        1 << (self as u8)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a group's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a group of metrics; use cpu, mem, swap, system, processes, disk, diskio, net, wireless, temp, battery or muster_agent"
)]
pub struct UnknownGroup(String);

impl FromStr for Group {
    type Err = UnknownGroup;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|group| group.as_str() == text)
            .ok_or_else(|| UnknownGroup(text.chars().take(80).collect()))
    }
}

/// A set of groups; by default all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GroupSet(u16);

impl GroupSet {
    /// Every group.
    pub const ALL: Self = Self((1 << Group::ALL.len()) - 1);
    /// No group.
    pub const NONE: Self = Self(0);

    /// Whether the set contains this group.
    #[must_use]
    pub const fn contains(self, group: Group) -> bool {
        self.0 & group.bit() != 0
    }

    /// Returns the set with this group.
    #[must_use]
    pub const fn with(self, group: Group) -> Self {
        Self(self.0 | group.bit())
    }

    /// Returns the set without this group.
    #[must_use]
    pub const fn without(self, group: Group) -> Self {
        Self(self.0 & !group.bit())
    }

    /// Returns the groups in the set, in the order in which they are collected.
    pub fn iter(self) -> impl Iterator<Item = Group> {
        Group::ALL.into_iter().filter(move |group| self.contains(*group))
    }
}

impl Default for GroupSet {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<Group> for GroupSet {
    fn from_iter<I: IntoIterator<Item = Group>>(groups: I) -> Self {
        groups.into_iter().fold(Self::NONE, Self::with)
    }
}

impl FromStr for GroupSet {
    type Err = UnknownGroup;

    /// Parses `cpu,mem,disk`, or `-disk,-temp` for all but those; an empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut names = text.split(',').map(str::trim).filter(|name| !name.is_empty()).peekable();
        let from = if names.peek().is_some_and(|name| name.starts_with('-')) {
            Self::ALL
        } else {
            Self::NONE
        };
        names.try_fold(from, |set, name| {
            Ok(match name.strip_prefix('-') {
                Some(name) => set.without(name.parse()?),
                None => set.with(name.parse()?),
            })
        })
    }
}

impl fmt::Display for GroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            group.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for GroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
