//! Blobs: bytes that are too large or too private for an event, in a folder or an S3 bucket. The
//! events hold their lengths and salted hashes; erasing a blob changes no event.
//!
//! Names are built here ([`key`]), so that the roles command and query find each other's blobs.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};

/// Maximum number of concurrent deletions in a folder of names.
const MAX_CONCURRENT_ERASURES: usize = 16;
/// A name that no blob has.
const PROBE_NAME: &str = "is-it-there";
/// S3's error code for a bucket that does not exist.
const NO_BUCKET: &str = "NoSuchBucket";
/// Retry budget for a bucket that is temporarily unavailable: a client waits for the response.
const BUCKET_RETRY_BUDGET: Duration = Duration::from_secs(10);

/// Location of the blobs as written in the configuration: a folder, or `s3://BUCKET/PREFIX` (with
/// the usual `AWS_*` variables).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobLocation {
    /// A folder of this machine, shared by all processes of the roles command and query.
    Folder(PathBuf),
    /// A bucket, and the prefix of all names in it.
    Bucket {
        /// URL of the bucket: `s3://BUCKET`.
        url: String,
        /// The prefix; may be empty.
        prefix: String,
    },
}

impl FromStr for BlobLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(format!("'{text}' has no bucket; write s3://BUCKET/PREFIX"));
            }
            let prefix = prefix.trim_matches('/').to_owned();
            return Ok(Self::Bucket { url: format!("s3://{bucket}"), prefix });
        }
        if text.contains("://") {
            return Err(format!("'{text}' is neither a folder nor s3://BUCKET/PREFIX"));
        }
        Ok(Self::Folder(text.into()))
    }
}

impl fmt::Display for BlobLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Bucket { url, prefix } => write!(f, "{url}/{prefix}"),
        }
    }
}

/// Blobs could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The folder cannot be created.
    #[error("failed to create the blob folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Written blobs may not be on the disk.
    #[error("failed to sync the blob folder {}", path.display())]
    Flush {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The store returned an error.
    #[error("failed to {attempted} the blob {name}")]
    Store {
        /// The attempted action.
        attempted: &'static str,
        /// The blob, or a prefix of names.
        name: String,
        /// The cause.
        source: Error,
    },
}

impl BlobError {
    /// Whether the store's disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if kind == Some(std::io::ErrorKind::StorageFull) {
                return true;
            }
            source = error.source();
        }
        false
    }

    /// Whether the error is permanent, so that a retry is useless.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        let Self::Store { source, .. } = self else { return false };
        matches!(
            source,
            Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
        )
    }
}

/// The blob store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// The same store, for blobs that must be on the disk when the write returns.
    durable: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The folder, if blobs are stored in one.
    folder: Option<PathBuf>,
}

/// A stored blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// The last part of its name.
    pub name: String,
    /// Size, in bytes.
    pub bytes: u64,
}

impl Blobs {
    /// Opens the location; a missing folder is created, for this user only.
    ///
    /// # Errors
    /// When the folder cannot be created, or the bucket's settings are invalid.
    pub fn open(location: &BlobLocation) -> Result<Self, BlobError> {
        match location {
            BlobLocation::Folder(path) => {
                make_private(path)
                    .map_err(|source| BlobError::Folder { path: path.clone(), source })?;
                let store = LocalFileSystem::new_with_prefix(path)
                    .map_err(store_error("open", &path.display().to_string()))?;
                // A process that was killed during a write leaves at most a partial file next to a
                // complete one.
                let store = store.with_automatic_cleanup(true);
                let durable = LocalFileSystem::new_with_prefix(path)
                    .map_err(store_error("open", &path.display().to_string()))?
                    .with_fsync(true);
                Ok(Self {
                    store: Arc::new(store),
                    durable: Arc::new(durable),
                    prefix: Path::default(),
                    folder: Some(path.clone()),
                })
            }
            BlobLocation::Bucket { url, prefix } => {
                let store = AmazonS3Builder::from_env()
                    .with_url(url)
                    .with_retry(RetryConfig {
                        retry_timeout: BUCKET_RETRY_BUDGET,
                        ..Default::default()
                    })
                    .build()
                    .map_err(store_error("open", url))?;
                let prefix = Path::from(prefix.as_str());
                let store: Arc<dyn ObjectStore> = Arc::new(store);
                Ok(Self { durable: Arc::clone(&store), store, prefix, folder: None })
            }
        }
    }

    /// Checks that blobs can be read: requests one that does not exist.
    ///
    /// # Errors
    /// When the bucket does not exist, refuses access, or does not respond.
    #[boxed]
    pub async fn check(&self) -> Result<(), BlobError> {
        match self.store.get(&self.path(PROBE_NAME)).await {
            // S3 returns the same error for a missing bucket; only the message distinguishes them.
            Err(Error::NotFound { source, .. }) if !source.to_string().contains(NO_BUCKET) => {
                Ok(())
            }
            Err(error) => Err(store_error("read", PROBE_NAME)(error)),
            Ok(_) => Ok(()),
        }
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.parts().chain(Path::from(name).parts()).collect()
    }

    /// Writes a whole blob.
    ///
    /// # Errors
    /// When the store returns an error.
    #[boxed]
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        let put = self.store.put(&self.path(name), PutPayload::from_bytes(bytes)).await;
        put.map(drop).map_err(store_error("write", name))
    }

    /// Like [`Self::put`]; when this returns, the blob survives a power failure.
    ///
    /// # Errors
    /// When the store returns an error.
    #[boxed]
    pub async fn put_durably(&self, name: &str, bytes: Bytes) -> Result<(), BlobError> {
        let put = self.durable.put(&self.path(name), PutPayload::from_bytes(bytes)).await;
        put.map(drop).map_err(store_error("write", name))
    }

    /// Returns a blob's bytes; `None` when it does not exist.
    ///
    /// # Errors
    /// When the store returns an error.
    #[boxed]
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, BlobError> {
        match self.store.get(&self.path(name)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(store_error("read", name)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error("read", name)(error)),
        }
    }

    /// Erases a blob; a missing one is no error.
    ///
    /// # Errors
    /// When the store returns an error.
    #[boxed]
    pub async fn erase(&self, name: &str) -> Result<(), BlobError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error("erase", name)(error)),
        }
    }

    /// Erases all blobs in a folder of names.
    ///
    /// # Errors
    /// When the store returns an error; some blobs are erased then.
    #[boxed]
    pub async fn erase_all(&self, folder: &str) -> Result<(), BlobError> {
        let found = self.list(folder).await?;
        let names = found.into_iter().map(|found| format!("{folder}/{}", found.name));
        futures::stream::iter(names)
            .map(|name| async move { self.erase(&name).await })
            .buffer_unordered(MAX_CONCURRENT_ERASURES)
            .try_collect()
            .await
    }

    /// Waits until all written blobs survive a power failure. A bucket guarantees that with each
    /// write.
    ///
    /// # Errors
    /// When the disk cannot be synced.
    #[boxed]
    pub async fn flush(&self) -> Result<(), BlobError> {
        let Some(path) = self.folder.clone() else { return Ok(()) };
        let synced = tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::File::open(path).and_then(|it| Ok(rustix::fs::syncfs(it)?))
        });
        let synced = synced.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        synced.map_err(|source| BlobError::Flush { path, source })
    }

    /// Lists the folders that are directly in a folder of names.
    ///
    /// # Errors
    /// When the store returns an error.
    #[boxed]
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, BlobError> {
        let listed = self.store.list_with_delimiter(Some(&self.path(folder))).await;
        let listed = listed.map_err(store_error("list", folder))?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        Ok(listed.common_prefixes.iter().filter_map(name).collect())
    }

    /// Lists the blobs that are directly in a folder of names, sorted by name.
    ///
    /// # Errors
    /// When the store returns an error.
    #[boxed]
    pub async fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        let path = self.path(folder);
        let mut found: Vec<BlobEntry> = self
            .store
            .list(Some(&path))
            .map_ok(|meta| BlobEntry {
                name: meta.location.filename().unwrap_or_default().to_owned(),
                bytes: meta.size,
            })
            .try_collect()
            .await
            .map_err(store_error("list", folder))?;
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }
}

fn store_error<'a>(operation: &'static str, name: &'a str) -> impl FnOnce(Error) -> BlobError + 'a {
    move |source| BlobError::Store { attempted: operation, name: name.to_owned(), source }
}

fn make_private(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub mod key;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Piece, contiguous};

    #[test]
    fn a_location_is_a_folder_or_a_bucket() {
        assert_eq!("/var/lib/b".parse(), Ok(BlobLocation::Folder("/var/lib/b".into())));
        let bucket = BlobLocation::Bucket { url: "s3://fleet".into(), prefix: "muster/a".into() };
        assert_eq!(bucket.to_string(), "s3://fleet/muster/a");
        assert_eq!("s3://fleet/muster/a/".parse(), Ok(bucket));
        for bad in ["s3://", "gs://x", "http://x"] {
            assert!(bad.parse::<BlobLocation>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pieces_are_joined_without_gaps_and_duplicates() {
        let piece = |offset, bytes, compressed| Piece { offset, bytes, is_compressed: compressed };
        let pieces =
            [piece(0, 5, false), piece(0, 3, true), piece(5, 7, true), piece(20, 1, false)];
        for piece in pieces {
            assert_eq!(Piece::parse(&piece.name()), Some(piece));
        }
        let mut names: Vec<BlobEntry> =
            pieces.iter().map(|piece| BlobEntry { name: piece.name(), bytes: 1 }).collect();
        names.push(BlobEntry { name: "salt".into(), bytes: 16 });
        names.push(BlobEntry { name: crate::key::size(21), bytes: 0 });
        assert_eq!(contiguous(&names), [piece(0, 5, false), piece(5, 7, true)]);
        assert_eq!(crate::key::size_in(&names), Some(21));
        // A longer piece that starts in the middle of another; and one that lost its bytes.
        names.push(BlobEntry { name: piece(3, 15, false).name(), bytes: 1 });
        names.push(BlobEntry { name: piece(18, 2, false).name(), bytes: 0 });
        let all = [piece(0, 5, false), piece(3, 15, false)];
        assert_eq!(contiguous(&names), all);
        names.push(BlobEntry { name: piece(17, 4, false).name(), bytes: 1 });
        assert_eq!(contiguous(&names).last(), Some(&piece(17, 4, false)));
    }

    #[tokio::test]
    async fn blobs_are_written_listed_and_erased() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&BlobLocation::Folder(dir.path().join("blobs"))).unwrap();
        blobs.check().await.unwrap();
        assert_eq!(blobs.get("a/b").await.unwrap(), None);
        blobs.put("a/b", Bytes::from_static(b"one")).await.unwrap();
        blobs.put_durably("a/a", Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(blobs.get("a/b").await.unwrap().unwrap(), "one");
        let names: Vec<String> =
            blobs.list("a").await.unwrap().into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["a", "b"]);
        blobs.erase("a/b").await.unwrap();
        blobs.erase("a/b").await.unwrap();
        assert_eq!(blobs.get("a/b").await.unwrap(), None);
        assert!(blobs.list("nothing").await.unwrap().is_empty());
        for name in ["f/a", "f/b", "other"] {
            blobs.put(name, Bytes::new()).await.unwrap();
        }
        blobs.flush().await.unwrap();
        blobs.erase_all("f").await.unwrap();
        blobs.erase_all("f").await.unwrap();
        assert!(blobs.list("f").await.unwrap().is_empty());
        assert!(blobs.get("other").await.unwrap().is_some());
    }
}
