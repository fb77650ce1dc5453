//! The half that will be the agent: it gives up rights, measures itself, waits, and becomes the
//! agent.
//!
//! On standard input comes one line, the [`Confinement`]; on standard output goes one line, the
//! measurements; then `go` comes, and the streams are the agent's. Bytes are read one at a time, so
//! that none of the agent's input is taken from it.

use std::env::consts::ARCH;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use noclaw_cell::job::Confinement;
use noclaw_cell::restrict::{Ports, restrict};

use crate::measure;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The confinement as one line.
const LINE_BYTES: usize = 64 * 1024;

/// Confines this process and becomes `argv`.
pub fn run(argv: &[String]) -> Result<()> {
    let (program, args) = argv.split_first().ok_or("confine: no program was named")?;
    let confinement: Confinement = serde_json::from_str(&line()?)?;
    // Without a table there is no Landlock: the preflight says so, and the service refuses.
    let landlock = match confinement.landlock.as_slice() {
        [] => None,
        rules => Some(restrict(rules, &Ports::default())?),
    };
    filter(&confinement.seccomp)?;
    let measured = measure::measure(&confinement, landlock)?;
    let mut measured = serde_json::to_vec(&measured)?;
    measured.push(b'\n');
    let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    output.write_all(&measured)?;
    if line()? != "go" {
        return Err("confine: the service did not say go".into());
    }
    let error = Command::new(program).args(args).exec();
    Err(format!("{program} cannot be executed: {error}").into())
}

fn line() -> Result<String> {
    // Open for no longer than this: what is open when the process is measured is the agent's.
    let mut input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_BYTES {
        input.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8(line)?),
            [other] => line.push(other),
        }
    }
    Err("confine: a line is too long".into())
}

/// Applies the second system call filter, which takes away what confining has needed. An empty one
/// is none: the preflight says so, and no service takes that.
fn filter(json: &str) -> Result<()> {
    if json.is_empty() {
        return Ok(());
    }
    let mut filters = seccompiler::compile_from_json(json.as_bytes(), ARCH.try_into()?)?;
    let filter = filters.remove("agent").ok_or("confine: there is no filter `agent`")?;
    Ok(seccompiler::apply_filter(&filter)?)
}
