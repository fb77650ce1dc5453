//! Every mount in a cell is of one of three classes, and no class has a place twice.
//!
//! | class | what must hold |
//! |---|---|
//! | all | follows no mount of another place, and is followed by none |
//! | ours: planned for the run | at its place, ro or rw as planned, `nosuid,nodev` where the runtime sets them, of the type, device and inode that the host opened |
//! | the kernel's: `data/cell.json` | its type, its options, its size; what every cell needs is there, and what covers a place that there is |
//! | Podman's files: `data/cell.json` | read-only, and from the container's own folder of Podman's |

use noclaw_cell::preflight::{Measured, Mount};

use super::rules::{KernelMount, Needed};
use super::{Cell, Check, Shortfall};
use crate::core::plan::{PlannedMount, Runtime};

/// Compares all mounts of a process with the plan.
pub(super) fn judge(check: Check, cell: Cell<'_>, measured: &Measured) -> Result<(), Shortfall> {
    let (plan, mounts) = (cell.plan, &measured.mounts);
    for mount in mounts {
        let place = &mount.destination;
        let times = mounts.iter().filter(|other| other.destination == *place).count();
        check.equal(&format!("the number of mounts at {place}"), 1, times)?;
        let found = Some(mount.propagation.as_str()).filter(|whose| !whose.is_empty());
        let field = format!("the propagation of the mount {place}");
        check.equal(&field, "private", found.unwrap_or("private"))?;
        judge_one(check, cell, mount)?;
    }
    let there = |place: &str| mounts.iter().any(|mount| mount.destination == place);
    let ours = plan.mounts.iter().map(|mount| mount.destination.as_str());
    let needed = plan.rules.mounts.iter().filter(|mount| match mount.needed {
        Needed::Always => true,
        Needed::IfThere => measured.places.contains(&mount.at),
        Needed::No => false,
    });
    let mut missing = ours.chain(needed.map(|mount| mount.at.as_str()));
    match missing.find(|place| !there(place)) {
        Some(place) => check.equal(&format!("what is mounted at {place}"), "there", "missing"),
        None => Ok(()),
    }
}

fn judge_one(check: Check, cell: Cell<'_>, mount: &Mount) -> Result<(), Shortfall> {
    let (plan, place) = (cell.plan, &mount.destination);
    if let Some(planned) = plan.mounts.iter().find(|planned| planned.destination == *place) {
        return judge_ours(check, planned, &plan.runtime, mount);
    }
    if let Some(rule) = plan.rules.mounts.iter().find(|rule| rule.at == *place) {
        return judge_kernel(check, rule, mount);
    }
    if let Some(rule) = plan.rules.podman_files.iter().find(|rule| rule.at == *place) {
        judge_mode(check, mount, "ro")?;
        let folder = format!("/{}/userdata/{}", cell.container, rule.name);
        let found = if mount.root.ends_with(&folder) { &folder } else { &mount.root };
        return check.equal(&format!("what is mounted at {place}"), &folder, found);
    }
    // A device of the host's, on the name of the same device in the cell. What kind of device it
    // is, `judge_devices` has seen.
    let device = place.strip_prefix("/dev/").filter(|name| {
        ["devtmpfs", "tmpfs"].contains(&mount.kind.as_str()) && mount.root == format!("/{name}")
    });
    if plan.rules.devices.iter().any(|rule| Some(rule.name.as_str()) == device) {
        return Ok(());
    }
    let found = format!("{} of {}", mount.root, mount.kind);
    check.equal(&format!("what is mounted at {place}"), "nothing", found)
}

fn judge_ours(
    check: Check,
    planned: &PlannedMount,
    runtime: &Runtime,
    mount: &Mount,
) -> Result<(), Shortfall> {
    judge_mode(check, mount, if planned.read_only { "ro" } else { "rw" })?;
    if planned.read_only || runtime.restricts_writable() {
        ["nosuid", "nodev"].iter().try_for_each(|option| judge_option(check, mount, option))?;
    }
    check.equal(
        &format!("the type of the mount {}", mount.destination),
        &planned.kind,
        &mount.kind,
    )?;
    let identity = |device: Option<u64>, inode: Option<u64>| match (device, inode) {
        (Some(device), Some(inode)) => format!("device {device} inode {inode}"),
        _ => "out of reach".to_owned(),
    };
    check.equal(
        &format!("what is mounted at {}", mount.destination),
        identity(Some(planned.device), Some(planned.inode)),
        identity(mount.device, mount.inode),
    )
}

fn judge_kernel(check: Check, rule: &KernelMount, mount: &Mount) -> Result<(), Shortfall> {
    let place = &mount.destination;
    if !rule.kinds.contains(&mount.kind) {
        let field = format!("the type of the mount {place}");
        return check.equal(&field, rule.kinds.join(" or "), &mount.kind);
    }
    // What is taken from a file system is the whole of it, a named part, or the part that has its
    // place's name: `/sys` of proc at `/proc/sys`.
    let name = place.rsplit_once('/').map(|(_, name)| format!("/{name}"));
    let root = Some(&mount.root);
    let whole = rule.root.is_none() && (mount.root == "/" || root == name.as_ref());
    if !whole && root != rule.root.as_ref() {
        let planned = rule.root.as_deref().unwrap_or("/");
        return check.equal(&format!("what is mounted at {place}"), planned, &mount.root);
    }
    for option in &rule.options {
        match option.as_str() {
            "ro" | "rw" => judge_mode(check, mount, option)?,
            option => judge_option(check, mount, option)?,
        }
    }
    let any = &rule.one_of;
    if !any.is_empty() && !any.iter().any(|option| has(&mount.options, option)) {
        let field = format!("the list of options of the mount {place}");
        return check.equal(&field, format!("with {}", any.join(" or ")), &mount.options);
    }
    match rule.size_kib {
        None => Ok(()),
        Some(kib) => {
            let size = mount.super_options.split(',').find_map(|all| all.strip_prefix("size="));
            let size = size.unwrap_or("unlimited");
            check.equal(&format!("the size of {place}"), format!("{kib}k"), size)
        }
    }
}

fn judge_option(check: Check, mount: &Mount, option: &str) -> Result<(), Shortfall> {
    if has(&mount.options, option) {
        return Ok(());
    }
    let field = format!("the list of options of the mount {}", mount.destination);
    check.equal(&field, format!("with {option}"), &mount.options)
}

fn judge_mode(check: Check, mount: &Mount, planned: &str) -> Result<(), Shortfall> {
    let found = if has(&mount.options, "ro") { "ro" } else { "rw" };
    check.equal(&format!("the mode of the mount {}", mount.destination), planned, found)
}

fn has(options: &str, option: &str) -> bool {
    options.split(',').any(|found| found == option)
}
