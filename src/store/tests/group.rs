//! The writer: groups, what one failure does to the others, a full disk, a sudden death.

#![expect(clippy::disallowed_methods, reason = "a test looks at the store's own files")]

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Runs 64 senders of `each` messages and returns (accepts per commit, the slowest percent).
async fn senders(store: &Store, each: u128) -> Result<(f64, Duration), Box<dyn StdError>> {
    let before = store.counters();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..64_u128 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for n in 0..each {
                let run = sender * each + n + 1;
                let message = new(run, &format!("u{}", sender % 8), &format!("c{sender}"), "hi");
                let message = message.map_err(|error| error.to_string())?;
                let begun = Instant::now();
                store.accept(message, LIMITS).await.map_err(|error| error.to_string())?;
                times.push(begun.elapsed());
            }
            Ok::<_, String>(times)
        });
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    times.sort_unstable();
    let slow = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    let after = store.counters();
    let accepts = (after.operations - before.operations) as f64;
    Ok((accepts / (after.commits - before.commits) as f64, slow))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_senders_share_their_commits() -> Checked {
    let home = Home::new().await?;
    let (per_commit, slow) = senders(&home.store, 10).await?;
    println!("{per_commit:.1} accepts per commit; 99 % within {slow:?}");
    assert!(per_commit >= 8.0, "{per_commit} accepts per commit");
    assert_eq!(home.store.counters().operations, 640);
    Ok(())
}

#[tokio::test]
async fn one_sender_pays_one_commit_a_message() -> Checked {
    let home = Home::new().await?;
    for run in 1..=5 {
        home.say(run, "ann", "main", "hi").await?;
    }
    home.store.ping().await?;
    home.store.counts().await?;
    assert_eq!(settled(&home.store, NOW).await?, []);
    let counters = home.store.counters();
    assert_eq!((counters.operations, counters.commits), (5, 5), "only writes count");
    Ok(())
}

#[tokio::test]
async fn a_refusal_in_a_group_undoes_only_itself() -> Checked {
    let home = Home::new().await?;
    let store = &home.store;
    let ann =
        async |text| store.accept(new(1, "ann", "main", text)?, LIMITS).await.map_err(Box::from);
    let bob =
        async |text| store.accept(new(1, "bob", "main", text)?, LIMITS).await.map_err(Box::from);
    // Polled in this order, so that all four wait when the writer looks.
    let (first, same_id, gone, third): (Said, Said, _, Said) = tokio::join!(
        biased;
        ann("first"),
        bob("the same run id"),
        store.gone(id(7), NOW),
        ann("third"),
    );
    first?;
    third?;
    assert!(same_id.is_err());
    assert!(matches!(gone, Err(Error::NoSuchRun { .. })));
    let counters = store.counters();
    assert_eq!((counters.operations, counters.commits), (2, 1));
    assert_eq!(store.users().await?.len(), 1, "bob's row went with his message");
    assert_eq!(texts(&home.claim_number(1).await?), ["first", "third"]);
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_leaves_nothing_half_written_and_heals() -> Checked {
    let home = Home::with_pages(|| Some(60)).await?;
    let long = "x".repeat(20_000);
    let mut accepted = Vec::new();
    for run in 1..=100 {
        let said = home.say(run, &format!("u{run}"), "main", &long).await;
        if is_full(said) {
            break;
        }
        accepted.push(id(run));
    }
    assert!((3..50).contains(&accepted.len()), "{}", accepted.len());
    // A large message beside small ones: only what does not fit is refused.
    let small = |run| home.say(run, "ann", "main", "small");
    let (a, b, c) =
        tokio::join!(biased; small(201), home.say(202, "bob", "main", &long), small(203));
    assert!(is_full(b));
    accepted.push(a?.run);
    assert_eq!(c?.run, id(201));
    home.store.ping().await?;
    // A driver that still counted the lost transaction would begin the next without the write lock.
    let rival = Rival(home.options.path.clone());
    assert!(!home.store.writer.carry_out(rival).await?, "two can write at once");

    let listed = async |store: &Store| {
        let runs = store.runs(&Default::default(), 100).await?;
        let mut ids: Vec<_> = runs.iter().map(|run| run.run).collect();
        ids.reverse();
        let texts = runs.iter().map(|run| run.messages.len()).sum::<usize>();
        Ok::<_, Error>((ids, texts))
    };
    let messages = accepted.len() + 1;
    assert_eq!(listed(&home.store).await?, (accepted.clone(), messages));
    let home = home.reopen(|| None).await?;
    assert_eq!(listed(&home.store).await?, (accepted, messages));
    assert!(home.store.users().await?.iter().all(|user| user.name.as_str() != "bob"));
    home.say(300, "ann", "other", &long).await?;
    assert_eq!(home.store.writer.carry_out(Ask("PRAGMA integrity_check")).await?, "ok");
    assert_eq!(
        home.store.writer.carry_out(Ask("SELECT count(*) FROM pragma_foreign_key_check")).await?,
        "0"
    );
    Ok(())
}

#[tokio::test]
async fn verbs_of_a_closed_store_fail_and_dropping_ends_the_writer() -> Checked {
    let home = Home::new().await?;
    home.say(1, "ann", "main", "hi").await?;
    let other = home.store.clone();
    home.store.close().await;
    assert!(matches!(other.ping().await, Err(Error::Closed)));
    assert!(other.run(id(1)).await.is_err());
    let wal = home.dir.path().join("noclaw.db-wal");
    assert!(!wal.exists(), "a clean end leaves one file");

    let store = Store::open(home.options.clone()).await?;
    assert!(wal.exists());
    drop(store);
    let ended = tokio::time::timeout(Duration::from_secs(10), async {
        while wal.exists() {
            tokio::task::yield_now().await;
        }
    });
    ended.await?;
    Ok(())
}

/// The process that `what_was_accepted_survives_a_kill` kills: it accepts messages and says so.
#[tokio::test]
#[ignore = "it is a part of what_was_accepted_survives_a_kill, which runs it as a process"]
async fn accept_until_killed() -> Checked {
    let path = env::var_os("NOCLAW_TEST_DATABASE").ok_or("NOCLAW_TEST_DATABASE is not set")?;
    let store = Store::open(StoreOptions { path: path.into(), max_pages: || None });
    let store = store.await?;
    for run in 1.. {
        let message = new(run, &format!("u{}", run % 5), "main", &run.to_string())?;
        let run = store.accept(message, LIMITS).await?.run;
        let claimed = store.claim(CELLS, NOW).await?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "accepted {run}")?;
        if let Some(claimed) = claimed {
            writeln!(out, "claimed {}", claimed.run)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill() -> Checked {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("noclaw.db");
    for round in 0..3 {
        let mut child = Command::new(env::current_exe()?)
            .args(["--exact", "store::tests::group::accept_until_killed"])
            .args(["--ignored", "--nocapture"])
            .env("NOCLAW_TEST_DATABASE", &path)
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut told = Vec::new();
        for line in lines {
            let line = line?;
            if let Some((what, run)) = line.split_once(' ')
                && matches!(what, "accepted" | "claimed")
                && let Ok(run) = run.parse::<RunId>()
            {
                told.push((what.to_owned(), run));
            }
            if told.len() == 40 + round {
                child.kill()?;
            }
        }
        child.wait()?;
        assert!(told.len() >= 40, "the other process told of {}", told.len());
        let store = Store::open(StoreOptions { path: path.clone(), max_pages: || None });
        let store = store.await?;
        for (what, run) in told {
            let record = store.run(run).await?.ok_or(format!("{run} is lost"))?;
            assert!(what == "accepted" || record.attempts > 0, "{run} was claimed");
        }
        assert_eq!(store.writer.carry_out(Ask("PRAGMA integrity_check")).await?, "ok");
        store.close().await;
        std::fs::remove_file(&path)?;
    }
    Ok(())
}
