//! The halt: the owner's word that nothing goes on until it is taken back. No run begins, those
//! that are going on are ended, nothing reaches the model.
//!
//! | what | while it holds |
//! |---|---|
//! | a run that waits | waits on |
//! | a run that was claimed | failed: halted; after a crash, too |
//! | a new message, a retry | refused: 503 `halted` |
//! | a second halt | changes nothing: the first moment and its reason stand |

use std::fmt;
use std::str::FromStr;

use super::limits::HALT_REASON_BYTES;

/// Why the owner halted it, in the owner's words: one line, not blank, not too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

/// A reason that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reason: {0}")]
pub struct InvalidReason(&'static str);

impl Reason {
    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidReason("is empty: leave it out, or say why"));
        }
        if text.len() > HALT_REASON_BYTES {
            return Err(InvalidReason("is longer than 500 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidReason("has control characters: write one line of text"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A halt that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// Since when, in milliseconds since the epoch (UTC).
    pub since_ms: i64,
    /// Why.
    pub reason: Option<Reason>,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the owner has halted NoClaw")?;
        match &self.reason {
            Some(reason) => write!(f, ": {}", reason.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_words() {
        assert_eq!(" key leaked ".parse::<Reason>().map(|r| r.0), Ok("key leaked".to_owned()));
        let most = "x".repeat(HALT_REASON_BYTES);
        assert!(most.parse::<Reason>().is_ok());
        for (text, problem) in [
            ("", "is empty"),
            (" \n ", "is empty"),
            ("a\nb", "control characters"),
            ("\u{1b}[31m", "control characters"),
            (&format!("{most}x"), "longer than 500 bytes"),
        ] {
            let error = text.parse::<Reason>().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(problem), "{text:?}: {error}");
        }
        assert_eq!(HALT_REASON_BYTES, 500, "the error tells it");
    }

    #[test]
    fn a_halt_tells_its_reason() {
        let mut halt = Halt { since_ms: 1, reason: None };
        assert_eq!(halt.to_string(), "the owner has halted NoClaw");
        halt.reason = "key leaked".parse().ok();
        assert_eq!(halt.to_string(), "the owner has halted NoClaw: key leaked");
    }
}
