//! Outages of single servers, one property each. How soon everything flows again is measured by
//! `make soak KIND=outages`.

use std::time::Duration;

use muster_schemas::codec;
use muster_schemas::cose::Kind;
use muster_schemas::wire::Hello;
use muster_tests::fleet::Fleet;
use muster_tests::{SimDevice, wait};
use uuid::Uuid;

/// Shorter than the client's timeout of a request.
const SOON: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a hello; returns the content of the response, if there is one.
async fn hello(device: &SimDevice) -> Option<Vec<u8>> {
    let answer = &device.enrolled.answer;
    let hello = Hello {
        project: answer.project.clone(),
        device: answer.device,
        epoch: answer.epoch,
        nonce: Uuid::new_v4(),
        last_seq: 0,
        time: std::time::SystemTime::now().into(),
        agent_version: "test".into(),
        config_version: 0,
        new_epoch: None,
    };
    let sealed = device.enrolled.key.seal(Kind::Hello, codec::encode(&hello));
    let asked = device.nats.request(device.subjects.request("hello"), sealed.into());
    let answer = tokio::time::timeout(SOON, asked).await.ok()?.ok()?;
    Some(answer.payload.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_cannot_be_answered_now_gets_an_empty_answer() {
    let fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(1).await;
    let device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "sim").await;
    assert!(hello(&device).await.is_some_and(|welcome| !welcome.is_empty()));
    fleet.postgres.child().stop().await.unwrap();
    assert_eq!(hello(&device).await, Some(Vec::new()));
    fleet.postgres.child().start_again().await.unwrap();
    wait::until("a welcome", PATIENCE, || async {
        hello(&device).await.is_some_and(|welcome| !welcome.is_empty()).then_some(())
    })
    .await;
}
