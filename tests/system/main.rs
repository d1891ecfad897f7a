//! System tests, one module a user story, in one binary. Everything in them is real.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod access;
mod agents;
mod applications;
mod architecture;
mod authority;
mod bucket;
mod cluster;
mod compose;
mod doctor;
mod enroll;
mod everyday;
mod faults;
mod files;
mod front_door;
mod grafana;
mod hostile;
mod installer;
mod joining;
mod limits_of_tokens;
mod narrow;
mod openapi;
mod operations;
mod outbox;
mod ports;
mod projects;
mod remote;
mod retention;
mod rotation;
mod running;
mod shell;
mod simulate;
mod traces;
mod uploads;
mod weather;
mod wire;
