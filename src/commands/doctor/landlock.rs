//! Which Landlock this kernel has, and what it means that it has no newer one (SECURITY.md).

use super::Finding;
use crate::core::plan::LANDLOCK_FLOOR;
use crate::host::sandbox;

/// What an ABI adds: the kernel that has it, what it is, what holds in a cell without, what the
/// service can do without.
const ADDED: [(u32, &str, &str, &str, &str); 4] = [
    (3, "6.2", "truncating", "read-only mounts hold", "cut your files, not read or write them"),
    (4, "6.7", "TCP by port", "no interface but lo, no such socket", "connect to any port"),
    (5, "6.10", "device controls", "only the few devices are there", "control your devices"),
    (6, "6.12", "signals and abstract sockets", "none of the host's is in sight", "signal yours"),
];

/// The ABI that restricts connecting to sockets by path. What is missing without it is told, and no
/// reason to warn: few kernels have it.
const SOCKETS: u32 = 9;

/// Asks the kernel.
pub(super) fn findings() -> Vec<Finding> {
    judge(abi())
}

/// By restricting a thread that then ends: Landlock holds for one thread only.
fn abi() -> u32 {
    use landlock::{ABI, Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr};
    let probe = || -> Option<LandlockStatus> {
        let ruleset = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1)).ok()?;
        Some(ruleset.create().ok()?.restrict_self().ok()?.landlock)
    };
    match std::thread::spawn(probe).join() {
        Ok(Some(LandlockStatus::Available { effective_abi, kernel_abi })) => {
            kernel_abi.and_then(|abi| u32::try_from(abi).ok()).unwrap_or(effective_abi as u32)
        }
        _ => 0,
    }
}

fn judge(abi: u32) -> Vec<Finding> {
    match abi {
        0 => return vec![Finding::fail("landlock", "this kernel has none", sandbox::HINT)],
        abi if abi < LANDLOCK_FLOOR => {
            return vec![Finding::fail("landlock", format!("ABI {abi}"), sandbox::HINT)];
        }
        _ => {}
    }
    let missing = ADDED.iter().filter(|(since, ..)| *since > abi);
    let warned = missing.map(|(since, kernel, what, cell, service)| {
        let detail = format!("ABI {abi} does not refuse {what}: in a cell, {cell}");
        let hint = format!(
            "a service that was taken over could {service}; Linux {kernel} (ABI {since}) refuses it"
        );
        Finding::warn("landlock", detail, hint)
    });
    let warned: Vec<_> = warned.collect();
    match warned.is_empty() {
        true if abi < SOCKETS => vec![Finding::ok(
            "landlock",
            format!(
                "ABI {abi} (sockets by their path it leaves to file modes, as all before {SOCKETS})"
            ),
        )],
        true => vec![Finding::ok("landlock", format!("ABI {abi}"))],
        false => warned,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn each_thing_that_an_older_kernel_lacks_is_a_line() {
        for (abi, lines, verdict) in [
            (0, 1, Verdict::Fail),
            (1, 1, Verdict::Fail),
            (2, 4, Verdict::Warn),
            (3, 3, Verdict::Warn),
            (5, 1, Verdict::Warn),
            (6, 1, Verdict::Ok),
            (9, 1, Verdict::Ok),
        ] {
            let found = judge(abi);
            assert_eq!(found.len(), lines, "{abi}: {found:?}");
            assert!(found.iter().all(|finding| finding.result == verdict), "{abi}: {found:?}");
        }
        let told = judge(2).iter().map(|finding| finding.detail.clone()).collect::<String>();
        for word in ["truncating", "TCP by port", "device controls", "signals"] {
            assert!(told.contains(word), "{told}");
        }
    }

    /// The table of SECURITY.md is the longer one of the same.
    #[test]
    fn security_md_has_the_same_kernels() {
        let text = include_str!("../../../SECURITY.md");
        for (abi, kernel, ..) in ADDED {
            assert!(text.contains(&format!("\n| {abi} ({kernel}) |")), "{abi} {kernel}");
        }
    }
}
