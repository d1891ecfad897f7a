//! Encryption against manipulated messages, frames against arbitrary bytes, and the flow of bytes over
//! a real broker.

use std::time::Duration;

use bytes::Bytes;
use muster_backing::nats::{NatsOptions, NatsServer};
use muster_schemas::Hash;
use muster_schemas::wire::TerminalSize;
use proptest::prelude::*;

use super::frame::{Attached, Exit};
use super::*;

fn pair() -> (Keys, Keys) {
    let (server, device) = (KeyExchange::new().unwrap(), KeyExchange::new().unwrap());
    let (ours, theirs) = (server.public().to_vec(), device.public().to_vec());
    let open = Hash::of(b"the sealed open");
    let server = server.agree(Side::Server, &theirs, &open).unwrap();
    (server, device.agree(Side::Device, &ours, &open).unwrap())
}

#[test]
fn each_side_opens_only_the_other_side_s_messages_in_order() {
    let (mut server, mut device) = pair();
    let messages: Vec<Vec<u8>> = [b"one".as_slice(), b"", b"three"]
        .iter()
        .map(|text| server.seal.seal(|to| to.extend_from_slice(text)).unwrap())
        .collect();
    assert_eq!(device.open.open(&messages[0]).unwrap().as_ref(), b"one");
    assert_eq!(device.open.open(&messages[0]), Err(SealError::Order { expected: 1, found: 0 }));
    assert_eq!(device.open.open(&messages[2]), Err(SealError::Order { expected: 1, found: 2 }));
    let mut bent = messages[1].clone();
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(device.open.open(&bent), Err(SealError::Forged));
    assert_eq!(device.open.open(b"short"), Err(SealError::Short));
    assert_eq!(device.open.open(&messages[1]).unwrap().as_ref(), b"");
    assert_eq!(device.open.open(&messages[2]).unwrap().as_ref(), b"three");
    // A message of one side is not accepted as one of the other.
    assert_eq!(server.open.open(&messages[0]), Err(SealError::Forged));
    assert!(!messages[0].windows(3).any(|part| part == b"one"), "it is readable");
}

#[test]
fn a_different_open_or_key_derives_different_channel_keys() {
    let (server, device) = (KeyExchange::new().unwrap(), KeyExchange::new().unwrap());
    let (ours, theirs) = (server.public().to_vec(), device.public().to_vec());
    let mut server = server.agree(Side::Server, &theirs, &Hash::of(b"one")).unwrap();
    let mut device = device.agree(Side::Device, &ours, &Hash::of(b"two")).unwrap();
    let sealed = server.seal.seal(|to| to.extend_from_slice(b"secret")).unwrap();
    assert_eq!(device.open.open(&sealed), Err(SealError::Forged));
    for bad in [&[][..], &[0; 32], &[1; 31]] {
        let half = KeyExchange::new().unwrap();
        assert!(half.agree(Side::Device, bad, &Hash::ZERO).is_err(), "{bad:?} was taken");
    }
}

#[test]
fn frames_round_trip() {
    for frame in [
        Frame::Data(Bytes::from_static(b"bytes")),
        Frame::Credit(77),
        Frame::Eof,
        Frame::Close("for a reason".into()),
        Frame::Received(7),
        Frame::Retransmit(1 << 40),
        Frame::Resize(TerminalSize { cols: 80, rows: 24 }),
        Frame::Exit(Exit { code: Some(3), reason: None }),
        Frame::Screen(Bytes::from_static(b"\x1b[2J")),
        Frame::Attached(Attached { shared: 1, watching: 2 }),
    ] {
        assert_eq!(Frame::decode(&frame.encode().into()), Ok(frame));
    }
    for bad in [&[][..], &[1, 2], &[2, 0], &[9], &[10], &[5, 0xff]] {
        assert!(Frame::decode(&Bytes::from_static(bad)).is_err(), "{bad:?} was taken");
    }
}

proptest! {
    #[test]
    fn decoding_a_frame_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = Frame::decode(&bytes.into()) {
            prop_assert_eq!(Frame::decode(&frame.encode().into()), Ok(frame));
        }
    }
}

/// Waits until the broker has processed this client's requests: `flush` only writes to the socket.
async fn flush(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    futures::StreamExt::next(&mut own).await.unwrap();
}

/// Two ends of a channel over a real broker.
async fn channels(nats: &NatsServer) -> (Channel, Channel, async_nats::Client) {
    let connect = || async { async_nats::connect(nats.url()).await.unwrap() };
    let (one, other, spy) = (connect().await, connect().await, connect().await);
    let (server, device) = pair();
    let up = one.subscribe("up").await.unwrap();
    let down = other.subscribe("down").await.unwrap();
    flush(&one).await;
    flush(&other).await;
    let server = Channel::start(one, "down".into(), up, server, ProtocolVersion::V2);
    (server, Channel::start(other, "up".into(), down, device, ProtocolVersion::V2), spy)
}

async fn broker() -> (NatsServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(NatsOptions::new(dir.path())).await.unwrap();
    (nats, dir)
}

async fn next(receiver: &mut Receiver) -> Result<Frame, ChannelEnded> {
    tokio::time::timeout(Duration::from_secs(30), receiver.next()).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_arrive_in_order_in_both_directions() {
    let (nats, _dir) = broker().await;
    let (server, device, _) = channels(&nats).await;
    const BYTES: usize = 8 << 20;
    let pump = |channel: Channel| async move {
        let Channel { sender, mut receiver } = channel;
        let saying = tokio::spawn(async move {
            let bytes: Vec<u8> = (0..BYTES).map(|at| (at / 7) as u8).collect();
            sender.send_data(bytes.into()).await.unwrap();
            sender.send(Frame::Eof).await.unwrap();
            sender
        });
        let mut received = 0_usize;
        loop {
            match next(&mut receiver).await.unwrap() {
                Frame::Data(bytes) => {
                    for byte in bytes {
                        assert_eq!(byte, (received / 7) as u8, "at {received}");
                        received += 1;
                    }
                }
                Frame::Eof => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(received, BYTES);
        (saying.await.unwrap(), receiver)
    };
    let (one, two) = tokio::join!(pump(server), pump(device));
    drop((one, two));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_1_agent_receives_only_version_1_frames() {
    let (nats, _dir) = broker().await;
    let connect = || async { async_nats::connect(nats.url()).await.unwrap() };
    let (one, other) = (connect().await, connect().await);
    let (server, mut device) = pair();
    let up = one.subscribe("up").await.unwrap();
    let mut down = other.subscribe("down").await.unwrap();
    flush(&one).await;
    flush(&other).await;
    let server = Channel::start(one, "down".into(), up, server, ProtocolVersion::V1);
    let text = Bytes::from(vec![b'x'; 100_000]);
    server.sender.send_data(text.clone()).await.unwrap();
    let mut received = Vec::new();
    while received.len() < text.len() {
        let message = futures::StreamExt::next(&mut down).await.unwrap();
        let plain = device.open.open(&message.payload).unwrap();
        // Neither compressed nor larger than 32 KiB.
        assert!(
            plain[0] == 0 && plain.len() <= 1 + 32 * 1024,
            "{} of kind {}",
            plain.len(),
            plain[0]
        );
        received.extend_from_slice(&plain[1..]);
    }
    assert_eq!(received, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_blocks_data_but_not_control_frames() {
    let (nats, _dir) = broker().await;
    let (server, mut device, _) = channels(&nats).await;
    let sender = server.sender.clone();
    let writing = tokio::spawn(async move { sender.send_data(vec![7; 4 << 20].into()).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!writing.is_finished(), "nobody reads, and yet all of it was taken");
    assert!(!server.sender.has_credit());
    // The opposite direction is not blocked.
    device.sender.send_data(Bytes::from_static(b"\x03")).await.unwrap();
    let mut receiver = server.receiver;
    assert_eq!(next(&mut receiver).await, Ok(Frame::Data(Bytes::from_static(b"\x03"))));
    let mut taken = 0;
    while taken < 4 << 20 {
        let Frame::Data(bytes) = next(&mut device.receiver).await.unwrap() else { panic!() };
        taken += bytes.len();
    }
    writing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_delivered_after_all_earlier_frames() {
    let (nats, _dir) = broker().await;
    let (server, mut device, _) = channels(&nats).await;
    server.sender.send_data(Bytes::from_static(b"last words")).await.unwrap();
    server.sender.close("enough").await;
    assert_eq!(
        next(&mut device.receiver).await,
        Ok(Frame::Data(Bytes::from_static(b"last words")))
    );
    assert_eq!(next(&mut device.receiver).await, Err(ChannelEnded("enough".into())));
    assert_eq!(
        device.sender.send_data(Bytes::from_static(b"x")).await,
        Err(ChannelEnded("enough".into()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_message_or_silence_ends_the_channel() {
    let (nats, _dir) = broker().await;
    let (mut server, mut device, spy) = channels(&nats).await;
    spy.publish("down", Bytes::from_static(b"\0\0\0\0\0\0\0\0forged and long enough"))
        .await
        .unwrap();
    flush(&spy).await;
    let Err(ChannelEnded(why)) = next(&mut device.receiver).await else { panic!("it was taken") };
    assert_eq!(why, SealError::Forged.to_string());
    // The server receives nothing from now on.
    let Err(ChannelEnded(why)) = next(&mut server.receiver).await else { panic!("who speaks?") };
    assert_eq!(why, crate::listen::SILENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_message_is_processed_once() {
    let (nats, _dir) = broker().await;
    let (server, mut device, spy) = channels(&nats).await;
    // A broker that delivers everything twice, and out of order.
    let mut subscription = spy.subscribe("down").await.unwrap();
    flush(&spy).await;
    server.sender.send_data(Bytes::from_static(b"one")).await.unwrap();
    server.sender.send_data(Bytes::from_static(b"two")).await.unwrap();
    let mut messages = Vec::new();
    for _ in 0..2 {
        messages.push(futures::StreamExt::next(&mut subscription).await.unwrap().payload);
    }
    for message in messages.iter().rev().chain(&messages) {
        spy.publish("down", message.clone()).await.unwrap();
    }
    flush(&spy).await;
    server.sender.send_data(Bytes::from_static(b"three")).await.unwrap();
    // Waiting data is merged.
    let mut received = Vec::new();
    while received.len() < "onetwothree".len() {
        let Ok(Frame::Data(bytes)) = next(&mut device.receiver).await else { panic!() };
        received.extend(bytes);
    }
    assert_eq!(received, b"onetwothree");
}

/// Two ends over a broker of the test, which drops messages.
async fn lossy(
    nats: &NatsServer,
    loses: impl Fn(&str, u64) -> bool + Send + Clone + 'static,
) -> (Channel, Channel) {
    let connect = || async { async_nats::connect(nats.url()).await.unwrap() };
    let (one, other) = (connect().await, connect().await);
    for (from, to) in [("server.said", "device.hears"), ("device.said", "server.hears")] {
        let middle = connect().await;
        let mut messages = middle.subscribe(from).await.unwrap();
        flush(&middle).await;
        let loses = loses.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(message) = futures::StreamExt::next(&mut messages).await {
                count += 1;
                if !loses(from, count) {
                    middle.publish(to, message.payload).await.unwrap();
                }
            }
        });
    }
    let (server, device) = pair();
    let up = one.subscribe("server.hears").await.unwrap();
    let down = other.subscribe("device.hears").await.unwrap();
    flush(&one).await;
    flush(&other).await;
    let server = Channel::start(one, "server.said".into(), up, server, ProtocolVersion::V2);
    (server, Channel::start(other, "device.said".into(), down, device, ProtocolVersion::V2))
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_messages_are_retransmitted() {
    const BYTES: usize = 2 << 20;
    let (nats, _dir) = broker().await;
    // Every seventh message of both sides, and ten consecutive ones of one.
    let loses =
        |from: &str, count| count % 7 == 3 || (from == "server.said" && (20..30).contains(&count));
    let (server, mut device) = lossy(&nats, loses).await;
    let Channel { sender, receiver: mut kept } = server;
    let saying = tokio::spawn(async move {
        let bytes: Vec<u8> = (0..BYTES).map(|at| (at / 7) as u8).collect();
        sender.send_data(bytes.into()).await.unwrap();
        sender.send(Frame::Eof).await.unwrap();
        // Until the other side has all of it.
        assert_eq!(next(&mut kept).await, Ok(Frame::Eof));
    });
    let mut received = 0;
    loop {
        match next(&mut device.receiver).await.unwrap() {
            Frame::Data(bytes) => {
                for byte in bytes {
                    assert_eq!(byte, (received / 7) as u8, "at {received}");
                    received += 1;
                }
            }
            Frame::Eof => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, BYTES);
    device.sender.send(Frame::Eof).await.unwrap();
    saying.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_last_message_is_retransmitted_without_further_traffic() {
    let (nats, _dir) = broker().await;
    // The first message of each side, with none after it.
    let (server, mut device) = lossy(&nats, |_, count| count == 1).await;
    let mut receiver = server.receiver;
    let started_at = std::time::Instant::now();
    server.sender.send_data(Bytes::from_static(b"ls\r")).await.unwrap();
    device.sender.send_data(Bytes::from_static(b"$ ")).await.unwrap();
    assert_eq!(next(&mut device.receiver).await, Ok(Frame::Data(Bytes::from_static(b"ls\r"))));
    assert_eq!(next(&mut receiver).await, Ok(Frame::Data(Bytes::from_static(b"$ "))));
    assert!(started_at.elapsed() < Duration::from_secs(8), "{:?}", started_at.elapsed());
    // It is acknowledged: both sides keep nothing.
    let confirmed = async {
        while server.sender.has_unacked() || device.sender.has_unacked() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), confirmed).await.expect("it is confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_continues_over_another_connection() {
    let (nats, _dir) = broker().await;
    let connect = || async { async_nats::connect(nats.url()).await.unwrap() };
    let (one, mut of_device) = (connect().await, connect().await);
    let (server, device) = pair();
    let up = one.subscribe("up").await.unwrap();
    let down = of_device.subscribe("down").await.unwrap();
    flush(&one).await;
    flush(&of_device).await;
    let mut server = Channel::start(one, "down".into(), up, server, ProtocolVersion::V2);
    let mut device =
        Channel::start(of_device.clone(), "up".into(), down, device, ProtocolVersion::V2);
    for round in 0..5_u8 {
        of_device.drain().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // One side has no subscriber, and the other is not connected.
        let sent = Bytes::from(vec![round; 100_000]);
        server.sender.send_data(sent.clone()).await.unwrap();
        device.sender.send_data(sent.clone()).await.unwrap();
        of_device = connect().await;
        let subscription = of_device.subscribe("down").await.unwrap();
        flush(&of_device).await;
        device.sender.switch_connection(of_device.clone(), subscription);
        for receiver in [&mut device.receiver, &mut server.receiver] {
            let mut taken = Vec::new();
            while taken.len() < sent.len() {
                let Frame::Data(bytes) = next(receiver).await.unwrap() else { panic!() };
                taken.extend(bytes);
            }
            assert!(taken == sent, "round {round}");
        }
    }
}
