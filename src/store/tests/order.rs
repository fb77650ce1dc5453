//! Accepting and claiming: what waits, what joins, what is next.

use std::collections::{HashMap, HashSet};

use super::super::error::QueueScope;
use super::*;

#[tokio::test]
async fn messages_that_wait_are_answered_by_one_run() -> Checked {
    let home = Home::new().await?;
    assert!(!home.say(1, "ann", "main", "first").await?.joined);
    home.claim_number(1).await?;
    let second = home.say(2, "ann", "main", "second").await?;
    assert_eq!((second.run, second.joined), (id(2), false), "the first has begun");
    let third = home.say(3, "ann", "main", "third").await?;
    assert_eq!((third.run, third.joined), (id(2), true));
    let other = home.say(4, "ann", "other", "elsewhere").await?;
    assert_eq!((other.run, other.joined), (id(4), false), "another conversation");
    let bob = home.say(5, "bob", "main", "mine").await?;
    assert_eq!((bob.run, bob.joined), (id(5), false), "the same name, another user");

    home.answer(id(1), "head-1").await?;
    let claimed = home.claim_number(2).await?;
    assert_eq!(texts(&claimed), ["second", "third"]);
    assert_eq!(claimed.head.as_deref(), Some("head-1"));
    assert_eq!(claimed.head_attachments, ["attached to head-1".to_owned()].into());
    Ok(())
}

#[tokio::test]
async fn a_run_is_joined_only_if_it_is_the_newest_fits_and_has_not_begun() -> Checked {
    let home = Home::new().await?;
    let mut dear = new(1, "ann", "main", "with a model")?;
    dear.message.model = Some("dear".to_owned());
    let again = |run| {
        let mut again = dear.clone();
        again.run_if_new = id(run);
        Ok(again)
    };
    assert_eq!(home.say_with(again(1), LIMITS).await?.run, id(1));
    assert_eq!(home.say_with(again(2), LIMITS).await?.run, id(1), "the same model joins");
    assert_eq!(home.say(3, "ann", "main", "default").await?.run, id(3), "another does not");
    assert_eq!(home.say_with(again(4), LIMITS).await?.run, id(4), "nor past a newer run");

    let two = QueueLimits { messages_per_run: 2, ..LIMITS };
    assert_eq!(home.say_with(again(5), two).await?.run, id(4));
    assert_eq!(home.say_with(again(6), two).await?.run, id(6), "full");

    let solo = Home::new().await?;
    solo.say(1, "ann", "main", "x").await?;
    solo.claim_number(1).await?;
    solo.store.again(id(1), NOW).await?;
    let later = solo.say(2, "ann", "main", "y").await?;
    assert_eq!((later.run, later.joined), (id(2), false), "it has begun once");
    solo.claim_number(1).await?;
    assert_eq!(solo.claim().await?, None, "the requeued one keeps its place");
    Ok(())
}

#[tokio::test]
async fn too_much_that_waits_is_refused() -> Checked {
    let home = Home::new().await?;
    let few = QueueLimits { per_user: 2, all: 3, messages_per_run: 20 };
    let say = async |run, user: &str| {
        home.store
            .accept(new(run, user, "main", "hi")?, few)
            .await
            .map_err(Box::<dyn StdError>::from)
    };
    say(1, "ann").await?;
    say(2, "ann").await?;
    let scope = |said: Said| match said.err().and_then(|error| error.downcast().ok()) {
        Some(refused) => match *refused {
            Refused::QueueFull { scope, .. } => Some(scope),
            _ => None,
        },
        None => None,
    };
    assert_eq!(scope(say(3, "ann").await), Some(QueueScope::User));
    say(4, "bob").await?;
    assert_eq!(scope(say(5, "cem").await), Some(QueueScope::All));
    assert_eq!(home.store.users().await?.len(), 2, "who is refused is not made a user");

    home.claim_number(1).await?;
    say(6, "ann").await?;
    assert_eq!(home.store.counts().await?.queued, 2);
    Ok(())
}

#[tokio::test]
async fn a_user_and_the_house_have_only_so_many_cells() -> Checked {
    let home = Home::new().await?;
    for (run, user, conversation) in [
        (1, "ann", "a"),
        (2, "ann", "b"),
        (3, "ann", "c"),
        (4, "bob", "a"),
        (5, "cem", "a"),
        (6, "dan", "a"),
    ] {
        home.say(run, user, conversation, "hi").await?;
    }
    for run in [1, 2, 4, 5] {
        home.claim_number(run).await?;
    }
    assert_eq!(home.claim().await?, None, "four cells are taken");
    home.answer(id(4), "h").await?;
    home.claim_number(6).await?;
    home.store.measured(id(1), "{}", "held", true).await?;
    home.store.finish(id(1), failed(), NOW).await?;
    assert_eq!(home.claim().await?, None, "a finishing run may still have its cell");
    home.store.gone(id(1), NOW).await?;
    home.claim_number(3).await?;
    Ok(())
}

#[tokio::test]
async fn what_was_spent_today_is_known_when_a_run_begins() -> Checked {
    let home = Home::new().await?;
    let cost = |cost_microusd| Spending { cost_microusd, ..Spending::default() };
    // One ended yesterday, a millisecond before midnight.
    for (run, user, spent, at) in [
        (1, "ann", 1000, NOW - 10 * 3_600_000 - 1),
        (2, "ann", 200, NOW - 10 * 3_600_000),
        (3, "bob", 30, NOW),
    ] {
        home.say(run, user, "main", "hi").await?;
        home.claim_number(run).await?;
        home.store.spent(id(run), cost(spent / 2)).await?;
        let ending = Ending { spending: cost(spent / 2), ..failed() };
        home.store.finish(id(run), ending, at).await?;
        home.store.gone(id(run), NOW).await?;
    }
    home.say(4, "bob", "other", "hi").await?;
    home.claim_number(4).await?;
    home.store.spent(id(4), cost(4)).await?;
    home.say(5, "ann", "main", "hi").await?;
    let claimed = home.claim_number(5).await?;
    assert_eq!((claimed.spent_today_user, claimed.spent_today_all), (200, 234));
    Ok(())
}

/// A small generator, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a run of the random test has to do with others.
#[derive(Default)]
struct World {
    conversation: HashMap<RunId, (u64, u64)>,
    active: Vec<RunId>,
    said: HashMap<(u64, u64), Vec<String>>,
    shown: HashMap<(u64, u64), Vec<String>>,
}

impl World {
    fn busy(&self) -> Vec<(u64, u64)> {
        let all = self.active.iter();
        all.filter_map(|run| self.conversation.get(run).copied()).collect()
    }

    fn check_claim(&mut self, claimed: &Claimed, seed: u64) -> Checked {
        let of = *self.conversation.get(&claimed.run).ok_or("an unknown run")?;
        assert!(!self.busy().contains(&of), "seed {seed}: two at once in {of:?}");
        self.active.push(claimed.run);
        let busy = self.busy();
        assert!(busy.len() <= CELLS.cells, "seed {seed}");
        let users = busy.iter().filter(|(user, _)| *user == of.0).count();
        assert!(users <= CELLS.per_user, "seed {seed}");
        Ok(())
    }
}

#[tokio::test]
async fn runs_of_a_conversation_are_taken_in_order_and_never_two_at_once() -> Checked {
    for seed in 1..=8 {
        random_traffic(seed).await?;
    }
    Ok(())
}

async fn random_traffic(seed: u64) -> Checked {
    let home = Home::new().await?;
    let mut dice = Dice(seed);
    let mut world = World::default();
    for step in 0..200_u32 {
        match dice.roll(5) {
            0 | 1 => say_something(&home, &mut world, &mut dice, step).await?,
            2 | 3 => {
                if let Some(claimed) = home.claim().await? {
                    world.check_claim(&claimed, seed)?;
                    show(&mut world, &claimed)?;
                }
            }
            _ => end_something(&home, &mut world, &mut dice).await?,
        }
    }
    while !world.active.is_empty() || home.store.counts().await?.queued > 0 {
        while let Some(claimed) = home.claim().await? {
            world.check_claim(&claimed, seed)?;
            show(&mut world, &claimed)?;
        }
        end_something(&home, &mut world, &mut dice).await?;
    }
    assert_eq!(world.shown, world.said, "seed {seed}: every message once, in order");
    Ok(())
}

async fn say_something(home: &Home, world: &mut World, dice: &mut Dice, step: u32) -> Checked {
    let of = (dice.roll(3), dice.roll(2));
    let (user, conversation) = (format!("u{}", of.0), format!("c{}", of.1));
    let mut message = new(u128::from(step) + 1, &user, &conversation, &step.to_string())?;
    message.message.model = (dice.roll(3) == 0).then(|| "dear".to_owned());
    let accepted = home.store.accept(message, LIMITS).await?;
    let was = world.conversation.insert(accepted.run, of);
    assert!(was.is_none_or(|was| was == of));
    world.said.entry(of).or_default().push(step.to_string());
    Ok(())
}

/// Remembers what a run was shown; one that is begun again is shown the same again.
fn show(world: &mut World, claimed: &Claimed) -> Checked {
    let of = world.conversation.get(&claimed.run).ok_or("an unknown run")?;
    let shown = world.shown.entry(*of).or_default();
    let known: HashSet<_> = shown.iter().cloned().collect();
    let texts = texts(claimed).into_iter().map(str::to_owned);
    shown.extend(texts.filter(|text| !known.contains(text)));
    Ok(())
}

async fn end_something(home: &Home, world: &mut World, dice: &mut Dice) -> Checked {
    if world.active.is_empty() {
        return Ok(());
    }
    let at = usize::try_from(dice.roll(world.active.len() as u64))?;
    let run = world.active.swap_remove(at);
    match dice.roll(3) {
        0 => drop(home.store.again(run, NOW).await?),
        1 => {
            home.store.finish(run, failed(), NOW).await?;
            home.store.gone(run, NOW).await?;
        }
        _ => home.answer(run, "head").await?,
    }
    Ok(())
}
