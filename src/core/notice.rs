//! When the owner is told that a service of theirs has failed. systemd begins it anew each time, so
//! forty failures in a row are one thing to tell, not forty.
//!
//! | what happens | what follows |
//! |---|---|
//! | a failure, and none in the hour before | a streak begins; it is told |
//! | another one within an hour of the last | it is counted |
//! | ... but the first could not be told | it is told now |
//! | an hour without one | the streak is over; nothing shows it any more |
//! | the clock was set back | a failure that is "yet to come" counts as one of now |

use serde::{Deserialize, Serialize};

/// Failures that are further apart have nothing to do with each other, in milliseconds.
const APART: u64 = 60 * 60 * 1000;
/// A word of systemd's that is longer is none.
const WORD: usize = 32;

/// Failures in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Streak {
    /// The first of them, in milliseconds since the epoch.
    pub since: i64,
    /// The last of them.
    pub last: i64,
    /// How many.
    pub count: u32,
    /// Why, as far as systemd knows; of the last.
    pub why: String,
    /// Whether the owner was told.
    pub told: bool,
}

impl Streak {
    /// A failure is added to what was before.
    #[must_use]
    pub fn with(before: Option<Self>, why: String, now: i64) -> Self {
        match before.filter(|before| before.lasts(now)) {
            Some(before) => {
                Self { last: now, count: before.count.saturating_add(1), why, ..before }
            }
            None => Self { since: now, last: now, count: 1, why, told: false },
        }
    }

    /// Whether the next failure would belong to it.
    #[must_use]
    pub const fn lasts(&self, now: i64) -> bool {
        self.last.abs_diff(now) < APART
    }
}

/// How a service has failed, by what systemd gives to `ExecStopPost=` (systemd.exec(5)); `None`
/// when it has not.
#[must_use]
pub fn why(result: &str, status: Option<&str>) -> Option<String> {
    let status = status.and_then(word).unwrap_or("?");
    Some(match word(result).unwrap_or("?") {
        "success" | "exec-condition" => return None,
        "exit-code" => format!("it ended with status {status}"),
        "signal" => format!("it was ended by signal {status}"),
        "core-dump" => format!("it crashed, by signal {status}"),
        "watchdog" => "it gave no sign of life, and was ended".to_owned(),
        "oom-kill" => "it ran out of memory".to_owned(),
        "timeout" => "it took too long to start or to stop".to_owned(),
        "protocol" => "it ended before it was ready".to_owned(),
        other => format!("systemd calls it {other:?}"),
    })
}

/// What is only a word goes into the journal and onto a terminal.
fn word(text: &str) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'+';
    (!text.is_empty() && text.len() <= WORD && text.bytes().all(plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn forty_failures_in_a_row_are_told_once_and_the_next_day_s_again() {
        let mut streak: Option<Streak> = None;
        let mut told = 0;
        for second in 0..40 {
            let mut next = Streak::with(streak, "it crashed".to_owned(), second * 1000);
            told += u32::from(!next.told);
            next.told = true;
            streak = Some(next);
        }
        assert_eq!(told, 1);
        let last = streak.expect("forty");
        assert_eq!((last.count, last.since, last.last), (40, 0, 39_000));
        let end = last.last + 60 * MINUTE;
        assert!(last.lasts(end - 1) && !last.lasts(end));
        let next = Streak::with(Some(last.clone()), "it crashed".to_owned(), end);
        assert_eq!((next.count, next.since, next.told), (1, end, false));
        let slow = Streak::with(Some(last), "it crashed".to_owned(), end - 1);
        assert_eq!((slow.count, slow.since, slow.told), (41, 0, true));
    }

    #[test]
    fn what_could_not_be_told_is_told_at_the_next_failure() {
        let first = Streak::with(None, "a".to_owned(), 0);
        assert!(!first.told);
        let second = Streak::with(Some(first), "b".to_owned(), 1000);
        assert!(!second.told && second.why == "b" && second.count == 2);
    }

    #[test]
    fn a_clock_that_is_set_back_neither_tells_again_nor_keeps_quiet_for_ever() {
        let before = Streak { since: 0, last: 0, count: 3, why: String::new(), told: true };
        let back = Streak::with(Some(before.clone()), "a".to_owned(), -MINUTE);
        assert!(back.told && back.count == 4);
        assert!(!Streak::with(Some(before), "a".to_owned(), -60 * MINUTE).told);
    }

    #[test]
    fn only_a_failure_has_a_reason_and_it_is_of_plain_words() {
        for none in ["success", "exec-condition"] {
            assert_eq!(why(none, Some("0")), None, "{none:?}");
        }
        for strange in ["", "a b", "x\u{1b}[2J", &"x".repeat(33)] {
            let said = why(strange, None);
            assert_eq!(said.as_deref(), Some("systemd calls it \"?\""), "{strange:?}");
        }
        for (result, status, said) in [
            ("exit-code", "78", "it ended with status 78"),
            ("signal", "KILL", "it was ended by signal KILL"),
            ("core-dump", "\u{1b}[2J", "it crashed, by signal ?"),
            ("watchdog", "ABRT", "it gave no sign of life, and was ended"),
            ("resources", "1", "systemd calls it \"resources\""),
        ] {
            assert_eq!(why(result, Some(status)).as_deref(), Some(said));
        }
    }
}
