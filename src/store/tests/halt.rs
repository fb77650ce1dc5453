//! A halt: one row or none, whatever is asked for and whatever dies.

use super::*;
use crate::core::halt::Halt;

fn halt(since_ms: i64, reason: Option<&str>) -> Halt {
    Halt { since_ms, reason: reason.and_then(|reason| reason.parse().ok()) }
}

#[tokio::test]
async fn a_halt_is_kept_and_the_first_one_stands() -> Checked {
    let home = Home::new().await?;
    assert_eq!(home.store.halted().await?, None);
    home.store.unhalt().await?;
    let first = halt(NOW, Some("key leaked"));
    home.store.halt(&first).await?;
    home.store.halt(&halt(NOW + 1, None)).await?;
    assert_eq!(home.store.halted().await?, Some(first.clone()));

    let home = home.reopen(|| None).await?;
    assert_eq!(home.store.halted().await?, Some(first));
    home.store.unhalt().await?;
    assert_eq!(home.store.halted().await?, None);
    home.store.halt(&halt(NOW + 2, None)).await?;
    assert_eq!(home.store.halted().await?, Some(halt(NOW + 2, None)));
    Ok(())
}

#[tokio::test]
async fn runs_that_a_crash_left_under_a_halt_are_ended_by_it() -> Checked {
    let home = Home::new().await?;
    let all = ActiveLimits { cells: 100, per_user: 100 };
    for run in 1..=5 {
        home.say(run, "ann", &format!("c{run}"), "hi").await?;
    }
    for _ in 1..=4 {
        home.store.claim(all, NOW).await?.ok_or("nothing to claim")?;
    }
    let store = &home.store;
    for run in 2..=4 {
        store.measured(id(run), "{}", "held", true).await?;
    }
    store.cancel(id(3), NOW).await?;
    store.finish(id(4), answered("yes", "head-4"), NOW).await?;
    store.halt(&halt(NOW, Some("key leaked"))).await?;

    let home = home.reopen(|| None).await?;
    let found = settled(&home.store, NOW + 9).await?;
    let expected = [
        (1, RunState::Failed),
        (2, RunState::Failed),
        (3, RunState::Cancelled),
        (4, RunState::Answered),
    ];
    assert_eq!(found, expected.map(|(run, state)| (id(run), state)));
    for run in [1, 2] {
        let record = home.store.run(id(run)).await?.ok_or("no run")?;
        let error = "halted: the owner has halted NoClaw: key leaked";
        assert_eq!(record.error.as_deref(), Some(error));
    }
    let waits = home.store.run(id(5)).await?.ok_or("no run")?;
    assert_eq!(waits.state, RunState::Queued, "what was not begun waits");
    Ok(())
}
