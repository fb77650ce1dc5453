//! Reads from the kernel what this process is confined by.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::personality::{self, Persona};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{major, minor};
use noclaw_cell::job::Confinement;
use noclaw_cell::preflight::{
    Capabilities, IdRange, Landlock, Limits, Measured, Mount, NAMESPACES,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures the calling process. `landlock` is what its own application reported.
pub fn measure(asked: &Confinement, landlock: Option<Landlock>) -> Result<Measured> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Result<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.ok_or_else(|| format!("/proc/self/status has no {name}"))?.trim())
    };
    let numbers = |name| -> Result<Vec<u32>> {
        Ok(field(name)?
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?)
    };
    let mask = |name| -> Result<u64> { Ok(u64::from_str_radix(field(name)?, 16)?) };
    Ok(Measured {
        uids: numbers("Uid")?,
        gids: numbers("Gid")?,
        groups: numbers("Groups")?,
        uid_map: map("/proc/self/uid_map")?,
        gid_map: map("/proc/self/gid_map")?,
        no_new_privs: field("NoNewPrivs")? == "1",
        seccomp_mode: field("Seccomp")?.parse()?,
        seccomp_filters: field("Seccomp_filters")?.parse()?,
        seccomp_answer: answer(asked.fingerprint),
        capabilities: Capabilities {
            inheritable: mask("CapInh")?,
            permitted: mask("CapPrm")?,
            effective: mask("CapEff")?,
            bounding: mask("CapBnd")?,
            ambient: mask("CapAmb")?,
        },
        pid: std::process::id(),
        namespaces: namespaces()?,
        mounts: mounts()?,
        places: asked.places.iter().filter(|place| is_there(place)).cloned().collect(),
        interfaces: interfaces()?,
        descriptors: descriptors()?,
        environment: environment(),
        devices: devices()?,
        limits: limits()?,
        landlock,
        landlock_answer: landlock_answer(),
    })
}

/// `/run` is everybody's. pid 1, which Landlock does not confine, shows that.
fn landlock_answer() -> i32 {
    let file = format!("/run/noclaw-{}", std::process::id());
    match fs::File::create_new(&file) {
        Ok(_) => {
            fs::remove_file(&file).ok();
            0
        }
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// user_namespaces(7): three numbers a line.
fn map(path: &str) -> Result<Vec<IdRange>> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(IdRange { inside: next()?, outside: next()?, count: next()? })
    };
    let ranges: Option<_> = fs::read_to_string(path)?.lines().map(range).collect();
    ranges.ok_or_else(|| format!("{path} is not of its form").into())
}

/// Only the service's own profile refuses this, and in its own way.
fn answer(fingerprint: u32) -> i32 {
    // A number of the service's; it has no highest bit.
    let persona = Persona::from_bits_retain(fingerprint.cast_signed());
    match personality::set(persona) {
        Ok(before) => {
            personality::set(before).ok();
            0
        }
        Err(errno) => errno as i32,
    }
}

/// Whether there is such a place, whatever may be done there.
fn is_there(place: &str) -> bool {
    Path::new(place).symlink_metadata().is_ok()
}

/// namespaces(7): a link for each, `pid -> pid:[4026532442]`.
fn namespaces() -> Result<BTreeMap<String, u64>> {
    let inode = |kind: &str| -> Result<_> {
        let target = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        let target = target.to_string_lossy();
        let inode = target.split_once(":[").and_then(|(_, rest)| rest.strip_suffix(']'));
        let inode = inode.ok_or_else(|| format!("{target} is no namespace"))?.parse()?;
        Ok((kind.to_owned(), inode))
    };
    NAMESPACES.into_iter().map(inode).collect()
}

fn descriptors() -> Result<BTreeMap<u32, String>> {
    let own = |target: &str| target.starts_with("/proc/") && target.ends_with("/fd");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse()?;
        // Closed in between, or the directory that is being read here.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if !own(&target) {
            found.insert(number, target);
        }
    }
    Ok(found)
}

fn environment() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// `c 1:3`, `directory`, `-> /proc/self/fd`.
fn devices() -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/dev")? {
        let entry = entry?;
        let meta = entry.path().symlink_metadata()?;
        let number = || {
            let (major, minor) = (major(meta.rdev()), minor(meta.rdev()));
            format!("{major}:{minor}")
        };
        let kind = match meta.file_type() {
            kind if kind.is_char_device() => format!("c {}", number()),
            kind if kind.is_block_device() => format!("b {}", number()),
            kind if kind.is_dir() => "directory".to_owned(),
            kind if kind.is_symlink() => {
                format!("-> {}", fs::read_link(entry.path())?.to_string_lossy())
            }
            _ => "another kind of file".to_owned(),
        };
        found.insert(entry.file_name().to_string_lossy().into_owned(), kind);
    }
    Ok(found)
}

/// proc_pid_mountinfo(5): `36 35 98:0 /root /destination ro,noatime master:1 - ext3 /dev/x rw`.
fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    text.lines().map(mount).collect()
}

fn mount(line: &str) -> Result<Mount> {
    let broken = || format!("a line of mountinfo is not of its form: {line}");
    let (left, right) = line.split_once(" - ").ok_or_else(broken)?;
    let mut left = left.split(' ').skip(3);
    let mut next = || left.next().ok_or_else(broken);
    let (root, destination, options) = (unescape(next()?), unescape(next()?), next()?.to_owned());
    let propagation = left.collect::<Vec<_>>().join(" ");
    let mut right = right.split(' ').map(ToOwned::to_owned);
    let kind = right.next().ok_or_else(broken)?;
    let super_options = right.nth(1).ok_or_else(broken)?;
    let stat = fs::metadata(&destination).ok();
    Ok(Mount {
        device: stat.as_ref().map(MetadataExt::dev),
        inode: stat.as_ref().map(MetadataExt::ino),
        destination,
        root,
        options,
        propagation,
        kind,
        super_options,
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(field.to_owned(), |text, (octal, char)| text.replace(octal, char))
}

/// proc_net_dev(5): two lines of head, then `  lo: …`. `/sys` may show another namespace's.
fn interfaces() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/net/dev")?;
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}

fn limits() -> Result<Limits> {
    let cgroup = |file: &str| {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        Some(text.trim().to_owned())
    };
    let hard = |resource| -> Result<Option<u64>> {
        let (_, hard) = getrlimit(resource)?;
        Ok((hard != nix::libc::RLIM_INFINITY).then_some(hard))
    };
    Ok(Limits {
        memory_max: cgroup("memory.max"),
        memory_swap_max: cgroup("memory.swap.max"),
        pids_max: cgroup("pids.max"),
        cpu_max: cgroup("cpu.max"),
        nofile: hard(Resource::RLIMIT_NOFILE)?,
        fsize: hard(Resource::RLIMIT_FSIZE)?,
        core: hard(Resource::RLIMIT_CORE)?,
    })
}

/// The cell's peak memory, where the kernel counts it.
pub fn memory_peak() -> Option<u64> {
    fs::read_to_string("/sys/fs/cgroup/memory.peak").ok()?.trim().parse().ok()
}

/// How many processes of the cell the kernel killed for memory, where it counts them.
pub fn oom_kills() -> Option<u64> {
    let events = fs::read_to_string("/sys/fs/cgroup/memory.events").ok()?;
    events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}
