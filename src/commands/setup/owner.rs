//! What is kept with the service itself: the owner's time zone, and whether a message was answered.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::machine::{SERVICE, SOCKET, is};
use super::{Done, Step};
use crate::channels::users::{ChangeBody, UserView};
use crate::channels::view::RunList;
use crate::commands::client::Client;
use crate::commands::{Failure, block_on};
use crate::core::problem::ExitStatus;
use crate::host::{failures, machine};

/// The first connection starts the service, which may clean up after a crash first.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether the service fails meanwhile, and how many failures are enough.
const LOOK: Duration = Duration::from_millis(500);
const FAILURES: u32 = 3;

/// A time zone of a user's: a name that this machine knows, or the machine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Zone(Option<String>);

impl Zone {
    /// The name; empty for the machine's.
    pub(super) fn name(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let found = TimeZone::get(text).ok();
        let name = found.as_ref().and_then(TimeZone::iana_name).map(str::to_owned);
        let unknown = || format!("this machine knows no zone {text:?}; one is Europe/Berlin");
        name.map(|name| Self(Some(name))).ok_or_else(unknown)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => f.write_str(name),
            None => match TimeZone::try_system().ok().as_ref().and_then(TimeZone::iana_name) {
                Some(name) => write!(f, "the machine's, {name}"),
                None => f.write_str("the machine's"),
            },
        }
    }
}

/// The owner's zone, as far as it is known before the socket is on.
pub(super) fn zone_before() -> Result<Zone, Failure> {
    match is("is-active", SOCKET)? {
        true => Ok(Zone(user()?.time_zone)),
        false => Ok(Zone(None)),
    }
}

/// The owner's zone is the one that was answered; what was not answered stays.
pub(super) fn zone(answer: Option<&Zone>) -> Step {
    let now = Zone(user()?.time_zone);
    let Some(zone) = answer.filter(|zone| **zone != now) else {
        return Ok(Done::Already(now.to_string()));
    };
    let body = ChangeBody { time_zone: Some(zone.0.clone()) };
    let path = format!("/v1/users/{}", owner()?);
    ask(async { Ok(client().patch(&path, &body).await?) })?;
    Ok(Done::Now(zone.to_string()))
}

/// Whether a message of the owner's was ever answered.
pub(super) fn was_answered() -> Result<bool, Failure> {
    let path = format!("/v1/runs?user={}&status=answered&limit=1", owner()?);
    let list: RunList = ask(async { client().get(&path).await?.json() })?;
    Ok(!list.runs.is_empty())
}

fn user() -> Result<UserView, Failure> {
    let path = format!("/v1/users/{}", owner()?);
    ask(async { client().get(&path).await?.json() })
}

fn owner() -> Result<String, Failure> {
    let owner = machine::owner().map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    Ok(owner.to_string())
}

fn client() -> Client {
    Client::usual().within(PATIENCE)
}

/// Asks the service, unless it fails in a row meanwhile: its socket stays open, so that one would
/// wait in vain.
fn ask<T>(asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on(async {
        tokio::select! {
            answered = asked => answered,
            why = fails() => {
                let message = format!("the service fails as often as it begins: {why}");
                Err(Failure::new(ExitStatus::Unavailable, message)
                    .hint("noclaw logs -n 50; systemctl --user status noclaw"))
            }
        }
    })
}

/// Why the service fails, once it has failed some times from now on.
async fn fails() -> String {
    let Ok(unit) = SERVICE.parse() else { return std::future::pending().await };
    let begin = machine::now();
    let mut failures = 0;
    let mut last = begin;
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let streak = failures::read(&unit).ok().flatten();
        if let Some(streak) = streak.filter(|streak| streak.last > last) {
            last = streak.last;
            failures += 1;
            if failures >= FAILURES {
                return streak.why;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_name_that_is_known_or_the_machine_s() {
        assert_eq!("Europe/Berlin".parse(), Ok(Zone(Some("Europe/Berlin".to_owned()))));
        assert_eq!(
            "europe/berlin".parse::<Zone>().map(|z| z.to_string()),
            Ok("Europe/Berlin".into())
        );
        assert_eq!("".parse(), Ok(Zone(None)));
        assert!("".parse::<Zone>().is_ok_and(|zone| zone.to_string().starts_with("the machine's")));
        for none in ["Berlin", "../etc/passwd", " ", "UTC+3 or so"] {
            assert!(none.parse::<Zone>().is_err(), "{none:?}");
        }
    }
}
