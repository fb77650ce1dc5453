//! How much is in a tree, as du(1) tells it: blocks that are allocated, and a file with several
//! names once.
//!
//! | what an agent may do | what happens |
//! |---|---|
//! | change the tree meanwhile | a directory that has gone, or become something else, is left out, and that is said: [`Stop::Moved`] |
//! | link out of it, or mount | links are counted by themselves, mounts not at all |
//! | nest without end, make names without end | it stops, and says so: [`Stop`] |
//! | close directories | they are opened while they are counted, then closed again |
//!
//! Directories are opened by their path beneath a handle. Where that path becomes long, a new
//! handle takes over, so that few are open whatever the depth.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::{HANDLE, Tree, TreeError, beneath, identity, listed, set_mode};
use crate::core::limits::TREE_DEPTH;
use crate::core::mounts::Identity;
use crate::core::quota::Space;

/// Bytes of a path beneath a handle; the kernel takes 4096, and one name has up to 255.
const LONG: usize = 3072;
/// Directories in such a path: each is looked up again for each directory beneath it.
const STEPS: usize = 16;
/// Directories that are held open because their agent had closed them.
const REOPENED: usize = 32;
/// What is needed to count what is in a directory.
const NEEDED: Mode = Mode::S_IRUSR.union(Mode::S_IXUSR);
/// What the kernel counts blocks in, whatever the file system's own are.
const BLOCK: u64 = 512;

/// How much is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Names of what is no directory. Links are counted, not followed.
    pub files: u64,
    /// Directories, without the tree's own.
    pub directories: u64,
    /// The sizes of the regular files.
    pub bytes: u64,
    /// Bytes that all of it takes of the disk.
    pub allocated: u64,
    /// Directories that are not the owner's to open: what is in them is not counted.
    pub closed: u64,
    /// Why it was not counted to its end.
    pub stop: Option<Stop>,
}

impl Count {
    /// What it takes of the disk.
    pub const fn space(&self) -> Space {
        Space { bytes: self.allocated, files: self.files + self.directories }
    }
}

/// Why a count has stopped early: there is more than it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// As many files and directories were found as were to be counted.
    Files,
    /// It is nested deeper than [`TREE_DEPTH`], or has too many closed directories in each other.
    Depth,
    /// It took too long.
    Time,
    /// It was counted to its end, but a directory was no longer where it had been found.
    Moved,
}

/// How far a count goes.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Files and directories.
    pub files: u64,
    /// Until when.
    pub until: Instant,
}

impl Tree {
    /// Counts what is in it, which may change meanwhile.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&self, bound: Bound) -> Result<Count, TreeError> {
        let count = Walk::new(bound).walk(&self.handle);
        count.map_err(|errno| self.failed("count", errno))
    }
}

/// A handle that paths begin at. One that an agent had closed is closed again with its last use.
struct Place {
    handle: OwnedFd,
    closed: Option<(Mode, Rc<Cell<usize>>)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((mode, reopened)) = &self.closed {
            // Of the agent's own directories; if this fails, one more of them is open to it.
            set_mode(&self.handle, *mode).ok();
            reopened.set(reopened.get().saturating_sub(1));
        }
    }
}

/// A directory that was looked at.
struct Parent {
    place: Rc<Place>,
    // From there to the directory.
    path: Vec<u8>,
    steps: usize,
    depth: usize,
}

/// A directory that is still to be looked at.
struct Left {
    parent: Rc<Parent>,
    name: CString,
}

impl Left {
    fn path(&self) -> Vec<u8> {
        match self.parent.path.is_empty() {
            true => self.name.as_bytes().to_vec(),
            false => [&self.parent.path, self.name.as_bytes()].join(&b'/'),
        }
    }
}

struct Walk {
    bound: Bound,
    found: Count,
    // Files with several names, that were counted by one of them.
    linked: HashSet<Identity>,
    reopened: Rc<Cell<usize>>,
    left: Vec<Left>,
}

impl Walk {
    fn new(bound: Bound) -> Self {
        let (found, linked) = (Count::default(), HashSet::new());
        Self { bound, found, linked, reopened: Rc::default(), left: Vec::new() }
    }

    fn walk(mut self, top: &OwnedFd) -> Result<Count, Errno> {
        let handle = top.try_clone().map_err(|_| Errno::EMFILE)?;
        let (names, before) = listed(&handle, NEEDED)?;
        self.found.allocated = allocated(&before);
        let place = Rc::new(self.place(handle, &before));
        let top = Rc::new(Parent { place, path: Vec::new(), steps: 0, depth: 0 });
        self.list(&top, &top.place.handle, names)?;
        while let Some(next) = self.left.pop() {
            let goes_on = matches!(self.found.stop, None | Some(Stop::Moved));
            if goes_on && Instant::now() > self.bound.until {
                self.found.stop = Some(Stop::Time);
            }
            if matches!(self.found.stop, Some(Stop::Files | Stop::Time)) {
                break;
            }
            self.look(&next)?;
        }
        Ok(self.found)
    }

    fn place(&self, handle: OwnedFd, before: &FileStat) -> Place {
        let mode = Mode::from_bits_truncate(before.st_mode);
        let closed = !mode.contains(NEEDED);
        if closed {
            self.reopened.set(self.reopened.get() + 1);
        }
        Place { handle, closed: closed.then(|| (mode, Rc::clone(&self.reopened))) }
    }

    fn look(&mut self, left: &Left) -> Result<(), Errno> {
        let (parent, path) = (&left.parent, left.path());
        if parent.depth >= TREE_DEPTH || self.reopened.get() >= REOPENED {
            self.found.stop = Some(Stop::Depth);
            return Ok(());
        }
        let open = || {
            let handle = beneath(&parent.place.handle, path.as_slice(), HANDLE)?;
            let (names, before) = listed(&handle, NEEDED)?;
            Ok((handle, names, before))
        };
        let (handle, names, before) = match open() {
            Ok(opened) => opened,
            Err(Errno::EACCES | Errno::EPERM) => {
                self.found.closed += 1;
                return Ok(());
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                self.found.stop = self.found.stop.or(Some(Stop::Moved));
                return Ok(());
            }
            // Something of the owner's is mounted there.
            Err(Errno::EXDEV) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        self.found.allocated = self.found.allocated.saturating_add(allocated(&before));
        let depth = parent.depth + 1;
        let place = self.place(handle, &before);
        let long = path.len() > LONG || parent.steps + 1 >= STEPS;
        if long || place.closed.is_some() {
            let own = Parent { place: Rc::new(place), path: Vec::new(), steps: 0, depth };
            let own = Rc::new(own);
            return self.list(&own, &own.place.handle, names);
        }
        let (shared, steps) = (Rc::clone(&parent.place), parent.steps + 1);
        let own = Rc::new(Parent { place: shared, path, steps, depth });
        self.list(&own, &place.handle, names)
    }

    /// Counts the names in a directory; those of directories are looked at later.
    fn list(
        &mut self,
        parent: &Rc<Parent>,
        directory: &OwnedFd,
        names: OwnedFd,
    ) -> Result<(), Errno> {
        for entry in Dir::from_fd(names)?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if self.found.files + self.found.directories >= self.bound.files {
                self.found.stop = Some(Stop::Files);
                return Ok(());
            }
            if entry.file_type() == Some(Type::Directory) || !self.file(directory, name) {
                self.found.directories += 1;
                self.left.push(Left { parent: Rc::clone(parent), name: name.to_owned() });
            }
        }
        Ok(())
    }

    /// Counts what is no directory; `false` for what is one.
    fn file(&mut self, directory: &OwnedFd, name: &CStr) -> bool {
        let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
        let kind = stat.map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        if kind == Some(SFlag::S_IFDIR) {
            return false;
        }
        self.found.files += 1;
        if let Some(stat) = stat
            && (stat.st_nlink < 2 || self.linked.insert(identity(&stat)))
        {
            self.found.allocated = self.found.allocated.saturating_add(allocated(&stat));
            if kind == Some(SFlag::S_IFREG) {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.found.bytes = self.found.bytes.saturating_add(size);
            }
        }
        true
    }
}

fn allocated(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test makes the files that it looks at")]

    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use std::time::Duration;

    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::fchmod;

    use super::super::LISTED;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn bound(files: u64) -> Bound {
        Bound { files, until: Instant::now() + Duration::from_secs(60) }
    }

    fn count(path: &Path) -> Result<Count> {
        Ok(Tree::open(path)?.count(bound(u64::MAX))?)
    }

    #[test]
    fn what_is_there_is_counted_and_links_are_not_followed() -> Result<()> {
        let outside = tempfile::tempdir()?;
        fs::write(outside.path().join("precious"), "x".repeat(1_000_000))?;
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        fs::create_dir_all(path.join("a/b"))?;
        fs::write(path.join("a/b/five"), "12345")?;
        fs::write(path.join("three"), "123")?;
        fs::hard_link(path.join("three"), path.join("a/again"))?;
        File::create(path.join("sparse"))?.set_len(1 << 40)?;
        symlink(outside.path(), path.join("way-out"))?;
        symlink(outside.path().join("precious"), path.join("a/way-out"))?;
        nix::unistd::mkfifo(&path.join("fifo"), Mode::S_IRWXU)?;
        let counted = count(path)?;
        assert_eq!((counted.files, counted.directories), (7, 2));
        assert_eq!((counted.bytes, counted.closed, counted.stop), ((1 << 40) + 8, 0, None));
        let blocks = |name: &str| Ok(fs::symlink_metadata(path.join(name))?.blocks() * 512);
        let all = ["", "a", "a/b", "a/b/five", "three", "sparse", "way-out", "a/way-out", "fifo"];
        let all = all.into_iter().map(blocks).sum::<std::io::Result<u64>>()?;
        assert_eq!(counted.allocated, all, "a file with two names is counted once");
        Ok(())
    }

    #[test]
    fn closed_directories_are_counted_and_closed_again() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        let close =
            |name: &str, mode| fs::set_permissions(path.join(name), Permissions::from_mode(mode));
        fs::create_dir_all(path.join("a/b/c"))?;
        for file in ["a/1", "a/b/2", "a/b/c/3"] {
            fs::write(path.join(file), "x")?;
        }
        let closed = [("a/b/c", 0o400), ("a/b", 0o100), ("a", 0o000), ("", 0o000)];
        for (name, mode) in closed {
            close(name, mode)?;
        }
        let counted = count(path)?;
        assert_eq!((counted.files, counted.directories, counted.closed), (3, 3, 0));
        for (name, mode) in closed.into_iter().rev() {
            assert_eq!(fs::metadata(path.join(name))?.mode() & 0o777, mode, "{name}");
            close(name, 0o700)?;
        }
        Ok(())
    }

    /// A chain of directories beneath `top`.
    fn nest(top: &Path, name: &str, depth: usize) -> Result<OwnedFd> {
        let mut handle = OwnedFd::from(File::open(top)?);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        for _ in 0..depth {
            nix::sys::stat::mkdirat(&handle, name, Mode::S_IRWXU)?;
            handle = openat(&handle, name, flags, Mode::S_IRWXU)?;
        }
        Ok(handle)
    }

    #[test]
    fn a_tree_is_counted_to_its_depth_with_few_handles() -> Result<()> {
        for name in ["d".to_owned(), "d".repeat(255)] {
            let directory = tempfile::tempdir()?;
            let deep = nest(directory.path(), &name, TREE_DEPTH)?;
            nix::sys::stat::mknodat(&deep, "deep", SFlag::S_IFREG, Mode::S_IRWXU, 0)?;
            let counted = count(directory.path())?;
            assert_eq!((counted.files, counted.stop), (1, None));
            nix::sys::stat::mkdirat(&deep, "deeper", Mode::S_IRWXU)?;
            assert_eq!(count(directory.path())?.stop, Some(Stop::Depth));
            Tree::open(directory.path())?.keep_only(&[])?;
        }
        Ok(())
    }

    #[test]
    fn closed_directories_in_each_other_are_followed_so_far_only() -> Result<()> {
        // One that has others beside it is held open until those have been looked at.
        for (beside, stop) in [(0, None), (9, Some(Stop::Depth))] {
            let directory = tempfile::tempdir()?;
            let mut chain = vec![OwnedFd::from(File::open(directory.path())?)];
            for depth in 0..3 * REOPENED {
                let above = chain.get(depth).ok_or("no directory")?;
                for name in (0..=beside).map(|number| number.to_string()) {
                    nix::sys::stat::mkdirat(above, name.as_str(), Mode::S_IRWXU)?;
                }
                chain.push(openat(above, "0", LISTED, Mode::empty())?);
            }
            for handle in chain.iter().rev() {
                fchmod(handle, Mode::empty())?;
            }
            assert_eq!(count(directory.path())?.stop, stop, "{beside} beside");
            Tree::open(directory.path())?.keep_only(&[])?;
        }
        Ok(())
    }

    #[test]
    fn a_directory_that_is_moved_meanwhile_is_said_to_be() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let (here, there) = (directory.path().join("here"), directory.path().join("there"));
        fs::create_dir(&here)?;
        fs::write(here.join("file"), "x")?;
        let tree = Tree::open(directory.path())?;
        let over = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(order) {
                    fs::rename(&here, &there).and_then(|()| fs::rename(&there, &here)).ok();
                }
            });
            let counts = std::iter::repeat_with(|| tree.count(bound(100)));
            let until = Instant::now() + Duration::from_secs(60);
            let seen = counts
                .take_while(|_| Instant::now() < until)
                .find(|count| !matches!(count, Ok(Count { stop: None, .. })));
            over.store(true, order);
            seen
        });
        assert_eq!(seen.ok_or("it was there each time")??.stop, Some(Stop::Moved));
        Ok(())
    }

    #[test]
    fn a_count_ends_at_its_bound_however_much_there_is() -> Result<()> {
        let directory = tempfile::tempdir()?;
        for number in 0..100 {
            File::create(directory.path().join(number.to_string()))?;
        }
        let tree = Tree::open(directory.path())?;
        let counted = tree.count(bound(100))?;
        assert_eq!((counted.files, counted.stop), (100, None));
        let counted = tree.count(bound(99))?;
        assert_eq!((counted.files, counted.stop), (99, Some(Stop::Files)));
        fs::create_dir(directory.path().join("d"))?;
        let late = Bound { until: Instant::now() - Duration::from_secs(1), ..bound(1000) };
        assert_eq!(tree.count(late)?.stop, Some(Stop::Time));
        Ok(())
    }
}
