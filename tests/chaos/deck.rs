//! What befalls a round. Cards are drawn from a shuffled deck that is used up before it is shuffled
//! again, so that each comes equally often.

use super::random::Random;
use super::sender::Wish;

/// The points at which the service can be made to stand still (`src/host/points.rs`).
const POINTS: [&str; 8] =
    ["accepted", "claimed", "created", "delivered", "touched", "result", "finishing", "gone"];

#[derive(Debug, Clone, Copy)]
pub enum Card {
    /// Nothing.
    Peace,
    /// `kill -9` of the service, at any moment.
    Kill,
    /// `kill -9` of the service while it stands still.
    KillAt(&'static str),
    /// SIGTERM, with little time to stop.
    Stop,
    /// `kill -9` of Podman's service.
    Podman,
    /// `kill -9` of a cell's monitor.
    Monitor,
    /// No room on the disk.
    Disk,
}

impl Card {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peace => "nothing",
            Self::Kill => "kill",
            Self::KillAt(point) => point,
            Self::Stop => "stop",
            Self::Podman => "podman",
            Self::Monitor => "monitor",
            Self::Disk => "disk",
        }
    }

    pub fn wish(self) -> Wish {
        match self {
            Self::KillAt("touched") => Wish::Tool,
            Self::Monitor | Self::Podman => Wish::Slow,
            Self::Disk => Wish::Large,
            _ => Wish::Any,
        }
    }
}

#[derive(Debug, Default)]
pub struct Deck(Vec<Card>);

impl Deck {
    pub fn draw(&mut self, random: &mut Random) -> Card {
        if self.0.is_empty() {
            let others = [
                Card::Peace,
                Card::Kill,
                Card::Kill,
                Card::Stop,
                Card::Podman,
                Card::Monitor,
                Card::Disk,
            ];
            self.0.extend(others);
            self.0.extend(POINTS.map(Card::KillAt));
            for last in (1..self.0.len()).rev() {
                let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(0);
                self.0.swap(last, other);
            }
        }
        self.0.pop().unwrap_or(Card::Peace)
    }
}
