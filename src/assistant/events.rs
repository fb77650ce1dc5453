//! What happens in a run, as it happens, for whoever follows it.
//!
//! Each run that is open has a log in memory; a follower reads it at its own speed. Nothing waits
//! for a follower: the log forgets its oldest events beyond [`EVENTS_BYTES`], and a follower that
//! had not read them is dropped. It can come back with the last number that it saw. Logs of runs
//! that have ended are kept within [`EVENTS_KEPT_BYTES`]; after that, and after a restart, a run's
//! only event is its result.
//!
//! Numbers rise, across restarts too: each attempt has a range of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::core::ids::RunId;
use crate::core::limits::{EVENT_BYTES, EVENTS_BATCH_BYTES, EVENTS_BYTES, EVENTS_KEPT_BYTES};
use crate::core::run::RunState;

/// More than the events of an attempt: the agent's output is limited.
const NUMBERS_PER_ATTEMPT: u64 = 10_000_000;
/// Events that are handed out at once, of [`EVENTS_BATCH_BYTES`] at most.
const BATCH: usize = 64;
/// What an event costs beside its text.
const OVERHEAD: usize = 64;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The run is now here; not told of final states, which have a result.
    State {
        /// Where.
        status: RunState,
        /// How often it was begun.
        attempts: u32,
    },
    /// The agent said something more.
    Delta(String),
    /// The agent called a tool.
    Tool {
        /// Its name.
        name: String,
        /// Its input, cut short.
        summary: String,
    },
    /// The run has its outcome, which is in the store. Nothing follows.
    Result,
}

impl Event {
    fn size(&self) -> usize {
        OVERHEAD
            + match self {
                Self::State { .. } | Self::Result => 0,
                Self::Delta(text) => text.len(),
                Self::Tool { name, summary } => name.len() + summary.len(),
            }
    }
}

/// The logs of all runs that are open, and of some that have ended.
#[derive(Debug, Default)]
pub struct Events(Mutex<Logs>);

#[derive(Debug, Default)]
struct Logs {
    by_run: HashMap<RunId, Arc<Log>>,
    // Of runs that have ended, the oldest first.
    over: VecDeque<(RunId, usize)>,
    kept: usize,
}

/// What happened in one run.
#[derive(Debug)]
pub struct Log {
    inside: Mutex<Inside>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Inside {
    events: VecDeque<Event>,
    // The number of the oldest one that is kept.
    first: u64,
    bytes: usize,
    over: bool,
}

impl Events {
    /// The log of an open run, which had been begun so often before this one was made.
    pub(super) fn open(&self, run: RunId, attempts: u32) -> Arc<Log> {
        let first = u64::from(attempts) * NUMBERS_PER_ATTEMPT + 1;
        let mut logs = lock(&self.0);
        Arc::clone(logs.by_run.entry(run).or_insert_with(|| Arc::new(Log::new(first))))
    }

    /// The log of a run, if it is still there.
    pub(super) fn find(&self, run: RunId) -> Option<Arc<Log>> {
        lock(&self.0).by_run.get(&run).map(Arc::clone)
    }

    /// The run has its outcome: tells its followers, and makes room for other logs.
    pub(super) fn over(&self, run: RunId) {
        let mut logs = lock(&self.0);
        let Some(bytes) = logs.by_run.get(&run).and_then(|log| log.end()) else {
            return;
        };
        logs.over.push_back((run, bytes));
        logs.kept += bytes;
        while logs.kept > EVENTS_KEPT_BYTES
            && let Some((run, bytes)) = logs.over.pop_front()
        {
            logs.by_run.remove(&run);
            logs.kept -= bytes;
        }
    }
}

impl Log {
    fn new(first: u64) -> Self {
        let inside = Inside { events: VecDeque::new(), first, bytes: 0, over: false };
        Self { inside: Mutex::new(inside), changed: watch::Sender::new(()) }
    }

    /// The log of a run that has ended and has no other: its result, under the next number.
    pub(super) fn ended(after: Option<u64>) -> Arc<Self> {
        let log = Self::new(after.map_or(1, |after| after.saturating_add(1)));
        log.end();
        Arc::new(log)
    }

    /// Adds an event, a long text as several; nothing follows a result.
    pub(super) fn tell(&self, event: Event) {
        let mut inside = lock(&self.inside);
        if inside.over {
            return;
        }
        match event {
            Event::Delta(text) if text.len() > EVENT_BYTES => {
                pieces(&text).for_each(|piece| inside.push(Event::Delta(piece.to_owned())));
            }
            event => inside.push(event),
        }
        drop(inside);
        self.changed.send_replace(());
    }

    /// Adds the result and says how much the log holds; `None` if it had one.
    fn end(&self) -> Option<usize> {
        let mut inside = lock(&self.inside);
        if inside.over {
            return None;
        }
        inside.push(Event::Result);
        inside.over = true;
        let bytes = inside.bytes;
        drop(inside);
        self.changed.send_replace(());
        Some(bytes)
    }

    /// Follows it from the event after the number `after`, or from the oldest that is kept.
    pub(super) fn follow(self: Arc<Self>, after: Option<u64>) -> Follower {
        let next = {
            let inside = lock(&self.inside);
            let next = after.map_or(0, |after| after.saturating_add(1));
            next.clamp(inside.first, inside.end())
        };
        Follower { changed: self.changed.subscribe(), log: self, next }
    }
}

impl Inside {
    /// The number that the next event gets.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn push(&mut self, event: Event) {
        self.bytes += event.size();
        self.events.push_back(event);
        while self.bytes > EVENTS_BYTES
            && self.events.len() > 1
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.size();
            self.first += 1;
        }
    }
}

/// One who follows a run.
#[derive(Debug)]
pub struct Follower {
    log: Arc<Log>,
    changed: watch::Receiver<()>,
    next: u64,
}

impl Follower {
    /// Whether it has nothing to be told, now or later.
    pub fn is_at_the_end(&self) -> bool {
        let inside = lock(&self.log.inside);
        inside.over && self.next >= inside.end()
    }

    /// Waits for more: events with their numbers, oldest first. `None` after the result, and when
    /// it was too slow.
    pub async fn next(&mut self) -> Option<Vec<(u64, Event)>> {
        loop {
            self.changed.mark_unchanged();
            if self.is_at_the_end() {
                return None;
            }
            let batch = self.read()?;
            if !batch.is_empty() {
                return Some(batch);
            }
            self.changed.changed().await.ok()?;
        }
    }

    fn read(&mut self) -> Option<Vec<(u64, Event)>> {
        let inside = lock(&self.log.inside);
        let behind = usize::try_from(self.next.checked_sub(inside.first)?).ok()?;
        let mut bytes = 0;
        // The first one fits whatever its size: an empty batch means that nothing is there.
        let fits = |event: &&Event| {
            let first = bytes == 0;
            bytes += event.size();
            first || bytes <= EVENTS_BATCH_BYTES
        };
        let fresh = inside.events.iter().skip(behind).take(BATCH).take_while(fits).cloned();
        let batch: Vec<_> = (self.next..).zip(fresh).collect();
        self.next += batch.len() as u64;
        Some(batch)
    }
}

/// A text in pieces of [`EVENT_BYTES`] at most, none of which breaks a character.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at_checked(rest.floor_char_boundary(EVENT_BYTES))?;
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Nothing that holds one of these locks can panic half-way, so a poisoned one is still right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn delta(text: &str) -> Event {
        Event::Delta(text.to_owned())
    }

    async fn all(follower: &mut Follower) -> Vec<(u64, Event)> {
        let mut all = Vec::new();
        while let Some(batch) = follower.next().await {
            all.extend(batch);
        }
        all
    }

    #[tokio::test]
    async fn a_follower_that_comes_back_sees_each_event_once() {
        let events = Events::default();
        let run = RunId::new(Uuid::from_u128(1));
        let log = events.open(run, 0);
        let mut first = Arc::clone(&log).follow(None);
        log.tell(delta("a"));
        log.tell(delta("b"));
        assert_eq!(first.next().await, Some(vec![(1, delta("a")), (2, delta("b"))]));
        let mut second = Arc::clone(&log).follow(Some(1));
        log.tell(delta("c"));
        events.over(run);
        events.over(run);
        log.tell(delta("late"));
        assert_eq!(all(&mut first).await, [(3, delta("c")), (4, Event::Result)]);
        let rest = [(2, delta("b")), (3, delta("c")), (4, Event::Result)];
        assert_eq!(all(&mut second).await, rest);
        let after_all = events.find(run).map(|log| log.follow(Some(4)).is_at_the_end());
        assert_eq!(after_all, Some(true));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_dropped_and_the_log_stays_small() {
        let log = Events::default().open(RunId::new(Uuid::from_u128(1)), 0);
        let mut slow = Arc::clone(&log).follow(None);
        let text = "x".repeat(EVENT_BYTES);
        for _ in 0..200 {
            log.tell(delta(&text));
        }
        assert!(lock(&log.inside).bytes <= EVENTS_BYTES);
        assert_eq!(slow.next().await, None);
        let mut back = Arc::clone(&log).follow(Some(1));
        log.end();
        let rest = all(&mut back).await;
        assert_eq!(rest.first().map(|(number, _)| *number), Some(201 + 1 - rest.len() as u64));
        assert_eq!(rest.last().map(|(_, event)| event), Some(&Event::Result));
    }

    #[tokio::test]
    async fn a_text_of_any_length_neither_fills_the_log_nor_a_follower() {
        let log = Events::default().open(RunId::new(Uuid::from_u128(1)), 0);
        let mut follower = Arc::clone(&log).follow(None);
        // A character of three bytes does not end where a piece would.
        let text = "€".repeat(EVENTS_BYTES / 6);
        log.tell(delta(&text));
        log.end();
        let mut told = String::new();
        while let Some(batch) = follower.next().await {
            let sizes: Vec<_> = batch.iter().map(|(_, event)| event.size()).collect();
            assert!(sizes.iter().sum::<usize>() <= EVENTS_BATCH_BYTES, "{sizes:?}");
            assert!(sizes.iter().all(|size| *size <= EVENT_BYTES + OVERHEAD), "{sizes:?}");
            for (_, event) in batch {
                if let Event::Delta(piece) = event {
                    told.push_str(&piece);
                }
            }
        }
        assert!(told == text, "{} bytes of {}", told.len(), text.len());

        let flooded = Events::default().open(RunId::new(Uuid::from_u128(2)), 0);
        flooded.tell(delta(&"x".repeat(5 * EVENTS_BYTES)));
        assert!(lock(&flooded.inside).bytes <= EVENTS_BYTES);
    }

    #[test]
    fn logs_of_runs_that_ended_are_kept_within_a_limit() {
        let events = Events::default();
        let text = "x".repeat(EVENTS_BYTES / 2);
        for number in 0..100 {
            let run = RunId::new(Uuid::from_u128(number));
            events.open(run, 0).tell(delta(&text));
            events.over(run);
        }
        let kept: usize = lock(&events.0).by_run.values().map(|log| lock(&log.inside).bytes).sum();
        assert!(kept <= EVENTS_KEPT_BYTES, "{kept}");
        assert!(events.find(RunId::new(Uuid::from_u128(99))).is_some());
    }

    #[tokio::test]
    async fn numbers_rise_from_attempt_to_attempt() {
        let log = Events::default().open(RunId::new(Uuid::from_u128(1)), 2);
        log.tell(delta("again"));
        let mut follower = Arc::clone(&log).follow(Some(57));
        assert_eq!(follower.next().await, Some(vec![(20_000_001, delta("again"))]));
        let mut late = Log::ended(Some(57)).follow(Some(57));
        assert_eq!(all(&mut late).await, [(58, Event::Result)]);
    }
}
