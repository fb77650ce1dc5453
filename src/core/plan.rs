//! What a cell must be, and the comparison with what it measured itself to be.
//!
//! The comparison is a hard requirement: the agent is not started unless every field holds, for
//! both processes of the cell. A difference names the field, what was planned and what was found.
//!
//! | field | pid 1 | the agent-to-be |
//! |---|---|---|
//! | users, groups, no-new-privileges, seccomp, capabilities | exact | exact |
//! | interfaces | `lo` alone | `lo` alone |
//! | our mounts: destination, device and inode, ro or rw; `/` ro | exact | exact |
//! | limits of cgroup and process | exact, unless the owner accepted to do without | the same |
//! | Landlock, ABI 2 at least | | enforced, with every rule |

use std::fmt;
use std::str::FromStr;

use noclaw_cell::preflight::{Capabilities, Limits, Measured, Preflight};
use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, InvalidId, RunId, UserName};
use super::limits::{CELL_FSIZE, CELL_NOFILE};

/// The user and group of everything in a cell.
pub const CELL_UID: u32 = 1000;
/// The Landlock ABI below which no agent is started.
pub const LANDLOCK_FLOOR: u32 = 2;
/// The kernel's period of `cpu.max`, in microseconds.
pub const CPU_PERIOD: u64 = 100_000;

/// A cgroup controller that enforces a limit of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// `memory.max`, `memory.swap.max`.
    Memory,
    /// `pids.max`.
    Pids,
    /// `cpu.max`.
    Cpu,
}

impl Controller {
    /// All that a cell needs.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// Its name in the kernel and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Controller {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let form = "memory, pids or cpu";
        let found = Self::ALL.into_iter().find(|controller| controller.as_str() == text);
        found.ok_or(InvalidId { what: "a limit to do without", form })
    }
}

/// What a cell must be.
#[derive(Debug, Clone)]
pub struct CellPlan {
    /// Which NoClaw it belongs to.
    pub instance: InstanceId,
    /// Which run it is for.
    pub run: RunId,
    /// Whose run that is.
    pub user: UserName,
    /// The image's id.
    pub image: String,
    /// Everything that is mounted from the host.
    pub mounts: Vec<PlannedMount>,
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// CPU time, in thousandths of a CPU.
    pub cpu_millis: u64,
    /// Rules in the Landlock table.
    pub landlock_rules: usize,
    /// Limits that the owner accepted to do without.
    pub accept_without: Vec<Controller>,
}

/// A file or directory of the host's in a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMount {
    /// Path on the host.
    pub source: String,
    /// Path in the cell.
    pub destination: String,
    /// Whether the cell may only read it.
    pub read_only: bool,
    /// Device number of the handle that the host opened.
    pub device: u64,
    /// Inode number of the same.
    pub inode: u64,
}

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
    /// Compares a preflight with this plan.
    ///
    /// # Errors
    /// The first difference.
    pub fn judge(&self, preflight: &Preflight) -> Result<(), Shortfall> {
        for (process, measured) in [("launcher", &preflight.launcher), ("agent", &preflight.agent)]
        {
            let check = Check { process };
            judge_identity(check, measured)?;
            self.judge_mounts(check, measured)?;
            self.judge_limits(check, &measured.limits)?;
        }
        self.judge_landlock(&preflight.agent)
    }

    fn judge_mounts(&self, check: Check, measured: &Measured) -> Result<(), Shortfall> {
        let at = |destination: &str| {
            let found: Vec<_> =
                measured.mounts.iter().filter(|m| m.destination == destination).collect();
            let kinds = found.iter().map(|mount| mode(&mount.options));
            (kinds.collect::<Vec<_>>().join(" and "), found)
        };
        check.equal("the mode of the mount /", "ro", at("/").0)?;
        for planned in &self.mounts {
            let place = &planned.destination;
            let (modes, found) = at(place);
            let wanted = if planned.read_only { "ro" } else { "rw" };
            check.equal(&format!("the mode of the mount {place}"), wanted, modes)?;
            let identity = |device: Option<u64>, inode: Option<u64>| match (device, inode) {
                (Some(device), Some(inode)) => format!("device {device} inode {inode}"),
                _ => "out of reach".to_owned(),
            };
            let found = found
                .first()
                .map_or_else(|| "missing".to_owned(), |mount| identity(mount.device, mount.inode));
            let planned = identity(Some(planned.device), Some(planned.inode));
            check.equal(&format!("what is mounted at {place}"), planned, found)?;
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

    fn judge_landlock(&self, agent: &Measured) -> Result<(), Shortfall> {
        let check = Check { process: "agent" };
        let Some(landlock) = &agent.landlock else {
            return check.equal("Landlock", "enforced", "missing");
        };
        if landlock.abi < LANDLOCK_FLOOR {
            let planned = format!("{LANDLOCK_FLOOR} or newer");
            return check.equal("Landlock's ABI", planned, landlock.abi);
        }
        check.equal("whether Landlock is enforced", true, landlock.floor_enforced)?;
        check.equal("the number of Landlock rules", self.landlock_rules, landlock.rules)
    }
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
    check.equal("no-new-privileges", true, measured.no_new_privs)?;
    check.equal("the seccomp mode", 2, measured.seccomp_mode)?;
    let Capabilities { inheritable, permitted, effective, bounding, ambient } =
        measured.capabilities;
    let any = inheritable | permitted | effective | bounding | ambient;
    check.equal("the union of the capability sets", "0x0", format!("{any:#x}"))?;
    check.equal("the list of network interfaces", "lo", measured.interfaces.join(" "))
}

fn mode(options: &str) -> &'static str {
    if options.split(',').any(|option| option == "ro") { "ro" } else { "rw" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use noclaw_cell::preflight::{Landlock, Mount};
    use uuid::Uuid;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn plan() -> Result<CellPlan> {
        Ok(CellPlan {
            instance: Uuid::nil().to_string().parse()?,
            run: RunId::new(Uuid::nil()),
            user: "alice".parse()?,
            image: "sha256:0".into(),
            mounts: vec![PlannedMount {
                source: "/srv/w".into(),
                destination: "/workspace".into(),
                read_only: false,
                device: 7,
                inode: 9,
            }],
            memory: 2 << 30,
            pids: 256,
            cpu_millis: 2000,
            landlock_rules: 3,
            accept_without: vec![],
        })
    }

    fn mount(destination: &str, options: &str, inode: u64) -> Mount {
        let (destination, options) = (destination.to_owned(), options.to_owned());
        let (root, kind) = ("/".to_owned(), "ext4".to_owned());
        Mount { destination, root, options, kind, device: Some(7), inode: Some(inode) }
    }

    fn measured() -> Measured {
        Measured {
            uids: vec![1000; 4],
            gids: vec![1000; 4],
            groups: vec![1000],
            no_new_privs: true,
            seccomp_mode: 2,
            seccomp_filters: 1,
            capabilities: Capabilities::default(),
            mounts: vec![mount("/", "ro,relatime", 2), mount("/workspace", "rw,relatime", 9)],
            interfaces: vec!["lo".into()],
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
        }
    }

    fn preflight() -> Preflight {
        let landlock =
            Landlock { abi: 2, floor_enforced: true, scoped: false, tcp_denied: false, rules: 3 };
        let agent = Measured { landlock: Some(landlock), ..measured() };
        Preflight { launcher: measured(), agent }
    }

    #[test]
    fn what_was_planned_passes() -> Result<()> {
        assert_eq!(plan()?.judge(&preflight()), Ok(()));
        Ok(())
    }

    /// A way to break a measurement, and the field that must be named.
    type Broken = (fn(&mut Measured), &'static str);

    #[test]
    fn every_difference_is_named_in_either_process() -> Result<()> {
        let broken: [Broken; 16] = [
            (|m| m.uids = vec![0; 4], "the user"),
            (|m| m.gids = vec![1000, 1000, 0, 1000], "the group"),
            (|m| m.groups.push(27), "the list of other groups"),
            (|m| m.no_new_privs = false, "no-new-privileges"),
            (|m| m.seccomp_mode = 0, "the seccomp mode"),
            (|m| m.capabilities.bounding = 1, "the union of the capability sets"),
            (|m| m.interfaces.push("tap0".into()), "the list of network interfaces"),
            (|m| m.mounts[0].options = "rw".into(), "the mode of the mount /"),
            (|m| m.mounts[1].options = "ro".into(), "the mode of the mount /workspace"),
            (|m| m.mounts[1].inode = Some(8), "what is mounted at /workspace"),
            (|m| m.mounts[1].device = None, "what is mounted at /workspace"),
            (|m| m.mounts.truncate(1), "the mode of the mount /workspace"),
            (|m| m.limits.memory_max = Some("max".into()), "memory.max"),
            (|m| m.limits.pids_max = None, "pids.max"),
            (|m| m.limits.nofile = None, "the limit of open files"),
            (|m| m.limits.core = Some(1), "the limit of a core dump"),
        ];
        for (break_it, field) in broken {
            for process in ["launcher", "agent"] {
                let mut bad = preflight();
                break_it(if process == "agent" { &mut bad.agent } else { &mut bad.launcher });
                let found = plan()?.judge(&bad).err().ok_or(field)?;
                assert_eq!((found.process, found.field.as_str()), (process, field));
            }
        }
        Ok(())
    }

    #[test]
    fn no_landlock_no_agent() -> Result<()> {
        let mut bad = preflight();
        bad.agent.landlock = None;
        assert!(plan()?.judge(&bad).is_err());
        for weaken in [
            (|l: &mut Landlock| l.abi = 1) as fn(&mut Landlock),
            |l| l.floor_enforced = false,
            |l| l.rules = 2,
        ] {
            let mut bad = preflight();
            bad.agent.landlock.as_mut().map(weaken);
            assert!(plan()?.judge(&bad).is_err());
        }
        Ok(())
    }

    #[test]
    fn a_missing_controller_is_accepted_by_name_but_a_wrong_number_is_not() -> Result<()> {
        let mut accepting = plan()?;
        accepting.accept_without = vec![Controller::Pids];
        let mut without = preflight();
        without.launcher.limits.pids_max = None;
        without.agent.limits.pids_max = None;
        assert_eq!(accepting.judge(&without), Ok(()));
        without.agent.limits.pids_max = Some("max".into());
        assert!(accepting.judge(&without).is_err());
        without.agent.limits.pids_max = None;
        without.agent.limits.memory_max = None;
        assert!(accepting.judge(&without).is_err());
        Ok(())
    }
}
