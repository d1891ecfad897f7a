//! Resource usage of a process, from the kernel's counters.

use std::path::Path;
use std::process::Command;

/// Resident memory in megabytes (10⁶ bytes).
pub(crate) fn resident_mb(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = line.split_ascii_whitespace().next().unwrap().parse().unwrap();
    kib * 1024.0 / 1e6
}

/// Memory in megabytes (10⁶ bytes); memory shared with other processes counts proportionally.
pub(crate) fn proportional_mb(pid: u32) -> f64 {
    // A process that has ended meanwhile uses no memory.
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
    let kib: f64 = line.split_ascii_whitespace().next().unwrap().parse().unwrap();
    kib * 1024.0 / 1e6
}

/// The child processes.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    text.unwrap_or_default().split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// CPU seconds of all threads, with nanosecond resolution.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let nanoseconds = threads.into_iter().flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// Traffic of a process on its open TCP connections, in both directions.
#[derive(Clone, Copy)]
pub(crate) struct Traffic {
    /// Bytes, TLS included, without the headers of TCP and IP.
    pub(crate) bytes: u64,
    /// Segments, each with headers of its own.
    pub(crate) segments: u64,
}

/// Bytes and segments sent and received; `None` without `ss`.
pub(crate) fn traffic(pid: u32) -> Option<Traffic> {
    let output = Command::new("ss").args(["-tinpO"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let own = format!("pid={pid},");
    let words = || {
        let lines = text.lines().filter(|line| line.contains(&own));
        lines.flat_map(str::split_ascii_whitespace)
    };
    let sum = |names: [&str; 2]| {
        let numbers =
            words().filter_map(|word| names.iter().find_map(|name| word.strip_prefix(name)));
        numbers.filter_map(|number| number.parse::<u64>().ok()).sum()
    };
    Some(Traffic {
        bytes: sum(["bytes_sent:", "bytes_received:"]),
        segments: sum(["segs_out:", "segs_in:"]),
    })
}

/// The process whose executable is this file and whose arguments name this folder.
pub(crate) fn find(name: &str, folder: &Path) -> Option<u32> {
    let folder = folder.display().to_string();
    std::fs::read_dir("/proc").ok()?.find_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let program = line.split('\0').next()?;
        (program.ends_with(name) && line.contains(&folder)).then_some(pid)
    })
}

/// The size of a program without symbols, in megabytes.
pub(crate) fn stripped_mb(program: &Path) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("program");
    std::fs::copy(program, &copy).unwrap();
    let _ = Command::new("strip").arg(&copy).status();
    copy.metadata().unwrap().len() as f64 / 1e6
}
