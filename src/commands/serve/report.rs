//! What systemd is told while the service lives: that it does, and a line for people. Whether it
//! lives is asked of the store's writer, and of the loop that claims runs; never of Podman: a
//! service that waits for Podman is well.
//!
//! | what happens | what systemd is told |
//! |---|---|
//! | it can accept messages | ready, once; Podman has not been asked yet |
//! | the store's writer answers, and runs were looked for since | alive, three times as often as the watchdog asks |
//! | one of them does not | nothing: the watchdog ends the service, and systemd starts it again |
//! | what it does or lacks is another | the line |
//! | something is missing | the line, and the log once; whether it still is, is asked every minute |
//! | it stops | stopping, and more time for as long as runs end |

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::assistant::Assistant;
use crate::core::journal::NOT_READY;
use crate::core::problem::chain;
use crate::host::systemd;

/// How often the line is made anew; it is told when it has changed.
const LINE: Duration = Duration::from_secs(2);
/// How often something that is missing is looked for.
const MISSING: Duration = Duration::from_secs(60);
/// How much more time a stopping service asks for, each [`LINE`].
const MORE: Duration = Duration::from_secs(20);

/// Says that the service is ready, and then how it is, until it is to stop.
pub(super) async fn until(stop: impl Future<Output = ()>, assistant: &Assistant) {
    systemd::ready(&line(assistant).await);
    tokio::select! {
        () = stop => {}
        () = lines(assistant) => {}
        () = lives(assistant) => {}
        () = looks(assistant) => {}
    }
}

/// Asks for more time until the service has stopped.
pub(super) async fn stopping(assistant: &Assistant, stopped: impl Future<Output = ()>) {
    let asks = async {
        loop {
            let line = format!("stopping; {}", runs(assistant).await);
            systemd::stopping(MORE, &line);
            systemd::alive();
            tokio::time::sleep(LINE).await;
        }
    };
    tokio::select! {
        () = stopped => {}
        () = asks => {}
    }
}

async fn lines(assistant: &Assistant) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(LINE).await;
        let line = line(assistant).await;
        if line != told {
            systemd::status(&line);
            told = line;
        }
    }
}

async fn lives(assistant: &Assistant) {
    let Some(most) = systemd::watchdog() else { return std::future::pending().await };
    let mut ticks = interval(most / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = 0;
    loop {
        ticks.tick().await;
        let turns = assistant.running.turns();
        let stands = turns != 0 && turns == before;
        before = turns;
        // Where nothing else happens, too, it has turned by the next tick.
        assistant.wake.notify_one();
        match timeout(most, assistant.store.ping()).await {
            Ok(Ok(())) if stands => tracing::error!("runs are not looked for any more"),
            Ok(Ok(())) => systemd::alive(),
            Ok(Err(error)) => tracing::error!(error = chain(&error), "the store does not answer"),
            Err(_) => tracing::error!("the store does not answer"),
        }
    }
}

async fn looks(assistant: &Assistant) {
    if let Err(problem) = assistant.ready.check().await {
        let hint = problem.hint.as_deref();
        tracing::warn!(message_id = NOT_READY, hint, "not ready to answer yet: {problem}");
    }
    let mut ticks = tokio::time::interval_at(Instant::now() + MISSING, MISSING);
    loop {
        ticks.tick().await;
        if assistant.ready.known_problem().is_some() {
            // What it finds, the line tells.
            assistant.ready.parts().await.ok();
        }
    }
}

async fn line(assistant: &Assistant) -> String {
    let runs = runs(assistant).await;
    match assistant.ready.known_problem() {
        None if !assistant.ready.has_looked() => format!("asking Podman; {runs}"),
        None => format!("ready; {runs}"),
        Some(problem) => {
            let hint = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("not ready: {}{hint}; {runs}", problem.detail)
        }
    }
}

async fn runs(assistant: &Assistant) -> String {
    match assistant.store.counts().await {
        Ok(counts) if counts.active + counts.queued == 0 => "idle".to_owned(),
        Ok(counts) => format!("{} running, {} waiting", counts.active, counts.queued),
        Err(_) => "the store cannot be read".to_owned(),
    }
}
