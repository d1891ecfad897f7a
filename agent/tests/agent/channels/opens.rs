//! Tests of opens that are ignored, and of those that are refused.

use muster_schemas::Epoch;

use super::*;

/// Checks that there is no response to a message, although there is one to a later open. If the
/// channel was opened before, its frames are on the same subject.
async fn is_ignored(server: &Server, bytes: Vec<u8>, channel: ChannelId) {
    let client = server.client().await;
    let mut up = client.subscribe(subjects().channel_up(channel)).await.unwrap();
    flush(&client).await;
    server.command("open", bytes).await;
    let unknown = Purpose::End { session: session(999) };
    causes(&refusal(server, unknown).await, ChannelRefusalCause::Invalid, "session");
    let deadline = tokio::time::Instant::now() + Duration::from_millis(200);
    while let Ok(message) = tokio::time::timeout_at(deadline, up.next()).await {
        let headers = message.unwrap().headers;
        let kind = headers.as_ref().and_then(|headers| headers.get(KIND_HEADER));
        assert!(kind.is_none_or(|kind| kind.as_str() != "opened"), "it was answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_expired_foreign_and_repeated_opens_are_ignored() {
    let (server, running) = greeted().await;
    let file = server.path("never");
    let purpose = || line(1, &format!("touch {}", file.display()));
    let Opening { open, .. } = opening(purpose());
    let forged = muster_schemas::SigningKey::from_seed(&[9; 32]);
    let mut bent = sealed(&open);
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    let late = ChannelOpen { expires_at: now().plus_micros(-1_000_000), ..open.clone() };
    for bytes in [
        forged.seal(Kind::Open, codec::encode(&open)),
        operation_key().seal(Kind::Run, codec::encode(&open)),
        bent,
        b"nothing".to_vec(),
        sealed(&ChannelOpen { epoch: Epoch(2), ..open.clone() }),
        sealed(&ChannelOpen { project: ProjectId::system(), ..open.clone() }),
        sealed(&ChannelOpen {
            device: muster_schemas::DeviceId(Uuid::from_u128(1)),
            ..open.clone()
        }),
        sealed(&late),
    ] {
        is_ignored(&server, bytes, open.channel).await;
    }
    assert!(!file.exists());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_opened_once_even_after_an_agent_restart() {
    let (server, running) = greeted().await;
    let file = server.path("count");
    let Opening { open, .. } = opening(line(1, &format!("echo x >> {}", file.display())));
    let client = server.client().await;
    let mut up = send(&server, &client, &open).await;
    tokio::time::timeout(WAIT_TIMEOUT, up.next()).await.unwrap().unwrap();
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    is_ignored(&server, sealed(&open), open.channel).await;
    running.stop().await;
    let running = greet(&server).await;
    is_ignored(&server, sealed(&open), open.channel).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_and_limits_are_named_in_refusals() {
    let (server, running) = greeted().await;
    let mut first = open(&server, shell(1)).await;
    first.is_attached(1, 0).await;
    let rejection = refusal(&server, shell(1)).await;
    causes(&rejection, ChannelRefusalCause::Invalid, "session");
    for (policy, rule) in [
        ("[shell]\nenabled = false\n", "[shell] enabled = false"),
        ("[shell]\nusers = [\"robot\"]\n", "[shell] users"),
        ("[exec]\nallow = [\"uptime\"]\n", "[exec] allow"),
        ("[exec]\nusers = [\"robot\"]\n", "[exec] users"),
        ("[shel]\n", "shel"),
    ] {
        std::fs::write(server.path("policy.toml"), policy).unwrap();
        for purpose in [shell(2), attach(1, true)] {
            let rejection = refusal(&server, purpose).await;
            causes(&rejection, ChannelRefusalCause::Policy, rule);
            assert!(rejection.reason.contains("policy.toml"), "{rejection:?}");
        }
    }
    std::fs::remove_file(server.path("policy.toml")).unwrap();
    let mut others = Vec::new();
    for number in 2..=32 {
        others.push(open(&server, line(number, "sleep 100")).await);
    }
    causes(&refusal(&server, shell(33)).await, ChannelRefusalCause::Busy, "32");
    for _ in 32..128 {
        others.push(open(&server, attach(1, true)).await);
    }
    causes(&refusal(&server, attach(1, true)).await, ChannelRefusalCause::Busy, "128");
    // A channel that ends frees its slot.
    others.pop().unwrap().channel.sender.close("enough").await;
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while try_open(&server, attach(1, true)).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_purpose_is_rejected_by_name() {
    let (server, running) = greeted().await;
    let Opening { open, .. } = opening(shell(1));
    #[derive(serde::Serialize)]
    struct Later<'a> {
        project: &'a ProjectId,
        device: muster_schemas::DeviceId,
        epoch: u64,
        channel: ChannelId,
        issued_at: muster_schemas::Timestamp,
        expires_at: muster_schemas::Timestamp,
        actor: &'a str,
        key: serde_bytes::ByteBuf,
        purpose: std::collections::BTreeMap<&'a str, &'a str>,
    }
    let later = Later {
        project: &open.project,
        device: open.device,
        epoch: 1,
        channel: open.channel,
        issued_at: open.issued_at,
        expires_at: open.expires_at,
        actor: "token:test",
        key: serde_bytes::ByteBuf::from(open.key.clone()),
        purpose: [("kind", "teleport")].into(),
    };
    let client = server.client().await;
    let mut up = client.subscribe(subjects().channel_up(open.channel)).await.unwrap();
    flush(&client).await;
    server.command("open", operation_key().seal(Kind::Open, codec::encode(&later))).await;
    let message = tokio::time::timeout(WAIT_TIMEOUT, up.next()).await.unwrap().unwrap();
    let key = server.state.lock().unwrap().key.unwrap();
    let opened = cose::open(&message.payload, Kind::Opened, &key).unwrap();
    let response: ChannelAnswer = codec::decode(&opened).unwrap();
    causes(&response.refused.unwrap(), ChannelRefusalCause::Unsupported, "muster-agent");
    running.stop().await;
}
