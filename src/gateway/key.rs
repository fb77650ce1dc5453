//! The model's key: read once, sent to the model, shown nowhere.
//!
//! It is refused when it is too long, empty, of several lines, or not visible ASCII. It comes from
//! a file that is its owner's alone (`host/owned.rs`) and never from the command line or the
//! environment, which other processes of the same user can read. No error quotes the content, and
//! should the model's side quote it as it stands, the cell does not read it ([`Veil`]).

use std::fmt;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};

/// Keys have about 110 characters; more than this is another file.
pub const KEY_BYTES: usize = 4096;

/// A key is longer than this; what is not may be any word.
const SECRET_BYTES: usize = 8;
/// What stands in its place.
const VEILED: &str = "…";

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

    /// Hands the key, as a line, to what keeps it in a file.
    pub fn write<T>(&self, keep: impl FnOnce(&str) -> T) -> T {
        let key = self.0.to_str().unwrap_or_default();
        keep(&format!("{key}\n"))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// `text` without the key, should an upstream quote it.
    pub(super) fn redact(&self, text: &str) -> String {
        match self.secret().map(|key| str::from_utf8(key)) {
            Some(Ok(key)) => {
                let text = text.replace(key, VEILED);
                // What was cut may end in the midst of it.
                let cut = (1..key.len()).rev().filter_map(|n| key.get(..n));
                let cut = cut.filter(|part| part.len() >= SECRET_BYTES);
                let cut = cut.filter_map(|part| text.strip_suffix(part)).next();
                cut.map_or(text.clone(), |rest| format!("{rest}{VEILED}"))
            }
            _ => text.to_owned(),
        }
    }

    /// Removes the headers that quote it.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        let quotes =
            |value: &HeaderValue| self.secret().is_some_and(|key| at(value, key).is_some());
        let names: Vec<_> = headers.iter().filter(|(_, value)| quotes(value)).collect();
        let names: Vec<_> = names.into_iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            headers.remove(name);
        }
    }

    /// The key's bytes. One as short as a word, as stand-ins take it, is no secret and would make
    /// holes in any text.
    fn secret(&self) -> Option<&[u8]> {
        let key = self.0.as_bytes();
        (key.len() >= SECRET_BYTES).then_some(key)
    }
}

fn at(text: impl AsRef<[u8]>, key: &[u8]) -> Option<usize> {
    text.as_ref().windows(key.len()).position(|part| part == key)
}

/// Takes the key out of a body that comes in pieces, wherever it is cut. Nothing waits for the next
/// piece but an end that the key may begin with.
pub(super) struct Veil {
    key: Option<ApiKey>,
    held: Vec<u8>,
}

impl Veil {
    pub(super) const fn new(key: Option<ApiKey>) -> Self {
        Self { key, held: Vec::new() }
    }

    /// What can be passed on when `piece` has come.
    pub(super) fn pass(&mut self, piece: Bytes) -> Bytes {
        let Some(key) = self.key.as_ref().and_then(ApiKey::secret) else { return piece };
        let begins = |text: &[u8]| {
            let most = text.len().min(key.len() - 1);
            (1..=most).rev().find(|n| text.ends_with(key.get(..*n).unwrap_or_default()))
        };
        if self.held.is_empty() && at(&piece, key).is_none() && begins(&piece).is_none() {
            return piece;
        }
        let mut rest = std::mem::take(&mut self.held);
        rest.extend_from_slice(&piece);
        let mut out = Vec::new();
        while let Some(found) = at(&rest, key) {
            out.extend(rest.drain(..found));
            out.extend_from_slice(VEILED.as_bytes());
            rest.drain(..key.len());
        }
        self.held = rest.split_off(rest.len() - begins(&rest).unwrap_or(0));
        out.append(&mut rest);
        out.into()
    }

    /// What was kept back, when nothing more comes.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        (!self.held.is_empty()).then(|| std::mem::take(&mut self.held).into())
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
        assert_eq!(key.redact("cut: sk-ant-canary-01"), "cut: …");
        assert_eq!(key.redact("not cut: sk-ant"), "not cut: sk-ant");
        Ok(())
    }

    #[test]
    fn a_key_in_pieces_is_veiled_and_nothing_else_waits() -> Result<(), InvalidKey> {
        let key = || ApiKey::parse(b"sk-sk-canary");
        let told = "a sk-sk-sk-canary, sk-sk-canarysk-sk-canary! sk-sk-can";
        for size in 1..=told.len() {
            let mut veil = Veil::new(Some(key()?));
            let mut read = Vec::new();
            for piece in told.as_bytes().chunks(size) {
                read.extend(veil.pass(Bytes::copy_from_slice(piece)));
            }
            read.extend(veil.rest().unwrap_or_default());
            assert_eq!(String::from_utf8_lossy(&read), "a sk-…, ……! sk-sk-can", "{size}");
        }
        let mut veil = Veil::new(Some(key()?));
        assert_eq!(veil.pass(Bytes::from_static(b"event: s\n\n")), "event: s\n\n");
        assert_eq!(veil.rest(), None);
        let mut short = Veil::new(Some(ApiKey::parse(b"word")?));
        assert_eq!(short.pass(Bytes::from_static(b"a word")), "a word");
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
