//! NATS subjects: `muster.<project>.<device>.<what>`, and their stored, partitioned forms.

use crate::ids::{ChannelId, DeviceId, ProjectId};

/// The JetStream stream of signed events.
pub const EVENTS_STREAM: &str = "EVENTS";
/// The JetStream stream of metric batches.
pub const METRICS_STREAM: &str = "METRICS";
/// Number of partitions of the devices' subjects. Fixed: a device stays in its partition.
pub const PARTITIONS: u32 = 16;

/// The subjects on which devices publish events.
pub const ALL_EVENTS: &str = "muster.*.*.evt";
/// The subjects on which devices publish metric batches.
pub const ALL_METRICS: &str = "muster.*.*.met.>";
/// The subject of a stored event.
pub const EVENTS_TRANSFORM: &str = "evt.{{partition(16,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}";
/// The subject of a stored metric batch.
pub const METRICS_TRANSFORM: &str = "met.{{partition(16,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}.>";
/// The subjects of devices' requests.
pub const ALL_REQUESTS: &str = "muster.*.*.req.*";

/// Subjects of a device that it may publish on, relative to `muster.<project>.<device>`. The broker
/// refuses every other subject.
pub const DEVICE_PUBLISHES: [&str; 6] =
    ["evt", "met.live.host", "met.backfill", "req.hello", "req.output", "ch.*.up"];
/// Subjects of a device that it may subscribe to, relative to `muster.<project>.<device>`; in addition
/// to its inboxes.
pub const DEVICE_SUBSCRIBES: [&str; 4] = ["cmd", "ack", "stored.>", "ch.*.down"];

/// Subjects that the devices' account exports and the servers' account imports.
pub const FROM_DEVICES: [&str; 4] = [ALL_EVENTS, ALL_METRICS, ALL_REQUESTS, "muster.*.*.ch.*.up"];
/// Subjects that the servers' account exports and the devices' account imports.
pub const TO_DEVICES: [&str; 5] = [
    "muster.*.*.cmd",
    "muster.*.*.ack",
    "muster.*.*.stored.>",
    "muster.*.*.ch.*.down",
    "_INBOX.muster.*.*.>",
];

/// Subjects without messages that an account exports, and the other one imports with a number of its
/// claims as the last token: so the imports of new claims always differ from those of the previous
/// ones.
pub const CLAIMS_OF_DEVICES: &str = "claims.devices.*";
/// As [`CLAIMS_OF_DEVICES`], for the account of the server roles.
pub const CLAIMS_OF_SERVER: &str = "claims.server.*";

/// Source and destination of EVENTS' republishing: the confirmation that an event is stored.
pub const EVENTS_STORED: (&str, &str) =
    ("evt.*.*.*", "muster.{{wildcard(2)}}.{{wildcard(3)}}.stored.evt");
/// Source and destination of METRICS' republishing: the confirmation that a batch is stored. A
/// source that ends with `>` needs a destination that does.
pub const METRICS_STORED: (&str, &str) =
    ("met.*.*.*.>", "muster.{{wildcard(2)}}.{{wildcard(3)}}.stored.>");

/// The subjects of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSubjects {
    prefix: String,
}

impl DeviceSubjects {
    /// The subjects of this device.
    #[must_use]
    pub fn new(project: &ProjectId, device: DeviceId) -> Self {
        Self { prefix: format!("muster.{project}.{device}") }
    }

    /// Signed events; the broker confirms each on [`Self::stored`].
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}.evt", self.prefix)
    }

    /// Metric batches as sampled. The group names their source; the broker keeps the newest of each.
    #[must_use]
    pub fn live_metrics(&self, group: &str) -> String {
        format!("{}.met.live.{group}", self.prefix)
    }

    /// Metric batches sampled offline.
    #[must_use]
    pub fn backfill(&self) -> String {
        format!("{}.met.backfill", self.prefix)
    }

    /// A request to the command role, such as `hello`.
    #[must_use]
    pub fn request(&self, verb: &str) -> String {
        format!("{}.req.{verb}", self.prefix)
    }

    /// Messages of the command role to the device.
    #[must_use]
    pub fn commands(&self) -> String {
        format!("{}.cmd", self.prefix)
    }

    /// The device's messages on a channel.
    #[must_use]
    pub fn channel_up(&self, channel: ChannelId) -> String {
        format!("{}.ch.{channel}.up", self.prefix)
    }

    /// The server's messages on a channel.
    #[must_use]
    pub fn channel_down(&self, channel: ChannelId) -> String {
        format!("{}.ch.{channel}.down", self.prefix)
    }

    /// The log's progress with this device's events.
    #[must_use]
    pub fn acks(&self) -> String {
        format!("{}.ack", self.prefix)
    }

    /// Confirmations that the broker has stored a message of this device.
    #[must_use]
    pub fn stored(&self) -> String {
        format!("{}.stored.>", self.prefix)
    }

    /// The prefix of the device's inboxes: replies to its requests.
    #[must_use]
    pub fn inbox_prefix(&self) -> String {
        format!("_INBOX.{}", self.prefix)
    }
}

/// Parses `muster.<project>.<device>.<rest>`.
#[must_use]
pub fn parse(subject: &str) -> Option<(ProjectId, DeviceId, &str)> {
    let mut parts = subject.splitn(4, '.');
    if parts.next()? != "muster" {
        return None;
    }
    let project = parts.next()?.parse().ok()?;
    let device = parts.next()?.parse().ok()?;
    Some((project, device, parts.next()?))
}

/// Parses the stored subject `evt|met.<partition>.<project>.<device>[.<rest>]`.
#[must_use]
pub fn parse_stored(subject: &str) -> Option<(ProjectId, DeviceId, &str)> {
    let mut parts = subject.splitn(5, '.');
    let (_kind, _partition) = (parts.next()?, parts.next()?);
    let project = parts.next()?.parse().ok()?;
    let device = parts.next()?.parse().ok()?;
    Some((project, device, parts.next().unwrap_or_default()))
}

/// The stored subject of a device's events, in any partition.
#[must_use]
pub fn stored_events(project: &ProjectId, device: DeviceId) -> String {
    format!("evt.*.{project}.{device}")
}

/// Partition of a stored subject.
#[must_use]
pub fn stored_partition(subject: &str) -> Option<u32> {
    subject.split('.').nth(1)?.parse().ok()
}

/// The consumer with which ingest reads one partition of EVENTS.
#[must_use]
pub fn events_consumer(partition: u32) -> String {
    format!("evt-{partition}")
}

/// The stored subjects of one partition of EVENTS.
#[must_use]
pub fn events_partition(partition: u32) -> String {
    format!("evt.{partition}.>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_their_device() {
        let id = "0198c0de-7000-7abc-8def-0123456789ab";
        let device: DeviceId = id.parse().unwrap_or(DeviceId(uuid::Uuid::nil()));
        let subjects = DeviceSubjects::new(&ProjectId::default_project(), device);
        let found = parse(&subjects.live_metrics("host"))
            .map(|(project, device, rest)| (project, device, rest.to_owned()));
        assert_eq!(found, Some((ProjectId::default_project(), device, "met.live.host".to_owned())));
        assert_eq!(
            parse_stored(&format!("met.3.default.{id}.live.host")).map(|(_, d, rest)| (d, rest)),
            Some((device, "live.host"))
        );
        for foreign in ["", "muster", "muster.default.x.evt", "other.default.x.evt"] {
            assert_eq!(parse(foreign), None);
        }
    }
}
