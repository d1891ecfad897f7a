//! Runs the conversation through drops, duplicates, reorderings, crashes, restores and clones,
//! against a small model of the server's rule: an event is appended iff its epoch is known, its seq
//! is the next one and it names the newest event's hash.

mod device;
mod properties;
mod server;
mod world;

use muster_schemas::DeviceId;
use uuid::Uuid;

const SEED: [u8; 32] = [7; 32];

fn device() -> DeviceId {
    DeviceId(Uuid::from_u128(1))
}
