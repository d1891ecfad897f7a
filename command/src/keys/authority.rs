//! The key with which command proves the authority of events (docs/decisions/0020), its public half
//! for the other roles, and the record that events from before this key were adopted.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use muster_schemas::PublicKey;
use muster_schemas::authority::{AuthorityKey, AuthorityVerifier};

use super::error::{KeyError, unusable};
use super::files;

/// File of the current key: 32 bytes, only in command's folder.
const KEY_FILE: &str = "authority.key";
/// Prefix of the files of previous keys, which verify and prove nothing new.
const PREVIOUS_PREFIX: &str = "authority-former";
/// File of the public keys, in the other roles' folders: one on each line, base64url.
pub(super) const PUBLIC_FILE: &str = "authority.pub";
/// File that exists once events from before the key existed were adopted.
pub(super) const ADOPTED_FILE: &str = "authority.adopted";

/// Reads the current key; creates it if it is missing.
pub(super) fn read_current(dir: &Path) -> Result<AuthorityKey, KeyError> {
    Ok(AuthorityKey::from_seed(&files::load_or_create_seed(&dir.join(KEY_FILE))?))
}

/// Reads the previous keys.
pub(super) fn read_previous(dir: &Path) -> Result<Vec<AuthorityKey>, KeyError> {
    let failed = |source| KeyError::File { attempted: "read", path: dir.to_owned(), source };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(PREVIOUS_PREFIX)
            && path.extension().is_some_and(|ending| ending == "key")
        {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    let read = |path: &PathBuf| Ok(AuthorityKey::from_seed(&files::read_seed(path)?));
    paths.iter().map(read).collect()
}

/// Returns the public keys as text.
pub(super) fn text(verifier: &AuthorityVerifier) -> String {
    let lines = verifier.keys().iter().map(|key| BASE64URL_NOPAD.encode(&key.to_ed25519()) + "\n");
    lines.collect()
}

/// Reads the public keys from their text.
pub(super) fn parse(path: &Path, text: &str) -> Result<AuthorityVerifier, KeyError> {
    let key = |line: &str| {
        let bytes: [u8; 32] = BASE64URL_NOPAD.decode(line.as_bytes()).ok()?.try_into().ok()?;
        PublicKey::from_ed25519(&bytes).ok()
    };
    let keys: Option<Vec<PublicKey>> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(key).collect();
    keys.filter(|keys| !keys.is_empty())
        .map(AuthorityVerifier::from_public_keys)
        .ok_or_else(|| unusable(path, "it contains no public key"))
}

/// Returns the verifier of authority of a key folder, whether command's or a role's; creates
/// nothing. `None` when the folder has neither file.
///
/// # Errors
/// When a file cannot be read or contains no key.
pub fn verifier_in(dir: &Path) -> Result<Option<AuthorityVerifier>, KeyError> {
    if dir.join(KEY_FILE).exists() {
        let mut keys = vec![AuthorityKey::from_seed(&files::read_seed(&dir.join(KEY_FILE))?)];
        keys.extend(read_previous(dir)?);
        return Ok(Some(AuthorityVerifier::from_secret_keys(&keys)));
    }
    let path = dir.join(PUBLIC_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyError::File { attempted: "read", path, source }),
    }
}
