//! Podman services of a test's own: beside the ground's on its storage, or with storage of their
//! own. They can be killed and started again without anybody else noticing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Result, podman, podman_at, until};

/// An image as small as it can be (Podman copies it once, for a cell's users): a shell, a few
/// programs of the ground's image below /usr, where Landlock lets programs be, and the agent's.
const RECIPE: &str = "ARG WHOLE
FROM ${WHOLE} AS whole
USER 0
RUN mkdir -p /small/usr/bin /small/usr/lib /small/usr/lib64 \
        /small/noclaw /small/workspace /small/transcripts \
    && for name in bin lib lib64; do ln -s usr/$name /small/$name; done \
    && for name in cat head kill sh sleep touch tr yes; do \
        cp -L /bin/$name /small/bin; \
        ldd /bin/$name | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} /small; done
FROM scratch
COPY --from=whole /small /
";
const IMAGE: &str = "localhost/noclaw-agent:latest";

/// A Podman service.
pub struct OtherPodman {
    child: Option<Child>,
    dir: tempfile::TempDir,
    storage: Vec<String>,
    own: bool,
}

impl OtherPodman {
    /// A service with storage of its own, of this driver, and nothing in it.
    pub fn start(driver: &str) -> Result<Self> {
        Self::with_storage(&["--storage-driver", driver], true)
    }

    /// A second service on the ground's storage.
    pub fn beside() -> Result<Self> {
        Self::with_storage(&[], false)
    }

    /// The same with another OCI runtime.
    pub fn with_runtime(runtime: &str) -> Result<Self> {
        Self::with_storage(&["--runtime", runtime], false)
    }

    /// A service with storage of its own and a small image that has this program as its agent.
    pub fn with_agent(program: &str) -> Result<Self> {
        let podman = Self::upon_the_ground()?;
        podman.build(Some((program, 0o755)))?;
        Ok(podman)
    }

    /// A service with storage of its own and the real image, which can be built anew.
    pub fn with_the_real_agent() -> Result<Self> {
        let podman = Self::upon_the_ground()?;
        podman.rebuild("first")?;
        Ok(podman)
    }

    /// The real image with another label, and so with another id.
    pub fn rebuild(&self, label: &str) -> Result {
        let context = tempfile::tempdir_in(self.dir.path())?;
        self.build_from(&context, &format!("ARG WHOLE\nFROM ${{WHOLE}}\nLABEL build={label}\n"))
    }

    /// Storage of its own in which the ground's images are there to build upon.
    fn upon_the_ground() -> Result<Self> {
        let images = podman(&["info", "--format", "{{.Store.GraphRoot}}"])?;
        let images = format!("additionalimagestore={}", images.trim());
        let storage = ["--storage-driver", "overlay", "--storage-opt", &images];
        Self::with_storage(&storage, true)
    }

    /// Makes its image anew, with this program and mode as the agent, or with none.
    pub fn build(&self, agent: Option<(&str, u32)>) -> Result {
        let context = tempfile::tempdir_in(self.dir.path())?;
        let path = |name: &str| context.path().join(name);
        let mut recipe = RECIPE.to_owned();
        if let Some((program, mode)) = agent {
            recipe.push_str("COPY agent /usr/local/bin/claude\n");
            fs::write(path("agent"), program)?;
            fs::set_permissions(path("agent"), fs::Permissions::from_mode(mode))?;
        }
        self.build_from(&context, &recipe)
    }

    fn build_from(&self, context: &tempfile::TempDir, recipe: &str) -> Result {
        fs::write(context.path().join("Containerfile"), recipe)?;
        let context = context.path().display().to_string();
        let whole = podman(&["image", "inspect", "--format", "WHOLE={{.Id}}", IMAGE])?;
        let build = ["build", "--quiet", "--network=none", "--pull=never", "--tag", IMAGE];
        let build = [&build[..], &["--build-arg", whole.trim()]].concat();
        podman_at(&self.socket(), &[&build[..], &[&context]].concat()).map(drop)
    }

    fn with_storage(options: &[&str], own: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("noclaw-podman-").tempdir()?;
        let mut storage: Vec<_> = options.iter().map(ToString::to_string).collect();
        if own {
            for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
                storage.extend([option.to_owned(), dir.path().join(name).display().to_string()]);
            }
        }
        let mut podman = Self { child: None, dir, storage, own };
        podman.open()?;
        Ok(podman)
    }

    /// Starts the service.
    pub fn open(&mut self) -> Result {
        let socket = self.socket();
        fs::remove_file(&socket).ok();
        let mut command = Command::new("podman");
        command.args(&self.storage).args(["system", "service", "--time=0"]);
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        command.arg(format!("unix://{socket}")).stdin(Stdio::null()).stderr(log);
        self.child = Some(command.spawn()?);
        until("the other Podman listens", || UnixStream::connect(&socket).ok())?;
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn socket(&self) -> String {
        self.dir.path().join("sock").display().to_string()
    }

    /// Sends a signal to the service's process, and to the one that it may have become by a fork
    /// into its user namespace.
    pub fn signal(&self, signal: Signal) -> Result {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for id in children.unwrap_or_default().split_whitespace() {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            if name.trim() == "podman" {
                kill(Pid::from_raw(id.parse()?), signal)?;
            }
        }
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// `kill -9`; it is started again when the result is dropped.
    pub fn down(&mut self) -> Result<Down<'_>> {
        self.kill()?;
        Ok(Down(self))
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result {
        self.signal(Signal::SIGKILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for OtherPodman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            eprintln!("--- log of the other Podman\n{log}");
        }
        if self.own {
            // What a test that failed has left.
            podman_at(&self.socket(), &["rm", "--all", "--force", "--time", "0"]).ok();
        }
        self.kill().ok();
        // Its files belong to other users of its user namespace, and what cleans up after the last
        // container may still be at work.
        let script = "umount -l \"$1/root/overlay\" 2>/dev/null; rm -rf \"$1\" 2>/dev/null";
        let args = ["unshare", "sh", "-c", script, "sh"];
        let removed = until("the other Podman's files are removed", || {
            Command::new("podman")
                .args(args)
                .arg(self.dir.path())
                .status()
                .ok()?
                .success()
                .then_some(())
        });
        if let Err(error) = removed {
            eprintln!("{error}");
        }
    }
}

/// A time without this Podman.
pub struct Down<'a>(&'a mut OtherPodman);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        // If it does not come back, the next who asks it will say so.
        self.0.open().ok();
    }
}
