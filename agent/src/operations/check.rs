//! Checks whether an order is addressed to this device now, and whether its private part is the
//! signed one. Pure.

use std::collections::BTreeSet;

use muster_schemas::events::{Exec, PrivatePart};
use muster_schemas::wire::PrivateInput;
use muster_schemas::{DeviceId, Epoch, Hash, OperationId, ProjectId, Timestamp, codec};
use serde::Deserialize;

use crate::identity::{CurrentIdentity, NotForDevice, is_for};

/// The fields that all orders have, of any action: so an order with an action that is unknown to
/// this agent can be refused by its id.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Address {
    pub(super) project: ProjectId,
    pub(super) device: DeviceId,
    pub(super) epoch: Epoch,
    pub(super) operation: OperationId,
    /// Absent in orders to cancel.
    #[serde(default)]
    pub(super) expires_at: Option<Timestamp>,
}

/// Checks that the order is addressed to this device in its current epoch.
pub(super) fn check_address(
    order: &Address,
    identity: &CurrentIdentity<'_>,
) -> Result<(), NotForDevice> {
    is_for(identity, &order.project, order.device, order.epoch)
}

/// The reason why the private part of an order cannot be used. It reveals nothing of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PrivatePartError {
    #[error("the order has environment variables and no private part")]
    NotSigned,
    #[error("the private part of the order is missing")]
    Missing,
    #[error("the private part does not match the signed order")]
    OtherContent,
    #[error("the private part is invalid")]
    Malformed,
    #[error("the length of the standard input does not match the signed order")]
    InputLength,
    #[error("the environment variables of the private part do not match the signed order")]
    Variables,
}

/// Parses the private part and compares it with what was signed.
pub(super) fn check_private(
    program: Option<&Exec>,
    signed: Option<&PrivatePart>,
    bytes: Option<&[u8]>,
) -> Result<Option<PrivateInput>, PrivatePartError> {
    let names = program.map(|exec| &exec.env[..]).unwrap_or_default();
    let required: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let Some(signed) = signed else {
        // Content without a signature is not used.
        return if required.is_empty() { Ok(None) } else { Err(PrivatePartError::NotSigned) };
    };
    let bytes = bytes.ok_or(PrivatePartError::Missing)?;
    if bytes.len() as u64 != signed.bytes || Hash::of(bytes) != signed.hash {
        return Err(PrivatePartError::OtherContent);
    }
    let input: PrivateInput = codec::decode(bytes).map_err(|_| PrivatePartError::Malformed)?;
    if input.stdin.len() as u64 != signed.stdin_bytes {
        return Err(PrivatePartError::InputLength);
    }
    if !input.env.keys().map(String::as_str).eq(required) {
        return Err(PrivatePartError::Variables);
    }
    Ok(Some(input))
}

#[cfg(test)]
mod tests {
    use muster_schemas::events::Program;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_order_is_valid_for_one_device_in_one_epoch() {
        let (project, device) = (ProjectId::default_project(), DeviceId(Uuid::from_u128(1)));
        let me = CurrentIdentity { project: &project, device, epoch: Epoch(3) };
        let order = Address {
            project: project.clone(),
            device,
            epoch: Epoch(3),
            operation: OperationId(Uuid::from_u128(2)),
            expires_at: Some(Timestamp(100)),
        };
        assert_eq!(check_address(&order, &me), Ok(()));
        let other = Address { project: ProjectId::system(), ..order.clone() };
        assert_eq!(check_address(&other, &me), Err(NotForDevice::Project));
        let other = Address { device: DeviceId(Uuid::from_u128(9)), ..order.clone() };
        assert_eq!(check_address(&other, &me), Err(NotForDevice::Device));
        for epoch in [Epoch(2), Epoch(4)] {
            let other = Address { epoch, ..order.clone() };
            let ignored = NotForDevice::Epoch { requested: epoch, current: Epoch(3) };
            assert_eq!(check_address(&other, &me), Err(ignored));
        }
    }

    #[test]
    fn the_private_part_must_match_the_signed_hash() {
        let exec = |env: &[&str]| Exec {
            program: Program::Shell("true".into()),
            cwd: None,
            user: None,
            env: env.iter().map(|&name| name.to_owned()).collect(),
            background: false,
        };
        let input = PrivateInput {
            salt: vec![7; 16],
            env: [("A".to_owned(), "secret".to_owned())].into(),
            stdin: b"in".to_vec(),
        };
        let bytes = codec::encode(&input);
        let signed =
            PrivatePart { hash: Hash::of(&bytes), bytes: bytes.len() as u64, stdin_bytes: 2 };
        let check = |exec: &Exec, signed: Option<&PrivatePart>, bytes: Option<&[u8]>| {
            check_private(Some(exec), signed, bytes)
        };
        assert_eq!(check(&exec(&["A"]), Some(&signed), Some(&bytes)), Ok(Some(input)));
        assert_eq!(check(&exec(&[]), None, Some(&bytes)), Ok(None), "not signed, not used");
        let garbage = b"\xff";
        let garbled = PrivatePart { hash: Hash::of(garbage), bytes: 1, stdin_bytes: 2 };
        for (action, signed, given, expected) in [
            (exec(&["A"]), Some(signed), None, PrivatePartError::Missing),
            (exec(&["A"]), Some(signed), Some(&b"other"[..]), PrivatePartError::OtherContent),
            (exec(&["A"]), Some(garbled), Some(&garbage[..]), PrivatePartError::Malformed),
            (exec(&["A"]), None, Some(&bytes[..]), PrivatePartError::NotSigned),
            (exec(&[]), Some(signed), Some(&bytes[..]), PrivatePartError::Variables),
            (exec(&["A", "B"]), Some(signed), Some(&bytes[..]), PrivatePartError::Variables),
            (
                exec(&["A"]),
                Some(PrivatePart { stdin_bytes: 3, ..signed }),
                Some(&bytes[..]),
                PrivatePartError::InputLength,
            ),
        ] {
            assert_eq!(check(&action, signed.as_ref(), given), Err(expected));
        }
    }
}
