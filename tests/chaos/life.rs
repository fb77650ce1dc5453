//! The life of a house, round by round.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::check;
use super::deck::Card;
use super::ledger::Ledger;
use super::model::Model;
use super::processes::processes;
use super::random::Random;
use super::sender::Sender;
use super::support::podmans::OtherPodman;
use super::support::{House, Result, until};

const SENDERS: usize = 3;
/// Messages of each sender in a round.
const MESSAGES: u64 = 2;
/// From the senders' first words to what befalls them; a message is answered within this.
const MOMENT_MS: u64 = 1500;
/// In percent: rounds after which all is waited for. The others run into the next one.
const QUIET: u64 = 65;
/// Pages that a full disk still has, at most.
const PAGES: u64 = 4;
const PAGE_BYTES: u64 = 4096;

/// What came of it.
#[derive(Debug, Default)]
pub struct Figures {
    befell: BTreeMap<&'static str, u64>,
    ends: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
    sent: usize,
    accepted: usize,
    starts: u64,
    requests: usize,
}

impl Figures {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn befell(&mut self, card: Card) {
        *self.befell.entry(card.name()).or_default() += 1;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { befell, ends, refused, sent, accepted, starts, requests } = self;
        write!(f, "{sent} messages, {accepted} accepted, refusals {refused:?}, runs {ends:?}, ")?;
        write!(f, "befell {befell:?}, {starts} starts, {requests} model requests")
    }
}

pub struct Life<'a> {
    house: House,
    model: &'a Model,
    ledger: Ledger,
    senders: Vec<JoinHandle<Result>>,
    starts: u64,
    requests: usize,
}

impl<'a> Life<'a> {
    pub fn begin(podman: &OtherPodman, model: &'a Model) -> Result<Self> {
        let many = ["--rate", "1000000", "--burst", "1000000", "--queue-per-user", "1000"];
        let mut house = House::closed(&podman.socket(), &many)?;
        house.key("any-key")?;
        house.args(&["--model-api", &model.url]);
        house.args(&["--budget-run", "1000", "--budget-user", "100000", "--budget", "100000"]);
        house.args(&["--queue", "1000", "--max-cells", "3", "--stop-time", "1"]);
        house.env("NOCLAW_TEST_PAGES", &house.point("pages")?.display().to_string());
        let ledger = Ledger::default();
        let mut life = Self { house, model, ledger, senders: Vec::new(), starts: 0, requests: 0 };
        life.open()?;
        Ok(life)
    }

    fn open(&mut self) -> Result {
        self.starts += 1;
        self.house.open()
    }

    /// One round. `last`: all is waited for.
    pub fn round(
        &mut self,
        round: u64,
        card: Card,
        random: &mut Random,
        podman: &mut OtherPodman,
        last: bool,
    ) -> Result {
        self.prepare(card, random)?;
        for number in 0..SENDERS {
            let (socket, ledger) = (self.house.socket(), self.ledger.clone());
            let (random, wish) = (random.fork(), card.wish());
            let sender = Sender { socket, ledger, random, round, number, wish };
            self.senders.push(thread::spawn(move || sender.send(MESSAGES)));
        }
        self.befall(card, random, podman)?;
        for sender in self.senders.drain(..) {
            sender.join().map_err(|_| "a sender broke")??;
        }
        if last || random.percent(QUIET) { self.look() } else { Ok(()) }
    }

    /// What must be so before the senders begin.
    fn prepare(&mut self, card: Card, random: &mut Random) -> Result {
        match card {
            Card::KillAt(point) => {
                fs::remove_file(self.house.point("paused")?).ok();
                self.house.close()?;
                let pause = format!("{point}:{}", self.house.point("paused")?.display());
                self.house.env("NOCLAW_TEST_PAUSE", &pause);
                self.open()
            }
            Card::Disk => {
                self.house.close()?;
                let database = fs::metadata(self.house.path("state/noclaw.db"))?.len();
                let pages = database / PAGE_BYTES + random.below(PAGES);
                fs::write(self.house.point("pages")?, pages.to_string())?;
                self.open()
            }
            _ => Ok(()),
        }
    }

    fn befall(&mut self, card: Card, random: &mut Random, podman: &mut OtherPodman) -> Result {
        match card {
            Card::Peace => Ok(()),
            Card::Kill => {
                random.pass(MOMENT_MS);
                self.killed()
            }
            Card::KillAt(point) => {
                let paused = self.house.point("paused")?;
                until(point, || paused.exists().then_some(()))?;
                random.pass(300);
                self.house.env("NOCLAW_TEST_PAUSE", "");
                self.killed()
            }
            Card::Stop => {
                random.pass(MOMENT_MS);
                self.house.close()?;
                self.open()
            }
            Card::Podman => {
                random.pass(MOMENT_MS);
                podman.kill()?;
                random.pass(1000);
                podman.open()
            }
            Card::Monitor => {
                let found = until("a cell has a monitor", || {
                    let containers = self.house.containers().ok()?;
                    containers.iter().find_map(|container| monitor(container))
                })?;
                random.pass(1000);
                // Its cell may have ended meanwhile.
                kill(found, Signal::SIGKILL).ok();
                Ok(())
            }
            Card::Disk => {
                random.pass(MOMENT_MS);
                Ok(fs::remove_file(self.house.point("pages")?)?)
            }
        }
    }

    /// The service dies and is started again.
    fn killed(&mut self) -> Result {
        self.house.kill()?;
        let left = self.house.containers()?;
        self.ledger.lock().containers.extend(left);
        self.open()
    }

    fn look(&mut self) -> Result {
        check::quiet(&self.house)?;
        let shown = self.model.shown()?;
        self.requests += shown.len();
        check::all(&self.house, &self.ledger, &shown)
    }

    pub fn logged(&self) -> String {
        self.house.logged()
    }

    /// The last look; once more after a stop and a start.
    pub fn end(&mut self, figures: &mut Figures) -> Result {
        check::histories(&self.house, &self.ledger)?;
        self.look()?;
        self.house.close()?;
        self.open()?;
        self.look()?;
        let book = self.ledger.lock();
        for ended in book.ended.values() {
            let status = ended.view["status"].as_str().unwrap_or_default();
            let error = ended.view["error"].as_str().and_then(|error| error.split(':').next());
            let why = error.filter(|_| status == "failed").map(|error| format!(" {error}"));
            *figures.ends.entry(format!("{status}{}", why.unwrap_or_default())).or_default() += 1;
        }
        for (why, times) in &book.refused {
            *figures.refused.entry(why.clone()).or_default() += times;
        }
        figures.sent += book.sent.len();
        figures.accepted += book.sent.iter().filter(|sent| sent.run.is_some()).count();
        figures.starts += self.starts;
        figures.requests += self.requests;
        Ok(())
    }
}

/// The monitor of this container.
fn monitor(container: &str) -> Option<Pid> {
    let watches = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let first = words.next().unwrap_or_default();
        first.ends_with(b"conmon") && words.any(|word| word == container.as_bytes())
    };
    processes().into_iter().find(watches).map(Pid::from_raw)
}
