//! A Podman whose OCI runtime does not do what it is asked: before a container is created, what
//! Podman wrote for the runtime is edited, by a line of python in which `c` is the configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Result;
use super::podmans::OtherPodman;

const RUNTIME: &str = r#"#!/usr/bin/python3
import json, os, sys
here = os.path.dirname(os.path.abspath(sys.argv[0]))
args = sys.argv[1:]
if "create" in args:
    file = os.path.join(args[args.index("--bundle") + 1], "config.json")
    c = json.load(open(file))
    bind = lambda source, to, *options: c["mounts"].append({"type": "bind", "source": source,
        "destination": to, "options": ["bind", *options]})
    mount = lambda at: next(m for m in c["mounts"] if m["destination"] == at)
    exec(open(os.path.join(here, "edit.py")).read())
    json.dump(c, open(file, "w"))
os.execvp("crun", ["crun", *args])
"#;

/// The same for a machine without python: the edit is sed's.
const RUNTIME_BY_SED: &str = r#"#!/bin/sh
case " $* " in *" create "*)
    before=
    for arg; do
        [ "$before" != --bundle ] || sed -i -f "$(dirname "$0")/edit.sed" "$arg/config.json"
        before=$arg
    done
esac
exec crun "$@"
"#;

/// A Podman on the ground's storage with such a runtime.
pub struct BrokenPodman {
    dir: tempfile::TempDir,
    script: &'static str,
    podman: OtherPodman,
}

impl BrokenPodman {
    pub fn start() -> Result<Self> {
        Self::with(RUNTIME, "edit.py")
    }

    /// One whose edits are sed's.
    pub fn by_sed() -> Result<Self> {
        Self::with(RUNTIME_BY_SED, "edit.sed")
    }

    fn with(program: &str, script: &'static str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("noclaw-broken-").tempdir()?;
        let runtime = dir.path().join("crun");
        fs::write(&runtime, program)?;
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755))?;
        fs::write(dir.path().join(script), "")?;
        let podman = OtherPodman::with_runtime(&runtime.display().to_string())?;
        Ok(Self { dir, script, podman })
    }

    pub fn socket(&self) -> String {
        self.podman.socket()
    }

    /// What is done to the containers that are created from now on.
    pub fn edit(&self, edit: &str) -> Result {
        Ok(fs::write(self.dir.path().join(self.script), edit)?)
    }
}
