//! Small files with secrets or configuration: private, and written atomically.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rand::TryRngCore;
use rand::rngs::OsRng;

/// Creates a folder and its missing parents, accessible only to the current user (mode 0700). An
/// existing folder is not changed.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// As [`muster_files::write_private`]; creates missing folders.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    make_private_dir(path.parent().unwrap_or(Path::new(".")))?;
    muster_files::write_private(path, content).map_err(|error| error.source)
}

/// Returns the secret in `path`; creates it with 192 bits at first use.
pub(crate) fn read_or_create_secret(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = random_secret()?;
            write_private(path, secret.as_bytes())?;
            Ok(secret)
        }
        Err(error) => Err(error),
    }
}

/// Returns 24 random bytes in base32: safe in a URL, an SQL string and an InfluxQL string without
/// escaping.
fn random_secret() -> io::Result<String> {
    let mut bytes = [0_u8; 24];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_created_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/password");
        let first = read_or_create_secret(&path).unwrap();
        assert_eq!(first.len(), 39);
        assert_eq!(read_or_create_secret(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_empty_secret_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "\n").unwrap();
        assert!(read_or_create_secret(&path).is_err());
    }
}
