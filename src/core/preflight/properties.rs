//! A preflight passes if and only if nothing in it differs that matters.

use noclaw_cell::preflight::Mount;
use proptest::prelude::*;
use serde_json::Value;

use super::tests::{CONTAINER, plan, preflight};
use super::*;
use crate::core::arbitrary::{edited, edits};

/// What must be as it was planned: the rest may differ from machine to machine.
fn essence(plan: &CellPlan, preflight: &Preflight) -> Preflight {
    let Preflight { mut launcher, mut agent } = preflight.clone();
    // The agent has one filter more, however many there are.
    agent.seccomp_filters = agent.seccomp_filters.wrapping_sub(launcher.seccomp_filters);
    launcher.seccomp_filters = 0;
    agent.pid = 0;
    let own = launcher.namespaces.clone();
    for process in [&mut launcher, &mut agent] {
        // The numbers differ from cell to cell.
        process.namespaces.retain(|kind, _| NAMESPACES.contains(&kind.as_str()));
        for (kind, inode) in &mut process.namespaces {
            let is_own =
                own.get(kind) == Some(inode) && plan.host_namespaces.get(kind) != Some(inode);
            *inode = u64::from(is_own);
        }
        let covers = |place: &String| plan.rules.places().any(|covered| covered == place);
        let mounted =
            |place: &String| process.mounts.iter().any(|mount| mount.destination == *place);
        process.places.retain(|place| covers(place) && !mounted(place));
        process.groups.retain(|group| *group != CELL_UID);
        for map in [&mut process.uid_map, &mut process.gid_map] {
            // Of all the users only the cell's and the owner matter.
            map.retain(|range| {
                let cell = range.inside..=range.inside.saturating_add(range.count.max(1) - 1);
                range.outside == 0 || (range.count > 0 && cell.contains(&CELL_UID))
            });
        }
        process.devices.retain(|name, is| {
            !plan.rules.devices.iter().any(|rule| rule.name == *name && rule.is.contains(is))
        });
        let all = &process.mounts;
        let once = |mount: &&Mount| {
            all.iter().filter(|other| other.destination == mount.destination).count() == 1
        };
        // No place may have two.
        let twice = all.iter().filter(|mount| !once(mount)).cloned();
        let mounts = all.iter().filter(once).filter_map(|mount| matters(plan, mount)).chain(twice);
        process.mounts = mounts.collect();
        process.mounts.sort_by(|a, b| a.destination.cmp(&b.destination));
    }
    launcher.environment.retain(|name| !plan.rules.launcher_environment.contains(name));
    let nameless = |target: &str| {
        ["pipe:", "socket:", "anon_inode:"].iter().any(|kind| target.starts_with(kind))
    };
    launcher.descriptors.retain(|_, target| !nameless(target));
    for target in agent.descriptors.values_mut() {
        target.truncate(target.find(':').unwrap_or(target.len()));
    }
    launcher.landlock = None;
    if let Some(landlock) = &mut agent.landlock {
        landlock.abi = landlock.abi.min(LANDLOCK_FLOOR);
        (landlock.scoped, landlock.tcp_denied) = (false, false);
    }
    Preflight { launcher, agent }
}

/// What of a mount matters; `None` for one that any cell may have, and need not.
fn matters(plan: &CellPlan, mount: &Mount) -> Option<Mount> {
    let read_only = mount.options.split(',').any(|option| option == "ro");
    let mode = if read_only { "ro" } else { "rw" };
    let mut it = Mount { options: mode.into(), super_options: String::new(), ..mount.clone() };
    if plan.mounts.iter().any(|planned| planned.destination == mount.destination) {
        it.root = String::new();
        let wanted = ["nosuid", "nodev"].into_iter();
        let found = wanted.filter(|option| mount.options.split(',').any(|found| found == *option));
        it.options = [mode].into_iter().chain(found).collect::<Vec<_>>().join(",");
        return Some(it);
    }
    (it.device, it.inode) = (None, None);
    if let Some(rule) = plan.rules.mounts.iter().find(|rule| rule.at == mount.destination) {
        let has = |option: &String| mount.options.split(',').any(|found| found == option);
        it.options = rule.options.iter().filter(|o| has(o)).cloned().collect::<Vec<_>>().join(",");
        if rule.one_of.iter().any(has) {
            it.options.push_str(",one of them");
        }
        if rule.options.iter().any(|option| option == "rw") && read_only {
            it.options = "ro".into();
        }
        if rule.size_kib.is_some() {
            let mut sizes = mount.super_options.split(',').filter(|o| o.starts_with("size="));
            it.super_options = sizes.next().unwrap_or_default().to_owned();
        }
        if rule.kinds.contains(&it.kind) {
            rule.kinds[0].clone_into(&mut it.kind);
        }
        if rule.root.is_none() && mount.destination.ends_with(&it.root) {
            it.root = "/".into();
        }
        return Some(it);
    }
    let name = mount.destination.rsplit('/').next().unwrap_or_default();
    let known = match mount.destination.strip_prefix("/dev/") {
        Some(device) => {
            let memory = ["devtmpfs", "tmpfs"].contains(&mount.kind.as_str());
            memory && mount.root == format!("/{device}") && device == name
        }
        None => read_only && mount.root.ends_with(&format!("/{CONTAINER}/userdata/{name}")),
    };
    let devices = plan.rules.devices.iter().map(|rule| format!("/dev/{}", rule.name));
    let files = plan.rules.podman_files.iter().map(|rule| rule.at.clone());
    let listed = devices.chain(files).any(|place| place == mount.destination);
    (!(known && listed && mount.propagation.is_empty())).then_some(it)
}

proptest! {
    #![proptest_config(crate::core::arbitrary::config())]

    /// Whatever is changed in what a good cell says of itself: it passes if nothing that matters
    /// is another, and else it does not.
    #[test]
    fn a_preflight_passes_if_nothing_in_it_matters(edits in edits(3)) {
        let (plan, good) = (plan().expect("a plan"), preflight().expect("a preflight"));
        let changed = edited(&serde_json::to_value(&good)?, &edits).to_string();
        let Ok(changed) = serde_json::from_str::<Preflight>(&changed) else {
            return Ok(());
        };
        let same = essence(&plan, &changed) == essence(&plan, &good);
        let judged = plan.judge(CONTAINER, &changed);
        prop_assert_eq!(judged.is_ok(), same, "{:?}", judged);
    }

    /// What is read of a preflight is what it says, and nothing is left over.
    #[test]
    fn a_preflight_is_read_whole_or_refused(edits in edits(3)) {
        let good = preflight().expect("a preflight");
        let changed = edited(&serde_json::to_value(&good)?, &edits);
        if let Ok(read) = serde_json::from_str::<Preflight>(&changed.to_string()) {
            let again = serde_json::to_value(&read)?;
            prop_assert_eq!(without_nulls(again), without_nulls(changed));
        }
    }
}

/// What is not there and what is null are the same.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let members = object.into_iter().filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| (name, without_nulls(value))).collect()
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        value => value,
    }
}
