//! The cell's system call filter: `data/seccomp.json`, in Podman's form, with a reason for each
//! group; what it does not name does not exist (ENOSYS).
//!
//! Podman is told a path, and what it loads from there nobody sees. So the profile carries a mark:
//! a rule by which personality(2), asked for a number that is drawn from the profile's own text,
//! answers as nothing else does. Both processes of a cell ask.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::core::preflight::FINGERPRINT_ERRNO;

const SHIPPED: &str = include_str!("../../data/seccomp.json");

/// The profile, with its mark.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    text: String,
    fingerprint: u32,
}

impl Profile {
    /// What is shipped.
    ///
    /// # Errors
    /// When the data is not of its form; a test reads it.
    pub fn shipped() -> Result<Self, serde_json::Error> {
        let mut profile: Value = serde_json::from_str(SHIPPED)?;
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(SHIPPED));
        // Without the highest bit: an argument is widened, with its sign or without.
        let fingerprint = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
        let mark = json!({
            "names": ["personality"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": FINGERPRINT_ERRNO,
            "args": [{"index": 0, "value": fingerprint, "op": "SCMP_CMP_EQ"}],
        });
        if let Some(rules) = profile.get_mut("syscalls").and_then(Value::as_array_mut) {
            rules.push(mark);
        }
        Ok(Self { text: profile.to_string(), fingerprint })
    }

    /// What Podman reads.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A name for it that no other profile has.
    pub fn file_name(&self) -> String {
        format!("seccomp-{:08x}.json", self.fingerprint)
    }

    /// What personality(2) is asked.
    pub const fn fingerprint(&self) -> u32 {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    /// `CALL: WORKLOAD…`, written by tests/seccomp/trace.sh.
    const TRACED: &str = include_str!("../../tests/seccomp/traced.txt");
    /// Called by a workload, and not there all the same.
    const REFUSED: [(&str, &str); 5] = [
        ("capget", "there is no capability to be told of"),
        ("clone3", "no filter can read its flags; programs fall back to clone"),
        ("setresgid", "a cell has one group"),
        ("syslog", "the kernel's messages are the host's"),
        ("unshare", "namespaces of its own would open the kernel to it"),
    ];
    /// What a kernel's holes are most often reached by, and what would undo the cell.
    const NEVER: &str = "add_key bpf chroot clone3 delete_module fanotify_init finit_module fsconfig \
        fsmount fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup kcmp \
        kexec_file_load kexec_load keyctl lookup_dcookie mount mount_setattr move_mount move_pages \
        name_to_handle_at nfsservctl open_by_handle_at open_tree openat2 perf_event_open pidfd_getfd \
        pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl reboot \
        request_key setdomainname setgid setgroups sethostname setns setresgid setresuid settimeofday \
        setuid swapoff swapon syslog umount umount2 unshare userfaultfd vhangup vmsplice";

    struct Rule {
        comment: String,
        names: Vec<String>,
        conditional: bool,
    }

    fn rules() -> Result<Vec<Rule>> {
        let profile: Value = serde_json::from_str(SHIPPED)?;
        let rules = profile["syscalls"].as_array().ok_or("no rules")?;
        let names = |rule: &Value| serde_json::from_value(rule["names"].clone());
        let rule = |rule: &Value| {
            Ok(Rule {
                comment: rule["comment"].as_str().ok_or("a rule without a reason")?.to_owned(),
                names: names(rule)?,
                conditional: rule["args"].as_array().is_some_and(|args| !args.is_empty()),
            })
        };
        rules.iter().map(rule).collect()
    }

    #[test]
    fn every_call_is_traced_or_says_why_it_is_there() -> Result<()> {
        let traced: BTreeSet<_> =
            TRACED.lines().filter_map(|line| line.split(':').next()).collect();
        let mut allowed = BTreeSet::new();
        for rule in rules()? {
            for name in rule.names {
                // Of prctl each option has a rule of its own, whose reason begins with it.
                let (says_untraced, reason) = match rule.comment.strip_prefix("untraced: ") {
                    Some(reason) => (true, reason),
                    None => (false, rule.comment.as_str()),
                };
                let call = match name.as_str() {
                    "prctl" => format!("prctl({})", reason.split(',').next().unwrap_or_default()),
                    name => name.to_owned(),
                };
                let is_traced = traced.contains(call.as_str());
                assert!(is_traced || says_untraced, "{call} is needed by no workload");
                // That personality is traced for is the mark; nobody asks for their own.
                let stale = is_traced && says_untraced && call != "personality";
                assert!(!stale, "{call} is traced: its reason is another");
                allowed.extend([name, call]);
            }
        }
        let refused: BTreeSet<_> = REFUSED.iter().map(|(name, _)| *name).collect();
        let missing: Vec<_> = traced.iter().filter(|name| !allowed.contains(**name)).collect();
        let missing: Vec<_> = missing.into_iter().filter(|n| !refused.contains(**n)).collect();
        assert!(missing.is_empty(), "traced, and neither allowed nor refused: {missing:?}");
        let stale: Vec<_> = refused.iter().filter(|name| !traced.contains(**name)).collect();
        assert!(stale.is_empty(), "no workload calls {stale:?}");
        Ok(())
    }

    /// A rule without a condition would swallow the one with it.
    #[test]
    fn a_call_has_conditions_or_none() -> Result<()> {
        let mut found = BTreeMap::new();
        for rule in rules()? {
            for name in rule.names {
                let before = found.insert(name.clone(), rule.conditional);
                let fits = before.is_none() || (before == Some(true) && rule.conditional);
                assert!(fits, "{name} stands in two rules");
            }
        }
        Ok(())
    }

    #[test]
    fn what_must_never_be_there_is_not() -> Result<()> {
        let allowed: BTreeSet<_> = rules()?.into_iter().flat_map(|rule| rule.names).collect();
        for name in NEVER.split_whitespace() {
            assert!(!allowed.contains(name), "{name} is allowed");
        }
        let profile: Value = serde_json::from_str(SHIPPED)?;
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(profile["defaultErrnoRet"], 38);
        Ok(())
    }

    #[test]
    fn the_mark_is_the_text_s_own() -> Result<()> {
        let profile = Profile::shipped()?;
        let placed: Value = serde_json::from_str(profile.text())?;
        let last = placed["syscalls"].as_array().and_then(|rules| rules.last()).ok_or("none")?;
        assert_eq!(last["args"][0]["value"], profile.fingerprint());
        assert_eq!(last["errnoRet"], FINGERPRINT_ERRNO);
        Ok(())
    }

    /// A call that arm64 does not have, and what programs there make in its place.
    const OLDER: [(&str, &str); 34] = [
        ("access", "faccessat"),
        ("alarm", "setitimer"),
        ("arch_prctl", ""),
        ("chmod", "fchmodat"),
        ("chown", "fchownat"),
        ("creat", "openat"),
        ("dup2", "dup3"),
        ("epoll_create", "epoll_create1"),
        ("epoll_wait", "epoll_pwait"),
        ("eventfd", "eventfd2"),
        ("getdents", "getdents64"),
        ("getpgrp", "getpgid"),
        ("inotify_init", "inotify_init1"),
        ("lchown", "fchownat"),
        ("link", "linkat"),
        ("lstat", "newfstatat"),
        ("mkdir", "mkdirat"),
        ("mknod", "mknodat"),
        ("open", "openat"),
        ("pause", "ppoll"),
        ("pipe", "pipe2"),
        ("poll", "ppoll"),
        ("readlink", "readlinkat"),
        ("rename", "renameat"),
        ("rmdir", "unlinkat"),
        ("select", "pselect6"),
        ("signalfd", "signalfd4"),
        ("stat", "newfstatat"),
        ("symlink", "symlinkat"),
        ("time", "gettimeofday"),
        ("unlink", "unlinkat"),
        ("utime", "utimensat"),
        ("utimes", "utimensat"),
        ("vfork", "clone"),
    ];

    #[test]
    fn what_arm64_has_in_place_of_older_calls_is_there() -> Result<()> {
        let known = |name: &str, processor: &str| -> Result<bool> {
            let filter = json!({"x": {
                "mismatch_action": "allow", "match_action": "trap", "filter": [{"syscall": name}],
            }});
            let processor = processor.try_into()?;
            Ok(seccompiler::compile_from_json(filter.to_string().as_bytes(), processor).is_ok())
        };
        let allowed: BTreeSet<_> = rules()?.into_iter().flat_map(|rule| rule.names).collect();
        let older: BTreeMap<_, _> = OLDER.into_iter().collect();
        for name in &allowed {
            let there = (known(name, "x86_64")?, known(name, "aarch64")?);
            match older.get(name.as_str()) {
                None => assert!(there.1, "{name}: what does arm64 have in its place? {there:?}"),
                Some(&newer) => {
                    assert_eq!(there, (true, false), "{name}");
                    assert!(newer.is_empty() || allowed.contains(newer), "{name}: no {newer}");
                    assert!(newer.is_empty() || known(newer, "aarch64")?, "{newer}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_agent_s_own_filter_fits_both_processors() -> Result<()> {
        let filter = include_str!("../../data/seccomp-agent.json");
        for processor in ["x86_64", "aarch64"] {
            let filters = seccompiler::compile_from_json(filter.as_bytes(), processor.try_into()?)?;
            assert_eq!(filters.keys().collect::<Vec<_>>(), ["agent"]);
        }
        Ok(())
    }
}
