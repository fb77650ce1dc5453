//! A good preflight passes, and each difference is named.

use std::collections::BTreeMap;
use std::sync::Arc;

use noclaw_cell::preflight::{Landlock, Mount};
use uuid::Uuid;

use super::rules::{CellRules, KernelMount, Needed};
use super::*;
use crate::core::ids::RunId;
use crate::core::plan::{PlannedMount, Runtime};

pub(super) const CONTAINER: &str = "7a9b";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(super) fn plan() -> Result<CellPlan> {
    Ok(CellPlan {
        instance: Uuid::nil().to_string().parse()?,
        run: RunId::new(Uuid::nil()),
        user: "alice".parse()?,
        image: "sha256:0".into(),
        mounts: vec![PlannedMount {
            source: "/srv/w".into(),
            destination: "/workspace".into(),
            read_only: false,
            kind: "ext4".into(),
            device: 7,
            inode: 9,
        }],
        memory: 2 << 30,
        pids: 256,
        cpu_millis: 2000,
        host_namespaces: namespaces(1),
        rules: Arc::new(CellRules::shipped()?),
        seccomp_profile: "/srv/seccomp.json".into(),
        environment: vec!["HOME".into(), "TZ".into()],
        landlock_rules: 3,
        accept_without: vec![],
        runtime: Runtime::new("crun", "crun version 1.21"),
    })
}

/// A kernel gives each its number.
fn namespaces(first: u64) -> BTreeMap<String, u64> {
    let kinds = NAMESPACES.iter().zip(first..);
    kinds.map(|(kind, inode)| ((*kind).to_owned(), inode)).collect()
}

fn mount(destination: &str, kind: &str, options: &str) -> Mount {
    Mount {
        destination: destination.to_owned(),
        root: "/".to_owned(),
        options: options.to_owned(),
        propagation: String::new(),
        kind: kind.to_owned(),
        super_options: String::new(),
        device: Some(7),
        inode: Some(9),
    }
}

fn options(rule: &KernelMount) -> String {
    let options: Vec<_> = rule.options.iter().chain(rule.one_of.first()).cloned().collect();
    options.join(",")
}

/// What every cell has, a device, one of Podman's files, and the workspace: at 0.
fn mounts() -> Result<Vec<Mount>> {
    let rules = CellRules::shipped()?;
    let needed =
        rules.mounts.iter().filter(|rule| rule.needed == Needed::Always).map(|rule| Mount {
            super_options: rule.size_kib.map(|kib| format!("rw,size={kib}k")).unwrap_or_default(),
            ..mount(&rule.at, &rule.kinds[0], &options(rule))
        });
    let null = Mount { root: "/null".into(), ..mount("/dev/null", "devtmpfs", "rw,nosuid") };
    let root = format!("/containers/{CONTAINER}/userdata/hosts");
    let hosts = Mount { root, ..mount("/etc/hosts", "ext4", "ro,nosuid") };
    Ok([mount("/workspace", "ext4", "rw,nosuid,nodev,relatime"), null, hosts]
        .into_iter()
        .chain(needed)
        .collect())
}

fn measured() -> Result<Measured> {
    let map = [(0, 1, 1000), (CELL_UID, 0, 1), (1001, 1001, 64536)];
    let map = map.map(|(inside, outside, count)| IdRange { inside, outside, count });
    Ok(Measured {
        uids: vec![1000; 4],
        gids: vec![1000; 4],
        groups: vec![1000],
        uid_map: map.to_vec(),
        gid_map: map.to_vec(),
        no_new_privs: true,
        seccomp_mode: 2,
        seccomp_filters: 1,
        seccomp_answer: FINGERPRINT_ERRNO,
        capabilities: Capabilities::default(),
        pid: 1,
        namespaces: namespaces(101),
        mounts: mounts()?,
        places: vec![],
        interfaces: vec!["lo".into()],
        descriptors: [0, 1, 2].map(|number| (number, format!("pipe:[{number}]"))).into(),
        environment: ["HOME", "HOSTNAME", "LANG", "PATH", "TERM", "container"]
            .map(str::to_owned)
            .into(),
        devices: [("null".into(), "c 1:3".into()), ("pts".into(), "directory".into())].into(),
        limits: Limits {
            memory_max: Some("2147483648".into()),
            memory_swap_max: Some("0".into()),
            pids_max: Some("256".into()),
            cpu_max: Some("200000 100000".into()),
            nofile: Some(CELL_NOFILE),
            fsize: Some(CELL_FSIZE),
            core: Some(0),
        },
        landlock: None,
        landlock_answer: 0,
    })
}

pub(super) fn preflight() -> Result<Preflight> {
    let landlock =
        Landlock { abi: 2, floor_enforced: true, scoped: false, tcp_denied: false, rules: 3 };
    let agent = Measured {
        landlock: Some(landlock),
        seccomp_filters: 2,
        seccomp_answer: SECOND_FILTER_ERRNO,
        environment: vec!["HOME".into(), "TZ".into()],
        landlock_answer: LANDLOCK_ERRNO,
        pid: 7,
        ..measured()?
    };
    Ok(Preflight { launcher: measured()?, agent })
}

#[test]
fn what_was_planned_passes() -> Result<()> {
    assert_eq!(plan()?.judge(CONTAINER, &preflight()?), Ok(()));
    Ok(())
}

#[test]
fn dev_may_be_read_only_instead_of_without_programs() -> Result<()> {
    let mut podman_5 = preflight()?;
    for measured in [&mut podman_5.launcher, &mut podman_5.agent] {
        at(measured, "/dev").options = "ro,nosuid".into();
    }
    assert_eq!(plan()?.judge(CONTAINER, &podman_5), Ok(()));
    Ok(())
}

fn at<'a>(measured: &'a mut Measured, place: &str) -> &'a mut Mount {
    let mut mounts = measured.mounts.iter_mut();
    mounts.find(|mount| mount.destination == place).expect("it is mounted")
}

/// A way to break a measurement, and the field that must be named.
type Broken<T> = (fn(&mut T), &'static str);

const MOUNTS_BROKEN: &[Broken<Measured>] = &[
    (|m| at(m, "/").options = "rw".into(), "the mode of the mount /"),
    (|m| at(m, "/workspace").options = "ro".into(), "the mode of the mount /workspace"),
    (
        |m| at(m, "/workspace").options = "rw,nosuid,relatime".into(),
        "the list of options of the mount /workspace",
    ),
    (
        |m| at(m, "/workspace").options = "rw,nodev,relatime".into(),
        "the list of options of the mount /workspace",
    ),
    (|m| at(m, "/workspace").kind = "proc".into(), "the type of the mount /workspace"),
    (
        |m| at(m, "/workspace").propagation = "master:1".into(),
        "the propagation of the mount /workspace",
    ),
    (|m| m.places.push("/proc/keys".into()), "what is mounted at /proc/keys"),
    (|m| at(m, "/workspace").inode = Some(8), "what is mounted at /workspace"),
    (|m| at(m, "/workspace").device = None, "what is mounted at /workspace"),
    (|m| drop(m.mounts.remove(0)), "what is mounted at /workspace"),
    (|m| m.mounts.push(mount("/srv", "ext4", "ro")), "what is mounted at /srv"),
    (|m| m.mounts.push(mount("/tmp", "tmpfs", "rw")), "the number of mounts at /tmp"),
    (|m| m.mounts.push(mount("/dev/sda", "devtmpfs", "rw")), "what is mounted at /dev/sda"),
    (|m| m.mounts.push(mount("/dev/zero", "ext4", "rw")), "what is mounted at /dev/zero"),
    (|m| m.mounts.retain(|m| m.destination != "/proc/sys"), "what is mounted at /proc/sys"),
    (|m| at(m, "/etc/hosts").root = "/etc/shadow".into(), "what is mounted at /etc/hosts"),
    (
        |m| at(m, "/etc/hosts").root = "/containers/another/userdata/hosts".into(),
        "what is mounted at /etc/hosts",
    ),
    (|m| at(m, "/etc/hosts").options = "rw".into(), "the mode of the mount /etc/hosts"),
    (|m| at(m, "/sys").kind = "ext4".into(), "the type of the mount /sys"),
    (|m| at(m, "/sys").root = "/devices".into(), "what is mounted at /sys"),
    (|m| at(m, "/dev").options = "rw,nosuid".into(), "the list of options of the mount /dev"),
    (|m| at(m, "/dev").options = "ro,noexec".into(), "the list of options of the mount /dev"),
    (|m| at(m, "/run").options = "rw".into(), "the list of options of the mount /run"),
    (|m| at(m, "/tmp").super_options = "rw".into(), "the size of /tmp"),
];

const OTHERS_BROKEN: &[Broken<Measured>] = &[
    (|m| m.uids = vec![0; 4], "the user"),
    (|m| m.gids = vec![1000, 1000, 0, 1000], "the group"),
    (|m| m.groups.push(27), "the list of other groups"),
    (|m| m.uid_map.truncate(1), "the map of users"),
    (|m| m.uid_map[0].outside = 0, "the map of users"),
    (|m| m.gid_map[1].count = 2, "the map of groups"),
    (|m| m.no_new_privs = false, "no-new-privileges"),
    (|m| m.seccomp_mode = 0, "the seccomp mode"),
    (|m| m.capabilities.bounding = 1, "the union of the capability sets"),
    (|m| m.interfaces.push("tap0".into()), "the list of network interfaces"),
    (|m| _ = m.namespaces.insert("pid".into(), 5), "the pid namespace"),
    (|m| _ = m.namespaces.insert("ipc".into(), 2), "the ipc namespace"),
    (|m| _ = m.namespaces.remove("uts"), "the uts namespace"),
    (|m| m.limits.memory_max = Some("max".into()), "memory.max"),
    (|m| m.limits.memory_swap_max = Some("1".into()), "memory.swap.max"),
    (|m| m.limits.pids_max = None, "pids.max"),
    (|m| m.limits.cpu_max = Some("max 100000".into()), "cpu.max"),
    (|m| m.limits.nofile = None, "the limit of open files"),
    (|m| m.limits.fsize = None, "the limit of a file's size"),
    (|m| m.limits.core = Some(1), "the limit of a core dump"),
    (|m| drop(m.devices.insert("kvm".into(), "c 10:232".into())), "/dev/kvm"),
    (|m| drop(m.devices.insert("null".into(), "c 1:1".into())), "/dev/null"),
    (|m| m.environment.push("SECRET".into()), "the list of variables"),
];

#[test]
fn every_difference_is_named_in_either_process() -> Result<()> {
    for (break_it, field) in MOUNTS_BROKEN.iter().chain(OTHERS_BROKEN) {
        for process in ["launcher", "agent"] {
            let mut bad = preflight()?;
            break_it(if process == "agent" { &mut bad.agent } else { &mut bad.launcher });
            let found = plan()?.judge(CONTAINER, &bad).err().ok_or(*field)?;
            assert_eq!((found.process, found.field.as_str()), (process, *field));
        }
    }
    Ok(())
}

/// What an old crun leaves out of a folder that may be written, it sets on one that may not.
#[test]
fn a_runtime_that_leaves_options_out_is_believed_for_what_may_be_written_alone() -> Result<()> {
    let mut plan = plan()?;
    plan.runtime = Runtime::new("crun", "crun version 1.8.1");
    let mut old = preflight()?;
    for measured in [&mut old.launcher, &mut old.agent] {
        at(measured, "/workspace").options = "rw,relatime".into();
    }
    assert_eq!(plan.judge(CONTAINER, &old), Ok(()));
    plan.mounts[0].read_only = true;
    for measured in [&mut old.launcher, &mut old.agent] {
        at(measured, "/workspace").options = "ro,relatime".into();
    }
    let found = plan.judge(CONTAINER, &old).err().ok_or("passed")?;
    assert_eq!(found.field, "the list of options of the mount /workspace");
    Ok(())
}

#[test]
fn only_our_filters_will_do() -> Result<()> {
    let broken: &[Broken<Preflight>] = &[
        (|p| p.launcher.seccomp_answer = 0, "the answer to the filter's fingerprint"),
        (|p| p.launcher.seccomp_answer = 1, "the answer to the filter's fingerprint"),
        (|p| p.agent.seccomp_answer = FINGERPRINT_ERRNO, "the answer of the second filter"),
        (|p| p.agent.seccomp_filters = 1, "the number of filters"),
    ];
    for (break_it, field) in broken {
        let mut bad = preflight()?;
        break_it(&mut bad);
        assert_eq!(plan()?.judge(CONTAINER, &bad).err().ok_or(*field)?.field, *field);
    }
    Ok(())
}

#[test]
fn what_is_open_is_known() -> Result<()> {
    let mut bad = preflight()?;
    bad.launcher.descriptors.insert(9, "/dev/null".into());
    assert_eq!(plan()?.judge(CONTAINER, &bad).err().ok_or("passed")?.field, "the open file 9");
    let mut bad = preflight()?;
    bad.agent.descriptors.insert(3, "pipe:[3]".into());
    assert_eq!(
        plan()?.judge(CONTAINER, &bad).err().ok_or("passed")?.field,
        "the list of open files"
    );
    Ok(())
}

#[test]
fn no_landlock_no_agent() -> Result<()> {
    let mut bad = preflight()?;
    bad.agent.landlock = None;
    assert!(plan()?.judge(CONTAINER, &bad).is_err());
    for weaken in [
        (|l: &mut Landlock| l.abi = 1) as fn(&mut Landlock),
        |l| l.floor_enforced = false,
        |l| l.rules = 2,
    ] {
        let mut bad = preflight()?;
        bad.agent.landlock.as_mut().map(weaken);
        assert!(plan()?.judge(CONTAINER, &bad).is_err());
    }
    Ok(())
}

/// The twin of what Landlock refuses is in the same preflight: pid 1 is allowed to.
#[test]
fn landlock_is_tried() -> Result<()> {
    let mut open = preflight()?;
    open.agent.landlock_answer = 0;
    let found = plan()?.judge(CONTAINER, &open).err().ok_or("passed")?;
    assert_eq!((found.process, &*found.field), ("agent", "Landlock's answer to a file in /run"));
    let mut closed = preflight()?;
    closed.launcher.landlock_answer = LANDLOCK_ERRNO;
    let found = plan()?.judge(CONTAINER, &closed).err().ok_or("passed")?;
    assert_eq!((found.process, &*found.field), ("launcher", "the answer to a file in /run"));
    Ok(())
}

#[test]
fn the_launcher_is_the_first_process_of_its_namespace() -> Result<()> {
    let mut bad = preflight()?;
    bad.launcher.pid = 104;
    let found = plan()?.judge(CONTAINER, &bad).err().ok_or("passed")?;
    assert_eq!((found.process, &*found.field), ("launcher", "its process id"));
    Ok(())
}

#[test]
fn a_missing_controller_is_accepted_by_name_but_a_wrong_number_is_not() -> Result<()> {
    let mut accepting = plan()?;
    accepting.accept_without = vec![Controller::Pids];
    let mut without = preflight()?;
    without.launcher.limits.pids_max = None;
    without.agent.limits.pids_max = None;
    assert_eq!(accepting.judge(CONTAINER, &without), Ok(()));
    without.agent.limits.pids_max = Some("max".into());
    assert!(accepting.judge(CONTAINER, &without).is_err());
    without.agent.limits.pids_max = None;
    without.agent.limits.memory_max = None;
    assert!(accepting.judge(CONTAINER, &without).is_err());
    Ok(())
}
