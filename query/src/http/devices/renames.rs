//! The names of devices at a position of the log, for a walk through a list that is sorted by name:
//! a device that is renamed meanwhile keeps its sort key.

use std::collections::BTreeMap;

use muster_api::Problem;
use muster_api::problem::Kind;
use muster_eventlog::{EventLog, ReadFilter};
use muster_schemas::events::DeviceRenamed;
use muster_schemas::{DeviceId, Event, Position, ProjectId};

/// Maximum number of events in one read of the log.
const MAX_EVENTS_PER_READ: u32 = 1000;
/// Maximum number of devices that are renamed during a walk.
const MAX_RENAMED: usize = 10_000;

/// Returns the devices that were renamed after a position, with their names at that position.
pub(super) async fn names_at(
    log: &EventLog,
    project: &ProjectId,
    position: Position,
) -> Result<BTreeMap<DeviceId, String>, Problem> {
    let mut names = BTreeMap::new();
    let mut filter =
        ReadFilter { after: position, until: None, kinds: vec![DeviceRenamed::TYPE.to_owned()] };
    loop {
        let found = log.read(project, &filter, MAX_EVENTS_PER_READ).await?;
        for stored in &found {
            filter.after = stored.position;
            let event = stored.event().map_err(|error| Problem::internal(&error))?;
            if let (Some(device), Event::DeviceRenamed(renamed)) = (stored.stream.device(), event) {
                names.entry(device).or_insert_with(|| renamed.previous.to_string());
            }
        }
        if names.len() > MAX_RENAMED {
            let message = format!(
                "more than {MAX_RENAMED} devices were renamed since the first page: list again \
                 from there"
            );
            return Err(Problem::new(Kind::TooMuch, message));
        }
        if found.len() < MAX_EVENTS_PER_READ as usize {
            return Ok(names);
        }
    }
}
