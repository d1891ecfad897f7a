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

/// Bytes sent and received on its open TCP connections, TLS included; `None` without `ss`.
pub(crate) fn tcp_bytes(pid: u32) -> Option<u64> {
    let output = Command::new("ss").args(["-tinpO"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |line: &str| {
        line.split_ascii_whitespace()
            .filter_map(|word| {
                let number = word.strip_prefix("bytes_sent:");
                number.or_else(|| word.strip_prefix("bytes_received:"))?.parse::<u64>().ok()
            })
            .sum::<u64>()
    };
    let own = format!("pid={pid},");
    Some(text.lines().filter(|line| line.contains(&own)).map(count).sum())
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
