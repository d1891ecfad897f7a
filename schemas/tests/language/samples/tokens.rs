//! Samples of what happens to tokens.

use muster_schemas::events::{
    ApiTokenCreated, ApiTokenRevoked, ApiTokenUsed, EnrollmentTokenCreated, EnrollmentTokenRevoked,
    EnrollmentTokenUsed, Role,
};
use muster_schemas::{DeviceId, Timestamp};

use super::{Sample, devices, digest, id, text};

pub(super) fn samples() -> Vec<Sample> {
    vec![
        Sample::event(EnrollmentTokenCreated {
            name: text("line 3, first batch"),
            secret: digest("secret"),
            expires_at: Timestamp(1_795_507_200_000_000),
            uses: 25,
            labels: devices::labels(),
            device: Some(DeviceId(id(1))),
            approval: true,
            config: devices::config(),
            allow_labels: [text("env"), text("site")].into(),
        }),
        Sample::event(EnrollmentTokenUsed { device: DeviceId(id(1)) }),
        Sample::event(EnrollmentTokenRevoked {}),
        Sample::event(ApiTokenCreated {
            name: text("grafana read-only"),
            secret: digest("secret"),
            role: Role::Viewer,
            expires_at: Some(Timestamp(1_795_507_200_000_000)),
        }),
        Sample::event(ApiTokenUsed { address: Some("2001:db8::7".into()) }),
        Sample::event(ApiTokenRevoked {}),
    ]
}
