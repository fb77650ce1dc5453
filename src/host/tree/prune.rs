//! Removing what is in a tree, all of it or all but one file.
//!
//! The tree may be of any depth, and a directory may hold any number of names: what is too deep is
//! moved to the top first, and names are taken in batches.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{LISTED, Tree, TreeError, beneath, enter, listed};

/// How many directories are open at the same time; the agent can make any depth.
const DEPTH: usize = 32;
/// How many names are held at the same time; the agent can make any number.
const BATCH: usize = 4096;

impl Tree {
    /// Removes what is called `name` in it, with everything in it; it may be gone already.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), TreeError> {
        let remove = || {
            let inner = match enter(&self.handle, name, Mode::S_IRWXU) {
                Ok((inner, _)) => inner,
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    return unlinkat(&self.handle, name, UnlinkatFlags::NoRemoveDir);
                }
                Err(errno) => return Err(errno),
            };
            prune(&inner, &[])?;
            unlinkat(&self.handle, name, UnlinkatFlags::RemoveDir)
        };
        match remove() {
            Err(Errno::ENOENT) => Ok(()),
            removed => {
                removed.map_err(|errno| super::fail("remove", &self.path.join(name), errno.into()))
            }
        }
    }

    /// Removes everything but the regular file `keep`, a path of directories and a file's name.
    /// Returns whether that file is there. Nothing that is added meanwhile is sure to be removed.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn keep_only(&self, keep: &[&str]) -> Result<bool, TreeError> {
        let pruned = listed(&self.handle, Mode::S_IRWXU).and_then(|(top, _)| prune(&top, keep));
        pruned.map_err(|errno| self.failed("tidy", errno))
    }
}

fn prune(top: &OwnedFd, keep: &[&str]) -> Result<bool, Errno> {
    let mut pruner = Pruner { top, moved: 0 };
    loop {
        let before = pruner.moved;
        let kept = pruner.prune(top, keep, DEPTH)?;
        if pruner.moved == before {
            return Ok(kept);
        }
    }
}

struct Pruner<'a> {
    top: &'a OwnedFd,
    moved: u32,
}

impl Pruner<'_> {
    fn prune(&mut self, directory: &OwnedFd, keep: &[&str], depth: usize) -> Result<bool, Errno> {
        loop {
            let mut kept = false;
            let names = list(directory)?;
            for (name, is_directory) in &names {
                let wanted = keep.first().is_some_and(|keep| keep.as_bytes() == name.to_bytes());
                let removed = match (is_directory, keep) {
                    (false, [_]) if wanted && is_regular(directory, name)? => {
                        kept = true;
                        Ok(())
                    }
                    (false, _) => unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir),
                    (true, _) if depth == 0 => self.move_up(directory, name),
                    (true, _) => {
                        let rest = if wanted { keep.get(1..).unwrap_or_default() } else { &[] };
                        self.prune_inner(directory, name, rest, depth).map(|inner| kept |= inner)
                    }
                };
                match removed {
                    Err(Errno::ENOENT) => {}
                    removed => removed?,
                }
            }
            // All of them are gone, but for one that may be kept.
            if names.len() < BATCH {
                return Ok(kept);
            }
        }
    }

    fn prune_inner(
        &mut self,
        directory: &OwnedFd,
        name: &CStr,
        keep: &[&str],
        depth: usize,
    ) -> Result<bool, Errno> {
        let (inner, _) = enter(directory, name, Mode::S_IRWXU)?;
        let kept = self.prune(&inner, keep, depth - 1)?;
        if !kept {
            unlinkat(directory, name, UnlinkatFlags::RemoveDir)?;
        }
        Ok(kept)
    }

    /// What is in its way at the top goes in its own turn.
    fn move_up(&mut self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        // The `..` of what is moved is written to.
        enter(directory, name, Mode::S_IRWXU)?;
        loop {
            let aside = format!("{}-{}", std::process::id(), self.moved);
            self.moved += 1;
            match renameat(directory, name, self.top, aside.as_str()) {
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                moved => return moved,
            }
        }
    }
}

/// The first names in a directory, and which of them are directories.
fn list(directory: &OwnedFd) -> Result<Vec<(CString, bool)>, Errno> {
    let mut listing = Dir::from_fd(beneath(directory, ".", LISTED)?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            // Some file systems do not tell.
            None => mode(directory, name)? == SFlag::S_IFDIR,
        };
        names.push((name.to_owned(), kind));
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

fn mode(directory: &OwnedFd, name: &CStr) -> Result<SFlag, Errno> {
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT)
}

fn is_regular(directory: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    Ok(mode(directory, name)? == SFlag::S_IFREG)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test makes the files that it looks at")]

    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::fchmod;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[test]
    fn only_what_is_kept_stays_and_links_are_not_followed() -> Result<()> {
        let outside = tempfile::tempdir()?;
        fs::write(outside.path().join("precious"), "x")?;
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        fs::create_dir_all(path.join("-workspace/memory/deep"))?;
        fs::create_dir_all(path.join("other"))?;
        for file in ["-workspace/a.jsonl", "-workspace/b.jsonl", "-workspace/memory/deep/M.md", "x"]
        {
            fs::write(path.join(file), "x")?;
        }
        symlink(outside.path(), path.join("way-out"))?;
        symlink(outside.path(), path.join("-workspace/way-out"))?;
        let tree = Tree::open(path)?;
        assert!(tree.keep_only(&["-workspace", "a.jsonl"])?);
        let left: Vec<_> = fs::read_dir(path)?
            .chain(fs::read_dir(path.join("-workspace"))?)
            .map(|e| e.map(|e| e.file_name().into_string()))
            .collect::<std::io::Result<_>>()?;
        assert_eq!(left, [Ok("-workspace".into()), Ok("a.jsonl".into())]);
        assert!(outside.path().join("precious").exists());
        assert!(!tree.keep_only(&["-workspace", "gone.jsonl"])?);
        assert_eq!(fs::read_dir(path)?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_link_in_place_of_the_transcript_is_removed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("w"))?;
        symlink("/etc/passwd", directory.path().join("w/a"))?;
        assert!(!Tree::open(directory.path())?.keep_only(&["w", "a"])?);
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn trees_of_any_depth_width_and_mode_are_removed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let tree = directory.path().join("tree");
        fs::create_dir(&tree)?;
        let mut handle = OwnedFd::from(File::open(&tree)?);
        for _ in 0..5000 {
            nix::sys::stat::mkdirat(&handle, "d", Mode::S_IRWXU)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            handle = openat(&handle, "d", flags, Mode::empty())?;
        }
        fchmod(&handle, Mode::empty())?;
        let at_the_edge = tree.join(["d"; DEPTH + 1].join("/"));
        fs::set_permissions(at_the_edge, Permissions::from_mode(0o000))?;
        // The names that it moves to are taken: by what is not empty, or no directory.
        fs::create_dir_all(tree.join(format!("{}-0/full", std::process::id())))?;
        File::create(tree.join(format!("{}-1", std::process::id())))?;
        fs::create_dir_all(tree.join("closed/inner"))?;
        fs::set_permissions(tree.join("closed/inner"), Permissions::from_mode(0o000))?;
        fs::set_permissions(tree.join("closed"), Permissions::from_mode(0o100))?;
        fs::create_dir(tree.join("wide"))?;
        for number in 0..BATCH + 10 {
            File::create(tree.join("wide").join(number.to_string()))?;
        }
        let top = Tree::open(directory.path())?;
        assert!(Tree::open(&tree)?.keep_only(&["wide", "9"])?);
        assert_eq!(fs::read_dir(&tree)?.count(), 1);
        assert_eq!(fs::read_dir(tree.join("wide"))?.count(), 1);
        fs::set_permissions(&tree, Permissions::from_mode(0o000))?;
        top.remove("tree")?;
        top.remove("tree")?;
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn what_is_no_directory_is_removed_by_itself() -> Result<()> {
        let (outside, directory) = (tempfile::tempdir()?, tempfile::tempdir()?);
        fs::write(outside.path().join("precious"), "x")?;
        symlink(outside.path(), directory.path().join("link"))?;
        File::create(directory.path().join("file"))?;
        let tree = Tree::open(directory.path())?;
        tree.remove("link")?;
        tree.remove("file")?;
        assert!(tree.remove("..").is_err());
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        assert!(outside.path().join("precious").exists());
        Ok(())
    }
}
