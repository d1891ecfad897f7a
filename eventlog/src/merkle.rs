//! The Merkle tree over a project's log (RFC 6962 §2.1), with the operations that an append needs.
//!
//! A leaf is `SHA-256(0x00 ‖ entry)`; the entry is deterministic CBOR of all columns of the row, in
//! which `HMAC-SHA-256(salt, record)` replaces the record. Record and salt can be erased, and every
//! proof stays valid.

use muster_schemas::{Hash, Position, StreamVersion, Timestamp, codec};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Version of the entry's encoding.
const ENTRY_VERSION: u8 = 1;

/// Content of an entry; the fields have the order of the encoding.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Project of the log.
    pub project: &'a str,
    /// Position, from 1.
    pub position: Position,
    /// Time of the append by PostgreSQL's clock.
    pub recorded_at: Timestamp,
    /// Name of the stream.
    pub stream: &'a str,
    /// Version of the stream after the event, from 1.
    pub stream_version: StreamVersion,
    /// Type of the event.
    pub kind: &'a str,
    /// Version of the type's schema.
    pub schema_version: u16,
    /// Claimed time of the event.
    pub occurred_at: Timestamp,
    /// Actor that caused it.
    pub actor: &'a str,
    /// Id of the request that it belongs to.
    pub correlation: Option<Uuid>,
    /// Id of its cause.
    pub causation: Option<Uuid>,
    /// HMAC-SHA-256(salt, record).
    pub mac: [u8; 32],
}

impl Entry<'_> {
    /// Returns the hash of the leaf.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        let bytes = codec::encode(&Fields(
            ENTRY_VERSION,
            self.project,
            self.position,
            self.recorded_at,
            self.stream,
            self.stream_version,
            self.kind,
            self.schema_version,
            self.occurred_at,
            self.actor,
            self.correlation,
            self.causation,
            Hash(self.mac),
        ));
        let mut hasher = Sha256::new();
        hasher.update([0x00]);
        hasher.update(&bytes);
        Hash(hasher.finalize().into())
    }
}

#[derive(Serialize)]
struct Fields<'a>(
    u8,
    &'a str,
    Position,
    Timestamp,
    &'a str,
    StreamVersion,
    &'a str,
    u16,
    Timestamp,
    &'a str,
    Option<Uuid>,
    Option<Uuid>,
    Hash,
);

/// The frontier of the tree: the roots of its perfect subtrees, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// Decodes a frontier: 32 bytes per node. `None` when the number of nodes does not match the
    /// size.
    #[must_use]
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Option<Self> {
        let nodes: Vec<Hash> = bytes.chunks(32).map(Hash::from_slice).collect::<Option<_>>()?;
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// Encodes the frontier.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.nodes.iter().flat_map(|node| node.0).collect()
    }

    /// Returns the number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        let mut size = self.size;
        while size & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            node = parent(left, node);
            size >>= 1;
        }
        self.nodes.push(node);
        self.size += 1;
    }

    /// Returns the tree's root; SHA-256 of the empty string for an empty tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        match nodes.next() {
            None => Hash::of(b""),
            Some(last) => nodes.fold(*last, |right, left| parent(*left, right)),
        }
    }
}

fn parent(left: Hash, right: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left.0);
    hasher.update(right.0);
    Hash(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The literal definition of RFC 6962 §2.1.
    fn root_by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of(b""),
            [one] => *one,
            many => {
                let k = many.len().next_power_of_two() / 2;
                let (left, right) = many.split_at(k);
                parent(root_by_definition(left), root_by_definition(right))
            }
        }
    }

    #[test]
    fn the_frontier_root_matches_rfc_6962_at_every_size() {
        let leaves: Vec<Hash> = (0..70_u8).map(|n| Hash::of(&[n])).collect();
        let mut frontier = Frontier::default();
        for n in 0..leaves.len() {
            assert_eq!(frontier.root(), root_by_definition(&leaves[..n]), "size {n}");
            let stored = Frontier::from_bytes(n as u64, &frontier.to_bytes());
            assert_eq!(stored.as_ref(), Some(&frontier));
            frontier.push(leaves[n]);
        }
        assert_eq!(Frontier::from_bytes(3, &[0; 32]), None);
    }

    #[test]
    fn every_field_of_the_entry_changes_the_leaf() {
        let entry = Entry {
            project: "default",
            position: Position::FIRST,
            recorded_at: Timestamp(2),
            stream: "device/x",
            stream_version: StreamVersion(3),
            kind: "DeviceRenamed",
            schema_version: 1,
            occurred_at: Timestamp(4),
            actor: "token:x",
            correlation: None,
            causation: Some(Uuid::nil()),
            mac: [7; 32],
        };
        let variants = [
            Entry { project: "other", ..entry },
            Entry { position: Position(2), ..entry },
            Entry { recorded_at: Timestamp(3), ..entry },
            Entry { stream: "device/y", ..entry },
            Entry { stream_version: StreamVersion(4), ..entry },
            Entry { kind: "DeviceDeleted", ..entry },
            Entry { schema_version: 2, ..entry },
            Entry { occurred_at: Timestamp(5), ..entry },
            Entry { actor: "token:y", ..entry },
            Entry { correlation: Some(Uuid::nil()), ..entry },
            Entry { causation: None, ..entry },
            Entry { mac: [8; 32], ..entry },
        ];
        let mut leaves: Vec<Hash> = variants.iter().map(Entry::leaf).collect();
        leaves.push(entry.leaf());
        leaves.sort();
        leaves.dedup();
        assert_eq!(leaves.len(), variants.len() + 1);
    }
}
