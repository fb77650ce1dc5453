//! A Podman service of the test's own, beside the ground's and on its storage: it can be killed
//! without anybody else noticing. And what Podman leaves behind: processes, by their container.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::{Result, until};

pub struct OwnPodman {
    dir: tempfile::TempDir,
    child: Option<Child>,
    options: Vec<String>,
}

impl OwnPodman {
    /// Starts it with these options of `podman` itself.
    pub fn start(options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("noclaw-podman-").tempdir()?;
        let options = options.iter().map(ToString::to_string).collect();
        let mut podman = Self { dir, child: None, options };
        podman.open()?;
        Ok(podman)
    }

    pub fn socket(&self) -> String {
        self.dir.path().join("sock").display().to_string()
    }

    pub fn open(&mut self) -> Result {
        let socket = self.socket();
        fs::remove_file(&socket).ok();
        let log = fs::File::create(self.dir.path().join("log"))?;
        let mut command = Command::new("podman");
        command.args(&self.options).args([
            "system",
            "service",
            "--time=0",
            &format!("unix://{socket}"),
        ]);
        self.child = Some(command.stdin(Stdio::null()).stderr(log).spawn()?);
        until("Podman listens", || UnixStream::connect(&socket).ok())?;
        Ok(())
    }

    /// `kill -9`, also of the process that it has become by a fork into its user namespace.
    pub fn kill(&mut self) -> Result {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let (child_id, own) = (child.id(), |pid: &i32| parent(*pid).is_some());
        for pid in processes().into_iter().filter(own) {
            if parent(pid) == i32::try_from(child_id).ok() {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for OwnPodman {
    fn drop(&mut self) {
        self.kill().ok();
    }
}

pub fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Processes that belong to one of these containers: their monitors by their command lines, what
/// runs inside by its cgroup.
pub fn inhabitants(containers: &[String]) -> Vec<(i32, String)> {
    let of = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let named = |id: &String| line.contains(id.as_str()) || group.contains(id.as_str());
        containers.iter().any(named).then_some((pid, line))
    };
    processes().into_iter().filter_map(of).collect()
}
