//! How far a build has come: on a terminal its steps and a bar below them, and what its tools say
//! only when it fails; elsewhere all of it, as it comes.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::commands::progress;

/// How often the seconds are shown.
const TICK: Duration = Duration::from_secs(1);
/// So many lines of what tools have said are shown when a build fails.
const LINES: usize = 40;
/// And no more of any of them.
const LINE_BYTES: u64 = 1000;

/// Runs the build to its end. On its standard output a line `step 1/3 …` begins a step.
pub(super) fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let to = io::stderr();
    if !to.is_terminal() {
        return command.stdout(io::stderr()).status();
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (said, details) = (child.stdout.take(), child.stderr.take());
    let (keep, kept) = mpsc::channel();
    thread::spawn(move || keep.send(details.map(last_lines).unwrap_or_default()));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let lines = said.into_iter().flat_map(|said| BufReader::new(said).lines());
        lines.map_while(Result::ok).try_for_each(|line| tell.send(line)).ok();
    });
    let mut bar = Bar { to, begun: Instant::now(), done: 0, steps: 0 };
    loop {
        match told.recv_timeout(TICK) {
            Ok(line) => bar.says(&line),
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_none() => bar.show(),
            Err(_) => break,
        }
    }
    let status = child.wait()?;
    // What it has left behind may hold its end for longer.
    bar.ends(status.success(), &kept.recv_timeout(TICK).unwrap_or_default());
    Ok(status)
}

fn last_lines(from: impl Read) -> Vec<String> {
    let (mut from, mut last) = (BufReader::new(from), VecDeque::new());
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(1..) => last.push_back(String::from_utf8_lossy(&line).trim_end().to_owned()),
            _ => return last.into(),
        }
        if last.len() > LINES {
            last.pop_front();
        }
    }
}

struct Bar<W> {
    to: W,
    begun: Instant,
    done: u64,
    steps: u64,
}

impl<W: Write> Bar<W> {
    fn says(&mut self, line: &str) {
        if let Some((at, steps)) = step(line) {
            (self.done, self.steps) = (at.saturating_sub(1), steps);
        }
        write!(self.to, "\r\x1b[K{line}\n").ok();
        self.show();
    }

    fn show(&mut self) {
        // Before its first step there is nothing to show.
        let Some(percent) = (self.done * 100).checked_div(self.steps) else { return };
        let (bar, seconds) = (progress::bar(percent), self.begun.elapsed().as_secs());
        write!(self.to, "\r\x1b[Kmaking the image [{bar}] {percent:>3} %  {seconds} s").ok();
        self.to.flush().ok();
    }

    fn ends(&mut self, well: bool, details: &[String]) {
        match well {
            true => {
                self.done = self.steps;
                self.show();
                writeln!(self.to).ok();
            }
            false => {
                write!(self.to, "\r\x1b[K").ok();
                for line in details {
                    writeln!(self.to, "{line}").ok();
                }
            }
        }
        self.to.flush().ok();
    }
}

/// `step 2/3 …`: the second of three.
fn step(line: &str) -> Option<(u64, u64)> {
    let (at, steps) = line.strip_prefix("step ")?.split(' ').next()?.split_once('/')?;
    Some((at.parse().ok()?, steps.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[&str], well: bool) -> String {
        let mut bar = Bar { to: Vec::new(), begun: Instant::now(), done: 0, steps: 0 };
        for line in lines {
            bar.says(line);
        }
        bar.ends(well, &["a tool's last word".to_owned()]);
        String::from_utf8(bar.to).expect("text")
    }

    #[test]
    fn steps_stand_above_a_bar_that_grows_with_them() {
        let said = shown(&["step 1/3 one", "step 2/3 two", "no step", "step 3/3 three"], true);
        let lines: Vec<_> = said.split("\r\x1b[K").skip(1).collect();
        let bar =
            |full| format!("making the image [{}{}]", "#".repeat(full), ".".repeat(30 - full));
        for (at, begins) in [
            (0, "step 1/3 one\n".to_owned()),
            (1, bar(0) + "   0 %  0 s"),
            (2, "step 2/3 two\n".to_owned()),
            (3, bar(9) + "  33 %  "),
            (4, "no step\n".to_owned()),
            (8, bar(30) + " 100 %  "),
        ] {
            assert!(lines[at].starts_with(&begins), "{at}: {lines:?}");
        }
        assert!(said.ends_with('\n') && !said.contains("last word"), "{said}");
    }

    #[test]
    fn what_tools_said_is_shown_when_it_fails() {
        let said = shown(&["step 1/3 one"], false);
        assert!(said.ends_with("\r\x1b[Ka tool's last word\n"), "{said:?}");
        let many: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let last = last_lines(many.as_bytes());
        assert_eq!((last.len(), last.last().map(String::as_str)), (LINES, Some("line 99")));
    }
}
