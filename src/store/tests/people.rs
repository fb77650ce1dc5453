//! Users: made, changed, removed with everything that is theirs; and what the owner has not seen.

use super::super::error::{NotAdded, NotRemoved};
use super::super::mounts::NewMount;
use super::super::read::{HistoryPage, RunFilter};
use super::super::removal::OpenRuns;
use super::super::tokens::NewToken;
use super::super::users::{NewUser, UserChange};
use super::*;
use crate::core::ids::UserName;
use crate::core::limits::MOUNTS_PER_USER;
use crate::core::quota::Space;

fn user(name: &str) -> Result<NewUser, Box<dyn StdError>> {
    Ok(NewUser {
        name: name.parse()?,
        instructions: "be brief".to_owned(),
        time_zone: Some("Europe/Berlin".to_owned()),
        now_ms: NOW,
    })
}

#[tokio::test]
async fn a_user_is_made_once_and_changed_where_there_is_one() -> Checked {
    let home = Home::new().await?;
    let (store, ann) = (&home.store, "ann".parse()?);
    assert!(store.add_user(user("ann")?).await?);
    let twice = NewUser { instructions: "be long".to_owned(), ..user("ann")? };
    assert!(!store.add_user(twice).await?);
    let found = store.user(&ann).await?.ok_or("no ann")?;
    assert_eq!(found.instructions, "be brief", "the first one stays");
    let change = UserChange { time_zone: Some(None), ..UserChange::default() };
    assert!(store.change_user(&ann, change).await?);
    let change = UserChange { instructions: Some("be kind".to_owned()), time_zone: None };
    assert!(store.change_user(&ann, change.clone()).await?);
    let found = store.user(&ann).await?.ok_or("no ann")?;
    assert_eq!((found.instructions.as_str(), found.time_zone), ("be kind", None));
    assert!(store.change_user(&ann, UserChange::default()).await?, "nothing is a change, too");
    assert!(!store.change_user(&"bob".parse()?, change).await?);
    assert!(store.user(&"bob".parse()?).await?.is_none());
    home.say(1, "ann", "main", "hello").await?;
    assert_eq!(home.claim_number(1).await?.user_instructions, "be kind");
    Ok(())
}

#[tokio::test]
async fn a_removed_user_leaves_nothing_and_others_keep_everything() -> Checked {
    let home = Home::new().await?;
    let store = &home.store;
    for (run, user, conversation) in [(1, "ann", "a"), (2, "ann", "b"), (3, "bob", "a")] {
        home.say(run, user, conversation, "hello").await?;
        home.claim_number(run).await?;
        home.answer(id(run), "head").await?;
    }
    for (byte, user) in [(1, Some("ann".parse()?)), (2, Some("bob".parse()?)), (3, None)] {
        let token = NewToken {
            scope: "user".to_owned(),
            user,
            hash: [byte; 32],
            label: String::new(),
            expires_at: None,
            now_ms: NOW,
        };
        store.create_token(token).await?;
    }
    // Keys and retries refer to runs.
    for sql in [
        "INSERT INTO idempotency_keys SELECT 'owner', id, x'00', id, 0 FROM runs RETURNING ''",
        "UPDATE runs SET retry_of = (SELECT id FROM runs WHERE seq = 1) WHERE seq = 2 RETURNING ''",
    ] {
        store.writer.carry_out(Ask(sql)).await?;
    }
    let (ann, bob): (UserName, UserName) = ("ann".parse()?, "bob".parse()?);
    let removed = store.remove_user(&ann, NOW).await?;
    let counts = (removed.messages, removed.runs, removed.conversations, removed.tokens);
    assert_eq!(counts, (2, 2, 2, 1));
    assert_eq!(store.overviews(Some(&ann)).await?, []);
    let left = store.overviews(None).await?.pop().ok_or("nobody is left")?;
    assert_eq!((left.user.name, left.conversations, left.messages), (bob.clone(), 1, 1));
    assert_eq!((left.runs, left.tokens), (1, 1));
    assert_eq!(store.history(&bob, page()).await?.len(), 1);
    assert_eq!(store.tokens().await?.len(), 2);
    let keys = store.writer.carry_out(Ask("SELECT count(*) FROM idempotency_keys")).await?;
    assert_eq!(keys, "1");
    let again = store.remove_user(&ann, NOW).await;
    assert!(matches!(again, Err(NotRemoved::NoSuchUser { .. })));
    Ok(())
}

fn page() -> HistoryPage {
    HistoryPage { limit: 10, ..HistoryPage::default() }
}

#[tokio::test]
async fn a_user_has_folders_each_once_and_by_a_name_of_its_own() -> Checked {
    let home = Home::new().await?;
    let (store, ann): (_, UserName) = (&home.store, "ann".parse()?);
    let add = |user: &UserName, path: String, read_write| {
        let (user, path) = (user.clone(), path.try_into());
        async move {
            let path = path.map_err(|_| Error::Closed)?;
            store.add_mount(NewMount { user, path, read_write, now_ms: NOW }).await
        }
    };
    let nobody = add(&ann, "/srv/a".to_owned(), false).await;
    assert!(matches!(nobody, Err(NotAdded::NoSuchUser { .. })), "{nobody:?}");
    for name in ["ann", "bob"] {
        assert!(store.add_user(user(name)?).await?);
    }
    let first = add(&ann, "/srv/a".to_owned(), true).await?;
    let second = add(&ann, "/mnt/a".to_owned(), false).await?;
    let names = [first.name.as_str(), second.name.as_str()];
    assert_eq!(names, ["a", "a-2"]);
    let twice = add(&ann, "/srv/a".to_owned(), false).await;
    assert!(matches!(twice, Err(NotAdded::Exists { read_write: true, .. })), "{twice:?}");
    let bobs = add(&"bob".parse()?, "/srv/a".to_owned(), false).await?;
    assert_eq!(store.mounts(&ann).await?, [first.clone(), second.clone()]);
    assert!(store.remove_mount(&ann, &first.name).await?);
    assert!(!store.remove_mount(&ann, &first.name).await?);
    assert_eq!(store.mounts(&ann).await?, [second], "the other one keeps its name");
    for number in 1..MOUNTS_PER_USER {
        add(&ann, format!("/srv/{number}"), false).await?;
    }
    let more = add(&ann, "/srv/more".to_owned(), false).await;
    assert!(matches!(more, Err(NotAdded::TooMany { .. })), "{more:?}");
    store.remove_user(&ann, NOW).await?;
    assert!(store.add_user(user("ann")?).await?);
    assert_eq!(store.mounts(&ann).await?, [], "a later ann inherits nothing");
    assert_eq!(store.mounts(&"bob".parse()?).await?, [bobs]);
    Ok(())
}

#[tokio::test]
async fn a_user_with_a_run_that_is_not_over_stays() -> Checked {
    let home = Home::new().await?;
    let (store, ann) = (&home.store, "ann".parse()?);
    home.say(1, "ann", "main", "hello").await?;
    let queued = store.remove_user(&ann, NOW).await;
    assert!(matches!(queued, Err(NotRemoved::Busy { runs: 1, .. })));
    home.claim_number(1).await?;
    assert_eq!(store.open_runs(&ann).await?, OpenRuns { undecided: 1, finishing: 0 });
    store.measured(id(1), "{}", "held", true).await?;
    store.finish(id(1), answered("done", "head"), NOW).await?;
    let finishing = store.remove_user(&ann, NOW).await;
    assert!(matches!(finishing, Err(NotRemoved::Busy { .. })), "its container may be there");
    assert_eq!(store.open_runs(&ann).await?, OpenRuns { undecided: 0, finishing: 1 });
    store.gone(id(1), NOW).await?;
    let another = store.remove_user(&ann, NOW - 1).await;
    assert!(matches!(another, Err(NotRemoved::NoSuchUser { .. })), "another ann, made before");
    store.remove_user(&ann, NOW).await?;
    assert_eq!(store.runs(&RunFilter::default(), 10).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_history_can_be_of_one_conversation() -> Checked {
    let home = Home::new().await?;
    let (store, ann) = (&home.store, "ann".parse()?);
    for (run, conversation) in [(1, "garden"), (2, "kitchen"), (3, "garden")] {
        home.say(run, "ann", conversation, &format!("text {run}")).await?;
        home.claim_number(run).await?;
        store.finish(id(run), failed(), NOW + 5).await?;
        store.gone(id(run), NOW + 6).await?;
    }
    let conversation = Some("garden".parse()?);
    let garden = store.history(&ann, HistoryPage { conversation, ..page() }).await?;
    let texts: Vec<_> = garden.iter().map(|item| item.message.text.as_str()).collect();
    assert_eq!(texts, ["text 3", "text 1"]);
    let last = garden.first().ok_or("nothing")?;
    assert_eq!(last.error.as_deref(), Some("door lost: the stream ended"));
    assert_eq!(last.ended_at, Some(NOW + 5));
    assert_eq!(store.history(&ann, page()).await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn news_are_told_until_they_were_seen_and_each_once() -> Checked {
    let home = Home::new().await?;
    let (store, owner) = (&home.store, "owner".parse()?);
    store.ensure_user(&owner, NOW).await?;
    let nothing = store.news(&owner, FULL, NOW).await?;
    assert_eq!((nothing.since, nothing.answered, nothing.users.len()), (None, 0, 0));
    for (run, end) in [(1, NOW), (2, NOW + 9), (3, NOW + 10)] {
        home.say(run, "ann", &format!("c{run}"), "hello").await?;
        home.claim_number(run).await?;
        store.measured(id(run), "{}", "held", true).await?;
        let mut ending = if run == 2 { failed() } else { answered("done", "head") };
        ending.spending.cost_microusd = 100;
        store.finish(id(run), ending, end).await?;
        store.gone(id(run), end).await?;
    }
    home.say(4, "bob", "main", "hello").await?;
    home.claim_number(4).await?;
    home.say(5, "bob", "main", "hello").await?;
    let news = store.news(&owner, FULL, NOW + 10).await?;
    assert_eq!((news.answered, news.failed, news.spent_since), (1, 1, 200));
    assert_eq!(news.spent_today, 300, "also what is newer than these news");
    let failure = news.failures.first().ok_or("no failure")?;
    assert_eq!((failure.run, failure.status), (id(2), RunState::Failed));
    assert_eq!(failure.error.as_deref(), Some("door lost: the stream ended"));
    let open: Vec<_> = news.open.iter().map(|run| (run.run, run.status)).collect();
    assert_eq!(open, [(id(4), RunState::Starting), (id(5), RunState::Queued)]);
    assert_eq!((news.active, news.queued), (1, 1));
    assert_eq!(news.users, ["ann".parse()?, "bob".parse()?]);
    store.seen(news.until).await?;
    store.seen(news.until - 5).await?;
    let news = store.news(&owner, FULL, NOW + 20).await?;
    assert_eq!((news.since, news.answered, news.failed), (Some(NOW + 10), 1, 0));
    assert_eq!((news.spent_since, news.users.len()), (100, 0));
    Ok(())
}

/// A workspace that takes as much is told.
const FULL: Space = Space { bytes: 800, files: 80 };

#[tokio::test]
async fn what_a_workspace_takes_is_what_its_last_count_said() -> Checked {
    let home = Home::new().await?;
    let space = |bytes, files| Space { bytes, files };
    let takes = async |user: &str| {
        let overviews = home.store.overviews(Some(&user.parse()?)).await?;
        Ok::<_, Box<dyn StdError>>(overviews.first().and_then(|overview| overview.workspace))
    };
    for (run, user) in [(1, "bob"), (2, "bob"), (3, "eve")] {
        home.say(run, user, "main", "hello").await?;
        home.claim_number(run).await?;
        home.answer(id(run), "head").await?;
    }
    assert_eq!(takes("bob").await?, None, "it was not counted yet");
    home.store.workspace(id(2), space(799, 79)).await?;
    // An older run's count that comes late is not the last one's.
    home.store.workspace(id(1), space(5000, 5)).await?;
    home.store.workspace(id(3), space(u64::MAX, 7)).await?;
    assert_eq!(takes("bob").await?, Some(space(799, 79)));
    assert_eq!(takes("eve").await?, Some(space(i64::MAX.unsigned_abs(), 7)));
    let record = home.store.run(id(1)).await?.ok_or("no run")?;
    assert_eq!((record.workspace, record.state), (Some(space(5000, 5)), RunState::Answered));

    let owner = "owner".parse()?;
    let full = async || home.store.news(&owner, FULL, NOW + 1).await.map(|news| news.nearly_full);
    assert_eq!(full().await?, [("eve".parse()?, space(i64::MAX.unsigned_abs(), 7))]);
    home.store.workspace(id(3), space(0, 80)).await?;
    assert_eq!(full().await?, [("eve".parse()?, space(0, 80))]);
    home.store.workspace(id(3), space(0, 0)).await?;
    assert_eq!(full().await?, []);

    home.say(4, "bob", "main", "and now?").await?;
    assert_eq!(home.claim_number(4).await?.workspace, Some(space(799, 79)));
    home.say(5, "new", "main", "hello").await?;
    assert_eq!(home.claim_number(5).await?.workspace, None);
    let unknown = home.store.workspace(id(9), space(0, 0)).await;
    assert!(matches!(unknown, Err(Error::NoSuchRun { .. })));
    Ok(())
}
