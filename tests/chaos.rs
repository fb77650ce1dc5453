//! Chaos: a house lives through many rounds on one state directory. In each, senders send, and
//! something is killed, stopped or full. Whatever it was: every accepted message has exactly one
//! run with one end, the model was shown nothing twice, and nothing is left.
//!
//! | variable | what it does |
//! |---|---|
//! | `NOCLAW_CHAOS_ROUNDS` | how many rounds (30) |
//! | `NOCLAW_CHAOS_SEED` | repeats the draws of another run: messages, manners, what befalls |

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

#[path = "chaos/check.rs"]
mod check;
#[path = "chaos/deck.rs"]
mod deck;
#[path = "chaos/ledger.rs"]
mod ledger;
#[path = "chaos/life.rs"]
mod life;
#[path = "chaos/model.rs"]
mod model;
#[path = "chaos/processes.rs"]
mod processes;
#[path = "chaos/random.rs"]
mod random;
#[path = "chaos/sender.rs"]
mod sender;
mod support;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use deck::Deck;
use life::{Figures, Life};
use model::Model;
use random::Random;
use support::Result;
use support::podmans::OtherPodman;

/// Rounds of `make test`.
const ROUNDS: u64 = 30;
/// Rounds that one house lives through. Conversations grow, and checks ask for every run.
const LIFE: u64 = 25;

fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => Ok(Some(text.parse()?)),
        _ => Ok(None),
    }
}

/// What went wrong, at once: a house that is dropped may have more to complain of.
fn tell(life: &Life<'_>, what: &str) {
    println!("--- log of the service\n{}\nchaos: {what}", life.logged());
}

#[test]
fn whatever_is_killed_every_message_has_one_run_with_one_end() -> Result {
    let rounds = number("NOCLAW_CHAOS_ROUNDS")?.unwrap_or(ROUNDS);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|time| time.as_secs());
    let seed = number("NOCLAW_CHAOS_SEED")?.map_or_else(now, Ok)?;
    println!("chaos: {rounds} rounds, seed {seed}");
    let (mut random, mut deck, mut figures) = (Random::new(seed), Deck::default(), Figures::new());
    let start = Instant::now();
    let mut podman = OtherPodman::beside()?;
    let model = Model::start()?;
    let mut next = 0;
    while next < rounds {
        let mut life = Life::begin(&podman, &model)?;
        let until = rounds.min(next + LIFE);
        while next < until {
            let card = deck.draw(&mut random);
            let last = next + 1 == until;
            let round = life.round(next, card, &mut random.fork(), &mut podman, last);
            round
                .inspect_err(|error| tell(&life, &format!("{seed}, {next}, {card:?}: {error}")))?;
            figures.befell(card);
            next += 1;
        }
        let end = life.end(&mut figures);
        end.inspect_err(|error| tell(&life, &format!("{seed}, after {next}: {error}")))?;
        let seconds = start.elapsed().as_secs();
        println!("chaos: {next} of {rounds} rounds, seed {seed}, {figures}, {seconds} s");
    }
    Ok(())
}
