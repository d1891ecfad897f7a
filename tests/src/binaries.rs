//! Location of the binaries under test: next to the running test, or `MUSTER_TEST_BIN`.

use std::path::PathBuf;

/// The path of the binary with this name; `MUSTER_TEST_BIN` sets another folder.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("MUSTER_TEST_BIN").map_or_else(
        || {
            let mut dir = std::env::current_exe().unwrap_or_default();
            while dir.pop() && !dir.join(name).is_file() {}
            dir
        },
        PathBuf::from,
    );
    let file = dir.join(name);
    assert!(file.is_file(), "{name} was not built; run: cargo build --workspace --bins");
    file
}
