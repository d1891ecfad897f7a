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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{UdpSocket, UnixDatagram, UnixListener};
use tokio::sync::Notify;

use super::read::Format;

/// The default data folder, and the folder of its sockets.
const USUAL: (&str, &str) = ("/var/lib/muster-agent", "/run/muster-agent");
const STREAM: &str = "metrics.sock";
const DATAGRAMS: &str = "metrics-datagram.sock";

/// Returns the folder of the sockets of an agent with this data folder. It contains nothing else
/// and is never deleted: a container that mounts it sees the sockets of a restarted agent.
fn socket_folder(data: &Path) -> PathBuf {
    if data == Path::new(USUAL.0) { USUAL.1.into() } else { data.join("sockets") }
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
pub(crate) struct DoorsWanted {
    /// The UDP port for line protocol, on the loopback.
    pub(crate) udp: Option<u16>,
    /// The UDP port for JSON, on the loopback.
    pub(crate) json: Option<u16>,
    /// Whether the sockets in their folder are open.
    pub(crate) sockets: bool,
}

impl Default for DoorsWanted {
    fn default() -> Self {
        Self { udp: Some(8094), json: Some(8092), sockets: true }
    }
}

/// The config variable of a listener.
pub(super) type Variable = &'static str;

/// Address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Udp(u16, Format),
    Stream(PathBuf),
    Datagrams(PathBuf),
}

/// An open listener.
#[derive(Debug)]
pub(super) enum Door {
    Udp(UdpSocket, Format),
    Stream(UnixListener),
    Datagrams(UnixDatagram),
}

#[derive(Debug)]
struct Kept {
    variable: Variable,
    place: Place,
    door: Result<Arc<Door>, String>,
}

/// All listeners.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    kept: Mutex<Vec<Kept>>,
    changed: Notify,
}

impl Doors {
    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens and closes listeners until exactly these are open; those that are already open stay
    /// open. Returns those that could not be opened, by config variable.
    pub(crate) fn set(&self, wanted: DoorsWanted, data: &Path) -> BTreeMap<String, String> {
        let mut kept = self.kept();
        let places = places(wanted, data);
        let before = std::mem::take(&mut *kept);
        let (mut stay, closed): (Vec<Kept>, Vec<Kept>) = before.into_iter().partition(|known| {
            known.door.is_ok() && places.iter().any(|(_, place)| *place == known.place)
        });
        let mut has_changed = closed.iter().any(|known| known.door.is_ok());
        // Closed before another one is opened, which may use its port.
        for known in closed {
            if let (Ok(_), Place::Stream(path) | Place::Datagrams(path)) =
                (&known.door, &known.place)
            {
                let _ = remove_file(path);
            }
        }
        if wanted.sockets
            != (std::fs::metadata(data)
                .is_ok_and(|folder| folder.permissions().mode() & 0o011 != 0))
        {
            // Other users may traverse the folder to its sockets, but not list or read it.
            let mode = if wanted.sockets { 0o711 } else { 0o700 };
            if let Err(error) = set_permissions(data, Permissions::from_mode(mode)) {
                tracing::warn!(
                    %error,
                    "applications of other users may be unable to reach the metric sockets"
                );
            }
        }
        if wanted.sockets
            && let Err(error) = make_folder(data)
        {
            tracing::warn!(%error, "failed to create the folder of the metric sockets");
        }
        for (variable, place) in places {
            if stay.iter().any(|known| known.place == place) {
                continue;
            }
            let door = place.open().map(Arc::new).map_err(|error| format!("{place}: {error}"));
            has_changed |= door.is_ok();
            stay.push(Kept { variable, place, door });
        }
        *kept = stay;
        if has_changed {
            self.changed.notify_one();
        }
        problems(&kept)
    }

    /// Closes all listeners.
    pub(crate) fn close(&self, data: &Path) {
        self.set(DoorsWanted { udp: None, json: None, sockets: false }, data);
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn open(&self) -> Vec<Arc<Door>> {
        self.kept().iter().filter_map(|known| known.door.as_ref().ok().map(Arc::clone)).collect()
    }

    /// Returns the listeners that could not be opened, by config variable.
    pub(crate) fn problems(&self) -> BTreeMap<String, String> {
        problems(&self.kept())
    }

    /// Returns the addresses of the listeners.
    pub(crate) fn places(&self) -> Vec<String> {
        let kept = self.kept();
        kept.iter()
            .filter(|known| known.door.is_ok())
            .map(|known| known.place.to_string())
            .collect()
    }
}

fn problems(kept: &[Kept]) -> BTreeMap<String, String> {
    let failed =
        |known: &Kept| Some((known.variable.to_owned(), known.door.as_ref().err()?.clone()));
    kept.iter().filter_map(failed).collect()
}

fn places(wanted: DoorsWanted, data: &Path) -> Vec<(Variable, Place)> {
    let mut places = Vec::new();
    places.extend(wanted.udp.map(|port| ("metrics.udp", Place::Udp(port, Format::Lines))));
    places.extend(wanted.json.map(|port| ("metrics.json", Place::Udp(port, Format::Json))));
    if wanted.sockets {
        let folder = socket_folder(data);
        places.push(("metrics.socket", Place::Stream(folder.join(STREAM))));
        places.push(("metrics.socket", Place::Datagrams(folder.join(DATAGRAMS))));
    }
    places
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Udp(port, Format::Lines) => write!(f, "UDP 127.0.0.1:{port} (line protocol)"),
            Self::Udp(port, Format::Json) => write!(f, "UDP 127.0.0.1:{port} (JSON)"),
            Self::Stream(path) => write!(f, "{} (line protocol, a stream)", path.display()),
            Self::Datagrams(path) => write!(f, "{} (line protocol, datagrams)", path.display()),
        }
    }
}

impl Place {
    fn open(&self) -> io::Result<Door> {
        match self {
            Self::Udp(port, format) => {
                let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, *port))?;
                socket.set_nonblocking(true)?;
                Ok(Door::Udp(UdpSocket::from_std(socket)?, *format))
            }
            Self::Stream(path) => {
                // The data folder is locked, so the agent that left this socket has ended.
                let _ = remove_file(path);
                let listener = UnixListener::bind(path)?;
                set_permissions(path, Permissions::from_mode(0o666))?;
                Ok(Door::Stream(listener))
            }
            Self::Datagrams(path) => {
                let _ = remove_file(path);
                let socket = UnixDatagram::bind(path)?;
                set_permissions(path, Permissions::from_mode(0o666))?;
                Ok(Door::Datagrams(socket))
            }
        }
    }
}
