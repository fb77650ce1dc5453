//! The model's key: asked without being shown, tried, kept in a file of its owner's alone; or the
//! demo model, which needs none.
//!
//! | what the model's side says | what follows |
//! |---|---|
//! | it counts the tokens of a word | the key is kept |
//! | 401, 403 | asked again at a terminal, also for one that was kept; else it ends |
//! | another refusal, or nothing | it ends; a key that was kept before stays, with a warning |

use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;

use super::answers::Answers;
use super::{Args, Done, Step};
use crate::commands::serve::model::{DEMO, MODEL, MODEL_API, upstream};
use crate::commands::{Failure, block_on, complain, read_key};
use crate::core::problem::{ExitStatus, chain};
use crate::gateway::check::{KeyAnswer, check_key};
use crate::gateway::key::{ApiKey, KEY_BYTES};
use crate::host::{owned, paths, terminal};

/// So many keys that are none, and it gives up.
const TRIES: usize = 3;

/// What to do about a kept key that is not taken any more.
const ANOTHER: &str = "another one: noclaw setup at a terminal, or --api-key-file FILE; or --demo";

/// Where it is kept.
pub(super) fn file() -> PathBuf {
    paths::config().join("key")
}

/// At a terminal: a key where none is known, or the demo model.
///
/// # Errors
/// When nothing that was typed is a key that the model's side takes.
pub(super) fn ask(answers: &mut Answers, args: &Args) -> Result<Option<ApiKey>, Failure> {
    let is_demo = answers.is_demo();
    if !is_open(args, is_demo, || is_kept(answers)) {
        return Ok(None);
    }
    if is_demo {
        // What is typed is for the usual side, unless it is nothing.
        answers.model_api = None;
    }
    eprintln!(
        "\nThe key of the model's API. It is not shown, and kept in {} for you alone. Without one \
         the demo model answers, which repeats what you say.",
        file().display()
    );
    for _ in 0..TRIES {
        eprint!("key [the demo model]: ");
        std::io::stderr().flush().ok();
        let line = terminal::unseen_line();
        let line = line.map_err(|error| Failure::of(ExitStatus::Cancelled, &error))?;
        if line.is_empty() {
            answers.model_api = Some(DEMO.to_owned());
            return Ok(None);
        }
        match ApiKey::parse(line.as_bytes()) {
            Ok(key) => match check(answers, &key) {
                Ok(_) => return Ok(Some(key)),
                Err(Refusal::Key(failure)) => complain(&failure.message, failure.hint.as_deref()),
                Err(Refusal::Other(failure)) => return Err(failure),
            },
            Err(error) => complain(&format!("what was typed {error}"), None),
        }
    }
    let message = format!("none of {TRIES} keys is taken");
    Err(Failure::new(ExitStatus::Config, message).hint("begin with --demo, and come back"))
}

/// Whether there is a key to ask for: not where a flag is the answer, or a kept key. That the demo
/// answered so far is none.
fn is_open(args: &Args, is_demo: bool, is_kept: impl FnOnce() -> bool) -> bool {
    let is_said = args.demo || args.api_key_file.is_some();
    !is_said && (is_demo || !is_kept())
}

/// Whether a key was kept, and is not refused now; what else may be wrong with it is told later.
fn is_kept(answers: &Answers) -> bool {
    if !owned::exists(&file()) {
        return false;
    }
    let Ok(key) = read_key(&file(), None) else { return true };
    match check(answers, &key) {
        Err(Refusal::Key(failure)) => {
            let hint = format!("another one takes its place in {}", file().display());
            complain(&failure.message, Some(&hint));
            false
        }
        _ => true,
    }
}

/// Has the key in its file, tried; or none, for the demo model. `typed`: one that was tried.
///
/// # Errors
/// When there is none, or it is not taken.
pub(super) fn keep(answers: &mut Answers, args: &Args, typed: Option<ApiKey>) -> Step {
    if answers.is_demo() {
        let done = "none: the demo model answers, which repeats what you say".to_owned();
        let had_key = std::mem::replace(&mut answers.has_key, false);
        return Ok(if had_key { Done::Now(done) } else { Done::Already(done) });
    }
    let file = file();
    let (key, said) = match (&args.api_key_file, typed) {
        (_, Some(key)) => (key, "it is taken"),
        (Some(from), None) => {
            let key = read_key(from, None)?;
            let said = check(answers, &key).map_err(Refusal::into_failure)?;
            (key, said)
        }
        (None, None) if owned::exists(&file) => {
            let key = read_key(&file, None)?;
            answers.has_key = true;
            return Ok(match check(answers, &key) {
                Ok(said) => Done::Already(format!("{said}; in {}", file.display())),
                Err(Refusal::Key(failure)) => return Err(failure.hint(ANOTHER)),
                Err(Refusal::Other(failure)) => {
                    let what = format!("in {}, and not tried now", file.display());
                    Done::Not(what, failure.message)
                }
            });
        }
        (None, None) => return Err(none()),
    };
    answers.has_key = true;
    let done = format!("{said}; in {}", file.display());
    let is_kept = key.write(|text| {
        owned::secret(&file, KEY_BYTES, None).is_ok_and(|old| old == text.as_bytes())
    });
    if is_kept {
        return Ok(Done::Already(done));
    }
    let failed = |error: std::io::Error| {
        Failure::new(ExitStatus::Config, format!("{}: {error}", file.display()))
    };
    owned::make_directory(&paths::config()).map_err(failed)?;
    key.write(|text| owned::put(&file, text)).map_err(failed)?;
    Ok(Done::Now(done))
}

/// There is a key to try, or none is needed: known before anything is changed.
///
/// # Errors
/// When there is none.
pub(super) fn is_named(
    answers: &Answers,
    args: &Args,
    typed: Option<&ApiKey>,
) -> Result<(), Failure> {
    let has_one = args.api_key_file.is_some() || typed.is_some() || owned::exists(&file());
    if answers.is_demo() || has_one { Ok(()) } else { Err(none()) }
}

fn none() -> Failure {
    Failure::new(ExitStatus::Config, "there is no key yet")
        .hint("name its file, --api-key-file FILE, or try without one: --demo")
}

/// Why a key was not seen to be taken.
enum Refusal {
    /// The key is why.
    Key(Failure),
    /// Something else is.
    Other(Failure),
}

impl Refusal {
    fn into_failure(self) -> Failure {
        match self {
            Self::Key(failure) | Self::Other(failure) => failure,
        }
    }
}

/// Asks the model's side for what costs nothing.
fn check(answers: &Answers, key: &ApiKey) -> Result<&'static str, Refusal> {
    let url = answers.model_api.as_deref().unwrap_or(MODEL_API);
    let model = answers.model.as_deref().unwrap_or(MODEL);
    let upstream = upstream(url).map_err(Refusal::Other)?;
    let said = block_on(async { Ok(check_key(&upstream, key, model).await) });
    match said.map_err(Refusal::Other)? {
        Ok(KeyAnswer::Taken) => Ok("it is taken"),
        Ok(KeyAnswer::Refused(status @ (401 | 403))) => {
            let message = format!("{url} does not take the key (status {status})");
            let failure = Failure::new(ExitStatus::Config, message);
            Err(Refusal::Key(failure.hint("is it whole, and still valid?")))
        }
        Ok(KeyAnswer::Refused(status)) => {
            let message = format!("{url} does not count tokens for {model} (status {status})");
            let failure = Failure::new(ExitStatus::Unavailable, message);
            Err(Refusal::Other(failure.hint("--model MODEL, --model-api URL; or try again later")))
        }
        Err(error) => {
            let message = format!("{url}: {}", chain(&error));
            let failure = Failure::new(ExitStatus::Unavailable, message);
            Err(Refusal::Other(failure.hint("is this machine online? begin with --demo")))
        }
    }
}

/// Whether there is somebody to ask.
pub(super) fn is_asked(args: &Args) -> bool {
    !args.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_began_with_the_demo_or_has_a_refused_key_is_asked_for_one() {
        let said = [
            Args { demo: true, ..Args::default() },
            Args { api_key_file: Some("key".into()), ..Args::default() },
        ];
        let silent = Args::default();
        for is_demo in [true, false] {
            for args in &said {
                assert!(!is_open(args, is_demo, || false), "{args:?}");
            }
            assert!(is_open(&silent, is_demo, || false));
        }
        assert!(is_open(&silent, true, || true), "the demo was answered before");
        assert!(!is_open(&silent, false, || true), "the kept key is taken");
    }
}
