//! The verbs as they are usually written: a path is looked at, and then used. They are there to
//! lose the race.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::racer::HONEST;
use crate::{Result, Verbs};

/// A tree by its path.
#[derive(Clone)]
pub struct ByPath(pub PathBuf);

/// Whether it is what it should be, and no link is on the way to it.
fn looks_right(top: &Path, path: &Path, is: fn(&fs::Metadata) -> bool) -> Result {
    let mut ways = path.ancestors().take_while(|way| *way != top);
    let honest = |way: &Path| fs::symlink_metadata(way).is_ok_and(|meta| !meta.is_symlink());
    match ways.all(honest) && fs::symlink_metadata(path).is_ok_and(|meta| is(&meta)) {
        true => Ok(()),
        false => Err("it looks wrong".into()),
    }
}

impl ByPath {
    fn prune(&self, folder: &Path, keep: Option<&Path>) -> Result {
        looks_right(&self.0, folder, fs::Metadata::is_dir)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if fs::symlink_metadata(&path)?.is_dir() {
                self.prune(&path, keep)?;
                fs::remove_dir(&path).ok();
            } else if keep != Some(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn sum(&self, folder: &Path) -> Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            sum += if meta.is_dir() { self.sum(&path)? } else { meta.len() };
        }
        Ok(sum)
    }
}

impl Verbs for ByPath {
    fn read(&self, path: &str) -> Result<Option<String>> {
        let path = self.0.join(path);
        looks_right(&self.0, &path, fs::Metadata::is_file)?;
        // Even one that reads no more than it should.
        if fs::metadata(&path)?.len() > crate::MOST as u64 || !path.is_file() {
            return Ok(None);
        }
        Ok(Some(fs::read_to_string(&path)?))
    }

    fn replace(&self, folder: &str, name: &str) -> Result {
        let folder = self.0.join(folder);
        looks_right(&self.0, &folder, fs::Metadata::is_dir)?;
        fs::write(folder.join("new"), HONEST)?;
        Ok(fs::rename(folder.join("new"), folder.join(name))?)
    }

    fn keep_only(&self, keep: &[&str]) -> Result<bool> {
        let keep = keep.iter().fold(self.0.clone(), |path, name| path.join(name));
        self.prune(&self.0, Some(&keep))?;
        Ok(looks_right(&self.0, &keep, fs::Metadata::is_file).is_ok())
    }

    fn remove(&self, name: &str) -> Result {
        let path = self.0.join(name);
        self.prune(&path, None)?;
        Ok(fs::remove_dir(&path)?)
    }

    fn count(&self) -> Result<u64> {
        self.sum(&self.0)
    }
}
