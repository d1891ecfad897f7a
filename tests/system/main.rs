//! System tests, one module for each user story, in one binary, with real servers and agents.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    reason = "small numbers, and helpers that are easy to call"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod access;
mod agents;
mod applications;
mod architecture;
mod authority;
mod bad_network;
mod broker;
mod bucket;
mod bulk_writes;
mod clients;
mod cluster;
mod command_line;
mod compose;
mod config_secrets;
mod dead_mount;
mod doctor;
mod enroll;
mod enrollment_approval;
mod faults;
mod files;
mod full_disk;
mod grafana;
mod hostile;
mod http_headers;
mod installer;
mod language;
mod listener;
mod listener_limits;
mod live_output;
mod metric_limits;
mod muster_up;
mod network_access;
mod openapi;
mod operations;
mod outages;
mod outbox;
mod ports;
mod projects;
mod reachability;
mod read_after_write;
mod remote;
mod retention;
mod rotation;
mod selectors;
mod shell;
mod simulate;
mod terminal;
mod token_limits;
mod traces;
mod uploads;
mod wire;
