//! The maximum number of open files of this process and its children.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files as far as the system allows. Children inherit it: a metric store
/// opens some files for each shard. Returns the current limit.
///
/// # Errors
/// When the kernel refuses; the limit is then unchanged.
pub fn raise() -> Result<u64, nix::Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Returns the current limit of open files of this process.
///
/// # Errors
/// When the kernel does not report it.
pub fn current() -> Result<u64, nix::Error> {
    getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_processes_get_the_maximum_file_limit() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256.min(hard), hard).unwrap();
        assert_eq!(raise(), Ok(hard));
        let shown = std::process::Command::new("sh").args(["-c", "ulimit -Sn"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let expected = if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() };
        assert_eq!(shown.trim(), expected);
    }
}
