//! Questions to a person at a terminal: each says in a line what it is for, and what Enter means.

use std::io::{BufRead, Write};

use crate::commands::Failure;
use crate::core::problem::ExitStatus;

/// So many answers that are none, and it gives up.
const TRIES: usize = 3;

/// What is asked.
pub(super) struct Question<'a> {
    /// What it is for, a line or more.
    pub about: &'a str,
    /// The word before the brackets.
    pub word: &'a str,
    /// What Enter means.
    pub usual: &'a str,
}

/// Asks until an answer can be read; `None` when it was Enter.
///
/// # Errors
/// When nobody answers, or nothing that can be read.
pub(super) fn ask<T>(
    (input, output): (&mut impl BufRead, &mut impl Write),
    question: &Question<'_>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Failure> {
    let Question { about, word, usual } = question;
    // What cannot be shown is not answered either.
    writeln!(output, "\n{about}").ok();
    for _ in 0..TRIES {
        write!(output, "{word} [{usual}]: ").ok();
        output.flush().ok();
        let mut line = String::new();
        match input.read_line(&mut line) {
            Ok(0) | Err(_) => {
                let message = format!("nobody has answered what {word} is to be");
                return Err(Failure::new(ExitStatus::Cancelled, message)
                    .hint("--yes asks nothing; `noclaw setup --help` has the answers as flags"));
            }
            Ok(_) if line.trim().is_empty() => return Ok(None),
            Ok(_) => match read(line.trim()) {
                Ok(answer) => return Ok(Some(answer)),
                Err(why) => writeln!(output, "{why}").ok(),
            },
        };
    }
    let message = format!("none of {TRIES} answers says what {word} is to be");
    Err(Failure::new(ExitStatus::Data, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(typed: &str) -> (Result<Option<u32>, Failure>, String) {
        let (mut input, mut output) = (typed.as_bytes(), Vec::new());
        let question = Question { about: "How many there are.", word: "number", usual: "7" };
        let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
        let answer = ask((&mut input, &mut output), &question, number);
        (answer, String::from_utf8(output).expect("text"))
    }

    #[test]
    fn enter_is_the_usual_and_what_is_no_answer_is_asked_again() {
        let (usual, shown) = answer("\n");
        assert_eq!(usual.expect("an answer"), None);
        assert_eq!(shown, "\nHow many there are.\nnumber [7]: ");
        let (third, shown) = answer("many\n x\n 9 \n");
        assert_eq!(third.expect("an answer"), Some(9));
        assert!(shown.contains("many is no number\nnumber [7]: x is no number\n"), "{shown}");
    }

    #[test]
    fn who_goes_away_or_never_answers_is_not_asked_for_ever() {
        let (gone, _) = answer("");
        assert_eq!(gone.expect_err("no answer").status, ExitStatus::Cancelled);
        let (cut, _) = answer("many\n");
        assert_eq!(cut.expect_err("no answer").status, ExitStatus::Cancelled);
        let (never, shown) = answer("a\nb\nc\n9\n");
        assert_eq!(never.expect_err("no answer").status, ExitStatus::Data);
        assert_eq!(shown.matches("number [7]: ").count(), 3);
    }
}
