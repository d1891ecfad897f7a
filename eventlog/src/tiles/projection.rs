//! The projection that stores the tiles.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use muster_schemas::{Position, ProjectId};
use tokio_postgres::types::ToSql;

use super::proof::{HASH_BYTES, TILE_HASHES, TILE_HEIGHT, root};
use crate::error::{ErrorContext, StoreError};
use crate::integers::as_i64;
use crate::projection::{Projection, ProjectionError, Transaction};
use crate::stored_event::{COLUMNS, StoredEvent};

/// Name of the projection and of its table.
pub const TREE_TILES: &str = "tree_tiles_v1";

/// The projection that stores the tiles.
#[derive(Debug, Default)]
pub struct TreeTiles {
    /// Leaves of each project's incomplete tile, and the position of the newest of them.
    leaves: HashMap<ProjectId, (Position, Vec<u8>)>,
}

impl TreeTiles {
    /// Returns the leaves of the incomplete tile before `position`.
    async fn leaves_before(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        position: Position,
    ) -> Result<Vec<u8>, StoreError> {
        let newest = position.previous();
        match self.leaves.remove(project) {
            Some((cached, leaves)) if cached == newest => return Ok(leaves),
            _ => {}
        }
        let start = Position(newest.get() - newest.get() % TILE_HASHES);
        let sql = format!(
            "SELECT {COLUMNS} FROM events
             WHERE project = $1 AND position > $2 AND position <= $3
             ORDER BY position"
        );
        let rows = transaction
            .query(&sql, &[&project.as_str(), &as_i64(start), &as_i64(newest)])
            .await
            .while_trying("read the leaves of an incomplete tile")?;
        if rows.len() as u64 != newest.since(start) {
            return Err(corrupt(project, newest));
        }
        let mut leaves = Vec::new();
        for row in &rows {
            leaves.extend(StoredEvent::from_row(row)?.leaf(project).0);
        }
        Ok(leaves)
    }
}

fn corrupt(project: &ProjectId, position: Position) -> StoreError {
    StoreError::Corrupt(format!(
        "the tiles of the Merkle tree of {project} do not match its log near position {position}"
    ))
}

/// Adds hashes to the end of a level; returns the roots of the tiles that are complete now, with
/// the index of the first of them.
async fn extend_level(
    transaction: &Transaction<'_>,
    project: &ProjectId,
    level: i16,
    first: u64,
    hashes: &[u8],
) -> Result<(u64, Vec<u8>), StoreError> {
    let mut roots = Vec::new();
    let mut first_root = None;
    let mut index = first;
    let mut rest = hashes;
    while !rest.is_empty() {
        let room = usize::try_from(TILE_HASHES - index % TILE_HASHES).unwrap_or(0) * HASH_BYTES;
        let (part, remaining) = rest.split_at(room.min(rest.len()));
        let tile = index / TILE_HASHES;
        // A tile grows only where it ends.
        let before = as_i64(index % TILE_HASHES * HASH_BYTES as u64);
        let key: [&(dyn ToSql + Sync); 4] = [&project.as_str(), &level, &as_i64(tile), &part];
        let row = if before == 0 {
            let insert = format!(
                "INSERT INTO {TREE_TILES} (project, level, tile, hashes) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING RETURNING hashes"
            );
            transaction.query_opt(&insert, &key).await
        } else {
            let extend = format!(
                "UPDATE {TREE_TILES} SET hashes = hashes || $4
                 WHERE project = $1 AND level = $2 AND tile = $3 AND octet_length(hashes)::bigint = $5
                 RETURNING hashes"
            );
            let [project, level, tile, part] = key;
            transaction.query_opt(&extend, &[project, level, tile, part, &before]).await
        };
        let row = row.while_trying("store a tile of the Merkle tree")?;
        let stored: Vec<u8> = row.ok_or_else(|| corrupt(project, Position(index + 1)))?.get(0);
        if stored.len() as u64 == TILE_HASHES * HASH_BYTES as u64 {
            first_root.get_or_insert(tile);
            roots.extend(root(&stored));
        }
        index += (part.len() / HASH_BYTES) as u64;
        rest = remaining;
    }
    Ok((first_root.unwrap_or_default(), roots))
}

#[async_trait]
impl Projection for TreeTiles {
    fn name(&self) -> &str {
        TREE_TILES
    }

    fn tables(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {TREE_TILES} (
                 project text COLLATE \"C\" NOT NULL,
                 level   smallint NOT NULL,
                 tile    bigint   NOT NULL,  -- index in its level
                 hashes  bytea    NOT NULL,  -- 32 bytes each, at most 256
                 PRIMARY KEY (project, level, tile)
             )"
        )
    }

    fn needs_authority(&self) -> bool {
        false
    }

    async fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        project: &ProjectId,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), ProjectionError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        let newest = first.position.previous() + events.len() as u64;
        if last.position != newest {
            return Err(corrupt(project, newest).into());
        }
        let mut leaves = self.leaves_before(transaction, project, first.position).await?;
        let first_leaf = first.position.previous().get() - (leaves.len() / HASH_BYTES) as u64;
        leaves.extend(events.iter().flat_map(|event| event.leaf(project).0));
        let complete = leaves.len() - leaves.len() % (HASH_BYTES << TILE_HEIGHT);
        let incomplete = leaves.split_off(complete);
        let (mut level, mut start, mut hashes) = (0, first_leaf, leaves);
        while !hashes.is_empty() {
            (start, hashes) = extend_level(transaction, project, level, start, &hashes).await?;
            level += 1;
        }
        self.leaves.insert(project.clone(), (last.position, incomplete));
        Ok(())
    }

    fn discard_cache(&mut self) {
        self.leaves.clear();
    }
}
