//! What can stand between a device and its servers: a port that is closed for a while, and an HTTP
//! proxy that lets through what it likes. They count what went through.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

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
