//! `mount-allowlist.json`: the folders whose insides may be granted, and names to block beside
//! those that are built in. An error names the line, the column and what to change.
//!
//! ```json
//! {"allowedRoots": [{"path": "~/projects", "allowReadWrite": false}],
//!  "blockedPatterns": ["node_modules"]}
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::super::limits::{ALLOWED_ROOTS, BLOCKED_PATTERNS};
use super::blocked::Pattern;
use super::folder::FolderPath;

/// What the owner allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowlist {
    /// The folders whose insides may be granted, and themselves.
    pub roots: Vec<AllowedRoot>,
    /// Names to block.
    pub blocked: Vec<Pattern>,
}

/// A folder whose inside may be granted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AllowedRoot {
    /// The folder.
    pub path: FolderPath,
    /// Whether writing may be granted, too.
    #[serde(default)]
    pub allow_read_write: bool,
}

/// Why a text is no allowlist.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAllowlist {
    /// It is not of the form.
    #[error(transparent)]
    Form(serde_json::Error),
    /// It is longer than anybody can keep in mind.
    #[error("{list} has {found} entries; the most is {most}")]
    TooMany {
        /// Which list.
        list: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// It says two things about one folder.
    #[error("allowedRoots names {0} twice: keep one of them")]
    Twice(FolderPath),
}

impl Allowlist {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Where it is not of the form above.
    pub fn parse(text: &str) -> Result<Self, InvalidAllowlist> {
        let Object(Form { allowed_roots, blocked_patterns }) =
            serde_json::from_str(text).map_err(InvalidAllowlist::Form)?;
        for (list, found, most) in [
            ("allowedRoots", allowed_roots.len(), ALLOWED_ROOTS),
            ("blockedPatterns", blocked_patterns.len(), BLOCKED_PATTERNS),
        ] {
            if found > most {
                return Err(InvalidAllowlist::TooMany { list, found, most });
            }
        }
        let roots: Vec<_> = allowed_roots.into_iter().map(|Object(root)| root).collect();
        let mut seen = BTreeSet::new();
        match roots.iter().find(|root| !seen.insert(&root.path)) {
            Some(twice) => Err(InvalidAllowlist::Twice(twice.path.clone())),
            None => Ok(Self { roots, blocked: blocked_patterns }),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Form {
    allowed_roots: Vec<Object<AllowedRoot>>,
    #[serde(default)]
    blocked_patterns: Vec<Pattern>,
}

/// A JSON object: serde would read a struct's fields from an array, too, in their order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, {…}")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        json.deserialize_map(Fields(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[test]
    fn the_documented_form_is_read() -> Result<()> {
        let text = r#"{"allowedRoots": [{"path": "~/projects", "allowReadWrite": true},
            {"path": "/srv/./photos/"}], "blockedPatterns": [".env", "*.bak"]}"#;
        let list = Allowlist::parse(text)?;
        let roots: Vec<_> =
            list.roots.iter().map(|root| (root.path.as_str(), root.allow_read_write)).collect();
        assert_eq!(roots, [("~/projects", true), ("/srv/photos", false)]);
        let blocked: Vec<_> = list.blocked.iter().map(Pattern::as_str).collect();
        assert_eq!(blocked, [".env", "*.bak"]);
        assert_eq!(Allowlist::parse(r#"{"allowedRoots":[]}"#)?, Allowlist::default());
        Ok(())
    }

    #[test]
    fn an_error_names_the_place_and_what_to_change() {
        for (text, words) in [
            ("", vec!["EOF", "line 1"]),
            ("[]", vec!["expected an object", "line 1 column 0"]),
            ("{}", vec!["missing field `allowedRoots`"]),
            ("{\"allowedRoots\":[],}", vec!["trailing comma", "column 20"]),
            ("{\"allowedRoots\":[]} x", vec!["trailing characters", "column 21"]),
            ("{\"allowedRoots\":[],\"allowedRoots\":[]}", vec!["duplicate field `allowedRoots`"]),
            (
                "{\"allowedRoots\":[],\n \"blocked\":[]}",
                vec!["unknown field `blocked`", "`blockedPatterns`", "line 2 column 10"],
            ),
            (
                "{\"allowedRoots\":[\n {\"path\":\"~/x\",\"readWrite\":true}]}",
                vec!["unknown field `readWrite`", "`allowReadWrite`", "line 2"],
            ),
            (
                "{\"allowedRoots\":[[\"/srv\",true]]}",
                vec!["sequence, expected an object", "column"],
            ),
            ("{\"allowedRoots\":[\"/srv\"]}", vec!["string \"/srv\", expected an object"]),
            ("{\"allowedRoots\":[{\"allowReadWrite\":true}]}", vec!["missing field `path`"]),
            (
                "{\"allowedRoots\":[{\"path\":\"srv\"}]}",
                vec!["neither with / nor with ~/", "column 31"],
            ),
            ("{\"allowedRoots\":[{\"path\":\"~/../x\"}]}", vec!["part `..`", "line 1"]),
            (
                "{\"allowedRoots\":[{\"path\":\"/x\",\"allowReadWrite\":1}]}",
                vec!["invalid type: integer `1`, expected a boolean", "line 1"],
            ),
            (
                "{\"allowedRoots\":[],\n\"blockedPatterns\":[\".ssh\",\n\"id_*\"]}",
                vec!["wildcard", "line 3"],
            ),
            (
                "{\"allowedRoots\":[{\"path\":\"/x/\"},{\"path\":\"/x\",\"allowReadWrite\":true}]}",
                vec!["names /x twice"],
            ),
        ] {
            let said =
                Allowlist::parse(text).map_or_else(|e| e.to_string(), |list| format!("{list:?}"));
            for word in words {
                assert!(said.contains(word), "{text}: {said}, not {word}");
            }
        }
    }

    #[test]
    fn lists_have_their_limits() {
        let list = |roots: usize, names: usize| {
            let root = |number| format!("{{\"path\":\"/srv/{number}\"}}");
            let roots: Vec<_> = (0..roots).map(root).collect();
            let names = vec!["\"x\""; names].join(",");
            Allowlist::parse(&format!(
                "{{\"allowedRoots\":[{}],\"blockedPatterns\":[{names}]}}",
                roots.join(",")
            ))
        };
        assert!(list(ALLOWED_ROOTS, BLOCKED_PATTERNS).is_ok());
        for (roots, names, word) in
            [(ALLOWED_ROOTS + 1, 0, "allowedRoots"), (0, BLOCKED_PATTERNS + 1, "blockedPatterns")]
        {
            let said = list(roots, names).err().map(|error| error.to_string());
            assert!(said.is_some_and(|said| said.starts_with(word)), "{word}");
        }
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            if let Err(InvalidAllowlist::Form(error)) = Allowlist::parse(&text) {
                prop_assert!(error.line() > 0, "{error}");
            }
        }

        /// Words of the form in any order: what is read stands in the text as JSON, and nothing
        /// else does.
        #[test]
        fn what_is_read_is_all_that_the_text_says(words in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "{\"allowedRoots\":[", "]}", "{\"path\":\"/x\"",
                ",\"allowReadWrite\":true}", "{\"path\":\"~/y\"}", ",\"blockedPatterns\":[",
                "\"*.z\"", "\"path\":", "true", "null", "7", " ", "\"/x\"",
            ]), 0..9,
        )) {
            let text = words.concat();
            if let Ok(list) = Allowlist::parse(&text) {
                let json: serde_json::Value = serde_json::from_str(&text)?;
                let object = json.as_object().map(|object| object.keys().cloned());
                let keys: Vec<String> = object.into_iter().flatten().collect();
                prop_assert!(keys.iter().all(|key| key == "allowedRoots" || key == "blockedPatterns"));
                let roots = json["allowedRoots"].as_array().map_or(0, Vec::len);
                prop_assert_eq!(roots, list.roots.len());
                for (at, root) in list.roots.iter().enumerate() {
                    let entry = &json["allowedRoots"][at];
                    prop_assert_eq!(entry["path"].as_str(), Some(root.path.as_str()));
                    prop_assert_eq!(entry["allowReadWrite"] == json!(true), root.allow_read_write);
                }
            }
        }

        #[test]
        fn what_is_written_is_read_and_a_word_more_is_refused(
            roots in prop::collection::btree_map("/[a-z]{1,9}", any::<bool>(), 0..5),
            names in prop::collection::vec("[.]?[a-z]{1,9}", 0..5),
            word in "[a-z]{1,9}",
        ) {
            let entry = |(path, write)| json!({"path": path, "allowReadWrite": write});
            let entries: Vec<_> = roots.iter().map(entry).collect();
            let file = json!({"allowedRoots": entries, "blockedPatterns": names});
            let list = Allowlist::parse(&file.to_string())?;
            let read = list.roots.iter().map(|root| (root.path.as_str(), root.allow_read_write));
            let written = roots.iter().map(|(path, write)| (path.as_str(), *write));
            prop_assert!(read.eq(written));
            prop_assert!(list.blocked.iter().map(Pattern::as_str).eq(&names));

            let mut more = file.clone();
            more[&word] = json!([]);
            prop_assert!(Allowlist::parse(&more.to_string()).is_err());
            if !entries.is_empty() {
                let mut more = file;
                more["allowedRoots"][0][&word] = json!(true);
                prop_assert!(Allowlist::parse(&more.to_string()).is_err());
            }
        }
    }
}
