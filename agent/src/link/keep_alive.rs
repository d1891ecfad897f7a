//! When a keep-alive is due on a connection, and when the broker is lost.
//!
//! A device is online while it sends messages or responds to the broker's pings. The broker sends a
//! ping if it has received nothing for 20 s, so an agent with nothing to send only has to respond. A
//! keep-alive is for a broker that sends pings less often.

use std::time::Duration;

/// Interval between checks.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Checks without a byte from the broker, after which a keep-alive is sent: 40 s, because a message
/// postpones the broker's next ping to at most twice its interval. Devices are offline after 60 s.
const KEEP_ALIVE_CHECKS: u32 = 8;
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

/// Observes the number of bytes that were received from the broker.
#[derive(Debug, Default)]
pub(super) struct KeepAlive {
    received: u64,
    /// Consecutive checks without a byte. Checks are counted, not time, so that a machine that was
    /// suspended first reads what the broker has sent.
    silent: u32,
}

impl KeepAlive {
    /// Checks the number of bytes received so far.
    pub(super) fn check(&mut self, received: u64) -> Check {
        if received != self.received {
            *self = Self { received, silent: 0 };
            return Check::Idle;
        }
        self.silent += 1;
        match self.silent {
            KEEP_ALIVE_CHECKS => Check::KeepAlive,
            LOST_CHECKS.. => Check::Lost,
            _ => Check::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Runs checks for this time; the broker's bytes arrive at this interval. Returns the times of
    /// keep-alives in seconds, and that of the loss.
    fn simulate(seconds: u64, interval: u64) -> (Vec<u64>, Option<u64>) {
        let (mut keep_alive, mut sent) = (KeepAlive::default(), Vec::new());
        for at in (0..=seconds).step_by(5) {
            // The first bytes arrive while the connection is made.
            match keep_alive.check(1 + at / interval) {
                Check::Idle => {}
                Check::KeepAlive => sent.push(at),
                Check::Lost => return (sent, Some(at)),
            }
        }
        (sent, None)
    }

    #[test]
    fn the_broker_s_pings_replace_keep_alives() {
        for interval in [10, 20, 30, 40] {
            assert_eq!(simulate(3600, interval), (vec![], None), "{interval} s");
        }
    }

    #[test]
    fn a_keep_alive_is_sent_before_the_device_would_be_offline() {
        // The agent's own pings are responded to every 50 s.
        let (sent, lost) = simulate(3600, 50);
        assert_eq!((sent[0], lost), (40, None));
        assert!(sent.windows(2).all(|pair| pair[1] - pair[0] < 60), "{sent:?}");
    }

    #[test]
    fn a_silent_broker_is_lost() {
        assert_eq!(simulate(3600, 1_000_000), (vec![40], Some(75)));
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
