//! Names that nobody's cell sees, wherever they stand in a path: one name, several in a row
//! (`.config/gh`), everything that ends so (`*.pem`), or that begins so (`.env.*`). There are no
//! other patterns: what they match can be read off them. Letters of either case are the same, in
//! any alphabet, as on some file systems.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::limits::BLOCKED_PATTERN_BYTES;

/// The names that are blocked whatever the owner's list says.
const BUILT_IN: &str = include_str!("../../../data/blocked.json");
/// What would be more than a name to a shell.
const WILD: [char; 6] = ['*', '?', '[', ']', '{', '}'];

/// A name, names in a row, `*.EXTENSION`, or `NAME.*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// A pattern that does not have that form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It has another wildcard than the one there is.
    #[error("the pattern {0:?} has a wildcard: write a whole name, `*.EXTENSION` or `NAME.*`")]
    Wild(String),
    /// It is no name, or not one after the other.
    #[error("the pattern {0:?} is no name: write one as `.ssh`, or several as `.config/gh`")]
    NoName(String),
    /// It has a character that nobody can see.
    #[error("the pattern {0:?} has a control character")]
    Control(String),
    /// It is longer than a name can be.
    #[error("a pattern has {0} bytes; the most is {BLOCKED_PATTERN_BYTES}")]
    TooLong(usize),
}

/// A blocked name, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocked {
    /// What is blocked.
    pub pattern: Pattern,
    /// Why.
    pub reason: String,
    /// Whether it is blocked whatever the owner's list says.
    #[serde(default)]
    pub built_in: bool,
}

impl Blocked {
    /// Those that are built in.
    ///
    /// # Errors
    /// When the shipped list is broken; a test keeps that from happening.
    pub fn built_in() -> Result<Vec<Self>, serde_json::Error> {
        let all: Vec<Self> = serde_json::from_str(BUILT_IN)?;
        Ok(all.into_iter().map(|blocked| Self { built_in: true, ..blocked }).collect())
    }

    /// One of the owner's.
    pub fn by_owner(pattern: Pattern) -> Self {
        Self { pattern, reason: "your allowlist says so".to_owned(), built_in: false }
    }
}

impl Pattern {
    /// The pattern itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its names as a path, unless it stands for any name that ends so.
    pub fn path(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(self.0.as_str())
    }

    /// The first of these names, or several in a row, that it matches.
    pub fn find(&self, names: &[&str]) -> Option<String> {
        let mut ends = (1..=names.len()).filter_map(|end| names.get(..end));
        Some(self.row(ends.find(|names| self.ends(names))?)?.join("/"))
    }

    /// Whether it matches the last of these names, or of several in a row.
    pub fn ends(&self, names: &[&str]) -> bool {
        let is_row = |row: &[&str]| row.iter().zip(self.0.split('/')).all(|(n, part)| is(n, part));
        self.row(names).is_some_and(is_row)
    }

    /// As many of the last names as it has itself.
    fn row<'a, 'b>(&self, names: &'a [&'b str]) -> Option<&'a [&'b str]> {
        names.get(names.len().checked_sub(self.0.split('/').count())?..)
    }
}

fn is(name: &str, part: &str) -> bool {
    let (name, part) = (folded(name), folded(part));
    match (part.strip_prefix('*'), part.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (None, Some(begin)) => name.starts_with(begin),
        (None, None) => name == part,
    }
}

/// Without the difference of cases. Up and down again, so that letters of which only one case has
/// a form of its own become the same: `ſ` is an `s`.
fn folded(text: &str) -> String {
    text.to_uppercase().to_lowercase()
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        if text.len() > BLOCKED_PATTERN_BYTES {
            return Err(InvalidPattern::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidPattern::Control(text));
        }
        let (before, last) = text.rsplit_once('/').unwrap_or(("", &text));
        let part = last.strip_prefix("*.").or_else(|| last.strip_suffix(".*"));
        if before.contains(WILD) || part.unwrap_or(last).contains(WILD) {
            return Err(InvalidPattern::Wild(text));
        }
        let is_name = |name: &str| !matches!(name, "" | "." | ".." | "~");
        if part == Some("") || !text.split('/').all(is_name) {
            return Err(InvalidPattern::NoName(text));
        }
        Ok(Self(text))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn pattern(text: &str) -> std::result::Result<Pattern, InvalidPattern> {
        text.to_owned().try_into()
    }

    #[test]
    fn whole_names_match_and_parts_of_them_do_not() -> Result<()> {
        for (text, path, found) in [
            (".ssh", "srv/.ssh/keys", Some(".ssh")),
            (".ssh", "srv/.SSH", Some(".SSH")),
            (".ssh", "srv/.sshd", None),
            (".ssh", "srv/x.ssh", None),
            (".ssh", "srv/ssh", None),
            (".config/gh", "srv/.config/gh/x", Some(".config/gh")),
            (".config/gh", "srv/.config/x/gh", None),
            (".config/gh", "srv/.config", None),
            ("*.pem", "srv/server.pem", Some("server.pem")),
            ("*.pem", "srv/SERVER.PEM/x", Some("SERVER.PEM")),
            ("*.pem", "srv/.pem", Some(".pem")),
            ("*.pem", "srv/pem", None),
            ("*.pem", "srv/x.pem.txt", None),
            ("*.tar.gz", "srv/x.tar.gz", Some("x.tar.gz")),
            ("keys/*.pem", "keys/x.pem", Some("keys/x.pem")),
            ("keys/*.pem", "keys/x/y.pem", None),
            ("*.ö", "srv/ü.ö", Some("ü.ö")),
            ("*.o", "srv/ö", None),
            (".env.*", "srv/.env.local", Some(".env.local")),
            (".env.*", "srv/.ENV.production.local/x", Some(".ENV.production.local")),
            (".env.*", "srv/.env", None),
            (".env.*", "srv/.envs", None),
            (".env.*", "srv/x.env.y", None),
            ("keys/a.*", "keys/a.b", Some("keys/a.b")),
            (".ssh", "srv/.ſsh", Some(".ſsh")),
            ("ÄRGER", "srv/ärger", Some("ärger")),
            ("*.key", "srv/x.\u{212a}ey", Some("x.\u{212a}ey")),
        ] {
            let names: Vec<_> = path.split('/').collect();
            assert_eq!(pattern(text)?.find(&names).as_deref(), found, "{text} in {path}");
        }
        Ok(())
    }

    #[test]
    fn what_looks_like_another_pattern_is_refused() {
        for text in ["*", "*x", "x*", "a*b", "**", "*.*", "*.p?m", "id_?", "[ab]", "*/x", "{a,b}"] {
            assert_eq!(pattern(text), Err(InvalidPattern::Wild(text.into())), "{text}");
        }
        for text in ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "*.", "~", "~/.ssh"] {
            assert_eq!(pattern(text), Err(InvalidPattern::NoName(text.into())), "{text}");
        }
        assert_eq!(pattern("a\n"), Err(InvalidPattern::Control("a\n".into())));
        let long = "x".repeat(BLOCKED_PATTERN_BYTES + 1);
        assert_eq!(pattern(&long), Err(InvalidPattern::TooLong(BLOCKED_PATTERN_BYTES + 1)));
    }

    #[test]
    fn what_is_built_in_is_of_its_form_has_a_reason_and_stands_once() -> Result<()> {
        let all = Blocked::built_in()?;
        let mut seen = std::collections::HashSet::new();
        for blocked in &all {
            assert!(blocked.built_in && !blocked.reason.trim().is_empty(), "{blocked:?}");
            assert!(seen.insert(blocked.pattern.as_str().to_lowercase()), "{blocked:?} twice");
        }
        for name in [".ssh", ".gnupg", ".aws", ".env", ".config/gcloud", "id_ed25519", "*.pem"] {
            assert!(seen.contains(name), "{name} is not blocked");
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        #[test]
        fn a_name_is_blocked_by_itself_wherever_it_stands(
            name in "[^/\\*\\?\\[\\]\\{\\}\\pC]{1,20}", before in "[a-z]{0,5}", after in "[a-z]{0,5}",
        ) {
            if let Ok(found) = pattern(&name) {
                let (plain, loud) = (name.as_str(), name.to_ascii_uppercase());
                let hit = found.find(&[&before, plain, &after]);
                prop_assert_eq!(hit.as_deref(), Some(plain));
                prop_assert!(found.find(&[&before, &after, &loud]).is_some());
                let longer = format!("{name}x");
                prop_assert_eq!(found.find(&[longer.as_str()]), None);
                let ending = pattern(&format!("*.{name}"))?;
                let file = format!("{before}.{loud}");
                prop_assert!(ending.find(&[file.as_str()]).is_some());
                prop_assert_eq!(ending.find(&[plain]), None);
            }
        }
    }
}
