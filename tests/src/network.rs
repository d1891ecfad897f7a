//! What can stand between a device and its servers: a port that is closed for a while, and an HTTP
//! proxy that lets through what it likes. They count what went through.

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

/// A port that leads to another one.
#[derive(Debug)]
pub struct Port {
    task: JoinHandle<()>,
}

impl Port {
    /// Opens `port` on the loopback, which leads to `to`.
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

/// How bad a network is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// All takes this long, one way.
    pub delay: Duration,
    /// Each so-many-th piece is lost, which TCP makes a pause of.
    pub loses: usize,
    /// A piece that was lost comes so much later, and all that follows it.
    pub pause: Duration,
}

impl Port {
    /// Opens `port` on the loopback, which leads to `to` through such a network.
    ///
    /// # Panics
    /// When it is taken.
    pub async fn open_in(port: u16, to: u16, weather: Weather) -> Self {
        // One that was closed a moment ago is being let go.
        let listener = wait::until("the port to be free", Duration::from_secs(10), || async {
            TcpListener::bind(("127.0.0.1", port)).await.ok()
        })
        .await;
        let task = tokio::spawn(async move {
            // Dropped with this task, and so is all that goes through.
            let mut through = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                through.spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let _ = far.set_nodelay(true);
                    let _ = near.set_nodelay(true);
                    let (near, far) = (near.into_split(), far.into_split());
                    // One that ends takes the other direction with it.
                    tokio::select! {
                        () = slowly(near.0, far.1, weather) => {}
                        () = slowly(far.0, near.1, weather) => {}
                    }
                });
            }
        });
        Self { task }
    }
}

/// Carries bytes through bad weather.
async fn slowly(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, weather: Weather) {
    // As much may be under way as in a network with a lot of room.
    let (sender, mut arriving) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(64);
    let reading = async move {
        let mut due = Instant::now();
        let mut buffer = vec![0; 16 * 1024];
        for count in 1_usize.. {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            due = due.max(Instant::now() + weather.delay);
            if count.is_multiple_of(weather.loses) {
                due += weather.pause;
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

/// An HTTP proxy that knows CONNECT alone.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    refused: Arc<Mutex<Option<u16>>>,
    through: Arc<Mutex<Vec<u16>>>,
    asked: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts one that wants user `u` with password `p`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            refused: Arc::default(),
            through: Arc::default(),
            asked: Arc::default(),
        };
        let (refused, through, asked) =
            (Arc::clone(&proxy.refused), Arc::clone(&proxy.through), Arc::clone(&proxy.asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::Relaxed);
                let (refused, through) = (Arc::clone(&refused), Arc::clone(&through));
                tokio::spawn(async move {
                    serve(stream, &refused, &through).await.unwrap_or_default();
                });
            }
        });
        proxy
    }

    /// As `HTTPS_PROXY` names it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://u:p@{}", self.address)
    }

    /// Lets nobody through to this port any more.
    ///
    /// # Panics
    /// When a test panicked before.
    pub fn refuse(&self, port: Option<u16>) {
        *self.refused.lock().expect("no panic") = port;
    }

    /// The ports that somebody was let through to.
    ///
    /// # Panics
    /// When a test panicked before.
    #[must_use]
    pub fn through(&self) -> Vec<u16> {
        self.through.lock().expect("no panic").clone()
    }

    /// How often it was asked.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut near: TcpStream,
    refused: &Mutex<Option<u16>>,
    through: &Mutex<Vec<u16>>,
) -> std::io::Result<()> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(near.read_u8().await?);
    }
    let asked = String::from_utf8_lossy(&asked).into_owned();
    let target = asked.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let port = target.and_then(|target| target.rsplit(':').next()?.parse().ok());
    // "u:p"
    if !asked.to_ascii_lowercase().contains("proxy-authorization: basic dtpw") {
        return near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    }
    let (Some(target), Some(port)) = (target, port) else {
        return near.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
    };
    if *refused.lock().expect("no panic") == Some(port) {
        return near.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
    }
    let mut far = TcpStream::connect(target).await?;
    through.lock().expect("no panic").push(port);
    near.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n").await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}
