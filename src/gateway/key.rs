//! The model's key: read once, sent to the model, shown nowhere.
//!
//! It is refused when it is too long, empty, of several lines, or not visible ASCII. It comes from
//! a file that is its owner's alone (`host/owned.rs`) and never from the command line or the
//! environment, which other processes of the same user can read. No error quotes the content.

use std::fmt;

use hyper::header::HeaderValue;

/// Keys have about 110 characters; more than this is another file.
pub const KEY_BYTES: usize = 4096;

/// A key. It has no `Display`, and its `Debug` does not show it.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

/// What a file holds that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKey(&'static str);

impl ApiKey {
    /// Reads the content of a key's file. White space around it does not count.
    ///
    /// # Errors
    /// When it is not what the table above asks for.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidKey> {
        let key = bytes.trim_ascii();
        if bytes.len() > KEY_BYTES {
            return Err(InvalidKey("is too long for a key"));
        }
        if key.is_empty() {
            return Err(InvalidKey("is empty"));
        }
        if key.contains(&b'\n') {
            return Err(InvalidKey("has more than one line"));
        }
        if !key.iter().all(u8::is_ascii_graphic) {
            return Err(InvalidKey("has a character that no key has"));
        }
        let mut value = HeaderValue::from_bytes(key).map_err(|_| InvalidKey("is not a key"))?;
        // Kept out of HTTP/2's header tables and of hyper's own debug output.
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// What the demo model takes in the place of a key; it takes anything.
    pub fn for_demo() -> Self {
        Self(HeaderValue::from_static("any-key-will-do"))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// `text` without the key, should an upstream quote it. A key as short as a word, as stand-ins
    /// take it, is no secret and would make holes in any text.
    pub(super) fn redact(&self, text: &str) -> String {
        match self.0.to_str() {
            Ok(key) if key.len() >= 8 => text.replace(key, "…"),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_a_key_and_is_not_shown() -> Result<(), InvalidKey> {
        let key = ApiKey::parse(b" sk-ant-canary-0123\r\n")?;
        assert_eq!(key.header(), "sk-ant-canary-0123");
        assert!(key.header().is_sensitive());
        assert_eq!(format!("{key:?} {:?}", key.header()), "ApiKey(…) Sensitive");
        assert_eq!(key.redact("bad key sk-ant-canary-0123!"), "bad key …!");
        Ok(())
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_quoted() {
        let long = vec![b'x'; 5000];
        for (content, problem) in [
            (&b" \n"[..], "is empty"),
            (b"", "is empty"),
            (b"sk-1\nsk-2\n", "has more than one line"),
            (b"sk-\xc3\xa4", "has a character that no key has"),
            (b"sk 1", "has a character that no key has"),
            (&long, "is too long for a key"),
        ] {
            assert_eq!(ApiKey::parse(content).err(), Some(InvalidKey(problem)));
        }
    }
}
