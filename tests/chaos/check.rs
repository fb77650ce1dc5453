//! What must hold whatever befell: looked at when all is quiet.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use serde_json::Value;

use super::ledger::{Book, Ended, Ledger, Sent};
use super::processes::inhabitants;
use super::sender::accepted;
use super::support::{House, Result, until};

/// Runs in a page.
const PAGE: usize = 100;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn is_named(line: &str) -> bool {
    line.starts_with("m-") && !line.contains(' ')
}

/// The first lines of messages in a text: what names them, and nothing else.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| is_named(line))
}

/// Waits until no run is open and no container is left.
pub fn quiet(house: &House) -> Result {
    until("all is quiet", || {
        let status = house.get("/v1/status").ok()?.json().ok()?;
        (status["active"] == 0 && status["queued"] == 0).then_some(())
    })
    .map_err(|error| {
        let runs = house.get("/v1/runs?limit=10").map(|answer| answer.body);
        format!("{error}: {runs:?}")
    })?;
    until("no container is left", || house.containers().ok().filter(Vec::is_empty))?;
    Ok(())
}

/// Looks at everything. `shown`: what the model was shown since the last look.
pub fn all(house: &House, ledger: &Ledger, shown: &[Value]) -> Result {
    keys(house, ledger)?;
    let mut book = ledger.lock();
    let runs = runs(house)?;
    ends(house, &mut book, &runs)?;
    one_run_each(&book, &runs)?;
    told(&book)?;
    tools(house, &book, &runs)?;
    shown_once(shown)?;
    // A monitor outlives its container for as long as Podman's clean-up command takes.
    let mut left = Vec::new();
    let none = until("no process is left", || {
        left = inhabitants(&book.containers);
        left.is_empty().then_some(())
    });
    none.map_err(|error| format!("{error}: {left:?}"))?;
    book.checked = book.sent.len();
    let log = house.logged();
    match log.lines().find(|line| line.contains("panicked")) {
        Some(line) => Err(format!("the service panicked: {line}").into()),
        None => Ok(()),
    }
}

/// Whoever sends an accepted message again is told the same run.
fn keys(house: &House, ledger: &Ledger) -> Result {
    let fresh: Vec<(usize, Sent)> = {
        let book = ledger.lock();
        book.sent.iter().cloned().enumerate().skip(book.checked).collect()
    };
    for (number, sent) in fresh.into_iter().filter(|(_, sent)| sent.run.is_some()) {
        let run = accepted(&house.socket(), ledger, &sent, 0)?;
        ledger.named(number, &run)?;
    }
    Ok(())
}

/// All runs, oldest first.
fn runs(house: &House) -> Result<Vec<Value>> {
    let mut runs: Vec<Value> = Vec::new();
    loop {
        let before = runs.last().map(|run| format!("&before={}", text(run, "run")));
        let path = format!("/v1/runs?limit={PAGE}{}", before.unwrap_or_default());
        let page = house.get(&path)?.json()?["runs"].take();
        let page = page.as_array().ok_or("no runs")?;
        runs.extend(page.iter().cloned());
        if page.len() < PAGE {
            runs.reverse();
            return Ok(runs);
        }
    }
}

/// Each run has its end, and the one that it had when it was first seen.
fn ends(house: &House, book: &mut Book, runs: &[Value]) -> Result {
    for run in runs {
        let id = text(run, "run").to_owned();
        let ended = ["answered", "failed", "timed_out", "cancelled"];
        if !ended.contains(&text(run, "status")) || run["gone_at"].is_null() {
            return Err(format!("a run has no end: {run}").into());
        }
        match book.ended.get(&id) {
            Some(before) if before.view != *run => {
                return Err(format!("a run has changed: {} -> {run}", before.view).into());
            }
            Some(_) => {}
            None => {
                let full = house.show(run)?;
                let messages = full["messages"].as_array().into_iter().flatten();
                let messages = messages.filter_map(|text| Some(text.as_str()?.to_owned()));
                let ended = Ended { view: run.clone(), messages: messages.collect() };
                book.ended.insert(id, ended);
                book.containers.extend(run["container"].as_str().map(str::to_owned));
            }
        }
    }
    let seen = book.ended.len();
    if seen == runs.len() { Ok(()) } else { Err(format!("{seen} runs were {}", runs.len()).into()) }
}

/// Every accepted message is in exactly one run (and in one for each retry of that), the one that
/// was named; one that nobody knows was accepted is in one at most.
fn one_run_each(book: &Book, runs: &[Value]) -> Result {
    let mut found: HashMap<&str, Vec<&str>> = HashMap::new();
    for run in runs {
        let messages = &book.ended.get(text(run, "run")).ok_or("a run was not seen")?.messages;
        // A retry begins with the messages of the run that it tries again; others may have joined.
        let again = match run["retry_of"].as_str() {
            Some(old) => &book.ended.get(old).ok_or("a retried run was lost")?.messages[..],
            None => &[],
        };
        let Some(own) = messages.strip_prefix(again) else {
            return Err(format!("{run} has not the messages {again:?}").into());
        };
        for name in own.iter().flat_map(|message| names(message)) {
            found.entry(name).or_default().push(text(run, "run"));
        }
    }
    for sent in &book.sent {
        let runs = found.get(sent.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let holds = match &sent.run {
            Some(run) => runs == [run.as_str()],
            None => runs.len() <= 1,
        };
        if !holds {
            return Err(format!("{sent:?} is in {runs:?}").into());
        }
    }
    for (old, new) in &book.retries {
        let new = book.ended.get(new).ok_or("a retry was lost")?;
        if text(&new.view, "retry_of") != old {
            return Err(format!("{old} is not retried by {}", new.view).into());
        }
    }
    Ok(())
}

/// What a sender was told of an end is the end.
fn told(book: &Book) -> Result {
    for (run, status, by) in &book.told {
        let ended = book.ended.get(run).ok_or_else(|| format!("run {run} was lost"))?;
        if text(&ended.view, "status") != status {
            return Err(format!("{by} told {status} of {}", ended.view).into());
        }
    }
    Ok(())
}

/// A tool was used once in each answered run of its message, and never twice in one run.
fn tools(house: &House, book: &Book, runs: &[Value]) -> Result {
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for user in fs::read_dir(house.path("state/users"))? {
        let file = user?.path().join("workspace/tools");
        for name in fs::read_to_string(file).unwrap_or_default().lines() {
            *used.entry(name.to_owned()).or_default() += 1;
        }
    }
    let mut may: HashMap<&str, (usize, usize)> = HashMap::new();
    for run in runs {
        let ended = book.ended.get(text(run, "run")).ok_or("a run was not seen")?;
        for name in ended.messages.iter().flat_map(|message| names(message)) {
            let (least, most) = may.entry(name).or_default();
            *least += usize::from(run["status"] == "answered");
            *most += 1;
        }
    }
    for sent in book.sent.iter().filter(|sent| sent.tool) {
        let used = used.get(&sent.name).copied().unwrap_or(0);
        let (least, most) = may.get(sent.name.as_str()).copied().unwrap_or_default();
        if used < least || used > most {
            return Err(format!("a tool of {sent:?} was used {used} times: {least}-{most}").into());
        }
    }
    Ok(())
}

/// No request shows the model a message twice.
fn shown_once(requests: &[Value]) -> Result {
    for request in requests {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let entries = request["messages"].as_array().into_iter().flatten();
        for entry in entries.filter(|entry| entry["role"] == "user") {
            let whole = entry["content"].as_str();
            let blocks = entry["content"].as_array().into_iter().flatten();
            let texts = blocks.filter(|block| block["type"] == "text").map(|b| text(b, "text"));
            for name in texts.chain(whole).flat_map(names) {
                *seen.entry(name).or_default() += 1;
            }
        }
        if let Some((name, _)) = seen.iter().find(|(_, times)| **times > 1) {
            return Err(format!("the model was shown {name} twice: {request}").into());
        }
    }
    Ok(())
}

/// Each conversation remembers what it answered, once, in order, and nothing else.
pub fn histories(house: &House, ledger: &Ledger) -> Result {
    let mut expected: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for run in runs(house)?.iter().filter(|run| run["status"] == "answered") {
        let book = ledger.lock();
        let ended = book.ended.get(text(run, "run")).ok_or("a run was not seen")?;
        let whose = (text(run, "user").to_owned(), text(run, "conversation").to_owned());
        let told = ended.messages.iter().flat_map(|message| names(message)).map(str::to_owned);
        expected.entry(whose).or_default().extend(told);
    }
    for ((user, conversation), answered) in expected {
        in_order(ledger, &answered)?;
        let history = house.send(&["-u", &user, "-c", &conversation, "!history"])?;
        let remembered: Vec<_> = names(&history).map(str::to_owned).collect();
        if remembered != answered {
            return Err(format!(
                "{user}/{conversation} remembers\n{remembered:?}\nand answered\n{answered:?}"
            )
            .into());
        }
    }
    Ok(())
}

/// A sender who waits for each acceptance is answered in that order. Retries come later, and so may
/// what was accepted when its sender had hung up.
fn in_order(ledger: &Ledger, answered: &[String]) -> Result {
    let book = ledger.lock();
    let place = |name: &String| answered.iter().position(|other| other == name);
    let retried: Vec<_> = book.retries.keys().map(String::as_str).collect();
    let mut last: HashMap<String, usize> = HashMap::new();
    for sent in book.sent.iter().filter(|sent| !sent.hung_up) {
        let Some((sender, _)) = sent.name.rsplit_once('-') else { continue };
        if sent.run.as_deref().is_some_and(|run| retried.contains(&run)) {
            continue;
        }
        let Some(at) = place(&sent.name) else { continue };
        if last.insert(sender.to_owned(), at).is_some_and(|before| before > at) {
            return Err(format!("{} was answered too early: {answered:?}", sent.name).into());
        }
    }
    Ok(())
}
