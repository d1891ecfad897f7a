//! Limits on connections, as flags of `muster serve` and `muster up`.

use std::num::NonZeroUsize;

use clap::Args;

use super::registry::Limits;

/// Maximum number of tunnels, independent of the number of connections.
const MAX_TUNNELS: usize = 10_000;

/// Limits on the connections to the HTTPS listener.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Maximum number of connections to the HTTPS listener
    ///
    /// It is reduced to the limit of open files minus --reserved-files.
    #[arg(long, env = "MUSTER_MAX_CONNECTIONS", default_value = "32768", value_name = "N")]
    max_connections: NonZeroUsize,
    /// Role query: maximum number of connections from one address; 0: no limit
    ///
    /// An IPv6 /64 counts as one address. The same limit applies to devices' tunnels. Trusted
    /// proxies are exempt. Use 0 behind a load balancer that passes TLS through.
    #[arg(long, env = "MUSTER_CONNECTIONS_PER_ADDRESS", default_value = "1000", value_name = "N")]
    connections_per_address: usize,
    /// Number of open files reserved for the database, the broker and files
    #[arg(long, env = "MUSTER_RESERVED_FILES", default_value = "256", value_name = "N")]
    reserved_files: usize,
}

impl ConnectionLimits {
    /// Returns the limits under this limit of open files. A front listener is one that clients
    /// connect to directly; one that forwards to another process needs a second file for each
    /// connection.
    pub(crate) fn with_files(self, files: u64, is_front: bool, forwards: bool) -> Limits {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        // At least half of the open files, if their limit is very low.
        let left = files.saturating_sub(self.reserved_files).max(files / 2);
        let left = if forwards { left / 2 } else { left };
        let total = self.max_connections.get().min(left).max(1);
        // One address alone cannot use all connections.
        let per_address = self.connections_per_address.min(total / 2).max(1);
        Limits {
            total,
            per_address: (is_front && self.connections_per_address > 0).then_some(per_address),
            // A tunnel is two connections: together they use half of the total.
            tunnels: MAX_TUNNELS.min(total / 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        limits: ConnectionLimits,
    }

    fn limits(flags: &[&str], files: u64, forwards: bool) -> (usize, Option<usize>, usize) {
        let flags = ["x"].iter().chain(flags);
        let limits = Command::parse_from(flags).limits.with_files(files, true, forwards);
        (limits.total, limits.per_address, limits.tunnels)
    }

    #[test]
    fn open_files_are_reserved_for_other_uses() {
        assert_eq!(limits(&[], 1_024, false), (768, Some(384), 192));
        assert_eq!(limits(&[], 1_024, true), (384, Some(192), 96));
        assert_eq!(limits(&[], 300, false), (150, Some(75), 37));
        assert_eq!(limits(&[], u64::MAX, false), (32_768, Some(1_000), 8_192));
        assert_eq!(limits(&["--reserved-files=1000"], 4_000, false).0, 3_000);
        assert_eq!(limits(&["--max-connections=100"], 4_000, false).0, 100);
        assert_eq!(limits(&["--connections-per-address=0"], 4_000, false).1, None);
        let inner = Command::parse_from(["x"]).limits.with_files(4_000, false, false);
        assert_eq!(inner.per_address, None);
    }
}
