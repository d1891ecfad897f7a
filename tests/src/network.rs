//! Network components between a device and its servers: a forwarded port that can be closed, and an
//! HTTP proxy that can refuse a port. The proxy counts its connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::wait;

/// A port that forwards to another one.
#[derive(Debug)]
pub struct Port {
    task: JoinHandle<()>,
}

impl Port {
    /// Opens `port` on the loopback address, forwarding to `to`.
    ///
    /// # Panics
    /// When it is taken.
    pub async fn open(port: u16, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", to)).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { task }
    }
}

/// Quality of a network.
#[derive(Clone, Copy, Debug)]
pub struct NetworkConditions {
    /// One-way delay of all data.
    pub delay: Duration,
    /// Every `loss_interval`-th chunk is lost; TCP turns that into a pause.
    pub loss_interval: usize,
    /// Additional delay of a lost chunk and all data after it.
    pub pause: Duration,
}

impl Port {
    /// Opens `port` on the loopback address, forwarding to `to` through such a network.
    ///
    /// # Panics
    /// When it is taken.
    pub async fn open_in(port: u16, to: u16, conditions: NetworkConditions) -> Self {
        // A port that was closed a moment ago may still be in use.
        let listener = wait::until("the port to be free", Duration::from_secs(10), || async {
            TcpListener::bind(("127.0.0.1", port)).await.ok()
        })
        .await;
        let task = tokio::spawn(async move {
            // Dropped with this task, which closes all forwarded connections.
            let mut through = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                through.spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let _ = far.set_nodelay(true);
                    let _ = near.set_nodelay(true);
                    let (near, far) = (near.into_split(), far.into_split());
                    // The end of one direction ends the other.
                    tokio::select! {
                        () = copy_with_conditions(near.0, far.1, conditions) => {}
                        () = copy_with_conditions(far.0, near.1, conditions) => {}
                    }
                });
            }
        });
        Self { task }
    }
}

/// Copies bytes with the delays and pauses of `weather`.
async fn copy_with_conditions(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    conditions: NetworkConditions,
) {
    // Large enough for the data in flight of a network with large buffers.
    let (sender, mut arriving) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(64);
    let reading = async move {
        let mut due = Instant::now();
        let mut buffer = vec![0; 16 * 1024];
        for count in 1_usize.. {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            due = due.max(Instant::now() + conditions.delay);
            if count.is_multiple_of(conditions.loss_interval) {
                due += conditions.pause;
            }
            if sender.send((due, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An HTTP proxy that supports only CONNECT.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    refused_port: Arc<Mutex<Option<u16>>>,
    connected_ports: Arc<Mutex<Vec<u16>>>,
    connection_count: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts a proxy that requires user `u` with password `p`.
    ///
    /// # Panics
    /// When no port is available.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            refused_port: Arc::default(),
            connected_ports: Arc::default(),
            connection_count: Arc::default(),
        };
        let (refused_port, connected_ports, connection_count) = (
            Arc::clone(&proxy.refused_port),
            Arc::clone(&proxy.connected_ports),
            Arc::clone(&proxy.connection_count),
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connection_count.fetch_add(1, Ordering::Relaxed);
                let (refused_port, connected_ports) =
                    (Arc::clone(&refused_port), Arc::clone(&connected_ports));
                tokio::spawn(async move {
                    serve(stream, &refused_port, &connected_ports).await.unwrap_or_default();
                });
            }
        });
        proxy
    }

    /// The URL for `HTTPS_PROXY`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://u:p@{}", self.address)
    }

    /// Refuses connections to this port from now on.
    ///
    /// # Panics
    /// When a test has panicked before.
    pub fn refuse(&self, port: Option<u16>) {
        *self.refused_port.lock().expect("no panic") = port;
    }

    /// The ports to which connections were established.
    ///
    /// # Panics
    /// When a test has panicked before.
    #[must_use]
    pub fn connected_ports(&self) -> Vec<u16> {
        self.connected_ports.lock().expect("no panic").clone()
    }

    /// The number of connections to the proxy.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connection_count.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut near: TcpStream,
    refused_port: &Mutex<Option<u16>>,
    connected_ports: &Mutex<Vec<u16>>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(near.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let target = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let port = target.and_then(|target| target.rsplit(':').next()?.parse().ok());
    // base64 of "u:p", in lowercase.
    if !request.to_ascii_lowercase().contains("proxy-authorization: basic dtpw") {
        return near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    }
    let (Some(target), Some(port)) = (target, port) else {
        return near.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
    };
    if *refused_port.lock().expect("no panic") == Some(port) {
        return near.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
    }
    let mut far = TcpStream::connect(target).await?;
    connected_ports.lock().expect("no panic").push(port);
    near.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n").await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}
