//! Outages of single servers, one property each. How soon everything flows again is measured by
//! `make soak KIND=outages`.

use std::time::Duration;

use bytes::Bytes;
use muster_tests::fleet::Fleet;
use muster_tests::{SimDevice, wait};

/// Shorter than the client's timeout of a request.
const HELLO_TIMEOUT: Duration = Duration::from_secs(8);
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a hello; returns the content of the response, if there is one.
async fn hello(device: &SimDevice) -> Option<Bytes> {
    tokio::time::timeout(HELLO_TIMEOUT, device.send_hello(&device.hello())).await.ok()?.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_cannot_be_processed_gets_an_empty_response() {
    let fleet = Fleet::start().await;
    let token = fleet.api.enrollment_token(1).await;
    let device = SimDevice::join(&fleet.api, &fleet.ca(), &token, "sim").await;
    assert!(hello(&device).await.is_some_and(|welcome| !welcome.is_empty()));
    fleet.postgres.child().stop().await.unwrap();
    assert_eq!(hello(&device).await, Some(Bytes::new()));
    fleet.postgres.child().restart().await.unwrap();
    wait::until("a welcome", WAIT_TIMEOUT, || async {
        hello(&device).await.is_some_and(|welcome| !welcome.is_empty()).then_some(())
    })
    .await;
}
