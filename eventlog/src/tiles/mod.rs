//! Tiles of the Merkle tree: the hashes of its nodes, stored as the log grows, so that a proof reads
//! a few of them instead of the whole log.
//!
//! The layout is that of C2SP tlog-tiles. A tile has up to 256 hashes of one level. The event at a
//! position is the leaf with index `position - 1`: hash `index % 256` of tile `index / 256` at level
//! 0. The root of a complete tile is a hash of the next level. The newest, incomplete tile of level
//! 0 is not stored: its leaves, at most 255, are computed from the log.

mod projection;
mod proof;

use std::collections::BTreeSet;

use async_recursion::async_recursion as boxed;
use muster_schemas::{Hash, Position, ProjectId};

use self::proof::{Claim, HASH_BYTES, TILE_HASHES, TILE_HEIGHT, TileId, TileNodes, Tiles};
use crate::error::{ErrorContext, StoreError};
use crate::integers::{as_i64, number};
use crate::log::EventLog;
use crate::read::ReadFilter;

pub use self::projection::{TREE_TILES, TreeTiles};
pub use self::proof::{tile_path, verify_consistency, verify_inclusion};

/// Reason why a proof is not available.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The requested tree does not contain what the proof is about.
    #[error("a tree of {size} events has no event at position {position}")]
    OutOfRange {
        /// Position of the event, or size of the older tree.
        position: u64,
        /// Size of the tree.
        size: u64,
    },
    /// The tiles are behind the log; they follow within moments.
    #[error("the tiles of the Merkle tree have not reached {size} events yet; try again")]
    Behind {
        /// Size of the tree.
        size: u64,
    },
    /// PostgreSQL failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EventLog {
    /// Proves that the tree of a project's first `size` events contains the event at `position`.
    ///
    /// # Errors
    /// When the tree does not contain the position, the tiles are behind, or PostgreSQL fails.
    #[boxed]
    pub async fn prove_inclusion(
        &self,
        project: &ProjectId,
        position: Position,
        size: u64,
    ) -> Result<Vec<Hash>, ProofError> {
        match position.index() {
            Some(index) if index < size => {
                self.prove_claim(project, Claim::Inclusion { size, index }).await
            }
            _ => Err(ProofError::OutOfRange { position: position.get(), size }),
        }
    }

    /// Proves that the tree of the first `size` events extends the tree of the first `old`.
    ///
    /// # Errors
    /// When `old` is zero or larger than `size`, the tiles are behind, or PostgreSQL fails.
    #[boxed]
    pub async fn prove_consistency(
        &self,
        project: &ProjectId,
        old: u64,
        size: u64,
    ) -> Result<Vec<Hash>, ProofError> {
        if old == 0 || old > size {
            return Err(ProofError::OutOfRange { position: old, size });
        }
        self.prove_claim(project, Claim::Consistency { size, old }).await
    }

    /// Returns the root of the tree of a project's first `size` events.
    ///
    /// # Errors
    /// When the tiles are behind, or PostgreSQL fails.
    #[boxed]
    pub async fn root_at(&self, project: &ProjectId, size: u64) -> Result<Hash, ProofError> {
        let root = self.prove_claim(project, Claim::Root { size }).await?;
        root.first().copied().ok_or(ProofError::Behind { size })
    }

    /// Returns the tile with this address in the tree of the first `size` events; `None` if that
    /// tree has no such tile.
    ///
    /// # Errors
    /// When the tiles are behind, or PostgreSQL fails.
    #[boxed]
    pub async fn tile(
        &self,
        project: &ProjectId,
        level: u8,
        index: u64,
        size: u64,
    ) -> Result<Option<Vec<u8>>, ProofError> {
        let count = |level: u8| size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT));
        let hashes = count(level).unwrap_or(0).saturating_sub(index.saturating_mul(TILE_HASHES));
        if hashes == 0 {
            return Ok(None);
        }
        self.check_size(project, size).await?;
        let bytes = usize::try_from(hashes.min(TILE_HASHES)).unwrap_or(0) * HASH_BYTES;
        let mut tiles = self.tiles(project, &BTreeSet::from([(level, index)]), size).await?;
        match tiles.remove(&(level, index)) {
            Some(mut tile) if tile.len() >= bytes => {
                tile.truncate(bytes);
                Ok(Some(tile))
            }
            _ => Err(ProofError::Behind { size }),
        }
    }

    async fn prove_claim(
        &self,
        project: &ProjectId,
        claim: Claim,
    ) -> Result<Vec<Hash>, ProofError> {
        let size = claim.size();
        self.check_size(project, size).await?;
        let tiles = self.tiles(project, &claim.needed(), size).await?;
        let proof = claim.prove(&TileNodes(&tiles)).map_err(|_| ProofError::Behind { size })?;
        Ok(proof.into_iter().map(|hash| Hash(hash.0)).collect())
    }

    /// Checks that the log has this many events.
    async fn check_size(&self, project: &ProjectId, size: u64) -> Result<(), ProofError> {
        let head = self.newest_position(project).await?.get();
        if size > head {
            return Err(ProofError::OutOfRange { position: size, size: head });
        }
        Ok(())
    }

    /// Returns those of these tiles that exist. The newest tile of level 0 is computed from the log.
    async fn tiles(
        &self,
        project: &ProjectId,
        needed: &BTreeSet<TileId>,
        size: u64,
    ) -> Result<Tiles, ProofError> {
        let (levels, indexes): (Vec<i16>, Vec<i64>) =
            needed.iter().map(|(level, index)| (i16::from(*level), as_i64(*index))).unzip();
        let client = self.readers().get().await.map_err(StoreError::from)?;
        let statement = client
            .prepare_cached(&format!(
                "SELECT level, tile, hashes FROM {TREE_TILES}
                 WHERE project = $1
                   AND (level, tile) IN (SELECT * FROM unnest($2::smallint[], $3::bigint[]))"
            ))
            .await
            .while_trying("prepare to read tiles of the Merkle tree")?;
        let rows = client
            .query(&statement, &[&project.as_str(), &levels, &indexes])
            .await
            .while_trying("read tiles of the Merkle tree")?;
        drop(client);
        let mut tiles: Tiles = rows
            .iter()
            .map(|row| {
                let level = u8::try_from(row.get::<_, i16>(0)).unwrap_or(u8::MAX);
                ((level, number(row, 1)), row.get(2))
            })
            .collect();
        let newest = (0, size / TILE_HASHES);
        if needed.contains(&newest) && !tiles.contains_key(&newest) {
            let filter = ReadFilter {
                after: Position(newest.1 * TILE_HASHES),
                until: Some(Position(size)),
                ..ReadFilter::default()
            };
            let events = self.read(project, &filter, 1 << TILE_HEIGHT).await?;
            let leaves = events.iter().flat_map(|event| event.leaf(project).0).collect();
            tiles.insert(newest, leaves);
        }
        Ok(tiles)
    }
}
