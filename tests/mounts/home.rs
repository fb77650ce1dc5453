//! A house with an allowlist, and folders of its owner's.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, House, Result, ground};

/// A house with an allowlist and the folders `ro`, `rw`, `other` in `folders`, each with a file.
pub struct Home {
    pub house: House,
    /// In no place of the service's own.
    pub folders: PathBuf,
    _folders: TempDir,
}

impl Home {
    pub fn new(model: &str) -> Result<Self> {
        let house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", model])?;
        let owner = tempfile::tempdir()?;
        let folders = owner.path().join("folders");
        for folder in ["ro", "rw/inner", "other", "keys/.ssh", "x"] {
            fs::create_dir_all(folders.join(folder))?;
        }
        for folder in ["ro", "rw", "other", "keys/.ssh", "x"] {
            fs::write(folders.join(folder).join("file"), format!("of {folder}\n"))?;
        }
        symlink("ro", folders.join("link"))?;
        let folders = folders.canonicalize()?;
        fs::create_dir(house.path("config"))?;
        fs::set_permissions(house.path("config"), Permissions::from_mode(0o700))?;
        let home = Self { house, folders, _folders: owner };
        home.allow(&json!([
            {"path": home.folders}, {"path": home.folders.join("rw"), "allowReadWrite": true}
        ]))?;
        Ok(home)
    }

    pub fn open(mut self) -> Result<Self> {
        self.house.open()?;
        Ok(self)
    }

    pub fn list(&self) -> PathBuf {
        self.house.path("config/mount-allowlist.json")
    }

    pub fn allow(&self, roots: &Value) -> Result {
        fs::write(self.list(), json!({"allowedRoots": roots}).to_string())?;
        Ok(fs::set_permissions(self.list(), Permissions::from_mode(0o600))?)
    }

    pub fn path(&self, folder: &str) -> String {
        self.folders.join(folder).display().to_string()
    }

    pub fn grant(&self, user: &str, folder: &str, read_write: bool) -> Result<Answer> {
        let body = json!({"path": self.path(folder), "read_write": read_write});
        self.house.call("POST", &format!("/v1/users/{user}/mounts"), &body)
    }

    /// Grants, and it must be.
    pub fn granted(&self, user: &str, folder: &str, read_write: bool) -> Result {
        let answer = self.grant(user, folder, read_write)?;
        assert_eq!(answer.status, 201, "{answer:?}");
        Ok(())
    }

    /// The user's folders, as they stand now.
    pub fn mounts(&self, user: &str) -> Result<Vec<Value>> {
        let list = self.house.get(&format!("/v1/users/{user}/mounts"))?.json()?;
        Ok(list["mounts"].as_array().ok_or("no list")?.clone())
    }

    /// What a shell command prints in a cell of the user's.
    pub fn shell(&self, user: &str, command: &str) -> Result<String> {
        let tool = format!("!tool Bash {}", json!({"command": command}));
        self.house.send(&["-u", user, "--new", &tool])
    }

    /// A command without a service, on this house's places.
    pub fn noclaw(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.house.noclaw(args);
        command.env("NOCLAW_STATE", self.house.path("state"));
        command.env("NOCLAW_CONFIG", self.house.path("config"));
        command.env("NOCLAW_LAUNCHER", ground("NOCLAW_TEST_LAUNCHER")?);
        Ok(command)
    }
}
