//! Tests of the append decision without a database: versions, conflicts, retries, positions.

use muster_schemas::events::{DeviceNameReleased, DeviceNameReserved};
use muster_schemas::{DeviceId, Epoch, Event, Position, StreamVersion};

use super::*;

fn event(n: u128) -> NewEvent {
    let event: Event = DeviceNameReserved { device: DeviceId(Uuid::from_u128(n)) }.into();
    NewEvent::server(&event, Timestamp(0))
}

fn stream(name: &str) -> StreamName {
    StreamName::Name(name.parse().unwrap())
}

fn append(name: &str, expected: Expected, events: usize) -> Append {
    let events = (0..events as u128).map(event).collect();
    Append::by_actor("test").stream(stream(name), expected, events)
}

fn plan_results(
    streams: &Streams,
    done: &HashMap<Uuid, Appended>,
    appends: &[Append],
) -> Vec<String> {
    let project = ProjectId::default_project();
    let mut frontier = Frontier::default();
    frontier.push(Hash::ZERO);
    let head = HeadState { frontier, recorded_at: Timestamp(5) };
    let named: Vec<Named<'_>> = appends
        .iter()
        .map(|append| (append, append.streams.iter().map(|part| part.stream.to_string()).collect()))
        .collect();
    let plan = plan(&head, streams, done, &named);
    assert_eq!(plan.rows.len() as u64 + 1, plan.position.get());
    assert_eq!(plan.frontier(&project, &head).size(), plan.position.get());
    plan.results
        .iter()
        .map(|result| match result {
            Ok(at) => format!("{}-{}", at.first, at.last),
            Err(AppendError::Conflict { stream, actual, .. }) => format!("{stream} at {actual}"),
            Err(AppendError::Closed { stream }) => format!("{stream} closed"),
            Err(error) => error.to_string(),
        })
        .collect()
}

#[test]
fn positions_have_no_gaps_and_a_rejected_append_uses_none() {
    let results = plan_results(
        &Streams::new(),
        &HashMap::new(),
        &[
            append("a", Expected::Version(StreamVersion::ZERO), 2),
            append("a", Expected::Version(StreamVersion::ZERO), 1),
            append("a", Expected::Version(StreamVersion(2)), 1),
            append("b", Expected::Any, 1),
        ],
    );
    assert_eq!(results, ["2-3", "name/a at 2", "4-4", "5-5"]);
}

#[test]
fn an_append_to_two_streams_is_atomic() {
    let both = append("a", Expected::Version(StreamVersion::ZERO), 1).stream(
        stream("b"),
        Expected::Version(StreamVersion(7)),
        vec![event(1)],
    );
    let results = plan_results(
        &Streams::new(),
        &HashMap::new(),
        &[both, append("a", Expected::Version(StreamVersion::ZERO), 1)],
    );
    assert_eq!(results, ["name/b at 0", "2-2"]);
}

#[test]
fn a_retried_append_gets_the_first_result() {
    let id = Uuid::from_u128(9);
    let first = Appended {
        first: Position(1),
        last: Position(1),
        recorded_at: Timestamp(3),
        request_hash: None,
    };
    let with_id = |id| Append {
        append_id: Some(id),
        ..append("a", Expected::Version(StreamVersion::ZERO), 1)
    };
    let known = HashMap::from([(id, first)]);
    let again = Uuid::from_u128(10);
    let results =
        plan_results(&Streams::new(), &known, &[with_id(id), with_id(again), with_id(again)]);
    assert_eq!(results, ["1-1", "2-2", "2-2"]);
}

#[test]
fn an_append_id_belongs_to_one_request() {
    let id = Uuid::from_u128(9);
    let request = |hash: u8| Append {
        append_id: Some(id),
        request_hash: Some(Hash([hash; 32])),
        ..append("a", Expected::Version(StreamVersion::ZERO), 1)
    };
    let results =
        plan_results(&Streams::new(), &HashMap::new(), &[request(1), request(2), request(1)]);
    assert_eq!(results, ["2-2", &AppendError::IdReused.to_string(), "2-2"]);
    // Rows of earlier releases have no hash.
    let first = Appended {
        first: Position(1),
        last: Position(1),
        recorded_at: Timestamp(3),
        request_hash: None,
    };
    let results = plan_results(&Streams::new(), &HashMap::from([(id, first)]), &[request(1)]);
    assert_eq!(results, ["1-1"]);
}

#[test]
fn a_device_report_follows_its_tip_in_an_open_epoch() {
    let device = DeviceId(Uuid::from_u128(1));
    let report = |version, tip: u8, after: u8| {
        let event: Event = DeviceNameReleased { device }.into();
        let events = vec![NewEvent::server(&event, Timestamp(0))];
        let stream = StreamName::DeviceReport(device, Epoch(1));
        let expected = Expected::Tip { version, tip: Hash([tip; 32]) };
        let mut append = Append::by_actor("test").stream(stream, expected, events);
        append.streams[0].tip = Some(Hash([after; 32]));
        append
    };
    let name = StreamName::DeviceReport(device, Epoch(1)).to_string();
    let open =
        StreamState { version: StreamVersion::ZERO, tip: Some(Hash::ZERO), is_closed: false };
    let streams = Streams::from([(name.clone(), open)]);
    let results = plan_results(
        &streams,
        &HashMap::new(),
        &[
            report(StreamVersion::ZERO, 0, 1),
            report(StreamVersion(1), 9, 2),
            report(StreamVersion(1), 1, 2),
        ],
    );
    assert_eq!(results, ["2-2", &format!("{name} at 1"), "3-3"]);
    let closed = Streams::from([(name.clone(), StreamState { is_closed: true, ..open })]);
    let results = plan_results(&closed, &HashMap::new(), &[report(StreamVersion::ZERO, 0, 1)]);
    assert_eq!(results, [format!("{name} closed")]);
    let results =
        plan_results(&Streams::new(), &HashMap::new(), &[report(StreamVersion::ZERO, 0, 1)]);
    assert_eq!(results, [format!("{name} at 0")]);
}
