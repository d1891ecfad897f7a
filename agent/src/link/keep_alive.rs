//! When a keep-alive is due on a connection, and when the broker is lost.
//!
//! A device is online while the broker receives messages from it. Its response to a ping does not
//! count: the broker shows it only as a new round-trip time, which can equal the previous one. So an
//! agent that has published nothing for a while sends a keep-alive.

use std::time::Duration;

/// Interval between checks.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Checks without a published message, after which a keep-alive is sent: 45 to 50 s. Devices are
/// offline after 60 s.
const KEEP_ALIVE_CHECKS: u32 = 10;
/// Checks without a byte from the broker, after which the broker is lost: 75 s, 25 s after a ping.
const LOST_CHECKS: u32 = 15;

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing is due.
    Idle,
    /// A keep-alive is due.
    KeepAlive,
    /// The broker has not responded to a ping.
    Lost,
}

/// Observes what was received from the broker and published to it.
///
/// Checks are counted, not time, so that a machine that was suspended first reads what the broker
/// has sent.
#[derive(Debug, Default)]
pub(super) struct KeepAlive {
    received: Unchanged,
    published: Unchanged,
}

/// A counter, and the number of consecutive checks without a change of it.
#[derive(Debug, Default)]
struct Unchanged {
    value: u64,
    checks: u32,
}

impl Unchanged {
    fn check(&mut self, value: u64) -> u32 {
        let checks = if value == self.value { self.checks + 1 } else { 0 };
        *self = Self { value, checks };
        checks
    }
}

impl KeepAlive {
    /// Checks the number of bytes received and of messages published so far.
    pub(super) fn check(&mut self, received_bytes: u64, published_messages: u64) -> Check {
        let silent = self.published.check(published_messages);
        if self.received.check(received_bytes) >= LOST_CHECKS {
            return Check::Lost;
        }
        if silent < KEEP_ALIVE_CHECKS {
            return Check::Idle;
        }
        self.published.checks = 0;
        Check::KeepAlive
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Runs checks for this time; the broker's bytes arrive and messages are published at these
    /// intervals. Returns the times of keep-alives in seconds, and that of the loss.
    fn simulate(seconds: u64, received: u64, published: u64) -> (Vec<u64>, Option<u64>) {
        let (mut keep_alive, mut sent) = (KeepAlive::default(), Vec::new());
        for at in (0..=seconds).step_by(5) {
            // The first bytes arrive and the first message is published while the connection is made.
            match keep_alive.check(1 + at / received, 1 + at / published) {
                Check::Idle => {}
                Check::KeepAlive => sent.push(at),
                Check::Lost => return (sent, Some(at)),
            }
        }
        (sent, None)
    }

    #[test]
    fn messages_replace_keep_alives() {
        for interval in [1, 5, 20, 50] {
            assert_eq!(simulate(3600, 20, interval), (vec![], None), "{interval} s");
        }
    }

    #[test]
    fn a_silent_agent_sends_keep_alives_at_any_ping_interval_of_the_broker() {
        for interval in [10, 20, 50] {
            let (sent, lost) = simulate(3600, interval, 1_000_000);
            assert_eq!((sent[0], lost), (50, None), "{interval} s");
            assert!(sent.windows(2).all(|pair| pair[1] - pair[0] == 50), "{sent:?}");
        }
    }

    #[test]
    fn messages_and_keep_alives_are_never_60_s_apart() {
        for interval in [51, 55, 59, 61, 70, 90, 300] {
            let (sent, _) = simulate(3600, 20, interval);
            let published = (0..=3600 / interval).map(|number| number * interval);
            let mut all: Vec<u64> = sent.into_iter().chain(published).collect();
            all.sort_unstable();
            assert!(all.windows(2).all(|pair| pair[1] - pair[0] < 60), "{interval} s: {all:?}");
        }
    }

    #[test]
    fn a_silent_broker_is_lost() {
        assert_eq!(simulate(3600, 1_000_000, 1_000_000), (vec![50], Some(75)));
        assert_eq!(simulate(3600, 1_000_000, 5), (vec![], Some(75)));
    }

    /// The checks rely on it: a message does not have to arrive.
    #[tokio::test]
    async fn pings_are_counted_as_received_bytes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (counted, is_counted) = tokio::sync::oneshot::channel();
        let broker = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let info = concat!(
                r#"INFO {"server_id":"x","server_name":"x","host":"x","port":1,"version":"2.14.0","#,
                r#""max_payload":1000,"proto":1}"#,
                "\r\n"
            );
            stream.write_all(info.as_bytes()).await.unwrap();
            // CONNECT and PING.
            let mut received = Vec::new();
            while !received.ends_with(b"PING\r\n") {
                stream.read_buf(&mut received).await.unwrap();
            }
            stream.write_all(b"PONG\r\n").await.unwrap();
            is_counted.await.unwrap();
            stream.write_all(b"PING\r\n").await.unwrap();
            let mut response = [0; 6];
            while &response != b"PONG\r\n" {
                stream.read_exact(&mut response).await.unwrap();
            }
            stream
        });
        let client = async_nats::connect(format!("nats://{address}")).await.unwrap();
        let statistics = client.statistics();
        let before = statistics.in_bytes.load(Ordering::Relaxed);
        counted.send(()).unwrap();
        let _stream = broker.await.unwrap();
        assert!(statistics.in_bytes.load(Ordering::Relaxed) > before);
    }
}
