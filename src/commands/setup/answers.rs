//! What the owner answers, kept as a drop-in of the service: the model's side, the key, the model,
//! what may be spent. What is not answered again stays as it was.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;

use super::{Args, Done, Step};
use crate::commands::serve::model::{CREDENTIAL, DEMO, MODEL, MODEL_API};
use crate::commands::{Failure, block_on, read_key};
use crate::core::money::Prices;
use crate::core::problem::{ExitStatus, chain};
use crate::gateway::check::{KeyAnswer, check_key};
use crate::gateway::key::ApiKey;
use crate::gateway::upstream::Upstream;
use crate::host::{owned, paths, terminal};

const HEAD: &str = "# Written by `noclaw setup`, and written anew by it.\n\
    # Settings of your own: systemctl --user edit noclaw\n[Service]\n";
/// More than that is not what was written.
const DROP_IN_BYTES: usize = 64 << 10;

/// What the drop-in says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Answers {
    model_api: Option<String>,
    model: Option<String>,
    budget: Option<String>,
    has_key: bool,
}

/// What became of the drop-in.
pub(super) enum Changed {
    New(PathBuf),
    Same,
}

impl Changed {
    pub(super) const fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }

    pub(super) fn told(&self) -> Done {
        match self {
            Self::New(file) => Done::Now(format!("written to {}", file.display())),
            Self::Same => Done::Already("as they were".to_owned()),
        }
    }
}

impl Answers {
    /// What was answered before.
    pub(super) fn now() -> Self {
        let text = owned::read(&drop_in(), DROP_IN_BYTES).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let begin = format!("Environment=\"{name}=");
            let line = text.lines().find_map(|line| line.strip_prefix(begin.as_str()))?;
            Some(line.strip_suffix('"')?.replace("%%", "%"))
        };
        Self {
            model_api: value("NOCLAW_MODEL_API"),
            model: value("NOCLAW_MODEL"),
            budget: value("NOCLAW_BUDGET"),
            has_key: text.contains("LoadCredential="),
        }
    }

    /// The model's side, and a key that it takes.
    pub(super) fn key(&mut self, args: &Args) -> Step {
        let is_demo = self.model_api.as_deref() == Some(DEMO);
        let says_nothing = args.api_key_file.is_none() && args.model_api.is_none();
        if args.demo || (is_demo && says_nothing) {
            let done = "none: the demo model answers, which repeats what you say".to_owned();
            let new = Self { model_api: Some(DEMO.to_owned()), has_key: false, ..self.clone() };
            let is_same = new == *self;
            *self = new;
            return Ok(if is_same { Done::Already(done) } else { Done::Now(done) });
        }
        if args.model_api.is_some() || is_demo {
            self.model_api.clone_from(&args.model_api);
        }
        let file = key_file();
        let is_kept = args.api_key_file.is_none() && owned::exists(&file);
        let key = match &args.api_key_file {
            Some(from) => read_key(from, None)?,
            None if is_kept => read_key(&file, None)?,
            None => ask(args)?,
        };
        let said = self.check(&key)?;
        if !is_kept {
            let failed = |error: std::io::Error| {
                Failure::new(ExitStatus::Config, format!("{}: {error}", file.display()))
            };
            owned::make_directory(&paths::config()).map_err(failed)?;
            key.write(|text| owned::put(&file, text)).map_err(failed)?;
        }
        self.has_key = true;
        let done = format!("{said}; in {}", file.display());
        Ok(if is_kept { Done::Already(done) } else { Done::Now(done) })
    }

    /// Asks the model's side for what costs nothing.
    fn check(&self, key: &ApiKey) -> Result<&'static str, Failure> {
        let url = self.model_api.as_deref().unwrap_or(MODEL_API);
        let upstream =
            Upstream::parse(url).map_err(|error| Failure::of(ExitStatus::Usage, &error))?;
        let model = self.model.as_deref().unwrap_or(MODEL);
        match block_on(async { Ok(check_key(&upstream, key, model).await) })? {
            Ok(KeyAnswer::Taken) => Ok("it is taken"),
            Ok(KeyAnswer::Refused(status)) => {
                let message = format!("{url} does not take the key (status {status})");
                Err(Failure::new(ExitStatus::Config, message).hint("is it whole, and still valid?"))
            }
            Err(error) => {
                Err(Failure::new(ExitStatus::Unavailable, format!("{url}: {}", chain(&error)))
                    .hint("is this machine online? try again, or begin with --demo"))
            }
        }
    }

    /// The rest of what was answered.
    pub(super) fn take(&mut self, args: &Args) -> Result<(), Failure> {
        if let Some(model) = &args.model {
            let prices = Prices::shipped().map_err(|e| Failure::of(ExitStatus::Config, &e))?;
            if !prices.allows(model) {
                let models = prices.models().collect::<Vec<_>>().join(", ");
                let message = format!("no price is known for the model {model:?}");
                return Err(Failure::new(ExitStatus::Usage, message)
                    .hint(format!("one of {models}; or give its price in prices.json")));
            }
            self.model = Some(model.clone());
        }
        if let Some(budget) = args.budget {
            self.budget = Some(budget.to_string());
        }
        Ok(())
    }

    /// Writes the drop-in, if it is to say something else than it does.
    pub(super) fn write(&self) -> Result<Changed, Failure> {
        let file = drop_in();
        let text = self.text();
        if owned::read(&file, DROP_IN_BYTES).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(Changed::Same);
        }
        let failed = |error: std::io::Error| {
            Failure::new(ExitStatus::Config, format!("{}: {error}", file.display()))
        };
        file.parent().map_or(Ok(()), owned::make_directory).map_err(failed)?;
        owned::put(&file, &text).map_err(failed)?;
        Ok(Changed::New(file))
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        let literal = |value: &str| value.replace('%', "%%");
        if self.has_key {
            let file = literal(&key_file().to_string_lossy());
            writeln!(text, "LoadCredential={CREDENTIAL}:{file}").ok();
        }
        for (name, value) in [
            ("NOCLAW_MODEL_API", &self.model_api),
            ("NOCLAW_MODEL", &self.model),
            ("NOCLAW_BUDGET", &self.budget),
        ] {
            if let Some(value) = value {
                writeln!(text, "Environment=\"{name}={}\"", literal(value)).ok();
            }
        }
        text
    }
}

/// Removes the drop-in.
pub(super) fn remove() -> Step {
    match owned::remove(&drop_in()) {
        Ok(()) => Ok(Done::Now("removed".to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Done::Already("there were none".to_owned()))
        }
        Err(error) => Err(Failure::of(ExitStatus::Config, &error)),
    }
}

fn ask(args: &Args) -> Result<ApiKey, Failure> {
    if args.yes || !std::io::stdin().is_terminal() {
        let message = "there is no key yet";
        return Err(Failure::new(ExitStatus::Config, message)
            .hint("name its file, --api-key-file FILE, or try without one: --demo"));
    }
    eprint!("The key of the model's API (it is not shown): ");
    std::io::stderr().flush().ok();
    let line = terminal::unseen_line().map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
    eprintln!();
    ApiKey::parse(line.as_bytes())
        .map_err(|error| Failure::new(ExitStatus::Data, format!("what was typed {error}")))
}

fn drop_in() -> PathBuf {
    paths::user_units().join("noclaw.service.d/setup.conf")
}

fn key_file() -> PathBuf {
    paths::config().join("key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let some = |value: &str| Some(value.to_owned());
        for answers in [
            Answers::default(),
            Answers { model_api: some("demo"), ..Answers::default() },
            Answers {
                model_api: some("https://proxy.example/100%/a"),
                model: some("claude-opus-5"),
                budget: some("2.5"),
                has_key: true,
            },
        ] {
            let text = answers.text();
            assert_eq!(Answers::parse(&text), answers, "{text}");
            // systemd.unit(5): a percent sign stands twice where it is meant.
            assert!(text.replace("%%", "").find('%').is_none(), "{text}");
        }
    }
}
