//! A folder's path as its owner writes it: from `/`, or from `~`, the owner's home. No part of it
//! may lead back (`..`), and it is text: it is shown to people and told to Podman in JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::ids::MountName;
use super::super::limits::FOLDER_PATH_BYTES;

/// A path from `/` or from `~`, without `.`, `..` and empty parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FolderPath(String);

/// A path that does not have that form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFolder {
    /// It begins somewhere else.
    #[error("the path {0:?} begins neither with / nor with ~/ (your home)")]
    NotWhole(String),
    /// It leads back.
    #[error("the path {0:?} has a part `..`: write the path without it")]
    LeadsBack(String),
    /// It has a character that nobody can see.
    #[error("the path {0:?} has a control character: rename the folder")]
    Control(String),
    /// It is longer than the kernel takes.
    #[error("the path has {0} bytes; the most is {FOLDER_PATH_BYTES}")]
    TooLong(usize),
}

impl FolderPath {
    /// The path itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names on the way from `/`; the first one is `~` where it begins at the home.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// The path from `/`, for an owner with this home.
    #[must_use]
    pub fn expand(&self, home: &Self) -> Self {
        match self.0.strip_prefix('~') {
            Some(rest) if home.0 == "/" && !rest.is_empty() => Self(rest.to_owned()),
            Some(rest) => Self(format!("{}{rest}", home.0)),
            None => self.clone(),
        }
    }

    /// What it is called in a cell: its last name, in the letters that such a name may have. One
    /// that is taken is told apart by a number.
    pub fn mount_name(&self, taken: &[MountName]) -> Option<MountName> {
        const MOST: usize = 48;
        let last = self.names().next_back().unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let name: String = last.chars().map(plain).collect();
        let begins = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name: String = name.trim_start_matches(|c| !begins(c)).chars().take(MOST).collect();
        let name = if name.is_empty() { "folder".to_owned() } else { name };
        let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
        let mut candidates = std::iter::once(name.clone()).chain(numbered);
        candidates.find_map(|name| match name.parse::<MountName>() {
            Ok(name) if taken.contains(&name) => None,
            // No candidate is of another form: the search ends with the first that is free.
            parsed => Some(parsed.ok()),
        })?
    }
}

impl TryFrom<String> for FolderPath {
    type Error = InvalidFolder;

    fn try_from(text: String) -> Result<Self, InvalidFolder> {
        if text.len() > FOLDER_PATH_BYTES {
            return Err(InvalidFolder::TooLong(text.len()));
        }
        let (begin, rest) = match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => ("~", rest),
            None if text.starts_with('/') => ("", text.as_str()),
            _ => return Err(InvalidFolder::NotWhole(text)),
        };
        if text.chars().any(char::is_control) {
            return Err(InvalidFolder::Control(text));
        }
        let names: Vec<_> = rest.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        if names.contains(&"..") {
            return Err(InvalidFolder::LeadsBack(text));
        }
        let path = names.iter().fold(begin.to_owned(), |path, name| format!("{path}/{name}"));
        Ok(Self(if path.is_empty() { "/".to_owned() } else { path }))
    }
}

impl From<FolderPath> for String {
    fn from(path: FolderPath) -> Self {
        path.0
    }
}

impl fmt::Display for FolderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn folder(text: &str) -> std::result::Result<FolderPath, InvalidFolder> {
        text.to_owned().try_into()
    }

    #[test]
    fn paths_have_one_spelling() -> Result<()> {
        let home = folder("/srv/ann")?;
        for (text, path, expanded) in [
            ("/", "/", "/"),
            ("//srv/./x//", "/srv/x", "/srv/x"),
            ("~", "~", "/srv/ann"),
            ("~/", "~", "/srv/ann"),
            ("~/a b/ü/./", "~/a b/ü", "/srv/ann/a b/ü"),
            ("/srv/..x/x..", "/srv/..x/x..", "/srv/..x/x.."),
        ] {
            let folder = folder(text)?;
            assert_eq!(folder.as_str(), path, "{text}");
            assert_eq!(folder.expand(&home).as_str(), expanded, "{text}");
        }
        assert_eq!(folder("~/x")?.expand(&folder("/")?).as_str(), "/x");
        assert_eq!(folder("~")?.expand(&folder("/")?).as_str(), "/");
        Ok(())
    }

    #[test]
    fn other_paths_are_refused() {
        for text in ["", "x", "./x", "~bob/x", "../x", "C:\\x"] {
            assert_eq!(folder(text), Err(InvalidFolder::NotWhole(text.into())));
        }
        for text in ["/srv/../etc", "/..", "~/.."] {
            assert_eq!(folder(text), Err(InvalidFolder::LeadsBack(text.into())));
        }
        for text in ["/srv/a\nb", "/srv/\0", "~/\u{9b}31m"] {
            assert_eq!(folder(text), Err(InvalidFolder::Control(text.into())));
        }
        let long = format!("/{}", "x".repeat(FOLDER_PATH_BYTES));
        assert_eq!(folder(&long), Err(InvalidFolder::TooLong(FOLDER_PATH_BYTES + 1)));
    }

    #[test]
    fn a_folder_is_called_as_at_home_and_each_otherwise() -> Result<()> {
        let mut taken = Vec::new();
        for (text, name) in [
            ("~/projects", "projects"),
            ("/srv/projects", "projects-2"),
            ("/mnt/projects", "projects-3"),
            ("/srv/my photos", "my-photos"),
            ("/srv/.config", "config"),
            ("/srv/Büro", "B-ro"),
            ("/srv/日本", "folder"),
            ("/", "folder-2"),
            ("~", "folder-3"),
        ] {
            let found = folder(text)?.mount_name(&taken).ok_or("no name")?;
            assert_eq!(found.as_str(), name, "{text}");
            taken.push(found);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        #[test]
        fn what_is_a_path_reads_back_and_cannot_lead_out(text in "(~|/)?[a./~\\PC]{0,20}") {
            if let Ok(path) = folder(&text) {
                prop_assert_eq!(folder(path.as_str()), Ok(path.clone()));
                prop_assert!(path.names().all(|name| name != ".." && name != "."));
                let home = folder("/srv/ann")?;
                let whole = path.expand(&home);
                prop_assert!(whole.as_str().starts_with('/'));
                prop_assert_eq!(whole.expand(&home), whole);
            }
        }

        #[test]
        fn every_folder_has_a_name_of_its_own(texts in prop::collection::vec("/\\PC{0,80}", 1..8)) {
            let mut taken = Vec::new();
            for folder in texts.iter().filter_map(|text| folder(text).ok()) {
                let name = folder.mount_name(&taken);
                prop_assert!(name.is_some(), "{folder}");
                prop_assert!(name.iter().all(|name| !taken.contains(name)));
                taken.extend(name);
            }
        }
    }
}
