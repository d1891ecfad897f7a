//! Tests of TCP connections from the device.

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn tcp(port: u16) -> Purpose {
    Purpose::Tcp { host: "127.0.0.1".to_owned(), port }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_megabytes_arrive_in_both_directions_and_each_half_closes_independently() {
    const BYTES: usize = 20 << 20;
    let (server, running) = greeted().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // An echo server that sends another message after the end of its input.
    let echo = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut from, mut to) = stream.into_split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.write_all(b"the end was heard").await.unwrap();
    });
    let Channel { sender, mut receiver } = try_open(&server, tcp(port)).await.unwrap();
    let saying = tokio::spawn(async move {
        let mut hash = Sha256::new();
        for at in 0..BYTES / (64 * 1024) {
            let piece: Vec<u8> =
                (0..64 * 1024_usize).map(|i| ((i * 31 + at * 7) % 251) as u8).collect();
            hash.update(&piece);
            sender.send_data(Bytes::from(piece)).await.unwrap();
        }
        sender.send(Frame::Eof).await.unwrap();
        hash.update(b"the end was heard");
        (hash.finalize(), sender)
    });
    let (mut hash, mut received) = (Sha256::new(), 0);
    loop {
        match tokio::time::timeout(WAIT_TIMEOUT, receiver.next()).await.unwrap().unwrap() {
            Frame::Data(bytes) => {
                received += bytes.len();
                hash.update(&bytes);
            }
            Frame::Eof => break,
            other => panic!("{other:?}"),
        }
    }
    let (sent_hash, _sender) = saying.await.unwrap();
    assert_eq!(received, BYTES + 17);
    assert_eq!(hash.finalize(), sent_hash);
    echo.await.unwrap();
    assert_eq!(receiver.next().await.unwrap_err().0, reason::CONNECTION_ENDED);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_is_refused() {
    let (server, running) = greeted().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let rejection = refusal(&server, tcp(port)).await;
    causes(&rejection, ChannelRefusalCause::Failed, "os error 111");
    let rejection = refusal(&server, tcp(0)).await;
    causes(&rejection, ChannelRefusalCause::Invalid, "port");
    std::fs::write(server.path("policy.toml"), "[ports]\nallow = [\"localhost:1\"]\n").unwrap();
    let rejection = refusal(&server, tcp(port)).await;
    causes(&rejection, ChannelRefusalCause::Policy, "[ports] allow|'127.0.0.1:");
    assert!(rejection.reason.contains("policy.toml"), "{rejection:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_on_one_side_ends_the_other() {
    let (server, running) = greeted().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let channel = try_open(&server, tcp(port)).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    channel.sender.send_data(Bytes::from_static(b"last words")).await.unwrap();
    channel.sender.close("enough").await;
    let mut received = Vec::new();
    tokio::time::timeout(WAIT_TIMEOUT, stream.read_to_end(&mut received)).await.unwrap().unwrap();
    assert_eq!(received, b"last words");
    // Channels also end when the agent stops.
    let mut channel = try_open(&server, tcp(port)).await.unwrap();
    let (_stream, _) = listener.accept().await.unwrap();
    running.stop().await;
    let closed =
        tokio::time::timeout(WAIT_TIMEOUT, channel.receiver.next()).await.unwrap().unwrap_err();
    assert_eq!(closed.0, reason::AGENT_STOPS);
}
