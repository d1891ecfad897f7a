//! Changes of presence, appended to the log.

use std::collections::HashMap;

use muster_eventlog::{
    Append, AppendError, Batch, EventLog, Expected, NewEvent, StoreError, StreamAppend,
};
use muster_schemas::{Event, Hash, ProjectId, StreamName, StreamVersion, Timestamp};

use super::connection::ProjectDevice;
use super::table::Change;

/// The version of each device's presence stream.
#[derive(Debug)]
pub(super) struct Recorder {
    log: EventLog,
    versions: HashMap<ProjectDevice, (StreamVersion, Hash)>,
}

impl Recorder {
    /// Reads the versions of the streams.
    pub(super) async fn open(log: EventLog) -> Result<Self, StoreError> {
        let mut versions = HashMap::new();
        for project in log.projects().await? {
            for (device, version, tip) in log.presence(&project).await? {
                versions.insert((project.clone(), device), (version, tip));
            }
        }
        Ok(Self { log, versions })
    }

    /// Returns the devices that are online in the log: their tip names a connection.
    pub(super) fn online(&self) -> impl Iterator<Item = ProjectDevice> {
        let online = self.versions.iter().filter(|(_, (_, tip))| *tip != Hash::ZERO);
        online.map(|(who, _)| who.clone())
    }

    /// Appends changes. If another tracker has written meanwhile, the append fails and this one starts
    /// over.
    pub(super) async fn record(&mut self, changes: &[Change]) -> Result<(), AppendError> {
        let now = Timestamp::from(std::time::SystemTime::now());
        let mut by_project: HashMap<
            &ProjectId,
            Vec<(&ProjectDevice, Append, StreamVersion, Hash)>,
        > = HashMap::new();
        // Two changes of one device in one batch must follow each other.
        let mut ahead: HashMap<&ProjectDevice, (StreamVersion, Hash)> = HashMap::new();
        for Change { device: who, event } in changes {
            let current = ahead.get(who).or_else(|| self.versions.get(who)).copied();
            let (version, before) = current.unwrap_or((StreamVersion::ZERO, Hash::ZERO));
            let tip = match event {
                Event::DeviceConnected(connected) => Hash::of(connected.connection.as_bytes()),
                _ => Hash::ZERO,
            };
            let expected = if version == StreamVersion::ZERO {
                Expected::Version(StreamVersion::ZERO)
            } else {
                Expected::Tip { version, tip: before }
            };
            let mut append = Append::by_actor("role:ingest");
            append.streams.push(StreamAppend {
                stream: StreamName::DevicePresence(who.1),
                expected,
                events: vec![NewEvent::server(event, now)],
                tip: Some(tip),
            });
            ahead.insert(who, (version + 1, tip));
            by_project.entry(&who.0).or_default().push((who, append, version + 1, tip));
        }
        for (project, entries) in by_project {
            let (updates, appends): (Vec<_>, Vec<_>) = entries
                .into_iter()
                .map(|(who, append, version, tip)| ((who, version, tip), append))
                .unzip();
            let batch = Batch { appends, offset: None };
            let results = self.log.append_batch(project, batch).await?;
            for ((who, version, tip), result) in updates.into_iter().zip(results) {
                match result {
                    Ok(_) => {
                        self.versions.insert(who.clone(), (version, tip));
                    }
                    Err(AppendError::NoProject(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
