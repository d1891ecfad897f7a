//! (b) Signed events from the broker into the log through the released ingest, compared with
//! verifying the same events' signatures (strict) on all cores and nothing else.
//!
//! The events are in the stream before ingest starts, so that publishing them costs nothing during
//! the measurement, which starts with the first commit.

use std::time::Instant;

use bytes::Bytes;
use muster_schemas::cose::{Kind, PublicKey, Unverified};
use muster_schemas::envelope::parse_sealed;
use muster_tests::sim::Chain;

use crate::field::{DEVICES, Field, drain_rate};
use crate::pairs::{PAIRS, Pairs};
use crate::report::Report;

/// Number of events of each device in a round.
const EVENTS: u64 = 250;
const TOTAL: u64 = EVENTS * DEVICES as u64;

/// Returns the events per second, without a comparison.
pub(crate) async fn measure(field: &mut Field, report: &mut Report) -> f64 {
    let mut rates = Vec::new();
    for (what, is_alone) in [
        ("(b) signed events committed, read side off", true),
        ("(b) the same, three projections following", false),
    ] {
        if is_alone {
            field.fleet.query.stop();
        } else {
            field.fleet.query.restart();
            field.fleet.wait_until_ready().await;
        }
        let mut pairs = Pairs::default();
        for _ in 0..PAIRS {
            let ours = round(field).await;
            let peer = verify(&field.chains);
            pairs.add(ours, peer);
        }
        let target = is_alone.then_some(0.4);
        report.rate(what, pairs.ours(), ("verifying", pairs.peer()), pairs.ratio(), target);
        rates.push(pairs.ours());
    }
    rates[0]
}

async fn round(field: &mut Field) -> f64 {
    field.fleet.ingest.stop();
    let messages = field.seal(EVENTS);
    field.publish(messages).await;
    let before = field.head().await;
    field.fleet.ingest.restart();
    let shared = &*field;
    drain_rate(TOTAL, || async move { shared.head().await - before }).await
}

/// Verifies the newest round's signatures; returns signatures per second. Parsing is not included.
fn verify(chains: &[Chain]) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parsed: Vec<Vec<(Unverified, PublicKey)>> = (0..cores).map(|_| Vec::new()).collect();
    let newest = |chain: &Chain| chain.events.len() - usize::try_from(EVENTS).unwrap();
    for (number, (chain, event)) in chains
        .iter()
        .flat_map(|chain| chain.events[newest(chain)..].iter().map(move |event| (chain, event)))
        .enumerate()
    {
        let bytes: &Bytes = &event.bytes;
        parsed[number % cores].push((parse_sealed(bytes).unwrap().0, chain.key.public()));
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        for share in parsed {
            scope.spawn(move || {
                for (message, key) in share {
                    message.verify(Kind::Event, &key).unwrap();
                }
            });
        }
    });
    TOTAL as f64 / start.elapsed().as_secs_f64()
}
