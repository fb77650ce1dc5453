//! The comparison of what a cell measured itself to be with its plan.
//!
//! It is a hard requirement: the agent is not started unless every field holds, for both processes
//! of the cell. A difference names the field, what was planned and what was found.
//!
//! | field | pid 1 | the agent-to-be |
//! |---|---|---|
//! | users, groups, no-new-privileges, capabilities | exact | exact |
//! | the map of users: the cell's is the owner, alone | exact | exact |
//! | seccomp: mode, and the answer that only our profile gives | the profile's | the second filter's, one filter more |
//! | namespaces: none is the service's | process 1 | pid 1's |
//! | interfaces | `lo` alone | `lo` alone |
//! | mounts of three classes (`preflight/mounts.rs`) | nothing else | nothing else |
//! | limits of cgroup and process | exact, unless the owner accepted to do without | the same |
//! | open files | pipes, sockets, events: nothing with a path | three pipes |
//! | names of the environment | Podman's own, at most | the start line's |
//! | `/dev` | what the data lists | the same |
//! | Landlock, ABI 2 at least | refuses nothing | enforced, with every rule; refuses a file that only it can |

mod mounts;
#[cfg(test)]
mod properties;
pub mod rules;
mod summary;
#[cfg(test)]
mod tests;

use noclaw_cell::preflight::{Capabilities, IdRange, Limits, Measured, NAMESPACES, Preflight};

use super::limits::{CELL_FSIZE, CELL_NOFILE};
use super::plan::{CELL_UID, CPU_PERIOD, CellPlan, Controller, LANDLOCK_FLOOR};

/// `ENOANO`: what the cell's profile answers to its fingerprint. Nothing else ever does.
pub const FINGERPRINT_ERRNO: i32 = 55;
/// `ENOSYS`: what the agent's own filter answers, which stands before it.
pub const SECOND_FILTER_ERRNO: i32 = 38;

/// `EACCES`: what Landlock answers.
pub const LANDLOCK_ERRNO: i32 = 13;

/// Where a cell falls short of its plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{process}: {field} is {found}, the plan says {planned}")]
pub struct Shortfall {
    /// `launcher` or `agent`.
    pub process: &'static str,
    /// What was compared.
    pub field: String,
    /// What the plan says.
    pub planned: String,
    /// What the cell measured.
    pub found: String,
}

impl CellPlan {
    /// Compares the preflight of a container, by its id, with this plan.
    ///
    /// # Errors
    /// The first difference.
    pub fn judge(&self, container: &str, preflight: &Preflight) -> Result<(), Shortfall> {
        let Preflight { launcher, agent } = preflight;
        for (process, measured) in [("launcher", launcher), ("agent", agent)] {
            let check = Check { process };
            judge_identity(check, measured)?;
            self.judge_namespaces(check, launcher, measured)?;
            mounts::judge(check, Cell { plan: self, container }, measured)?;
            self.judge_limits(check, &measured.limits)?;
            self.judge_devices(check, measured)?;
        }
        self.judge_launcher(launcher)?;
        self.judge_agent(agent, launcher.seccomp_filters)
    }

    /// None is the service's own, and the agent is in the launcher's.
    fn judge_namespaces(
        &self,
        check: Check,
        launcher: &Measured,
        measured: &Measured,
    ) -> Result<(), Shortfall> {
        for kind in NAMESPACES {
            let field = format!("the {kind} namespace");
            let (found, host) = (measured.namespaces.get(kind), self.host_namespaces.get(kind));
            let word = |what: &str| match (found, host) {
                (Some(inode), Some(_)) => format!("{what} ({inode})"),
                _ => "unknown".to_owned(),
            };
            if found.is_none() || host.is_none() || found == host {
                return check.equal(&field, "the cell's own", word("the service's"));
            }
            if found != launcher.namespaces.get(kind) {
                return check.equal(&field, "the launcher's", word("another"));
            }
        }
        Ok(())
    }

    fn judge_limits(&self, check: Check, limits: &Limits) -> Result<(), Shortfall> {
        let cpu = self.cpu_millis * CPU_PERIOD / 1000;
        let rows = [
            (Controller::Memory, "memory.max", &limits.memory_max, self.memory.to_string()),
            (Controller::Memory, "memory.swap.max", &limits.memory_swap_max, "0".to_owned()),
            (Controller::Pids, "pids.max", &limits.pids_max, self.pids.to_string()),
            (Controller::Cpu, "cpu.max", &limits.cpu_max, format!("{cpu} {CPU_PERIOD}")),
        ];
        for (controller, file, found, planned) in rows {
            // What is accepted is a missing controller, not another number.
            if found.is_none() && self.accept_without.contains(&controller) {
                continue;
            }
            check.equal(file, planned, found.as_deref().unwrap_or("missing"))?;
        }
        let number = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
        check.equal("the limit of open files", CELL_NOFILE, number(limits.nofile))?;
        check.equal("the limit of a file's size", CELL_FSIZE, number(limits.fsize))?;
        check.equal("the limit of a core dump", 0, number(limits.core))
    }

    fn judge_devices(&self, check: Check, measured: &Measured) -> Result<(), Shortfall> {
        for (name, found) in &measured.devices {
            let known = self.rules.devices.iter().find(|device| device.name == *name);
            let planned = known.map_or("nothing".to_owned(), |device| device.is.join(" or "));
            if known.is_none_or(|device| !device.is.contains(found)) {
                return check.equal(&format!("/dev/{name}"), planned, found);
            }
        }
        Ok(())
    }

    fn judge_launcher(&self, launcher: &Measured) -> Result<(), Shortfall> {
        let check = Check { process: "launcher" };
        check.equal("its process id", 1, launcher.pid)?;
        check.equal("the answer to a file in /run", 0, launcher.landlock_answer)?;
        check.equal(
            "the answer to the filter's fingerprint",
            FINGERPRINT_ERRNO,
            launcher.seccomp_answer,
        )?;
        for (number, target) in &launcher.descriptors {
            let nameless = ["pipe:", "socket:", "anon_inode:"];
            if !nameless.iter().any(|kind| target.starts_with(kind)) {
                let planned = "a pipe, a socket or an event";
                return check.equal(&format!("the open file {number}"), planned, target);
            }
        }
        // Not every image sets each of them; the agent's own are exact.
        let known = &self.rules.launcher_environment;
        match launcher.environment.iter().find(|name| !known.contains(name)) {
            Some(other) => check.equal("the list of variables", known.join(" "), other),
            None => Ok(()),
        }
    }

    fn judge_agent(&self, agent: &Measured, filters: u32) -> Result<(), Shortfall> {
        let check = Check { process: "agent" };
        check.equal("the number of filters", filters.saturating_add(1), agent.seccomp_filters)?;
        check.equal(
            "the answer of the second filter",
            SECOND_FILTER_ERRNO,
            agent.seccomp_answer,
        )?;
        let kinds = agent.descriptors.iter().map(|(number, target)| {
            let kind = target.split_once(':').map_or(target.as_str(), |(kind, _)| kind);
            format!("{number} {kind}")
        });
        let found = kinds.collect::<Vec<_>>().join(", ");
        check.equal("the list of open files", "0 pipe, 1 pipe, 2 pipe", found)?;
        let (planned, found) = (self.environment.join(" "), agent.environment.join(" "));
        check.equal("the list of variables", planned, found)?;
        let Some(landlock) = &agent.landlock else {
            return check.equal("Landlock", "enforced", "missing");
        };
        if landlock.abi < LANDLOCK_FLOOR {
            let planned = format!("{LANDLOCK_FLOOR} or newer");
            return check.equal("Landlock's ABI", planned, landlock.abi);
        }
        check.equal("whether Landlock is enforced", true, landlock.floor_enforced)?;
        check.equal("the number of Landlock rules", self.landlock_rules, landlock.rules)?;
        check.equal("Landlock's answer to a file in /run", LANDLOCK_ERRNO, agent.landlock_answer)
    }
}

/// What is compared: a plan, and the container that Podman has made of it.
#[derive(Clone, Copy)]
struct Cell<'a> {
    plan: &'a CellPlan,
    container: &'a str,
}

#[derive(Clone, Copy)]
struct Check {
    process: &'static str,
}

impl Check {
    fn equal(
        self,
        field: &str,
        planned: impl ToString,
        found: impl ToString,
    ) -> Result<(), Shortfall> {
        let (planned, found) = (planned.to_string(), found.to_string());
        if planned == found {
            return Ok(());
        }
        Err(Shortfall { process: self.process, field: field.to_owned(), planned, found })
    }
}

fn judge_identity(check: Check, measured: &Measured) -> Result<(), Shortfall> {
    let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    check.equal("the user", list(&[CELL_UID; 4]), list(&measured.uids))?;
    check.equal("the group", list(&[CELL_UID; 4]), list(&measured.gids))?;
    let others: Vec<u32> =
        measured.groups.iter().copied().filter(|group| *group != CELL_UID).collect();
    check.equal("the list of other groups", "", list(&others))?;
    judge_map(check, "the map of users", &measured.uid_map)?;
    judge_map(check, "the map of groups", &measured.gid_map)?;
    check.equal("no-new-privileges", true, measured.no_new_privs)?;
    check.equal("the seccomp mode", 2, measured.seccomp_mode)?;
    let Capabilities { inheritable, permitted, effective, bounding, ambient } =
        measured.capabilities;
    let any = inheritable | permitted | effective | bounding | ambient;
    check.equal("the union of the capability sets", "0x0", format!("{any:#x}"))?;
    check.equal("the list of network interfaces", "lo", measured.interfaces.join(" "))
}

/// In Podman's own namespace the owner is 0: the cell's user is the owner and nobody else is.
fn judge_map(check: Check, field: &str, map: &[IdRange]) -> Result<(), Shortfall> {
    let holds = |range: &&IdRange| {
        let end = u64::from(range.inside) + u64::from(range.count);
        range.outside == 0 || (range.inside <= CELL_UID && u64::from(CELL_UID) < end)
    };
    let found = map.iter().filter(holds);
    let found = found.map(|r| format!("{}+{} as {}", r.inside, r.count, r.outside));
    let found = found.collect::<Vec<_>>().join(", ");
    check.equal(field, format!("{CELL_UID}+1 as 0"), found)
}
