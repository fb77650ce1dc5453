//! How far something has come: a bar on a terminal, a line each quarter elsewhere.

use std::io::{IsTerminal, Read, Write};

/// Characters of a bar.
const WIDTH: u64 = 30;
/// A bar moves, and a quarter passes, when this part of a hundred has changed.
const STEP_BAR: u64 = 1;
const STEP_LINE: u64 = 25;

/// What is read, and how much of it has been.
pub(super) struct Progress<R, W> {
    what: &'static str,
    from: R,
    to: W,
    is_terminal: bool,
    read: u64,
    total: u64,
    shown: Option<u64>,
}

impl<R: Read> Progress<R, std::io::Stderr> {
    /// Shows on standard error how far `from`, of `total` bytes, has been read. A total of 0 is not
    /// known, and nothing is shown.
    pub(super) fn new(what: &'static str, from: R, total: u64) -> Self {
        let to = std::io::stderr();
        let is_terminal = to.is_terminal();
        Self { what, from, to, is_terminal, read: 0, total, shown: None }
    }
}

impl<R, W: Write> Progress<R, W> {
    fn show(&mut self) {
        let Some(percent) = (self.read * 100).checked_div(self.total).map(|done| done.min(100))
        else {
            return;
        };
        let step = if self.is_terminal { STEP_BAR } else { STEP_LINE };
        let at = percent / step * step;
        if self.shown.is_some_and(|shown| shown >= at) {
            return;
        }
        self.shown = Some(at);
        let (what, read, total) = (self.what, self.read / 1_000_000, self.total / 1_000_000);
        let told = format!("{at:>3} %  {read} of {total} MB");
        // What nobody can see stops nothing.
        if self.is_terminal {
            let bar = bar(at);
            let end = if percent == 100 { "\n" } else { "" };
            write!(self.to, "\r{what} [{bar}] {told}{end}").ok();
        } else {
            writeln!(self.to, "{what} {told}").ok();
        }
        self.to.flush().ok();
    }
}

/// A bar that is full at 100.
pub(super) fn bar(percent: u64) -> String {
    let full = (percent.min(100) * WIDTH / 100) as usize;
    format!("{}{}", "#".repeat(full), ".".repeat(WIDTH as usize - full))
}

impl<R: Read, W: Write> Read for Progress<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.read += read as u64;
        self.show();
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(is_terminal: bool, bytes: usize, total: u64) -> String {
        let content = vec![7; bytes];
        let (from, to) = (content.as_slice(), Vec::new());
        let what = "loading";
        let mut progress = Progress { what, from, to, is_terminal, read: 0, total, shown: None };
        let mut buffer = vec![0; 100_000];
        let mut all = 0;
        loop {
            match progress.read(&mut buffer).expect("memory can be read") {
                0 => break,
                read => all += read,
            }
        }
        assert_eq!(all, bytes, "it hands on what it reads");
        String::from_utf8(progress.to).expect("text")
    }

    #[test]
    fn without_a_terminal_there_is_a_line_each_quarter() {
        let said = shown(false, 4_000_000, 4_000_000);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 5, "{said}");
        assert_eq!(lines[0], "loading   0 %  0 of 4 MB");
        assert_eq!(lines[2], "loading  50 %  2 of 4 MB");
        assert_eq!(lines[4], "loading 100 %  4 of 4 MB");
    }

    #[test]
    fn a_bar_grows_in_its_line_and_ends_it() {
        let said = shown(true, 4_000_000, 4_000_000);
        assert_eq!(said.matches('\n').count(), 1, "{said}");
        let bars: Vec<_> = said.split('\r').skip(1).collect();
        assert!(bars.len() > 30 && bars.len() <= 101, "{}", bars.len());
        let empty = format!("loading [{}]   2 %", ".".repeat(30));
        assert!(bars[0].starts_with(&empty), "{}", bars[0]);
        let full = format!("loading [{}] 100 %  4 of 4 MB\n", "#".repeat(30));
        assert_eq!(bars.last(), Some(&full.as_str()));
    }

    #[test]
    fn what_grows_or_whose_size_nobody_knows_is_handed_on_all_the_same() {
        assert_eq!(shown(false, 1000, 0), "");
        assert_eq!(shown(true, 400_000, 200_000).matches('\n').count(), 1);
    }
}
