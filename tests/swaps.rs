//! Races on the host: while a thread swaps what is in a tree as fast as it can, for links to the
//! outside, FIFOs, `/dev/zero` and directories, each verb of `host/tree.rs` is called a thousand
//! times. Nothing outside is read, written, counted or removed, and nothing waits.
//!
//! That the race would be lost by who checks a path and then uses it, another test shows.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

#[path = "swaps/by_path.rs"]
mod by_path;
#[path = "swaps/racer.rs"]
mod racer;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use noclaw::host::tree::Tree;
use noclaw::host::tree::count::Bound;
use racer::{CANARY, Ground, HONEST, LARGE, Racer};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T = ()> = std::result::Result<T, Error>;

/// Calls of each verb while there is a race.
const ROUNDS: u32 = 1000;
/// A call that takes longer is one that waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the race may take to be lost.
const DEADLINE: Duration = Duration::from_secs(60);
/// The most that is read of a file.
const MOST: usize = 4096;

/// What the verbs of a tree do, of the one under test and of one that is caught.
trait Verbs: Clone + Send + 'static {
    /// Reads a file, by its path beneath the tree.
    fn read(&self, path: &str) -> Result<Option<String>>;
    /// Puts another in its place.
    fn replace(&self, folder: &str, name: &str) -> Result;
    /// Removes all but one file.
    fn keep_only(&self, keep: &[&str]) -> Result<bool>;
    /// Removes a directory or file.
    fn remove(&self, name: &str) -> Result;
    /// How many bytes there are.
    fn count(&self) -> Result<u64>;
}

/// The module under test.
#[derive(Clone)]
struct ByHandle(std::sync::Arc<Tree>);

impl Verbs for ByHandle {
    fn read(&self, path: &str) -> Result<Option<String>> {
        Ok(self.0.read(path, MOST)?)
    }

    fn replace(&self, folder: &str, name: &str) -> Result {
        Ok(self.0.replace(folder, name, HONEST)?)
    }

    fn keep_only(&self, keep: &[&str]) -> Result<bool> {
        Ok(self.0.keep_only(keep)?)
    }

    fn remove(&self, name: &str) -> Result {
        Ok(self.0.remove(name)?)
    }

    fn count(&self) -> Result<u64> {
        let until = Instant::now() + DEADLINE;
        let counted = self.0.count(Bound { files: 10_000, until })?;
        Ok(counted.bytes.max(counted.allocated))
    }
}

/// A verb of the tree's, and what it may have seen of the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Read,
    ReadBelow,
    Replace,
    KeepOnly,
    Remove,
    Count,
}

const ALL: [Verb; 6] =
    [Verb::Read, Verb::ReadBelow, Verb::Replace, Verb::KeepOnly, Verb::Remove, Verb::Count];

/// Calls it once. `Ok(true)`: it did honest work; an error: it saw the outside.
fn call(verb: Verb, verbs: &impl Verbs) -> std::result::Result<bool, String> {
    let text = |read: Result<Option<String>>| match read {
        Ok(Some(text)) if text.contains(CANARY) => Err("it read the outside".to_owned()),
        Ok(Some(text)) if text != HONEST => Err("it read what is no file".to_owned()),
        Ok(Some(_)) => Ok(true),
        _ => Ok(false),
    };
    match verb {
        Verb::Read => text(verbs.read("x")),
        Verb::ReadBelow => text(verbs.read("middle/x")),
        Verb::Replace => Ok(verbs.replace("middle", "x").is_ok()),
        Verb::KeepOnly => Ok(verbs.keep_only(&["middle", "x"]).unwrap_or(false)),
        Verb::Remove => Ok(verbs.remove("middle").is_ok()),
        Verb::Count => match verbs.count() {
            Ok(bytes) if bytes >= LARGE => Err("it counted the outside".to_owned()),
            counted => Ok(counted.is_ok()),
        },
    }
}

/// What became of the rounds of one verb.
#[derive(Debug, Default)]
struct Told {
    honest: u32,
    refused: u32,
}

impl Told {
    fn add(&mut self, more: &Self) {
        self.honest += more.honest;
        self.refused += more.refused;
    }
}

/// Has each of `rounds` calls raced by at least one swap. Stops at the first look outside.
fn race(ground: &Ground, verb: Verb, verbs: impl Verbs, rounds: u32) -> Result<Told> {
    let racer = Racer::start(ground)?;
    let (say, said) = mpsc::channel();
    let swaps = racer.swaps();
    let caller = thread::spawn(move || {
        for _ in 0..rounds {
            swaps.wait_for_another();
            let done = call(verb, &verbs);
            let over = done.is_err();
            if say.send(done).is_err() || over {
                return;
            }
        }
    });
    let mut told = Told::default();
    for round in 0..rounds {
        // What waits for a FIFO is caught here.
        match said
            .recv_timeout(PATIENCE)
            .map_err(|_| format!("{verb:?} waits, in round {round}"))?
        {
            Ok(true) => told.honest += 1,
            Ok(false) => told.refused += 1,
            Err(outside) => return Err(format!("{verb:?}: {outside}, in round {round}").into()),
        }
        if round % 50 == 0 {
            ground.outside_is_whole().map_err(|e| format!("{verb:?}, in round {round}: {e}"))?;
        }
    }
    caller.join().map_err(|_| "the caller panicked")?;
    drop(racer);
    ground.outside_is_whole().map_err(|e| format!("{verb:?}: {e}"))?;
    Ok(told)
}

#[test]
fn no_swap_leads_a_verb_outside_and_none_waits() -> Result {
    for verb in ALL {
        let deadline = Instant::now() + DEADLINE;
        let mut told = Told::default();
        // Both happen, so there is a race, and honest work is done in it. With few processors a
        // thousand rounds may all fall between two swaps that matter: then there are more.
        while told.honest == 0 || (told.refused == 0 && verb != Verb::Count) {
            assert!(Instant::now() < deadline, "{verb:?} was not raced: {told:?}");
            let ground = Ground::new()?;
            let tree = ByHandle(Tree::open(ground.tree())?.into());
            let raced = race(&ground, verb, tree, ROUNDS)?;
            assert_eq!(raced.honest + raced.refused, ROUNDS, "{verb:?}: {raced:?}");
            told.add(&raced);
        }
        println!("{verb:?}: {told:?}");
    }
    Ok(())
}

#[test]
fn without_a_race_all_verbs_succeed() -> Result {
    let ground = Ground::new()?;
    let tree = ByHandle(Tree::open(ground.tree())?.into());
    for verb in ALL {
        ground.honest()?;
        assert_eq!(call(verb, &tree), Ok(true), "{verb:?}");
    }
    ground.outside_is_whole()
}

/// The same race against who looks at a path and then uses it: it is lost, so the race can be.
#[test]
fn who_checks_a_path_and_then_uses_it_is_caught() -> Result {
    for verb in ALL {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let ground = Ground::new()?;
            let caught = race(&ground, verb, by_path::ByPath(ground.tree().to_owned()), ROUNDS);
            if let Err(caught) = caught {
                println!("caught: {caught}");
                break;
            }
            assert!(Instant::now() < deadline, "{verb:?} by path was not caught");
        }
    }
    Ok(())
}
