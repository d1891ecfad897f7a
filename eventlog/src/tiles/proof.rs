//! Proofs about the Merkle tree, computed from tiles. Pure functions.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use muster_schemas::{Hash, Position};
use tlog_tiles::{HashReader, Tile};

/// Height of a tile: a complete tile has 2^8 hashes.
pub(super) const TILE_HEIGHT: u8 = 8;
/// Number of hashes in a complete tile.
pub(super) const TILE_HASHES: u64 = 1 << TILE_HEIGHT;
/// Size of a hash, in bytes.
pub(super) const HASH_BYTES: usize = 32;

/// A statement about the tree with `size` leaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claim {
    /// Its root.
    Root { size: u64 },
    /// It contains the leaf with this index.
    Inclusion { size: u64, index: u64 },
    /// Its first `old` leaves are those of the older tree.
    Consistency { size: u64, old: u64 },
}

impl Claim {
    pub(super) const fn size(self) -> u64 {
        match self {
            Self::Root { size } | Self::Inclusion { size, .. } | Self::Consistency { size, .. } => {
                size
            }
        }
    }

    /// Computes the hashes that prove the claim from nodes of the tree.
    pub(super) fn prove(
        self,
        nodes: &impl HashReader,
    ) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        match self {
            Self::Root { size } => Ok(vec![tlog_tiles::tree_hash(size, nodes)?]),
            Self::Inclusion { size, index } => tlog_tiles::prove_record(size, index, nodes),
            Self::Consistency { size, old } => tlog_tiles::prove_tree(size, old, nodes),
        }
    }

    /// Returns the tiles that the proof needs.
    pub(super) fn needed(self) -> BTreeSet<TileId> {
        let recorder = Recorder::default();
        // The result is a proof of zeros; only the requested nodes matter.
        let _ = self.prove(&recorder);
        recorder.0.into_inner().into_iter().map(tile_of).collect()
    }
}

/// Records which nodes are read.
#[derive(Default)]
struct Recorder(RefCell<Vec<u64>>);

impl HashReader for Recorder {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        self.0.borrow_mut().extend(indexes);
        Ok(vec![tlog_tiles::Hash([0; HASH_BYTES]); indexes.len()])
    }
}

/// Address of a tile: level, and index in its level.
pub(super) type TileId = (u8, u64);

/// Tiles that were read, by address; the last one of a level may be incomplete.
pub(super) type Tiles = BTreeMap<TileId, Vec<u8>>;

/// Reads nodes from tiles.
pub(super) struct TileNodes<'a>(pub(super) &'a Tiles);

impl HashReader for TileNodes<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let node = |index: &u64| {
            let id = tile_of(*index);
            let hashes = self.0.get(&id).ok_or(tlog_tiles::Error::InvalidTile)?;
            let width = u32::try_from(hashes.len() / HASH_BYTES).unwrap_or(u32::MAX);
            if width == 0 || u64::from(width) > TILE_HASHES {
                return Err(tlog_tiles::Error::InvalidTile);
            }
            Tile::new(TILE_HEIGHT, id.0, id.1, width, false).hash_at_index(hashes, *index)
        };
        indexes.iter().map(node).collect()
    }
}

fn tile_of(node: u64) -> TileId {
    let tile = Tile::from_index(TILE_HEIGHT, node);
    (tile.level(), tile.level_index())
}

/// Computes the root of a complete tile: a hash of the next level.
pub(super) fn root(hashes: &[u8]) -> [u8; HASH_BYTES] {
    Tile::subtree_hash(hashes).0
}

/// Returns the path of a tile in C2SP's layout, such as `tile/0/x001/234` or `tile/1/000.p/7`.
#[must_use]
pub fn tile_path(level: u8, index: u64, hashes: &[u8]) -> String {
    let width = u32::try_from(hashes.len() / HASH_BYTES).unwrap_or(u32::MAX);
    // The library's paths contain the height.
    let path = Tile::new(TILE_HEIGHT, level, index, width.clamp(1, 1 << TILE_HEIGHT), false).path();
    path.replacen(&format!("tile/{TILE_HEIGHT}/"), "tile/", 1)
}

/// Whether a proof shows that the tree with this root has the leaf of the event at `position`.
#[must_use]
pub fn verify_inclusion(
    proof: &[Hash],
    size: u64,
    tree_root: Hash,
    position: Position,
    leaf: Hash,
) -> bool {
    let Some(index) = position.index() else { return false };
    let proof = proof.iter().map(|hash| tlog_tiles::Hash(hash.0)).collect();
    let (root, leaf) = (tlog_tiles::Hash(tree_root.0), tlog_tiles::Hash(leaf.0));
    tlog_tiles::check_record(&proof, size, root, index, leaf).is_ok()
}

/// Whether a proof shows that the tree with `new` as size and root extends the one with `old`.
#[must_use]
pub fn verify_consistency(proof: &[Hash], old: (u64, Hash), new: (u64, Hash)) -> bool {
    let proof = proof.iter().map(|hash| tlog_tiles::Hash(hash.0)).collect();
    let (old_root, new_root) = (tlog_tiles::Hash(old.1.0), tlog_tiles::Hash(new.1.0));
    tlog_tiles::check_tree(&proof, new.0, new_root, old.0, old_root).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merkle::Frontier;

    fn leaf(number: u64) -> Hash {
        Hash::of(&number.to_be_bytes())
    }

    /// Builds the tiles of a tree from the definition: each level from the complete tiles below it.
    fn tiles_of(size: u64) -> Tiles {
        let mut level: Vec<[u8; 32]> = (0..size).map(|number| leaf(number).0).collect();
        let mut tiles = Tiles::new();
        for number in 0.. {
            if level.is_empty() {
                break;
            }
            for (index, hashes) in level.chunks(256).enumerate() {
                tiles.insert((number, index as u64), hashes.concat());
            }
            level = level.chunks_exact(256).map(|hashes| root(&hashes.concat())).collect();
        }
        tiles
    }

    fn root_of(size: u64) -> Hash {
        let mut frontier = Frontier::default();
        (0..size).for_each(|number| frontier.push(leaf(number)));
        frontier.root()
    }

    fn prove(tiles: &Tiles, claim: Claim) -> Vec<Hash> {
        let proof = claim.prove(&TileNodes(tiles)).unwrap();
        proof.into_iter().map(|hash| Hash(hash.0)).collect()
    }

    /// The audit path of RFC 6962 §2.1.1, by its definition.
    fn path_by_definition(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return Vec::new();
        }
        let k = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(k);
        let root = |leaves: &[Hash]| {
            let mut frontier = Frontier::default();
            leaves.iter().for_each(|leaf| frontier.push(*leaf));
            frontier.root()
        };
        let (mut path, sibling) = match index < k {
            true => (path_by_definition(index, left), root(right)),
            false => (path_by_definition(index - k, right), root(left)),
        };
        path.push(sibling);
        path
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn proofs_from_tiles_match_the_definition(size in 1_u64..1200, at in 0_u64..1200, old in 0_u64..1200) {
            let (index, old) = (at % size, old % size + 1);
            let tiles = tiles_of(size);
            let tree_root = root_of(size);
            prop_assert_eq!(prove(&tiles, Claim::Root { size }), vec![tree_root]);

            let inclusion = prove(&tiles, Claim::Inclusion { size, index });
            let leaves: Vec<Hash> = (0..size).map(leaf).collect();
            prop_assert_eq!(&inclusion, &path_by_definition(index as usize, &leaves));
            prop_assert!(verify_inclusion(&inclusion, size, tree_root, Position(index + 1), leaf(index)));
            prop_assert!(!verify_inclusion(&inclusion, size, tree_root, Position(index + 1), leaf(size)));

            let consistency = prove(&tiles, Claim::Consistency { size, old });
            prop_assert!(verify_consistency(&consistency, (old, root_of(old)), (size, tree_root)));
            prop_assert!(!verify_consistency(&consistency, (old, leaf(0)), (size, leaf(1))));
        }
    }

    #[test]
    fn a_third_level_is_used() {
        let size = 65_536 + 300;
        let tiles = tiles_of(size);
        assert_eq!(tiles.get(&(2, 0)).map(Vec::len), Some(32));
        let proof = prove(&tiles, Claim::Inclusion { size, index: 70 });
        assert!(verify_inclusion(&proof, size, root_of(size), Position(71), leaf(70)));
    }

    #[test]
    fn paths_have_the_layout_of_c2sp() {
        assert_eq!(tile_path(0, 1_234_067, &[0; 8192]), "tile/0/x001/x234/067");
        assert_eq!(tile_path(1, 5, &[0; 64]), "tile/1/005.p/2");
    }

    #[test]
    fn a_missing_tile_is_an_error() {
        let mut tiles = tiles_of(600);
        tiles.remove(&(0, 0));
        assert!(Claim::Inclusion { size: 600, index: 3 }.prove(&TileNodes(&tiles)).is_err());
        assert!(!verify_inclusion(&[], 0, root_of(0), Position::ZERO, leaf(0)));
    }
}
