//! What others may ask: the same message twice, a cancel, a retry, to begin anew; and a clock that
//! goes back.

use super::super::accept::SentKey;
use super::*;
use crate::core::run::{Cancel, Memory, RunState};
use crate::store::tokens::NewToken;

fn with_key(run: u128, text: &str, speaker: &str) -> Result<NewMessage, Box<dyn StdError>> {
    let mut message = [0; 32];
    message.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    let key = SentKey { speaker: speaker.to_owned(), key: "k".to_owned(), message };
    Ok(NewMessage { key: Some(key), ..new(run, "ann", "main", text)? })
}

#[tokio::test]
async fn a_key_stands_for_one_message_of_one_speaker() -> Checked {
    let home = Home::new().await?;
    let one = QueueLimits { all: 2, ..LIMITS };
    let say = async |run, text, speaker| home.say_with(with_key(run, text, speaker), one).await;
    assert!(!say(1, "hello", "7").await?.repeated);
    let again = say(2, "hello", "7").await?;
    assert_eq!((again.run, again.repeated, again.joined), (id(1), true, false));
    let other = say(3, "another", "7").await.err().map(|error| error.to_string());
    assert!(other.unwrap_or_default().contains(&id(1).to_string()));
    assert!(!say(4, "another", "8").await?.repeated, "the same key of another speaker");
    assert!(say(5, "hello", "7").await?.repeated, "a full queue refuses only what is new");

    let home = home.reopen(|| None).await?;
    let found = with_key(6, "hello", "7")?.key.ok_or("no key")?;
    assert_eq!(home.store.find_key(&found).await?, Some(id(1)), "it is on disk");
    let claimed = home.claim().await?.ok_or("nothing to claim")?;
    assert_eq!(texts(&claimed), ["hello", "another"], "each message once");
    home.store.forget(NOW + 1).await?;
    assert_eq!(home.store.find_key(&found).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_refused_message_leaves_no_key() -> Checked {
    let home = Home::new().await?;
    let none = QueueLimits { all: 0, ..LIMITS };
    assert!(home.say_with(with_key(1, "hello", "7"), none).await.is_err());
    assert!(!home.say_with(with_key(2, "other", "7"), LIMITS).await?.repeated);
    Ok(())
}

#[tokio::test]
async fn a_run_is_cancelled_by_where_it_stands() -> Checked {
    let home = Home::new().await?;
    let (store, state) = (&home.store, async |run| {
        let run = home.store.run(id(run)).await?.ok_or("no run")?;
        Ok::<_, Box<dyn StdError>>((run.state, run.gone_at.is_some(), run.error))
    });
    home.say(1, "ann", "a", "waits").await?;
    assert_eq!(store.cancel(id(1), NOW).await?, Cancel::Now);
    let cancelled = Some("cancelled".to_owned());
    assert_eq!(state(1).await?, (RunState::Cancelled, true, cancelled.clone()));
    assert_eq!(store.cancel(id(1), NOW).await?, Cancel::TooLate);
    assert_eq!(home.claim().await?, None);

    home.say(2, "ann", "a", "works").await?;
    home.claim_number(2).await?;
    assert_eq!(store.cancel(id(2), NOW).await?, Cancel::Stop);
    assert_eq!(state(2).await?.0, RunState::Starting, "its container is not gone yet");
    // The service dies before it has ended the run: what was asked for still holds.
    assert_eq!(settled(store, NOW).await?, [(id(2), RunState::Cancelled)]);
    assert_eq!(state(2).await?, (RunState::Cancelled, true, cancelled));

    home.say(3, "ann", "a", "is done").await?;
    home.claim_number(3).await?;
    store.measured(id(3), "{}", "held", true).await?;
    store.finish(id(3), answered("hi", "head"), NOW).await?;
    assert_eq!(store.cancel(id(3), NOW).await?, Cancel::TooLate);
    store.gone(id(3), NOW).await?;
    assert_eq!(state(3).await?.0, RunState::Answered);
    assert!(matches!(store.cancel(id(9), NOW).await, Err(Error::NoSuchRun { .. })));
    Ok(())
}

#[tokio::test]
async fn a_run_is_retried_once_and_only_without_an_answer() -> Checked {
    let home = Home::new().await?;
    let retry = async |run, new| home.store.retry(id(run), id(new), None, LIMITS, NOW + 5).await;
    let mut first = new(1, "ann", "main", "one")?;
    first.message.context = Some("{}".to_owned());
    home.say_with(Ok(first), LIMITS).await?;
    home.say(9, "ann", "main", "two").await?;
    assert!(retry(1, 2).await.is_err(), "it has not ended");
    home.claim_number(1).await?;
    home.store.finish(id(1), failed(), NOW).await?;
    home.store.gone(id(1), NOW).await?;

    let none = QueueLimits { per_user: 0, ..LIMITS };
    assert!(home.store.retry(id(1), id(2), None, none, NOW).await.is_err(), "the queue is full");
    let accepted = retry(1, 2).await?;
    assert_eq!((accepted.run, accepted.repeated), (id(2), false));
    let again = retry(1, 3).await?;
    assert_eq!((again.run, again.repeated), (id(2), true));

    let claimed = home.claim_number(2).await?;
    assert_eq!(texts(&claimed), ["one", "two"]);
    assert_eq!(claimed.messages.first().and_then(|m| m.context.as_deref()), Some("{}"));
    home.answer(id(2), "head").await?;
    let run = home.store.run(id(2)).await?.ok_or("no run")?;
    assert_eq!((run.retry_of, run.messages.len()), (Some(id(1)), 2));
    assert!(retry(2, 4).await.is_err(), "it was answered");
    assert!(retry(8, 4).await.is_err(), "there is none");
    let old = home.store.run(id(1)).await?.ok_or("no run")?;
    assert_eq!((old.state, old.messages.len()), (RunState::Failed, 2), "it stays as it ended");
    Ok(())
}

#[tokio::test]
async fn with_a_removed_token_nothing_is_accepted() -> Checked {
    let home = Home::new().await?;
    let hash = [7; 32];
    let token = NewToken {
        scope: "user".to_owned(),
        user: Some("ann".parse()?),
        hash,
        label: String::new(),
        expires_at: None,
        now_ms: NOW,
    };
    let number = home.store.create_token(token).await?;
    let say = async |run| {
        let new = NewMessage { token: Some(hash), ..with_key(run, "hello", "7")? };
        home.say_with(Ok(new), LIMITS).await
    };
    let gone = |error: Box<dyn StdError>| {
        matches!(error.downcast_ref::<Refused>(), Some(Refused::TokenGone))
    };
    let retry = async || home.store.retry(id(1), id(2), Some(hash), LIMITS, NOW).await;
    say(1).await?;
    home.store.cancel(id(1), NOW).await?;
    home.store.delete_token(number).await?;
    assert!(say(3).await.is_err_and(gone), "its own key does not help");
    assert!(matches!(retry().await, Err(Refused::TokenGone)));
    home.store.remove_user(&"ann".parse()?, NOW).await?;
    assert!(say(3).await.is_err_and(gone));
    assert!(home.store.user(&"ann".parse()?).await?.is_none());
    assert_eq!(home.store.runs(&Default::default(), 10).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_conversation_begins_anew_only_with_an_answer() -> Checked {
    let home = Home::new().await?;
    let anew = |run| {
        let mut message = new(run, "ann", "main", "forget")?;
        message.message.anew = true;
        Ok(message)
    };
    home.say(1, "ann", "main", "hello").await?;
    home.claim_number(1).await?;
    home.answer(id(1), "head-1").await?;

    home.say(2, "ann", "main", "waits").await?;
    assert_eq!(home.say_with(anew(3), LIMITS).await?.run, id(3), "it joins nothing");
    assert_eq!(home.say(4, "ann", "main", "after").await?.run, id(3), "what follows joins it");
    let claimed = home.claim_number(2).await?;
    assert_eq!((claimed.memory, claimed.head.as_deref()), (Memory::Conversation, Some("head-1")));
    home.answer(id(2), "head-2").await?;

    let claimed = home.claim_number(3).await?;
    assert_eq!((claimed.memory, claimed.head.as_deref()), (Memory::AsAsked, Some("head-2")));
    home.store.finish(id(3), failed(), NOW).await?;
    home.store.gone(id(3), NOW).await?;
    assert_eq!(home.store.run(id(3)).await?.ok_or("no run")?.forked_from, None);
    home.say(5, "ann", "main", "again").await?;
    let claimed = home.claim_number(5).await?;
    assert_eq!(claimed.head.as_deref(), Some("head-2"), "the failed one has forgotten nothing");
    Ok(())
}

#[tokio::test]
async fn what_is_to_begin_again_may_be_cancelled_instead() -> Checked {
    let home = Home::new().await?;
    for cancel in [false, true] {
        home.say(1 + u128::from(cancel), "ann", "main", "hello").await?;
        let run = home.claim().await?.ok_or("nothing to claim")?.run;
        if cancel {
            home.store.cancel(run, NOW).await?;
        }
        home.store.again(run, NOW).await?;
        let next = home.claim().await?;
        assert_eq!(next.as_ref().map(|next| next.memory), (!cancel).then_some(Memory::Refused));
        if next.is_some() {
            home.answer(run, "head").await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_clock_that_goes_back_loses_and_reorders_nothing() -> Checked {
    let home = Home::new().await?;
    let early = NOW - 3_600_000;
    home.say(1, "ann", "main", "first").await?;
    home.claim_number(1).await?;
    let mut late = new(2, "ann", "main", "second")?;
    late.now_ms = early;
    home.say_with(Ok(late), LIMITS).await?;
    home.store.measured(id(1), "{}", "held", true).await?;
    home.store.finish(id(1), answered("hi", "head"), early).await?;
    home.store.gone(id(1), early).await?;
    let claimed = home.store.claim(CELLS, early).await?.ok_or("nothing to claim")?;
    assert_eq!((claimed.run, claimed.head.as_deref()), (id(2), Some("head")));
    assert_eq!(settled(&home.store, early).await?, [(id(2), RunState::Queued)]);
    let runs = home.store.runs(&Default::default(), 10).await?;
    assert_eq!(runs.iter().map(|run| run.run).collect::<Vec<_>>(), [id(2), id(1)]);
    Ok(())
}
