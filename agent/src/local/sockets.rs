//! The listeners for applications: opened, kept and closed according to the config.
//!
//! `listen` reads from them. A listener that cannot be opened is a reported problem that never ends
//! the agent, and is retried later.

use std::collections::BTreeMap;
use std::fs::{Permissions, create_dir_all, remove_file, set_permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::net::{UdpSocket, UnixDatagram, UnixListener};
use tokio::sync::Notify;

use super::parse::Format;

/// The default data folder, and the folder of its sockets.
const DEFAULT_FOLDERS: (&str, &str) = ("/var/lib/muster-agent", "/run/muster-agent");
const STREAM: &str = "metrics.sock";
const DATAGRAMS: &str = "metrics-datagram.sock";

/// Returns the folder of the sockets of an agent with this data folder. It contains nothing else
/// and is never deleted: a container that mounts it sees the sockets of a restarted agent.
fn socket_folder(data: &Path) -> PathBuf {
    if data == Path::new(DEFAULT_FOLDERS.0) {
        DEFAULT_FOLDERS.1.into()
    } else {
        data.join("sockets")
    }
}

/// Creates the folder of the sockets, and links from their earlier locations.
fn make_folder(data: &Path) -> io::Result<()> {
    let folder = socket_folder(data);
    create_dir_all(&folder)?;
    set_permissions(&folder, Permissions::from_mode(0o755))?;
    for name in [STREAM, DATAGRAMS] {
        let (link, socket) = (data.join(name), folder.join(name));
        if std::fs::read_link(&link).is_ok_and(|there| there == socket) {
            continue;
        }
        let _ = remove_file(&link);
        symlink(&socket, &link)?;
    }
    Ok(())
}

/// The listeners that must be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerSettings {
    /// The UDP port for line protocol, on the loopback.
    pub(crate) udp: Option<u16>,
    /// The UDP port for JSON, on the loopback.
    pub(crate) json: Option<u16>,
    /// Whether the sockets in their folder are open.
    pub(crate) sockets: bool,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self { udp: Some(8094), json: Some(8092), sockets: true }
    }
}

/// The config variable of a listener.
pub(super) type Variable = &'static str;

/// Address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ListenAddress {
    Udp(u16, Format),
    Stream(PathBuf),
    Datagrams(PathBuf),
}

/// An open listener.
#[derive(Debug)]
pub(super) enum Listener {
    Udp(UdpSocket, Format),
    Stream(UnixListener),
    Datagrams(UnixDatagram),
}

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
struct ListenError {
    address: ListenAddress,
    source: io::Error,
}

#[derive(Debug)]
struct ListenerEntry {
    variable: Variable,
    address: ListenAddress,
    listener: Result<Arc<Listener>, ListenError>,
}

/// All listeners.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    entries: Mutex<Vec<ListenerEntry>>,
    changed: Notify,
}

impl Listeners {
    fn entries(&self) -> MutexGuard<'_, Vec<ListenerEntry>> {
        self.entries.lock()
    }

    /// Opens and closes listeners until exactly these are open; those that are already open stay
    /// open. Returns those that could not be opened, by config variable.
    pub(crate) fn set(&self, settings: ListenerSettings, data: &Path) -> BTreeMap<String, String> {
        let mut kept = self.entries();
        let places = addresses(settings, data);
        let before = std::mem::take(&mut *kept);
        let (mut stay, closed): (Vec<ListenerEntry>, Vec<ListenerEntry>) =
            before.into_iter().partition(|entry| {
                entry.listener.is_ok()
                    && places.iter().any(|(_, address)| *address == entry.address)
            });
        let mut has_changed = closed.iter().any(|entry| entry.listener.is_ok());
        // Closed before another one is opened, which may use its port.
        for entry in closed {
            if let (Ok(_), ListenAddress::Stream(path) | ListenAddress::Datagrams(path)) =
                (&entry.listener, &entry.address)
            {
                let _ = remove_file(path);
            }
        }
        if settings.sockets
            != (std::fs::metadata(data)
                .is_ok_and(|folder| folder.permissions().mode() & 0o011 != 0))
        {
            // Other users may traverse the folder to its sockets, but not list or read it.
            let mode = if settings.sockets { 0o711 } else { 0o700 };
            if let Err(error) = set_permissions(data, Permissions::from_mode(mode)) {
                tracing::warn!(
                    %error,
                    "applications of other users may be unable to reach the metric sockets"
                );
            }
        }
        if settings.sockets
            && let Err(error) = make_folder(data)
        {
            tracing::warn!(%error, "failed to create the folder of the metric sockets");
        }
        for (variable, address) in places {
            if stay.iter().any(|entry| entry.address == address) {
                continue;
            }
            let listener = address
                .open()
                .map(Arc::new)
                .map_err(|source| ListenError { address: address.clone(), source });
            has_changed |= listener.is_ok();
            stay.push(ListenerEntry { variable, address, listener });
        }
        *kept = stay;
        if has_changed {
            self.changed.notify_one();
        }
        problems(&kept)
    }

    /// Closes all listeners.
    pub(crate) fn close(&self, data: &Path) {
        self.set(ListenerSettings { udp: None, json: None, sockets: false }, data);
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn open(&self) -> Vec<Arc<Listener>> {
        self.entries()
            .iter()
            .filter_map(|entry| entry.listener.as_ref().ok().map(Arc::clone))
            .collect()
    }

    /// Returns the listeners that could not be opened, by config variable.
    pub(crate) fn problems(&self) -> BTreeMap<String, String> {
        problems(&self.entries())
    }

    /// Returns the addresses of the listeners.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let kept = self.entries();
        kept.iter()
            .filter(|entry| entry.listener.is_ok())
            .map(|entry| entry.address.to_string())
            .collect()
    }
}

fn problems(entries: &[ListenerEntry]) -> BTreeMap<String, String> {
    let failed = |entry: &ListenerEntry| {
        Some((entry.variable.to_owned(), entry.listener.as_ref().err()?.to_string()))
    };
    entries.iter().filter_map(failed).collect()
}

fn addresses(settings: ListenerSettings, data: &Path) -> Vec<(Variable, ListenAddress)> {
    let mut places = Vec::new();
    places
        .extend(settings.udp.map(|port| ("metrics.udp", ListenAddress::Udp(port, Format::Lines))));
    places
        .extend(settings.json.map(|port| ("metrics.json", ListenAddress::Udp(port, Format::Json))));
    if settings.sockets {
        let folder = socket_folder(data);
        places.push(("metrics.socket", ListenAddress::Stream(folder.join(STREAM))));
        places.push(("metrics.socket", ListenAddress::Datagrams(folder.join(DATAGRAMS))));
    }
    places
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(port, Format::Lines) => write!(f, "UDP 127.0.0.1:{port} (line protocol)"),
            Self::Udp(port, Format::Json) => write!(f, "UDP 127.0.0.1:{port} (JSON)"),
            Self::Stream(path) => write!(f, "{} (line protocol, a stream)", path.display()),
            Self::Datagrams(path) => write!(f, "{} (line protocol, datagrams)", path.display()),
        }
    }
}

impl ListenAddress {
    fn open(&self) -> io::Result<Listener> {
        match self {
            Self::Udp(port, format) => {
                let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, *port))?;
                socket.set_nonblocking(true)?;
                Ok(Listener::Udp(UdpSocket::from_std(socket)?, *format))
            }
            Self::Stream(path) => {
                // The data folder is locked, so the agent that left this socket has ended.
                let _ = remove_file(path);
                let listener = UnixListener::bind(path)?;
                set_permissions(path, Permissions::from_mode(0o666))?;
                Ok(Listener::Stream(listener))
            }
            Self::Datagrams(path) => {
                let _ = remove_file(path);
                let socket = UnixDatagram::bind(path)?;
                set_permissions(path, Permissions::from_mode(0o666))?;
                Ok(Listener::Datagrams(socket))
            }
        }
    }
}
