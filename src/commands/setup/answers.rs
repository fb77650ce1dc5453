//! What the owner answers, kept as a drop-in of the service: the model's side, the model, what may
//! be spent. What is not answered again stays as it was. The key is `key.rs`'s.

use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use super::ask::{Question, ask};
use super::{Args, Done, Step, key};
use crate::commands::Failure;
use crate::commands::serve::model::{CREDENTIAL, DEMO, MODEL};
use crate::core::limits::{INSTRUCTIONS_BYTES, Limits};
use crate::core::money::Prices;
use crate::core::problem::ExitStatus;
use crate::host::owned::{self, Folder};
use crate::host::paths;

const HEAD: &str = "# Written by `noclaw setup`, and written anew by it.\n\
    # Settings of your own: systemctl --user edit noclaw\n[Service]\n";
/// More than that is not what was written.
const DROP_IN_BYTES: usize = 64 << 10;

/// What the drop-in says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::commands) struct Answers {
    pub(in crate::commands) model_api: Option<String>,
    pub(super) model: Option<String>,
    budget: Option<String>,
    accept_without: Option<String>,
    pub(super) has_key: bool,
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
    pub(in crate::commands) fn now() -> Self {
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
            accept_without: value("NOCLAW_ACCEPT_WITHOUT"),
            has_key: text.contains("LoadCredential="),
        }
    }

    /// Takes what the flags say.
    pub(super) fn take(&mut self, args: &Args) {
        if args.demo {
            self.model_api = Some(DEMO.to_owned());
        } else if args.model_api.is_some() || (args.api_key_file.is_some() && self.is_demo()) {
            self.model_api.clone_from(&args.model_api);
        }
        let new = |flag: Option<String>, old: &Option<String>| flag.or_else(|| old.clone());
        self.model = new(args.model.clone(), &self.model);
        self.budget = new(args.budget.map(|dollars| dollars.to_string()), &self.budget);
        if let Some(list) = &args.accept_without {
            self.accept_without = (!list.is_empty()).then(|| list.join(","));
        }
    }

    pub(super) fn is_demo(&self) -> bool {
        self.model_api.as_deref() == Some(DEMO)
    }

    /// The limits to do without, by their names.
    pub(in crate::commands) fn accepted(&self) -> Vec<String> {
        let list = self.accept_without.iter().flat_map(|list| list.split(','));
        list.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// The file with the key that the service is given.
    pub(in crate::commands) fn key(&self) -> Option<PathBuf> {
        self.has_key.then(key::file)
    }

    /// Asks for what no flag has said.
    pub(super) fn ask(
        &mut self,
        args: &Args,
        prices: &Prices,
        (input, output): (&mut impl BufRead, &mut impl Write),
    ) -> Result<(), Failure> {
        if args.model.is_none() && !self.is_demo() {
            self.model = self.ask_model(prices, (input, output))?.or(self.model.take());
        }
        if args.budget.is_none() {
            let shipped = Limits::for_machine(1, 0).budget_per_day / 1_000_000;
            let usual = self.budget.clone().unwrap_or_else(|| shipped.to_string());
            let about = "What all users together may spend a day, in US dollars: a run that would \
                go beyond it ends.";
            let question = Question { about, word: "limit", usual: &usual };
            let answer = ask((input, output), &question, dollars)?;
            self.budget = answer.map(|dollars| dollars.to_string()).or(self.budget.take());
        }
        Ok(())
    }

    fn ask_model(
        &self,
        prices: &Prices,
        io: (&mut impl BufRead, &mut impl Write),
    ) -> Result<Option<String>, Failure> {
        let models: Vec<_> = prices.models().map(str::to_owned).collect();
        let mut about = "The model of a message that names none, and its price: US dollars for a \
            million tokens that it reads, and writes."
            .to_owned();
        for (at, model) in models.iter().enumerate() {
            let price = prices.of(model).map(|price| (price.input, price.output));
            let (input, output) = price.unwrap_or_default();
            // Writing to a string does not fail.
            write!(about, "\n  {:>2}  {model:<20} {input:>6} {output:>6}", at + 1).ok();
        }
        let usual = self.model.as_deref().unwrap_or(MODEL);
        let question = Question { about: &about, word: "model", usual };
        ask(io, &question, |text| {
            let number = text.parse::<usize>().ok().and_then(|n| models.get(n.checked_sub(1)?));
            let model = number.map_or(text, String::as_str);
            match prices.allows(model) {
                true => Ok(model.to_owned()),
                false => Err(format!("no price is known for {model:?}; a number or a name")),
            }
        })
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
            let file = literal(&key::file().to_string_lossy());
            writeln!(text, "LoadCredential={CREDENTIAL}:{file}").ok();
        }
        for (name, value) in [
            ("NOCLAW_MODEL_API", &self.model_api),
            ("NOCLAW_MODEL", &self.model),
            ("NOCLAW_BUDGET", &self.budget),
            ("NOCLAW_ACCEPT_WITHOUT", &self.accept_without),
        ] {
            if let Some(value) = value {
                writeln!(text, "Environment=\"{name}={}\"", literal(value)).ok();
            }
        }
        text
    }
}

/// Removes the drop-in; what else lies beside it is the owner's.
pub(super) fn remove() -> Step {
    let file = drop_in();
    match owned::remove(&file) {
        Ok(()) => {
            file.parent().map(owned::remove_empty);
            Ok(Done::Now("removed".to_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Done::Already("there were none".to_owned()))
        }
        Err(error) => Err(Failure::of(ExitStatus::Config, &error)),
    }
}

/// What models cost: what is shipped, and the owner's own prices.
///
/// # Errors
/// When they cannot be read.
pub(super) fn prices() -> Result<Prices, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(ExitStatus::Config, error);
    let shipped = Prices::shipped().map_err(|error| failed(&error))?;
    let folder = Folder::open(&paths::config()).map_err(|error| failed(&error))?;
    let own = folder.map(|folder| folder.read("prices.json", INSTRUCTIONS_BYTES));
    match own.transpose().map_err(|error| failed(&error))?.flatten() {
        Some(text) => shipped.with_owners(&text).map_err(|error| failed(&error)),
        None => Ok(shipped),
    }
}

/// Reads a sum of US dollars.
pub(super) fn dollars(text: &str) -> Result<f64, String> {
    let sum = text.trim_start_matches('$').parse::<f64>().ok();
    let sum = sum.filter(|sum| *sum > 0.0 && *sum <= 1e6);
    sum.ok_or_else(|| "a sum above 0, and a million at most, as 2.50".to_owned())
}

fn drop_in() -> PathBuf {
    paths::user_units().join("noclaw.service.d/setup.conf")
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
                accept_without: some("cpu,pids"),
                has_key: true,
            },
        ] {
            let text = answers.text();
            assert_eq!(Answers::parse(&text), answers, "{text}");
            // systemd.unit(5): a percent sign stands twice where it is meant.
            assert!(text.replace("%%", "").find('%').is_none(), "{text}");
        }
    }
    #[test]
    fn what_is_asked_is_kept_and_enter_keeps_what_was() {
        let prices = Prices::shipped().expect("prices");
        let args = Args::default();
        let mut answers = Answers::default();
        let asked = |answers: &mut Answers, args: &Args, typed: &str| {
            let mut output = Vec::new();
            answers.ask(args, &prices, (&mut typed.as_bytes(), &mut output)).expect("answers");
            String::from_utf8(output).expect("text")
        };
        let shown = asked(&mut answers, &args, "2\nlots\n$2.50\n");
        assert!(shown.contains("\n   2  claude-haiku-5-5        0.1    0.5\n"), "{shown}");
        assert!(shown.contains(&format!("model [{MODEL}]: ")), "{shown}");
        assert!(shown.contains("limit [10]: a sum above 0"), "{shown}");
        let chosen = (answers.model.as_deref(), answers.budget.as_deref());
        assert_eq!(chosen, (Some("claude-haiku-5-5"), Some("2.5")));

        let before = answers.clone();
        let shown = asked(&mut answers, &args, "\n\n");
        assert!(shown.contains("model [claude-haiku-5-5]: ") && shown.contains("limit [2.5]: "));
        assert_eq!(answers, before);

        // A flag is an answer, and the demo model has no other.
        let said = Args { budget: Some(3.0), demo: true, ..Args::default() };
        answers.take(&said);
        assert_eq!(asked(&mut answers, &said, ""), "");
        assert_eq!(answers.budget.as_deref(), Some("3"));
        assert!(answers.is_demo());
    }
}
