//! A tree, what is outside of it, and who swaps what is in it.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::Mode;

use super::Result;

/// What no verb may read.
pub const CANARY: &str = "CANARY: a file outside";
/// What stands in the tree's own files.
pub const HONEST: &str = "a file of the tree's own";
/// Nothing in the tree is as large; a file outside is.
pub const LARGE: u64 = 1 << 20;

/// A directory for one race:
///
/// ```text
/// tree/x, tree/middle/x     what the verbs are called with
/// tree/…                    what is swapped in: on the same file system, and the tree's own
/// outside/x, outside/inner/ what must stay as it is
/// ```
pub struct Ground {
    dir: tempfile::TempDir,
    tree: PathBuf,
    before: Vec<Seen>,
}

/// What is known of a file outside: all that a verb could change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    mode: u32,
    links: u64,
    changed: (i64, i64),
    text: Option<Vec<u8>>,
}

impl Ground {
    /// Makes both.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("inner"))?;
        for file in ["x", "CLAUDE.md", "inner/x"] {
            fs::write(outside.join(file), CANARY)?;
        }
        File::create(outside.join("inner/large"))?.write_all(&vec![0; LARGE as usize])?;
        fs::set_permissions(outside.join("inner"), Permissions::from_mode(0o500))?;
        let tree = dir.path().join("tree");
        let mut ground = Self { dir, tree, before: Vec::new() };
        ground.honest()?;
        ground.before = ground.seen()?;
        Ok(ground)
    }

    /// Where the tree is.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// The tree as nobody swapped it.
    pub fn honest(&self) -> Result {
        fs::create_dir_all(self.tree.join("middle"))?;
        for name in ["x", "middle/x"] {
            fs::write(self.tree.join(name), HONEST)?;
        }
        Ok(())
    }

    /// Whether nothing outside was written to, added or removed.
    pub fn outside_is_whole(&self) -> Result {
        match self.seen()? == self.before {
            true => Ok(()),
            false => Err("the outside is another".into()),
        }
    }

    fn seen(&self) -> Result<Vec<Seen>> {
        let (outside, mut seen) = (self.outside(), Vec::new());
        for folder in [outside.clone(), outside.join("inner")] {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let meta = fs::symlink_metadata(&path)?;
                let small = meta.is_file() && meta.len() < LARGE;
                let text = small.then(|| fs::read(&path)).transpose()?;
                let changed = (meta.mtime(), meta.mtime_nsec());
                seen.push(Seen { path, mode: meta.mode(), links: meta.nlink(), changed, text });
            }
        }
        seen.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(seen)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        fs::set_permissions(self.outside().join("inner"), Permissions::from_mode(0o700)).ok();
    }
}

/// How often something was swapped.
#[derive(Clone)]
pub struct Swaps {
    count: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Swaps {
    /// Waits until there was one more.
    pub fn wait_for_another(&self) {
        let before = self.count.load(Ordering::Acquire);
        while self.count.load(Ordering::Acquire) == before && !self.over.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

/// The thread that swaps.
pub struct Racer {
    swaps: Swaps,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    /// Begins.
    pub fn start(ground: &Ground) -> Result<Self> {
        let stakes = Stakes::of(ground);
        stakes.lay()?;
        let swaps = Swaps { count: Arc::default(), over: Arc::default() };
        let own = swaps.clone();
        let thread = thread::spawn(move || {
            while !own.over.load(Ordering::Acquire) {
                for swap in 0..Stakes::SWAPS {
                    stakes.swap(swap);
                    own.count.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        Ok(Self { swaps, thread: Some(thread) })
    }

    /// How often it has swapped.
    pub fn swaps(&self) -> Swaps {
        self.swaps.clone()
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.swaps.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What is put in the place of a file, and of the directory above it.
struct Stakes {
    tree: PathBuf,
    outside: PathBuf,
    // The stakes lie here while they are not in the tree: the verbs remove what they find.
    aside: PathBuf,
}

impl Stakes {
    const SWAPS: usize = 16;

    fn of(ground: &Ground) -> Self {
        let aside = ground.dir.path().join("aside");
        Self { tree: ground.tree.clone(), outside: ground.outside(), aside }
    }

    fn lay(&self) -> Result {
        Ok(fs::create_dir_all(&self.aside)?)
    }

    /// One swap. What cannot be made has been raced by a verb that removed it: it is made again.
    fn swap(&self, number: usize) {
        let (place, stake) = match number % 4 {
            0 | 2 => (self.tree.join("middle"), self.aside.join("middle")),
            1 => (self.tree.join("x"), self.aside.join("x")),
            _ => (self.tree.join("middle/x"), self.aside.join("x")),
        };
        let exchange = RenameFlags::RENAME_EXCHANGE;
        fs::remove_file(&stake).or_else(|_| fs::remove_dir_all(&stake)).ok();
        match number {
            // In place of the directory in the middle: the outside, an empty one, an honest one.
            0 | 8 => drop(symlink(&self.outside, &stake)),
            4 => drop(symlink(self.outside.join("inner"), &stake)),
            2 | 6 | 10 | 12 | 14 => {
                fs::create_dir(&stake).ok();
                fs::write(stake.join("x"), HONEST).ok();
            }
            // In place of the file: links, a FIFO, a directory, an honest one. That in the middle
            // is swapped while the middle is the tree's own: the racer, too, stays inside.
            1 => drop(symlink(self.outside.join("x"), &stake)),
            3 => drop(symlink("../../outside/x", &stake)),
            5 => drop(nix::unistd::mkfifo(&stake, Mode::S_IRWXU)),
            7 => drop(symlink("/dev/zero", &stake)),
            9 => drop(symlink(self.outside.join("inner"), &stake)),
            11 => drop(fs::create_dir(&stake)),
            _ => drop(fs::write(&stake, HONEST)),
        }
        if renameat2(AT_FDCWD, &stake, AT_FDCWD, &place, exchange).is_err() {
            fs::rename(&stake, &place).ok();
        }
    }
}
