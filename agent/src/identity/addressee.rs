//! Checks whether a signed message is for this device in its current state, and still valid. Pure.

use muster_schemas::{DeviceId, Epoch, ProjectId, Timestamp};

/// The device's current identity.
#[derive(Clone, Debug)]
pub(crate) struct CurrentIdentity<'a> {
    pub(crate) project: &'a ProjectId,
    pub(crate) device: DeviceId,
    pub(crate) epoch: Epoch,
}

/// The reason why an order is ignored: it is not for this device, or cannot be checked now. The
/// server sends it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotForDevice {
    #[error("the message is for another project")]
    Project,
    #[error("the message is for another device")]
    Device,
    #[error("the message is for epoch {requested}, and the device is in epoch {current}")]
    Epoch { requested: Epoch, current: Epoch },
    #[error(
        "the device has not received a welcome yet, so it cannot determine whether the message \
         has expired"
    )]
    NoHello,
}

/// Checks that these fields name this device in its current state.
pub(crate) fn is_for(
    identity: &CurrentIdentity<'_>,
    project: &ProjectId,
    device: DeviceId,
    epoch: Epoch,
) -> Result<(), NotForDevice> {
    if project != identity.project {
        return Err(NotForDevice::Project);
    }
    if device != identity.device {
        return Err(NotForDevice::Device);
    }
    if epoch != identity.epoch {
        return Err(NotForDevice::Epoch { requested: epoch, current: identity.epoch });
    }
    Ok(())
}

/// Whether the order has expired, by the server's time of the newest hello.
pub(crate) fn is_expired(
    expires_at: Timestamp,
    server_time: Option<Timestamp>,
) -> Result<bool, NotForDevice> {
    server_time.map(|now| now > expires_at).ok_or(NotForDevice::NoHello)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_expires_only_by_the_server_time() {
        let expires = Timestamp(100);
        assert_eq!(is_expired(expires, None), Err(NotForDevice::NoHello));
        assert_eq!(is_expired(expires, Some(Timestamp(100))), Ok(false));
        assert_eq!(is_expired(expires, Some(Timestamp(101))), Ok(true));
    }
}
