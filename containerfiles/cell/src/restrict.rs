//! Landlock: a table goes in, what the kernel enforces comes out. The agent's process in a cell and
//! the service on the host confine themselves by it.

use std::fs::File;
use std::os::fd::AsFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::job::{Access, Rule};
use crate::preflight::Landlock;

/// What every supported kernel must enforce.
const FLOOR: ABI = ABI::V2;
/// What is used where the kernel has it.
const NEWEST: ABI = ABI::V9;

/// TCP ports that stay usable (restricted by ABI 4 and newer only).
#[derive(Debug, Default)]
pub struct Ports {
    /// To listen at; 0 is any that the kernel picks.
    pub bind: Vec<u16>,
    /// To connect to, at any address.
    pub connect: Vec<u16>,
}

/// Why this process is not confined.
#[derive(Debug, thiserror::Error)]
pub enum RestrictError {
    /// The kernel has no Landlock, or one before ABI 2, or took a rule for wrong.
    #[error("Landlock (ABI 2 or newer) does not confine this process")]
    Ruleset(#[from] landlock::RulesetError),
    /// A rule's path cannot be opened.
    #[error("no Landlock rule can be made for {path}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: landlock::PathFdError,
    },
    /// A rule's path cannot be looked at.
    #[error("no Landlock rule can be made for {path}")]
    Look {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is switched off.
    #[error("Landlock is not available")]
    Unavailable,
}

/// Confines the calling thread, and all that it starts from now on, to a table. ABI 2 is required;
/// what newer kernels can refuse is refused where they can.
///
/// # Errors
/// See [`RestrictError`]; the thread is as it was then.
pub fn restrict(rules: &[Rule], ports: &Ports) -> Result<Landlock, RestrictError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(FLOOR))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for rule in rules {
        let path = || rule.path.clone();
        let handle = PathFd::new(&rule.path)
            .map_err(|source| RestrictError::Path { path: path(), source })?;
        let meta = handle.as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
        let meta = meta.map_err(|source| RestrictError::Look { path: path(), source })?;
        let legal = if meta.is_dir() { BitFlags::all() } else { AccessFs::from_file(NEWEST) };
        ruleset = ruleset.add_rule(PathBeneath::new(handle, rights(rule.access) & legal))?;
    }
    for port in &ports.bind {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    for port in &ports.connect {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let status = ruleset.restrict_self()?;
    let LandlockStatus::Available { effective_abi, .. } = status.landlock else {
        return Err(RestrictError::Unavailable);
    };
    Ok(Landlock {
        abi: effective_abi as u32,
        floor_enforced: status.ruleset != RulesetStatus::NotEnforced && effective_abi >= FLOOR,
        scoped: effective_abi >= ABI::V6,
        tcp_denied: effective_abi >= ABI::V4,
        rules: rules.len(),
    })
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    let all = AccessFs::from_all(NEWEST);
    match access {
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::List => AccessFs::ReadDir.into(),
        Access::ReadExecute => AccessFs::from_read(NEWEST),
        Access::Connect => AccessFs::ResolveUnix.into(),
        Access::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ResolveUnix,
        Access::ReadWrite => {
            AccessFs::ReadFile
                | AccessFs::ReadDir
                | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::IoctlDev
        }
        Access::AllButExecute => all & !BitFlags::from(AccessFs::Execute),
        Access::All => all,
    }
}
