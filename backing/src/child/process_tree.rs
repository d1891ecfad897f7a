//! Facts about running processes, read from `/proc`.

use std::collections::HashMap;
use std::fs;

/// The fields of `/proc/<pid>/stat` that matter here (proc(5)).
struct Stat {
    state: char,
    parent: u32,
    /// Start time in clock ticks since boot: together with the pid, it identifies a process.
    started_at: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name, in parentheses, may itself contain spaces and parentheses.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started_at: fields.get(19)?.parse().ok()?,
    })
}

/// Returns the start time of a live process; `None` if it does not exist or is a zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    stat(pid).filter(|stat| !matches!(stat.state, 'Z' | 'X')).map(|stat| stat.started_at)
}

/// Returns `root` and all of its descendants, parents before their children.
pub(crate) fn process_tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        if let Some(more) = children.remove(pid) {
            found.extend(more);
        }
        next += 1;
    }
    found
}
