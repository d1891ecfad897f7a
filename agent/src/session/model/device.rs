//! A device whose process can crash and whose messages can be lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use muster_schemas::events::DeviceConfigApplied;
use muster_schemas::wire::Ack;
use muster_schemas::{ConfigVersion, Epoch, ProjectId, SigningKey, Timestamp};
use uuid::Uuid;

use super::server::Server;
use super::{SEED, device};
use crate::clock::Moment;
use crate::outbox::{Limits, Outbox};
use crate::session::{Outgoing, Session};
use crate::store::{Folder, Store};

/// A device with its disk, and the network between it and the server.
pub(super) struct Device {
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    pub(super) outbox: Arc<Outbox>,
    pub(super) session: Session,
    pub(super) up: Vec<Outgoing>,
    pub(super) down: Vec<Ack>,
    pub(super) recorded: Vec<u64>,
}

impl Device {
    pub(super) fn open(dir: &Path, limits: Limits) -> (Arc<Outbox>, Session) {
        let store = Arc::new(Store::open(Folder::open(dir).unwrap()).unwrap());
        let project = ProjectId::default_project();
        let key = SigningKey::from_seed(&SEED);
        let outbox = Arc::new(
            Outbox::open(store, key, project.clone(), device(), Epoch::FIRST, limits).unwrap(),
        );
        let session = Session::new(Arc::clone(&outbox), project, device());
        (outbox, session)
    }

    pub(super) fn new(dir: &Path, limits: Limits) -> Self {
        let (outbox, session) = Self::open(dir, limits);
        let dir = dir.to_owned();
        Self { dir, limits, outbox, session, up: vec![], down: vec![], recorded: vec![] }
    }

    /// Crashes the process and starts another one on the same disk.
    pub(super) fn crash(self, now: Instant) -> Self {
        let Self { dir, limits, recorded, outbox, session, .. } = self;
        drop((outbox, session));
        let mut device = Self { recorded, ..Self::new(&dir, limits) };
        device.session.connected(now);
        device
    }

    pub(super) fn record(&mut self, number: u64) {
        let event =
            DeviceConfigApplied { version: ConfigVersion(number), errors: Default::default() }
                .into();
        if self.outbox.record(&event, moment(number)).is_ok() {
            self.recorded.push(number);
        }
    }

    pub(super) fn send(&mut self, now: Instant) {
        self.session.tick(now, 0.5);
        while let Some(outgoing) = self.session.next_event(now).unwrap() {
            self.session.on_broker_reply(outgoing.epoch, outgoing.seq, true, now, 0.5);
            self.up.push(outgoing);
        }
    }

    pub(super) fn hello(&mut self, server: &mut Server, now: Instant, is_lost: bool) {
        let nonce = Uuid::new_v4();
        let Some(hello) = self.session.next_hello(now, &moment(0), ConfigVersion::ZERO, nonce)
        else {
            return;
        };
        let welcome = server.welcome(&hello);
        if is_lost {
            self.session.hello_failed(now, 0.5);
        } else {
            let request = Uuid::new_v4();
            self.session.on_welcome(&welcome, now, moment(0), request, 0.5).ok();
        }
    }

    pub(super) fn receive(&mut self, now: Instant) {
        for ack in std::mem::take(&mut self.down) {
            self.session.on_ack(&ack, now, Timestamp(0)).unwrap();
        }
        self.outbox.record_dropped(moment(0)).unwrap();
    }
}

pub(super) fn moment(number: u64) -> Moment {
    Moment { boot: Uuid::from_u128(9), mono: number, wall: Timestamp(number as i64) }
}
