//! What needs no place on the list: the runs of a small operation whose devices are there get their
//! orders in the commit that asks for them. All else the dispatcher begins, as it ends all.

use std::collections::BTreeSet;

use muster_eventlog::{ReadFilter, StoreError};
use muster_schemas::{DeviceId, ProjectId, Timestamp};

use super::list::{List, OpenOperation};
use super::rules;
use crate::service::Service;

/// An operation of more devices is begun by the dispatcher alone.
const SMALL: usize = 32;

/// Of so many runs nobody looks whether they are of these devices: the dispatcher has to do.
const MANY: u32 = 1000;

/// An order that can be given at once.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) device: DeviceId,
    /// The epoch that the device is in.
    pub(crate) epoch: u64,
    /// Sealed.
    pub(crate) order: Vec<u8>,
}

impl Service {
    /// Since when a device is offline; `None` when that is not known.
    pub(crate) async fn offline_since(
        &self,
        project: &ProjectId,
        device: DeviceId,
    ) -> Result<Option<Timestamp>, StoreError> {
        List::new(self.log.clone()).offline_since(project, device).await
    }

    /// The orders of a new operation that can be given at once. What is not here waits for the
    /// dispatcher, so that nothing is an error.
    pub(crate) async fn begin(
        &self,
        project: &ProjectId,
        operation: &OpenOperation,
        devices: &BTreeSet<DeviceId>,
        now: Timestamp,
    ) -> Vec<Begun> {
        let places = rules::places(operation, now);
        // What is private is erased by the dispatcher, which has to have seen the operation.
        let has_private = operation.requested.private.is_some();
        if devices.len() > SMALL || has_private || places == 0 {
            return Vec::new();
        }
        let before = now.plus_micros(-rules::ANSWER);
        let list = List::new(self.log.clone());
        // The list may be behind: who is online, and what was asked for since, the log knows.
        let asked = async {
            let (free, position) = list.free(project, devices, before, places).await?;
            if free.is_empty() {
                return Ok(None);
            }
            let online = self.log.online(project, devices);
            let (online, asked_for) = tokio::try_join!(online, self.asked_for(project, position))?;
            Ok::<_, StoreError>(asked_for.map(|asked_for| (free, online, asked_for)))
        };
        let (mut free, online, asked_for) = match asked.await {
            Ok(Some(answers)) => answers,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::debug!(%error, "an operation waits for the dispatcher");
                return Vec::new();
            }
        };
        free.retain(|(device, _)| online.contains(device) && !asked_for.contains(device));
        let order = |(device, epoch)| {
            let order = self.seal_order(project, operation, device, epoch).ok()?;
            Some(Begun { device, epoch, order })
        };
        free.into_iter().filter_map(order).collect()
    }

    /// The devices of which something was asked after a position; `None` when that is too much to
    /// look through.
    async fn asked_for(
        &self,
        project: &ProjectId,
        after: u64,
    ) -> Result<Option<BTreeSet<DeviceId>>, StoreError> {
        let kinds = vec!["RunRequested".to_owned()];
        let filter = ReadFilter { after, until: None, kinds };
        let found = self.log.read(project, &filter, MANY).await?;
        if found.len() == MANY as usize {
            return Ok(None);
        }
        Ok(Some(found.iter().filter_map(|stored| stored.stream.device()).collect()))
    }
}
