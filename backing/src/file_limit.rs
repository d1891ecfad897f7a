//! The number of files that this process and its children may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files as far as the system allows. Children inherit it: a metric store opens
/// some files for each shard. Returns the limit that holds now.
///
/// # Errors
/// When the kernel refuses; the limit stays as it is.
pub fn raise() -> Result<u64, nix::Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The limit of open files that holds for this process now.
///
/// # Errors
/// When the kernel does not answer.
pub fn current() -> Result<u64, nix::Error> {
    getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_get_all_that_the_system_allows() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256.min(hard), hard).unwrap();
        assert_eq!(raise(), Ok(hard));
        let shown = std::process::Command::new("sh").args(["-c", "ulimit -Sn"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let expected = if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() };
        assert_eq!(shown.trim(), expected);
    }
}
