//! What Podman leaves behind: processes, by their container.

use std::fs;

pub fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Processes that belong to one of these containers: their monitors by their command lines, what
/// runs inside by its cgroup.
pub fn inhabitants(containers: &[String]) -> Vec<(i32, String)> {
    let of = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let named = |id: &String| line.contains(id.as_str()) || group.contains(id.as_str());
        containers.iter().any(named).then_some((pid, line))
    };
    processes().into_iter().filter_map(of).collect()
}
