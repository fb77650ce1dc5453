//! `noclaw notice`: what systemd calls when a unit of ours has failed, and how the owner learns of
//! it. People need none of it; what it has to say, `noclaw` and `noclaw status` show.
//!
//! `noclaw.service` is begun anew after each failure, and meanwhile systemd fires no `OnFailure=`.
//! So each end of it calls `failed` (`ExecStopPost=`), which counts failures in a row
//! (`core/notice.rs`) and has the first of them told by `noclaw-notice@.service`: a unit of its
//! own, which an owner can add to. That calls `tell`.
//!
//! | what goes wrong | what follows |
//! |---|---|
//! | the file with the count cannot be read, or kept | it is said; the unit's own limit keeps it from telling often |
//! | the unit cannot be started | it is said; the next failure tries again |
//! | nobody shows notifications | the journal has it, and so has `noclaw status` |

use std::time::Duration;

use super::client::Client;
use super::{Ended, Failure, block_on, complain, local, print};
use crate::core::ids::UnitName;
use crate::core::journal::FAILED;
use crate::core::notice::{Streak, why};
use crate::core::problem::{ExitStatus, chain};
use crate::host::{failures, log, machine, programs};

/// The units whose failures are shown.
const UNITS: [&str; 2] = ["noclaw.service", "noclaw-image.service"];
/// What systemctl or busctl takes is some milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// `noclaw notice`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Count a failure, by what systemd gives to `ExecStopPost=`, and have it told
    Failed {
        /// The unit
        unit: UnitName,
    },
    /// Tell the owner: in the journal, and on a desktop that shows notifications
    Tell {
        /// The unit
        unit: UnitName,
    },
    /// Print what there is to tell, for mail of the owner's
    Show {
        /// The unit
        unit: UnitName,
    },
}

/// Counts, tells or prints.
pub fn run(command: &Command) -> Ended {
    match command {
        Command::Failed { unit } => failed(unit),
        Command::Tell { unit } => tell(unit),
        Command::Show { unit } => {
            print(text(unit, known(unit).as_ref()));
            Ok(ExitStatus::Ok)
        }
    }
}

fn failed(unit: &UnitName) -> Ended {
    let Ok(result) = std::env::var("SERVICE_RESULT") else {
        let message = "there is no SERVICE_RESULT: this is for systemd to call";
        return Err(Failure::new(ExitStatus::Usage, message).hint("noclaw status"));
    };
    let status = std::env::var("EXIT_STATUS").ok();
    let Some(why) = why(&result, status.as_deref()) else { return Ok(ExitStatus::Ok) };
    let mut streak = Streak::with(known(unit), why, machine::now());
    keep(unit, &streak);
    if !streak.told {
        let notice = format!("noclaw-notice@{unit}.service");
        let args = ["--user", "--no-ask-password", "--no-block", "start", &notice];
        let said = block_on(async { Ok(programs::ask("systemctl", &args, PATIENCE).await) })?;
        match said {
            Ok(said) if said.well => {
                streak.told = true;
                keep(unit, &streak);
            }
            Ok(said) => complain(&format!("the owner is not told: {}", said.why), None),
            Err(error) => complain(&format!("the owner is not told: {}", chain(&error)), None),
        }
    }
    Ok(ExitStatus::Ok)
}

fn known(unit: &UnitName) -> Option<Streak> {
    failures::read(unit).unwrap_or_else(|error| {
        complain(&format!("failures are not known: {}", chain(&error)), None);
        None
    })
}

fn keep(unit: &UnitName, streak: &Streak) {
    if let Err(error) = failures::keep(unit, streak) {
        complain(&format!("failures of {unit} are not counted: {error}"), None);
    }
}

fn tell(unit: &UnitName) -> Ended {
    log::start_alerts();
    let streak = known(unit);
    let text = text(unit, streak.as_ref());
    let (count, why) = streak.map_or((1, "?".to_owned()), |streak| (streak.count, streak.why));
    tracing::error!(message_id = FAILED, user_unit = %unit, failures = count, why, "{text}");
    // Whoever has no desktop has nobody who listens, and that is no failure.
    let call = ["--user", "--auto-start=no", "--", "call", "org.freedesktop.Notifications"];
    let what = ["/org/freedesktop/Notifications", "org.freedesktop.Notifications", "Notify"];
    let about = ["susssasa{sv}i", "noclaw", "0", "dialog-error", "NoClaw has failed", &text];
    let rest = ["0", "1", "urgency", "y", "2", "-1"];
    let args = [call.as_slice(), &what, &about, &rest].concat();
    block_on(async { Ok(programs::ask("busctl", &args, PATIENCE).await.ok()) })?;
    Ok(ExitStatus::Ok)
}

/// Failures that go on, for the head of what is shown by `client`: only the service at the usual
/// socket is systemd's.
pub(super) fn going_on(client: &Client) -> Vec<(UnitName, Streak)> {
    if !client.is_usual() {
        return Vec::new();
    }
    let units = UNITS.iter().filter_map(|unit| unit.parse::<UnitName>().ok());
    let streaks = units.filter_map(|unit| known(&unit).map(|streak| (unit, streak)));
    streaks.filter(|(_, streak)| streak.lasts(machine::now())).collect()
}

/// Shows them to whoever asks how things are.
pub(super) fn show(client: &Client) {
    for (unit, streak) in going_on(client) {
        print(format_args!("FAILED  {}", text(&unit, Some(&streak))));
    }
}

fn text(unit: &UnitName, streak: Option<&Streak>) -> String {
    let moment = |ms| local(jiff::Timestamp::from_millisecond(ms).unwrap_or_default()).to_string();
    let see = match unit.as_str() {
        "noclaw.service" => "noclaw logs".to_owned(),
        other => format!("journalctl --user --unit={other}"),
    };
    match streak {
        None => format!("{unit} has failed; see: {see}"),
        Some(Streak { count: 1, last, why, .. }) => {
            format!("{unit} has failed at {}: {why}; see: {see}", moment(*last))
        }
        Some(Streak { count, since, last, why, .. }) => {
            let (since, last) = (moment(*since), moment(*last));
            let times = format!("{count} times since {since}, last at {last}");
            format!("{unit} has failed {times}: {why}; see: {see}")
        }
    }
}
