//! A device name: held by at most one device of its project.

use muster_schemas::events::{DeviceNameReleased, DeviceNameReserved};
use muster_schemas::{DeviceId, Event};

use super::{Conflict, Decider, Decision};

/// State of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Device that holds the name.
    pub holder: Option<DeviceId>,
}

/// Commands on a name.
#[derive(Clone, Copy, Debug)]
pub enum NameCommand {
    /// Reserve the name for a device.
    Reserve(DeviceId),
    /// Release the name, if this device holds it.
    Release(DeviceId),
}

impl Decider for Name {
    type Command = NameCommand;

    fn decide(&self, command: NameCommand) -> Decision {
        match (command, self.holder) {
            (NameCommand::Reserve(device), None) => Ok(vec![DeviceNameReserved { device }.into()]),
            (NameCommand::Reserve(device), Some(holder)) if holder == device => Ok(Vec::new()),
            (NameCommand::Reserve(_), Some(holder)) => Err(Conflict::NameInUse(holder).into()),
            (NameCommand::Release(device), Some(holder)) if holder == device => {
                Ok(vec![DeviceNameReleased { device }.into()])
            }
            (NameCommand::Release(_), _) => Ok(Vec::new()),
        }
    }

    fn evolve(mut self, event: &Event) -> Self {
        match event {
            Event::DeviceNameReserved(event) => self.holder = Some(event.device),
            Event::DeviceNameReleased(_) => self.holder = None,
            _ => {}
        }
        self
    }
}
