//! What a folder that cells write to may take of the disk, and when a run must end for it.
//!
//! Nothing in the kernel bounds a folder for an ordinary user (project quotas are root's,
//! RLIMIT_FSIZE bounds one file), so it is counted. A count is dear where there are many files;
//! what is free of the file system costs nothing to ask, and a folder cannot have grown by more
//! than that fell. So a [`Guard`] is shown what is free, often, and has the folder counted when
//! that says it may be full:
//!
//! | at a look | what follows |
//! |---|---|
//! | it is the first, and there were few files | a count, before the agent has begun |
//! | less is free than must stay free | the run ends |
//! | the file system has lost what the folder had room for | a count, for at most a tenth of the time |
//! | the last count is old | a count, for at most a hundredth of the time |
//! | a count finds more than may be there | the run ends |
//! | directories were moved during each of several counts, and the file system has lost more than the folder had room for | the run ends |
//!
//! The third row alone could be deceived: others may delete while a cell writes, and files that
//! were deleted but are still open are in no folder. The next one and the one before
//! bound that. A count, too, can be deceived, by who moves folders about while it goes on: what it
//! missed is seen by the one after the run; until then what must stay free bounds it.
//!
//! A run that begins with a full workspace may go on, so that the agent can clean up; it may not
//! add to it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::{COUNT_AGAIN, COUNT_FILES, DISK_FILES, QUICKLY_COUNTED, QUOTA_SLACK};

/// A part of the time that counts may take: one in so many.
const OLD: u32 = 100;
/// The same while the file system says that the folder may be full.
const GROWN: u32 = 10;
/// So many counts in a row that found directories moved, and a folder that may be full is taken for
/// full. Who deletes a tree, or builds in it, is hardly met so often.
const MOVED: u32 = 5;

/// What a folder takes of the disk, or may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that are allocated.
    pub bytes: u64,
    /// Files and directories.
    pub files: u64,
}

/// What is free of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Bytes that its users may still take.
    pub bytes: u64,
    /// Files that may still be made; `None` where it does not say.
    pub files: Option<u64>,
}

impl Space {
    /// Whether `used` fits in it.
    pub const fn holds(&self, used: Self) -> bool {
        used.bytes <= self.bytes && used.files <= self.files
    }

    /// How much of it `used` takes, in percent.
    pub fn percent(&self, used: Self) -> u64 {
        let part = |used: u64, all: u64| {
            u64::try_from(u128::from(used) * 100 / u128::from(all.max(1))).unwrap_or(u64::MAX)
        };
        part(used.bytes, self.bytes).max(part(used.files, self.files))
    }

    /// So many percent of it.
    #[must_use]
    pub const fn part(&self, percent: u64) -> Self {
        Self { bytes: self.bytes / 100 * percent, files: self.files / 100 * percent }
    }

    fn plus(self, more: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(more.bytes),
            files: self.files.saturating_add(more.files),
        }
    }

    fn each(self, other: Self, which: impl Fn(u64, u64) -> u64) -> Self {
        Self { bytes: which(self.bytes, other.bytes), files: which(self.files, other.files) }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} files", size(self.bytes), self.files)
    }
}

/// A number of bytes for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut rest = bytes;
    let mut tenths = 0;
    let mut name = "bytes";
    for unit in units {
        if rest < 1024 {
            break;
        }
        (tenths, rest, name) = (rest % 1024 * 10 / 1024, rest / 1024, unit);
    }
    if name == "bytes" { format!("{bytes} bytes") } else { format!("{rest}.{tenths} {name}") }
}

/// Why a run must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// The folder holds too much.
    #[error("the {folder} takes {used}; {quota} are allowed{}", advice(folder))]
    Folder {
        /// Which one: workspace or transcripts.
        folder: &'static str,
        /// What was counted, before the count was given up.
        used: Space,
        /// What may be there.
        quota: Space,
    },
    /// It cannot be counted.
    #[error("directories in the {folder} are nested too deep to be counted{}", advice(folder))]
    Depth {
        /// Which one.
        folder: &'static str,
    },
    /// It was never still enough to be counted.
    #[error(
        "directories in the {folder} were moved during each of {MOVED} counts, and the disk has \
         lost more than there is room for in it{}",
        advice(folder)
    )]
    Moved {
        /// Which one.
        folder: &'static str,
    },
    /// The file system is nearly full, with whatever it is.
    #[error(transparent)]
    Disk(#[from] Low),
    /// That of a folder of the owner's is.
    #[error("{folder}: {low}")]
    Granted {
        /// Where the cell has it.
        folder: String,
        /// What it lacks.
        #[source]
        low: Low,
    },
}

/// What a file system that is nearly full lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Low {
    /// Room.
    #[error("only {} of the disk are free, and {} must stay free", size(*free), size(*floor))]
    Bytes {
        /// What is free, in bytes.
        free: u64,
        /// What must stay free.
        floor: u64,
    },
    /// Files.
    #[error("only {free} more files can be made on the disk, and {DISK_FILES} must stay free")]
    Files {
        /// How many can be made.
        free: u64,
    },
}

fn advice(folder: &str) -> &'static str {
    match folder {
        WORKSPACE => {
            "; delete what is not needed there (a run may begin to do that, but not add to it; \
             `noclaw user show` says where it is), or allow more: serve --workspace-size, \
             --workspace-files"
        }
        _ => "",
    }
}

/// What to do about a disk that is nearly full.
pub const MAKE_ROOM: &str = "delete what is not needed there, or have less kept free: \
    noclaw serve --disk-free MIB";

/// The folder that a user's cells share.
pub const WORKSPACE: &str = "workspace";
/// The folder of one conversation's transcripts.
pub const TRANSCRIPTS: &str = "folder of transcripts";

/// Whether as much is free as must be: `floor` bytes, and some files, unless nothing need be.
///
/// # Errors
/// What is lacking.
pub const fn enough(free: Free, floor: u64) -> Result<(), Low> {
    match free {
        Free { bytes, .. } if bytes < floor => Err(Low::Bytes { free: bytes, floor }),
        Free { files: Some(files), .. } if files < DISK_FILES && floor > 0 => {
            Err(Low::Files { free: files })
        }
        _ => Ok(()),
    }
}

/// What a count has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// All of it.
    Whole(Space),
    /// So much, and there is more.
    More(Space),
    /// Something is nested too deep.
    TooDeep,
    /// It took too long to tell.
    Unknown,
    /// At least so much: directories were moved meanwhile.
    Moved(Space),
}

/// A count: what was found, and the conditions. Times are since the run began.
#[derive(Debug, Clone, Copy)]
pub struct Count {
    /// What was found.
    pub found: Counted,
    /// What was free when it began.
    pub free: Free,
    /// When it began.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
}

/// Watches one folder during one run.
#[derive(Debug, Clone)]
pub struct Guard {
    folder: &'static str,
    quota: Space,
    // What may be there: the quota, or what was there when the run began.
    most: Space,
    // What was there at the last count, or is believed to have been.
    used: Space,
    // What was free then.
    free: Free,
    counted: bool,
    // Counts in a row in which directories were moved.
    moved: u32,
    began: Duration,
    took: Duration,
}

impl Guard {
    /// Of a run that begins now. `used` is what was last known of the folder.
    pub fn new(folder: &'static str, quota: Space, used: Space, free: Free) -> Self {
        let most = full_or(quota, used);
        let (began, took) = (Duration::ZERO, Duration::ZERO);
        Self { folder, quota, most, used, free, counted: false, moved: 0, began, took }
    }

    /// Whether the folder is to be counted now.
    pub fn wants_count(&self, free: Free, now: Duration) -> bool {
        // At once where it costs a moment: the agent has not begun, and what is there is not its.
        if !self.counted && self.took.is_zero() && self.used.files <= QUICKLY_COUNTED {
            return true;
        }
        let since = now.saturating_sub(self.began);
        let grown = self.lost(free).each(self.room(), |lost, room| u64::from(lost >= room.max(1)));
        if grown.bytes + grown.files > 0 && since >= self.took.saturating_mul(GROWN) {
            return true;
        }
        since >= COUNT_AGAIN.max(self.took.saturating_mul(OLD))
    }

    /// How many files the next count needs to look at: one more is too many. What was there before
    /// this run is counted as far as people are told.
    pub fn bound(&self) -> u64 {
        let most = if self.counted { self.most.files } else { self.most.files.max(COUNT_FILES) };
        most.saturating_add(1)
    }

    /// Takes what was counted.
    ///
    /// # Errors
    /// When the run must end.
    pub fn take(&mut self, count: Count) -> Result<(), Exceeded> {
        let lost = self.lost(count.free);
        (self.began, self.took) = (count.began, count.took);
        let used = match count.found {
            Counted::Whole(used) => used,
            Counted::More(used) => return Err(self.exceeded(used)),
            Counted::TooDeep => return Err(Exceeded::Depth { folder: self.folder }),
            // What it was may still be believed, and the next look may say that it has grown.
            Counted::Unknown => return Ok(()),
            Counted::Moved(used) => return self.take_moved(used, lost),
        };
        self.moved = 0;
        self.most = match self.counted {
            // What was there when it was last counted, and what this run cannot have added, was
            // there before it. Others may have written meanwhile: then it is thought to be less.
            false => {
                let before = used.each(lost, u64::saturating_sub).each(self.used, Ord::max);
                full_or(self.quota, before.each(used, Ord::min))
            }
            // What was deleted may not come back.
            true => self.most.each(full_or(self.quota, used), Ord::min),
        };
        (self.used, self.free, self.counted) = (used, count.free, true);
        if self.most.holds(used) { Ok(()) } else { Err(self.exceeded(used)) }
    }

    /// Of what was counted, only that there is as much. What was known before stays, so that the
    /// folder may soon be full again, and is counted anew.
    fn take_moved(&mut self, used: Space, lost: Space) -> Result<(), Exceeded> {
        self.moved += 1;
        // What was there before the run is not known before the first count of all of it.
        if self.counted && !self.most.holds(used) {
            return Err(self.exceeded(used));
        }
        // What the disk has lost, and was not found.
        let missing = lost.each(used.each(self.used, u64::saturating_sub), u64::saturating_sub);
        let room = self.most.each(used, u64::saturating_sub);
        let may_be_full = missing.bytes > room.bytes || missing.files > room.files;
        match may_be_full && self.moved >= MOVED {
            true => Err(Exceeded::Moved { folder: self.folder }),
            false => Ok(()),
        }
    }

    fn exceeded(&self, used: Space) -> Exceeded {
        Exceeded::Folder { folder: self.folder, used, quota: self.quota }
    }

    /// What the file system has lost since the last count; the folder cannot have grown by more.
    fn lost(&self, free: Free) -> Space {
        let files = self.free.files.zip(free.files);
        Space {
            bytes: self.free.bytes.saturating_sub(free.bytes),
            files: files.map_or(0, |(before, now)| before.saturating_sub(now)),
        }
    }

    fn room(&self) -> Space {
        self.most.each(self.used, u64::saturating_sub)
    }
}

/// What may be in a folder: its quota, or what is there already and a little for the clean-up.
fn full_or(quota: Space, there: Space) -> Space {
    let more = there.plus(QUOTA_SLACK);
    Space {
        bytes: if there.bytes > quota.bytes { more.bytes } else { quota.bytes },
        files: if there.files > quota.files { more.files } else { quota.files },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Space = Space { bytes: 1 << 30, files: 1000 };
    const START: Free = Free { bytes: 100 << 30, files: Some(1_000_000) };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn less(free: Free, by: Space) -> Free {
        let files = free.files.map(|files| files - by.files);
        Free { bytes: free.bytes - by.bytes, files }
    }

    fn whole(used: Space, free: Free, began: Duration) -> Count {
        Count { found: Counted::Whole(used), free, began, took: Duration::from_millis(1) }
    }

    #[test]
    fn sizes_and_parts_are_for_people() {
        for (bytes, shown) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10.0 GiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        let used = |bytes, files| QUOTA.percent(Space { bytes, files });
        assert_eq!((used(1 << 29, 1), used(0, 995), used(1 << 31, 0)), (50, 99, 200));
        assert_eq!(Space::default().percent(Space { bytes: 1, files: 0 }), 100);
        assert!(QUOTA.holds(QUOTA) && !QUOTA.holds(Space { files: 1001, ..QUOTA }));
    }

    #[test]
    fn few_files_are_counted_before_the_agent_begins() -> Result<(), Exceeded> {
        let wants = |guard: &Guard| guard.wants_count(START, Duration::ZERO);
        let few = Space { bytes: 0, files: QUICKLY_COUNTED };
        let many = Space { files: QUICKLY_COUNTED + 1, ..few };
        assert!(!wants(&Guard::new(WORKSPACE, QUOTA, many, START)));
        let mut guard = Guard::new(WORKSPACE, QUOTA, few, START);
        assert!(wants(&guard));
        guard.take(whole(Space::default(), START, Duration::ZERO))?;
        assert!(!wants(&guard));
        Ok(())
    }

    #[test]
    fn a_folder_is_counted_when_the_disk_has_lost_what_it_had_room_for() {
        let used = Space { bytes: 1 << 29, files: 600 };
        let mut guard = Guard::new(WORKSPACE, QUOTA, used, START);
        assert_eq!(guard.take(whole(used, START, Duration::ZERO)), Ok(()));
        let now = Duration::from_millis(100);
        for (lost, counted) in [
            (Space { bytes: (1 << 29) - 1, files: 399 }, false),
            (Space { bytes: 1 << 29, files: 0 }, true),
            (Space { bytes: 0, files: 400 }, true),
        ] {
            assert_eq!(guard.wants_count(less(START, lost), now), counted, "{lost:?}");
        }
        let silent = Free { files: None, ..START };
        assert!(!guard.wants_count(silent, now), "a file system that counts no files");
        assert!(guard.wants_count(START, COUNT_AGAIN), "the last count is old");
    }

    #[test]
    fn counts_take_a_small_part_of_the_time() -> Result<(), Exceeded> {
        let mut guard = Guard::new(WORKSPACE, QUOTA, Space::default(), START);
        let took = seconds(2);
        guard.take(Count { took, ..whole(Space::default(), START, seconds(10)) })?;
        let full = less(START, QUOTA);
        assert!(!guard.wants_count(full, seconds(29)) && guard.wants_count(full, seconds(30)));
        assert!(!guard.wants_count(START, seconds(209)) && guard.wants_count(START, seconds(210)));
        Ok(())
    }

    #[test]
    fn what_was_there_before_may_stay_and_not_grow() -> Result<(), Exceeded> {
        let there = Space { bytes: 5 << 30, files: 10 };
        let more = |bytes: u64| Space { bytes: there.bytes + bytes, ..there };
        // Nobody knew of it when the run began: its owner has put it there.
        let mut guard = Guard::new(WORKSPACE, QUOTA, Space::default(), START);
        guard.take(whole(there, START, seconds(5)))?;
        guard.take(whole(more(QUOTA_SLACK.bytes), START, seconds(10)))?;
        let grown = guard.clone().take(whole(more(QUOTA_SLACK.bytes + 1), START, seconds(15)));
        assert!(matches!(grown, Err(Exceeded::Folder { quota: QUOTA, .. })), "{grown:?}");
        // What was deleted does not come back.
        let less = Space { bytes: 2 << 30, ..there };
        guard.take(whole(less, START, seconds(15)))?;
        assert!(guard.clone().take(whole(there, START, seconds(20))).is_err());
        guard.take(whole(Space::default(), START, seconds(20)))?;
        guard.take(whole(QUOTA, START, seconds(25)))?;
        let over = Space { files: QUOTA.files + 1, ..QUOTA };
        assert!(guard.take(whole(over, START, seconds(30))).is_err());
        Ok(())
    }

    #[test]
    fn what_the_run_may_have_added_was_not_there_before() {
        let there = Space { bytes: 5 << 30, files: 10 };
        let mut guard = Guard::new(WORKSPACE, QUOTA, Space::default(), START);
        let free = less(START, Space { bytes: (4 << 30) + 1, files: 0 });
        assert!(guard.take(whole(there, free, seconds(1))).is_err());
        // If it was known to be there, it was others who wrote.
        let mut known = Guard::new(WORKSPACE, QUOTA, there, START);
        assert_eq!(known.take(whole(there, free, seconds(1))), Ok(()));
        let mut less = Guard::new(WORKSPACE, QUOTA, Space { bytes: 3 << 30, files: 10 }, START);
        assert!(less.take(whole(there, free, seconds(1))).is_err(), "two GiB more than that");
    }

    #[test]
    fn what_cannot_be_counted_ends_a_run_and_what_takes_too_long_does_not() {
        let guard = Guard::new(WORKSPACE, QUOTA, Space::default(), START);
        let take = |found| guard.clone().take(Count { found, ..whole(QUOTA, START, seconds(1)) });
        assert_eq!(take(Counted::TooDeep), Err(Exceeded::Depth { folder: WORKSPACE }));
        assert!(take(Counted::More(QUOTA)).is_err());
        assert_eq!(take(Counted::Unknown), Ok(()));
        let mut counted = guard.clone();
        assert_eq!(
            (guard.bound(), counted.take(whole(QUOTA, START, seconds(1)))),
            (1_000_001, Ok(()))
        );
        assert_eq!(counted.bound(), QUOTA.files + 1);
    }

    #[test]
    fn who_moves_folders_while_they_are_counted_and_fills_the_disk_is_ended() {
        let moved =
            |used, free| Count { found: Counted::Moved(used), ..whole(used, free, seconds(1)) };
        let mut guard = Guard::new(WORKSPACE, QUOTA, Space::default(), START);
        assert_eq!(guard.take(whole(Space::default(), START, seconds(1))), Ok(()));
        let found = Space { bytes: 1 << 28, files: 10 };
        let full = less(START, Space { bytes: (1 << 30) + 1, ..found });
        // As much as was found is no mystery, and what stands still for one count is known again.
        for _ in 0..=MOVED {
            assert_eq!(guard.take(moved(found, less(START, found))), Ok(()));
        }
        let mut still = guard.clone();
        assert_eq!(still.take(whole(found, full, seconds(2))), Ok(()));
        assert_eq!(still.take(moved(found, full)), Ok(()));
        let ended = Err(Exceeded::Moved { folder: WORKSPACE });
        assert_eq!(guard.take(moved(found, full)), ended);
        assert!(guard.wants_count(full, seconds(2)), "what was known before stays");
        let over = Space { files: QUOTA.files + 1, ..QUOTA };
        assert!(matches!(still.take(moved(over, full)), Err(Exceeded::Folder { .. })));
    }

    #[test]
    fn the_floor_of_the_disk_holds_for_all() {
        assert_eq!(enough(START, START.bytes), Ok(()));
        let low = enough(START, START.bytes + 1).err().map(|e| e.to_string());
        assert!(low.unwrap_or_default().starts_with("only 100.0 GiB of the disk are free"));
        let files = |files| Free { files, ..START };
        assert_eq!(enough(files(Some(DISK_FILES)), 1), Ok(()));
        assert_eq!(enough(files(None), 1), Ok(()));
        let few = Low::Files { free: DISK_FILES - 1 };
        assert_eq!(enough(files(Some(DISK_FILES - 1)), 1), Err(few));
        assert!(few.to_string().starts_with("only 19999 more files can be made"));
        assert_eq!(enough(files(Some(0)), 0), Ok(()), "nothing need be free");
    }
}
