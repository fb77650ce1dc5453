//! What becomes of a claimed run, what can be read of it, and what a crash makes of it.

use sea_orm::{ConnectionTrait, Database};

use super::super::read::{HistoryPage, RunFilter};
use super::super::tokens::NewToken;
use super::*;
use crate::core::money::Usage;
use crate::core::run::RunState;

#[tokio::test]
async fn old_preflights_are_forgotten_and_nothing_else() -> Checked {
    let home = Home::new().await?;
    for (n, conversation) in [(1, "old"), (2, "young")] {
        home.say(n, "ann", conversation, "hello").await?;
        home.store.claim(CELLS, NOW).await?.ok_or("nothing to claim")?;
        home.store.measured(id(n), "{}", "held", true).await?;
        home.store.finish(id(n), answered("hi", "head"), NOW + i64::try_from(n)?).await?;
        home.store.gone(id(n), NOW + 9).await?;
    }
    assert_eq!(home.store.forget(NOW + 2).await?, 1);
    let old = home.store.run(id(1)).await?.ok_or("no run")?;
    assert_eq!((old.preflight, old.reply.as_deref()), (None, Some("hi")));
    let young = home.store.run(id(2)).await?.ok_or("no run")?;
    assert_eq!(young.preflight.as_deref(), Some("{}"));
    Ok(())
}

#[tokio::test]
async fn a_run_is_remembered_from_door_to_door() -> Checked {
    let home = Home::new().await?;
    let mut message = new(1, "ann", "main", "hello")?;
    message.message.context = Some(r#"{"a":1}"#.to_owned());
    home.store.accept(message, LIMITS).await?;
    home.say(2, "ann", "main", "and this").await?;
    let claimed = home.store.claim(CELLS, NOW + 1).await?.ok_or("nothing to claim")?;
    assert_eq!((claimed.attempts, claimed.head, claimed.time_zone), (1, None, None));
    home.store.container_made(id(1), "c0ffee").await?;
    home.store.measured(id(1), r#"{"uid":1000}"#, "held", true).await?;
    home.store.delivered(id(1), NOW + 2).await?;
    home.store.touched(id(1), NOW + 3).await?;
    let usage = Usage {
        input_tokens: 1,
        output_tokens: 2,
        cache_write_tokens: 3,
        cache_write_1h_tokens: 4,
        cache_read_tokens: 5,
        requests: 6,
    };
    let spending = Spending { usage, cost_microusd: 7 };
    home.store.spent(id(1), spending).await?;
    let ending = Ending { spending, ..answered("hi", "head-1") };
    home.store.finish(id(1), ending, NOW + 4).await?;
    let finishing = home.store.run(id(1)).await?.ok_or("no run")?;
    assert_eq!((finishing.state, finishing.status()), (RunState::Finishing, RunState::Answered));
    home.store.gone(id(1), NOW + 5).await?;

    let run = home.store.run(id(1)).await?.ok_or("no run")?;
    assert_eq!((run.state, run.outcome), (RunState::Answered, Some(RunState::Answered)));
    assert_eq!((run.user.as_str(), run.conversation.as_str()), ("ann", "main"));
    assert_eq!((run.usage, run.cost_microusd), (usage.plus(usage), 14));
    assert_eq!((run.created_at, run.claimed_at), (NOW, Some(NOW + 1)));
    assert_eq!((run.delivered_at, run.touched_at), (Some(NOW + 2), Some(NOW + 3)));
    assert_eq!((run.ended_at, run.gone_at), (Some(NOW + 4), Some(NOW + 5)));
    assert_eq!(run.container_id.as_deref(), Some("c0ffee"));
    assert_eq!(run.preflight.as_deref(), Some(r#"{"uid":1000}"#));
    assert_eq!(run.isolation.as_deref(), Some("held"));
    assert_eq!((run.reply.as_deref(), run.error), (Some("hi"), None));
    let said: Vec<_> =
        run.messages.iter().map(|m| (m.text.as_str(), m.context.as_deref())).collect();
    assert_eq!(said, [("hello", Some(r#"{"a":1}"#)), ("and this", None)]);
    Ok(())
}

#[tokio::test]
async fn no_run_is_found_without_its_measured_isolation() -> Checked {
    let home = Home::new().await?;
    home.say(1, "ann", "main", "hi").await?;
    home.store.claim(CELLS, NOW).await?.ok_or("nothing to claim")?;
    let rival = Database::connect(format!("sqlite:{}", home.options.path.display())).await?;
    let refused = async |change: &str| {
        let changed = rival.execute_unprepared(change).await;
        let refused = changed.is_err_and(|error| error.to_string().contains("isolation"));
        assert!(refused, "{change}");
    };
    let row = |state, outcome| {
        format!(
            "INSERT INTO runs (id, user, conversation_id, state, outcome, messages, created_at)
             SELECT 'another', user, conversation_id, {state}, {outcome}, 1, 0 FROM runs"
        )
    };
    refused("UPDATE runs SET state = 'running'").await;
    refused("UPDATE runs SET outcome = 'answered'").await;
    refused(&row("'running'", "NULL")).await;
    refused(&row("'finishing'", "'answered'")).await;
    // The twin: one that did not come so far.
    rival.execute_unprepared(&row("'failed'", "'failed'")).await?;
    rival.execute_unprepared("DELETE FROM runs WHERE id = 'another'").await?;
    let forgotten = "UPDATE runs SET isolation = NULL";
    rival.execute_unprepared(forgotten).await?;
    home.store.measured(id(1), "{}", "held: all", true).await?;
    refused(forgotten).await;
    home.store.finish(id(1), answered("hi", "head"), NOW + 1).await?;
    refused(forgotten).await;
    home.store.gone(id(1), NOW + 1).await?;
    refused(forgotten).await;
    rival.close().await?;
    home.store.forget(NOW + 2).await?;
    let run = home.store.run(id(1)).await?.ok_or("no run")?;
    assert_eq!((run.preflight, run.isolation.as_deref()), (None, Some("held: all")));
    Ok(())
}

#[tokio::test]
async fn the_head_moves_only_with_an_answer() -> Checked {
    let home = Home::new().await?;
    for (run, ending, head_before) in [
        (1, failed(), None),
        (2, answered("a", "head-2"), None),
        (3, failed(), Some("head-2")),
        (4, answered("b", "head-4"), Some("head-2")),
    ] {
        home.say(run, "ann", "main", "hi").await?;
        let claimed = home.claim_number(run).await?;
        assert_eq!(claimed.head.as_deref(), head_before);
        home.store.measured(id(run), "{}", "held", true).await?;
        home.store.finish(id(run), ending, NOW).await?;
        home.store.gone(id(run), NOW).await?;
        let record = home.store.run(id(run)).await?.ok_or("no run")?;
        assert_eq!(record.forked_from.as_deref(), head_before);
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_follow_is_an_error_and_changes_nothing() -> Checked {
    let home = Home::new().await?;
    let store = &home.store;
    let nobody = store.gone(id(9), NOW).await;
    assert!(matches!(nobody, Err(Error::NoSuchRun { .. })));

    home.say(1, "ann", "main", "hi").await?;
    let before = store.run(id(1)).await?;
    let ending = answered("x", "y");
    assert_impossible(store.measured(id(1), "{}", "held", true).await, RunState::Queued);
    assert_impossible(store.container_made(id(1), "c").await, RunState::Queued);
    assert_impossible(store.spent(id(1), Spending::default()).await, RunState::Queued);
    assert_impossible(store.finish(id(1), ending.clone(), NOW).await, RunState::Queued);
    assert_impossible(store.again(id(1), NOW).await.map(drop), RunState::Queued);
    assert_eq!(store.run(id(1)).await?, before);

    home.claim_number(1).await?;
    assert_impossible(store.delivered(id(1), NOW).await, RunState::Starting);
    assert_impossible(store.touched(id(1), NOW).await, RunState::Starting);
    assert_impossible(store.gone(id(1), NOW).await, RunState::Starting);
    home.answer(id(1), "head").await?;
    let before = store.run(id(1)).await?;
    assert_impossible(store.finish(id(1), failed(), NOW).await, RunState::Answered);
    assert_impossible(store.gone(id(1), NOW).await, RunState::Answered);
    assert_impossible(store.again(id(1), NOW).await.map(drop), RunState::Answered);
    assert_eq!(store.run(id(1)).await?, before);
    Ok(())
}

fn assert_impossible(result: Result<(), Error>, found: RunState) {
    let state = match result {
        Err(Error::Impossible { state, .. }) => Some(state),
        _ => None,
    };
    assert_eq!(state, Some(found));
}

#[tokio::test]
async fn after_a_crash_every_open_run_is_settled() -> Checked {
    let home = Home::new().await?;
    let all = ActiveLimits { cells: 100, per_user: 100 };
    for run in 1..=7 {
        home.say(run, "ann", &format!("c{run}"), "hi").await?;
    }
    for _ in 1..=6 {
        home.store.claim(all, NOW).await?.ok_or("nothing to claim")?;
    }
    let store = &home.store;
    for run in 2..=6 {
        store.measured(id(run), "{}", "held", true).await?;
    }
    for run in 3..=4 {
        store.delivered(id(run), NOW).await?;
    }
    store.touched(id(4), NOW).await?;
    store.finish(id(5), answered("yes", "head-5"), NOW).await?;
    let late = Ending { outcome: Outcome::TimedOut { detail: "10 min".to_owned() }, ..failed() };
    store.finish(id(6), late, NOW).await?;

    let home = home.reopen(|| None).await?;
    let found = settled(&home.store, NOW + 9).await?;
    let expected = [
        (1, RunState::Queued),
        (2, RunState::Queued),
        (3, RunState::Queued),
        (4, RunState::Failed),
        (5, RunState::Answered),
        (6, RunState::TimedOut),
    ];
    assert_eq!(found, expected.map(|(run, state)| (id(run), state)));
    for (run, state) in expected {
        let record = home.store.run(id(run)).await?.ok_or("no run")?;
        assert_eq!(record.state, state);
        assert_eq!(record.gone_at, state.is_final().then_some(NOW + 9));
        assert_eq!(record.container_id, None);
    }
    let touched = home.store.run(id(4)).await?.ok_or("no run")?;
    assert!(touched.error.unwrap_or_default().starts_with("interrupted: "));
    assert_eq!(settled(&home.store, NOW).await?, [], "a second time there is nothing to do");
    // Once delivered, it is begun a second time and no third.
    assert_eq!(crash_until_it_ends(&home, id(3), &all).await?, 2);
    assert_eq!(crash_until_it_ends(&home, id(1), &all).await?, 3);
    Ok(())
}

/// How often a run was begun before crashes ended it.
async fn crash_until_it_ends(
    home: &Home,
    run: RunId,
    all: &ActiveLimits,
) -> Result<u32, Box<dyn StdError>> {
    for _ in 0..10 {
        while home.store.claim(*all, NOW).await?.is_some() {}
        settled(&home.store, NOW).await?;
        let record = home.store.run(run).await?.ok_or("no run")?;
        if record.state == RunState::Failed {
            return Ok(record.attempts);
        }
    }
    Err("it never ended".into())
}

#[tokio::test]
async fn lists_are_filtered_and_paged() -> Checked {
    let home = Home::new().await?;
    for (run, user) in [(1, "ann"), (2, "bob"), (3, "ann"), (4, "bob")] {
        home.say(run, user, &format!("c{run}"), &format!("text {run}")).await?;
    }
    home.claim_number(1).await?;
    home.answer(id(1), "h").await?;
    home.claim_number(2).await?;
    home.store.finish(id(2), failed(), NOW).await?;
    let list = async |filter: RunFilter, limit| {
        let runs = home.store.runs(&filter, limit).await?;
        Ok::<_, Error>(runs.into_iter().map(|run| run.run).collect::<Vec<_>>())
    };
    let any = RunFilter::default;
    assert_eq!(list(any(), 3).await?, [4, 3, 2].map(id));
    let page = RunFilter { before: Some(id(2)), ..any() };
    assert_eq!(list(page, 3).await?, [id(1)]);
    let user = RunFilter { user: Some("ann".parse()?), ..any() };
    assert_eq!(list(user, 10).await?, [3, 1].map(id));
    for (status, expected) in [
        (RunState::Queued, vec![4, 3]),
        (RunState::Answered, vec![1]),
        (RunState::Failed, vec![2]),
        (RunState::Finishing, vec![]),
    ] {
        let status = RunFilter { status: Some(status), ..any() };
        assert_eq!(list(status, 10).await?, expected.into_iter().map(id).collect::<Vec<_>>());
    }
    let counts = home.store.counts().await?;
    assert_eq!((counts.queued, counts.active), (2, 1));

    let ann = "ann".parse()?;
    let page = |before| HistoryPage { before, limit: 1, ..HistoryPage::default() };
    let newest = home.store.history(&ann, page(None)).await?.pop().ok_or("no history")?;
    assert_eq!((newest.message.text.as_str(), newest.status), ("text 3", RunState::Queued));
    let older = home.store.history(&ann, page(Some(newest.id))).await?;
    let older = older.first().ok_or("no second page")?;
    assert_eq!((older.message.text.as_str(), older.reply.as_deref()), ("text 1", Some("done")));
    assert_eq!(home.store.history(&ann, page(Some(older.id))).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_until_it_expires_or_is_deleted() -> Checked {
    let home = Home::new().await?;
    let store = &home.store;
    let token = |byte, expires_at| NewToken {
        scope: "user:ann".to_owned(),
        user: "ann".parse().ok(),
        hash: [byte; 32],
        label: "phone".to_owned(),
        expires_at,
        now_ms: NOW,
    };
    let first = store.create_token(token(1, None)).await?;
    store.create_token(token(2, Some(NOW + 10))).await?;
    let twice = store.create_token(token(1, None)).await;
    assert!(matches!(twice, Err(Error::Token { .. })));
    let found = store.find_token(&[1; 32], i64::MAX).await?.ok_or("not found")?;
    assert_eq!((found.id, found.user), (first, "ann".parse().ok()));
    assert!(store.find_token(&[2; 32], NOW + 9).await?.is_some());
    assert!(store.find_token(&[2; 32], NOW + 10).await?.is_none());
    assert!(store.find_token(&[3; 32], NOW).await?.is_none());
    assert_eq!(store.tokens().await?.len(), 2);
    assert!(store.delete_token(first).await?);
    assert!(!store.delete_token(first).await?);
    assert!(store.find_token(&[1; 32], NOW).await?.is_none());
    assert_eq!(store.users().await?.len(), 1, "the user of a token exists");
    Ok(())
}

#[tokio::test]
async fn a_run_that_does_not_read_back_holds_up_no_other() -> Checked {
    let home = Home::new().await?;
    let all = ActiveLimits { cells: 100, per_user: 100 };
    for run in 1..=5 {
        home.say(run, "ann", &format!("c{run}"), "hi").await?;
        home.store.claim(all, NOW).await?.ok_or("nothing to claim")?;
    }
    let rival = Database::connect(format!("sqlite:{}", home.options.path.display())).await?;
    for (run, damage) in [
        (2, "state = 'lost'"),
        (3, "outcome = 'answered', isolation = ''"), // only a finishing run may become that
        (4, "state = 'finishing'"),
    ] {
        let run = id(run);
        rival.execute_unprepared(&format!("UPDATE runs SET {damage} WHERE id = '{run}'")).await?;
    }
    rival.close().await?;
    let expected = [(id(1), RunState::Queued), (id(5), RunState::Queued)];
    assert_eq!(settled(&home.store, NOW + 9).await?, expected);
    let left = home.store.run(id(4)).await?.ok_or("no run")?;
    assert_eq!((left.state, left.gone_at), (RunState::Finishing, None));
    assert_eq!(settled(&home.store, NOW + 9).await?, [], "it stays, and nobody waits for it");
    assert!(home.store.claim(all, NOW).await?.is_some(), "the others go on");
    Ok(())
}
