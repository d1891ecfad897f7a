//! Point-in-time queries of devices: at a position, or at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster_api::Problem;
use muster_api::problem::Kind;
use muster_eventlog::Head;
use muster_schemas::names::DeviceName;
use muster_schemas::{DeviceId, Event, Position, ProjectId, StreamName, Timestamp};

use super::resolve::unknown;
use crate::point_in_time::{self, PointInTimeError, Snapshot};
use crate::projections::devices::Device;
use crate::state::{DeviceSnapshot, QueryState};

/// Returns the position that `position` or `at` selects; `None` for the current state.
pub(super) async fn requested_position(
    state: &QueryState,
    project: &ProjectId,
    position: Option<Position>,
    at: Option<Timestamp>,
) -> Result<Option<Position>, Problem> {
    let head = async || -> Result<Head, Problem> {
        let head = state.log().head(project).await?;
        head.ok_or_else(|| Problem::not_found(format!("there is no project '{project}'")))
    };
    match (position, at) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(Problem::parameter("at", "cannot be combined with position", None))
        }
        (Some(position), None) => {
            let head = head().await?.position;
            if position > head {
                let detail = format!("position {position} is beyond the end of the log, {head}");
                return Err(Problem::new(Kind::PositionNotInLog, detail));
            }
            Ok(Some(position))
        }
        (None, Some(at)) => {
            let now = Timestamp::from(std::time::SystemTime::now());
            if at > now {
                let rule = format!("is in the future; the server's time is {now}");
                return Err(Problem::parameter("at", rule, Some(at.to_string().into())));
            }
            Ok(Some(state.log().position_at(project, at).await?))
        }
    }
}

/// Returns all devices at a position. The last result is cached: the next page has the same
/// position, and the next step of a replay starts at its end.
pub(super) async fn devices(
    state: &QueryState,
    project: &ProjectId,
    position: Position,
) -> Result<Arc<BTreeMap<DeviceId, Device>>, Problem> {
    let _permit = state.point_in_time_permits.acquire().await;
    let last = state.last_snapshot.lock().clone();
    let previous = last.filter(|past| past.project == *project && past.position <= position);
    let earlier = match previous {
        Some(past) if past.position == position => return Ok(past.devices),
        Some(past) => {
            Snapshot { position: past.position, devices: Arc::unwrap_or_clone(past.devices) }
        }
        None => Snapshot::default(),
    };
    let devices = point_in_time::devices_at(state.log(), project, earlier, position);
    let devices = Arc::new(devices.await.map_err(problem)?);
    let past = DeviceSnapshot { project: project.clone(), position, devices: devices.clone() };
    *state.last_snapshot.lock() = Some(past);
    Ok(devices)
}

/// Returns one device at a position; `text` is its id, or the name that it had.
pub(super) async fn device(
    state: &QueryState,
    project: &ProjectId,
    text: &str,
    position: Position,
) -> Result<(DeviceId, Device), Problem> {
    let id = match text.parse::<DeviceId>() {
        Ok(id) => id,
        Err(_) => name_holder(state, project, text, position).await?,
    };
    let timeline = &state.read_models.timeline;
    muster_api::MinPosition(Some(position)).wait(state.log(), timeline, project).await?;
    let device =
        point_in_time::device_at(state.log(), project, id, position).await.map_err(problem)?;
    let is_named = |device: &Device| {
        let name = device.name.as_ref().map(DeviceName::as_str);
        name.is_some() && (text.parse::<DeviceId>().is_ok() || name == Some(text))
    };
    match device {
        Some(device) if is_named(&device) => Ok((id, device)),
        _ => Err(unknown(project, text)),
    }
}

/// Returns the device that had a name, from the stream `name/<name>`; if none did, the last one that
/// had it, which the caller uses only if it was deleted.
async fn name_holder(
    state: &QueryState,
    project: &ProjectId,
    text: &str,
    position: Position,
) -> Result<DeviceId, Problem> {
    let Ok(name) = text.parse::<DeviceName>() else {
        return Err(unknown(project, text));
    };
    let stream = StreamName::Name(name);
    let mut holder = None;
    let stored = state.log().read_stream(project, &stream).await?;
    for stored in state.log().authentic(project, stored).await {
        if stored.position > position {
            break;
        }
        holder = match stored.event() {
            Ok(Event::DeviceNameReserved(reserved)) => Some(reserved.device),
            Ok(_) => holder,
            Err(error) => return Err(Problem::internal(&error)),
        };
    }
    holder.ok_or_else(|| unknown(project, text))
}

fn problem(error: PointInTimeError) -> Problem {
    match error {
        PointInTimeError::Store(error) => error.into(),
        error => Problem::internal(&error),
    }
}
