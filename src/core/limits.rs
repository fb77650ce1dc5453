//! Every limit, on one screen, each with its reason. `noclaw serve` has a flag for the first block;
//! the second block bounds hostile input and is not for turning.

use std::time::Duration;

use super::quota::Space;

/// Bytes in a kibibyte.
pub const KIB: usize = 1024;
/// Bytes in a mebibyte.
pub const MIB: usize = 1024 * KIB;

/// What the owner may turn: defaults below, flags in `commands/serve/limits.rs`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A message's run: long enough for real work, short enough that a stuck one is noticed.
    pub run_timeout: Duration,
    /// Silence of the agent while no tool works: it streams, so three minutes without a line mean
    /// that it hangs.
    pub silence: Duration,
    /// A request's wait for its reply: below the usual 60 s of proxies.
    pub wait: Duration,
    /// Cells at a time: min(cores, (memory − 1 GiB) / 2 GiB, 4), at least 1.
    pub cells: usize,
    /// Cells at a time for one user, so that one user cannot fill the house.
    pub cells_per_user: usize,
    /// Memory of a cell in bytes, swap included; the agent's normal use is 200–400 MB.
    pub cell_memory: u64,
    /// Processes and threads of a cell: the agent itself has about 30.
    pub cell_pids: u64,
    /// CPUs of a cell, in thousandths.
    pub cell_cpu_millis: u64,
    /// Waiting messages of a user; more is a loop or a flood.
    pub queue_per_user: usize,
    /// Waiting messages in all: what a small machine answers within an hour.
    pub queue: usize,
    /// Messages a minute and at once, for a user.
    pub rate: Rate,
    /// Requests a minute and at once, for a token.
    pub token_rate: Rate,
    /// What a user's workspace may take of the disk: room for a few projects with all that they
    /// depend on, and quickly counted.
    pub workspace: Space,
    /// Bytes of the disk that stay free whatever cells write; below, runs end. A cell that writes
    /// as fast as it can takes half of it before it is stopped.
    pub disk_free: u64,
    /// Millionths of a US dollar a run may spend.
    pub budget_per_run: u64,
    /// The same for a user and day (UTC).
    pub budget_per_user_day: u64,
    /// The same for everybody and day (UTC).
    pub budget_per_day: u64,
}

/// A token bucket's size: `per_minute` flow back each minute, `burst` may be spent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many a minute.
    pub per_minute: u32,
    /// How many at once.
    pub burst: u32,
}

impl Limits {
    /// The defaults for a machine of `cores` and `memory` bytes.
    pub fn for_machine(cores: usize, memory: u64) -> Self {
        const GIB: u64 = 1024 * MIB as u64;
        let by_memory =
            usize::try_from(memory.saturating_sub(GIB) / (2 * GIB)).unwrap_or(usize::MAX);
        Self {
            run_timeout: Duration::from_secs(600),
            silence: Duration::from_secs(180),
            wait: Duration::from_secs(50),
            cells: cores.min(by_memory).clamp(1, 4),
            cells_per_user: 2,
            cell_memory: if memory < 4 * GIB { 3 * GIB / 2 } else { 2 * GIB },
            cell_pids: 256,
            cell_cpu_millis: 2000,
            queue_per_user: 20,
            queue: 200,
            rate: Rate { per_minute: 30, burst: 10 },
            token_rate: Rate { per_minute: 60, burst: 60 },
            workspace: Space { bytes: 10 * GIB, files: 200_000 },
            disk_free: GIB,
            budget_per_run: 500_000,
            budget_per_user_day: 3_000_000,
            budget_per_day: 10_000_000,
        }
    }
}

/// A message's text: several pages of pasted log, not an upload.
pub const MESSAGE_BYTES: usize = 256 * KIB;
/// A message's context, as JSON.
pub const CONTEXT_BYTES: usize = 64 * KIB;
/// A request's body: message, context and their JSON escapes.
pub const BODY_BYTES: usize = MIB;
/// A request's head; hyper refuses longer ones.
pub const HEADER_BYTES: usize = 16 * KIB;
/// Time in which a client must have sent its request's head or its body.
pub const REQUEST_TIME: Duration = Duration::from_secs(20);
/// Connections of a listener at a time; each costs about 20 KiB.
pub const CONNECTIONS: usize = 256;
/// The longest `?wait=` that a client may ask for.
pub const WAIT_MOST: Duration = Duration::from_secs(600);
/// Messages that one run may answer together.
pub const MESSAGES_PER_RUN: usize = 20;
/// The part of a day's budget at which the owner is told.
pub const BUDGET_NOTICE_PERCENT: u64 = 80;
/// Days after which a run's preflight and the keys of its messages are forgotten; its messages and
/// reply are kept for ever.
pub const DETAILS_KEPT_DAYS: i64 = 30;
/// How often a run is begun before it is given up.
pub const ATTEMPTS: u32 = 3;
/// Instructions (the owner's for all, the owner's for a user, the agent's notes), each.
pub const INSTRUCTIONS_BYTES: usize = 64 * KIB;
/// The launcher's program, of which a service keeps a copy; it has less than 3 MiB.
pub const LAUNCHER_BYTES: usize = 16 * MIB;
/// A reply that is kept; longer ones end in a note that says so.
pub const REPLY_BYTES: usize = MIB;

/// Create, init, attach and start of a container; Podman normally takes 40 ms.
pub const CELL_START: Duration = Duration::from_secs(60);
/// How long a create waits for those of other NoClaws at the same Podman.
pub const CREATE_TURN: Duration = Duration::from_secs(10);
/// Each step of an image's first container, which is its self-test's: Podman copies the image for
/// the users of cells. That is a second's work, and minutes' on a slow disk or processor.
pub const IMAGE_FIRST_USE: Duration = Duration::from_secs(600);
/// From the start of the service to its second look for containers of before: by then Podman has
/// made what it was making.
pub const STRAYS_AFTER: Duration = Duration::from_secs(30);
/// From the start of the cell to its preflight; normally 10 ms.
pub const PREFLIGHT_TIME: Duration = Duration::from_secs(20);
/// From go to the agent's answer to `initialize`; normally 200 ms.
pub const AGENT_START: Duration = Duration::from_secs(60);
/// From the agent's result to its exit. It flushes its transcript meanwhile.
pub const AGENT_EXIT: Duration = Duration::from_secs(10);
/// From a run's time-out to the moment when its cell ends by itself: the service has ended it by
/// then, unless it stands still.
pub const CELL_OVERDUE: Duration = Duration::from_secs(30);
/// One attempt to delete a container and to see it absent.
pub const CELL_END: Duration = Duration::from_secs(10);
/// Requests from a cell at the same time: the agent opens one or two.
pub const DOOR_STREAMS: u32 = 16;
/// `/hello`, `/preflight`, `/exit`: a preflight has about 32 mounts, 10 KiB.
pub const DOOR_BODY_BYTES: usize = 256 * KIB;
/// One line of the agent's stream: an image in a tool's result may be 5 MiB of base64.
pub const AGENT_LINE_BYTES: usize = 16 * MIB;
/// All the agent's stream of one run.
pub const AGENT_BYTES: usize = 512 * MIB;
/// Lines of the agent that are no JSON: some are survived, a flood is not.
pub const AGENT_BROKEN_LINES: u32 = 100;
/// What a run keeps of the cell's standard error: its last bytes.
pub const STDERR_BYTES: usize = 8 * KIB;
/// A conversation's transcript; a larger one counts as lost. It holds tools' results, with images.
pub const TRANSCRIPT_BYTES: usize = 64 * MIB;
/// How long a run's first tool call waits for the agent to write down what the model was shown. It
/// takes the agent up to 0.2 s from its request, most often less than the model needs to answer.
pub const TRANSCRIPT_WAIT: Duration = Duration::from_millis(500);
/// A model request's body: a long conversation with images.
pub const MODEL_BODY_BYTES: usize = 32 * MIB;
/// Model requests of one run at the same time; the agent makes one or two, and each may hold a
/// body.
pub const MODEL_CONCURRENT: usize = 4;
/// Nesting of a model request's JSON: a tool's schema has about ten levels. The parser itself stops
/// at 127.
pub const MODEL_BODY_DEPTH: usize = 100;
/// Keys of one object in it; they are held while it is read. The largest is a tool's input.
pub const MODEL_BODY_KEYS: usize = 4096;
/// Kinds of tools on the model's side that a request may offer: there are about a dozen.
pub const MODEL_SERVER_TOOLS: usize = 16;
/// Model requests of one run, refused ones too: the busiest run of ten minutes makes about 300.
pub const MODEL_REQUESTS: u32 = 1000;
/// What one run may send to the model in all: a thousand requests of a megabyte, which is a long
/// conversation each time.
pub const MODEL_SENT_BYTES: u64 = 1024 * MIB as u64;
/// What one run may be answered in all. The longest single answer is about 20 MiB of events.
pub const MODEL_ANSWER_BYTES: u64 = 512 * MIB as u64;
/// Time in which the model must begin to answer: before the agent counts as silent.
pub const MODEL_FIRST_BYTE: Duration = Duration::from_secs(150);
/// How long an agent that must end may take to stop by itself, before its cell is taken away.
pub const INTERRUPT_TIME: Duration = Duration::from_millis(400);
/// What is kept of a run's events for those who follow it: as much as a reply may have.
pub const EVENTS_BYTES: usize = MIB;
/// What one event tells of the agent's words; more at once are several events. A tool may write a
/// line as long as [`AGENT_LINE_BYTES`], and a log keeps its newest event whatever its size.
pub const EVENT_BYTES: usize = 16 * KIB;
/// What a follower is handed at once: it holds as much for a reader that does not read.
pub const EVENTS_BATCH_BYTES: usize = 64 * KIB;
/// What is kept in all of the events of runs that have ended.
pub const EVENTS_KEPT_BYTES: usize = MIB;
/// A reader of events that takes nothing for so long is dropped.
pub const WRITE_TIME: Duration = Duration::from_secs(30);
/// Between two signs of life on a stream of events that has nothing to tell.
pub const EVENTS_IDLE: Duration = Duration::from_secs(15);
/// From a halt to the end of the last connection to the model. Nothing is written to one meanwhile.
pub const HALT_TIME: Duration = Duration::from_secs(2);
/// The reason of a halt: a sentence or two.
pub const HALT_REASON_BYTES: usize = 500;
/// How long a request to halt waits for the ends of the runs that were going on.
pub const HALT_WAIT: Duration = Duration::from_secs(10);
/// Bytes of an `Idempotency-Key`.
pub const KEY_BYTES: usize = 255;
/// How long a request to cancel waits for the run's end.
pub const CANCEL_WAIT: Duration = Duration::from_secs(10);
/// Folders that a user is granted: each is a mount of every cell, and a line of its instructions.
pub const MOUNTS_PER_USER: usize = 16;
/// How long the owner's folders may take to be opened before a run; one may lie on a disk that
/// sleeps, or on a server that is gone.
pub const MOUNTS_TIME: Duration = Duration::from_secs(10);
/// The mount allowlist as a file: full lists of paths and names of ordinary length.
pub const ALLOWLIST_BYTES: usize = 64 * KIB;
/// Roots of the mount allowlist: more than anybody can keep in mind.
pub const ALLOWED_ROOTS: usize = 64;
/// The owner's patterns of blocked names.
pub const BLOCKED_PATTERNS: usize = 256;
/// One of them: a few names, each as long as file systems have them.
pub const BLOCKED_PATTERN_BYTES: usize = 512;
/// What is looked at of a folder that is to be granted, to tell its owner what it holds.
pub const INSIDE_ENTRIES: usize = 50_000;
/// How long that may take: a person waits for it.
pub const INSIDE_TIME: Duration = Duration::from_secs(2);
/// What is named of it.
pub const INSIDE_NAMED: usize = 5;
/// A folder's path, as the kernel takes it.
pub const FOLDER_PATH_BYTES: usize = 4095;
/// A conversation's folder of transcripts: its head's and the run's own, and what the agent keeps
/// beside them until the run ends.
pub const TRANSCRIPTS: Space = Space { bytes: 4 * TRANSCRIPT_BYTES as u64, files: 1000 };
/// How often a run's disk is looked at: it takes two microseconds, and at a gigabyte a second a
/// tenth of one is written in between.
pub const DISK_LOOK: Duration = Duration::from_millis(100);
/// Between two counts of a small workspace that does not seem to grow.
pub const COUNT_AGAIN: Duration = Duration::from_secs(5);
/// A workspace of so few files is counted before each run: it takes ten milliseconds, while the
/// cell is being made.
pub const QUICKLY_COUNTED: u64 = 4000;
/// Files that must stay free on a disk that says how many can be made, as bytes must.
pub const DISK_FILES: u64 = 20_000;
/// What a run that begins with a full workspace may add while it cleans up.
pub const QUOTA_SLACK: Space = Space { bytes: 16 * MIB as u64, files: 100 };
/// The part of a workspace's quota from which on the owner and the agent are told.
pub const QUOTA_NOTICE_PERCENT: u64 = 80;
/// Directories in each other that are followed where an agent can make them: a path of a thousand
/// names is longer than the kernel takes one (4096 bytes), so no program needs more.
pub const TREE_DEPTH: usize = 1024;
/// Files and directories of a workspace that are counted for people; it takes a second or two.
pub const COUNT_FILES: u64 = 1_000_000;
/// How long a count may take: a slow disk is not read for minutes to tell a number.
pub const COUNT_TIME: Duration = Duration::from_secs(20);
/// Open files of a cell's process.
pub const CELL_NOFILE: u64 = 4096;
/// The largest file that a cell may write.
pub const CELL_FSIZE: u64 = 1024 * MIB as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_gets_one_small_cell() {
        let limits = Limits::for_machine(8, 2 * 1024 * MIB as u64);
        assert_eq!((limits.cells, limits.cell_memory), (1, 1536 * MIB as u64));
        assert_eq!(Limits::for_machine(2, 24 * 1024 * MIB as u64).cells, 2);
        assert_eq!(Limits::for_machine(64, 1 << 40).cells, 4);
    }
}
