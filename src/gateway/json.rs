//! JSON as it is taken from a cell: only what every reader reads alike. What the gateway checks and
//! what the model's side sees must be one request.
//!
//! | what is refused | because another reader may |
//! |---|---|
//! | a key that stands twice in one object, at any depth, however it is written | take the other value |
//! | bytes that are no UTF-8, half of a surrogate pair | drop or replace them |
//! | a number that no double holds | take it as infinite, or end there |
//! | nesting, or keys of one object, beyond the limits | run out of stack or memory |
//! | anything before or behind the one value | read only that |
//!
//! Nothing is kept but the keys of the objects that are open.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::core::limits::{MODEL_BODY_DEPTH, MODEL_BODY_KEYS};

/// Why a body is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidJson {
    #[error("it is not UTF-8 from byte {0} on")]
    NotUtf8(usize),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Checks a body, and gives it as text.
pub(super) fn text(body: &[u8]) -> Result<&str, InvalidJson> {
    let text = str::from_utf8(body).map_err(|e| InvalidJson::NotUtf8(e.valid_up_to()))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    Sound { depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(text)
}

/// Any value that is sound, at this depth.
#[derive(Clone, Copy)]
struct Sound {
    depth: usize,
}

impl Sound {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MODEL_BODY_DEPTH {
            return Err(E::custom(format_args!("it is nested deeper than {MODEL_BODY_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Sound {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            if seen.contains(&key) {
                let key: String = key.chars().take(100).collect();
                return Err(A::Error::custom(format_args!("the key {key:?} stands twice")));
            }
            if seen.len() >= MODEL_BODY_KEYS {
                let problem = format_args!("an object has more than {MODEL_BODY_KEYS} keys");
                return Err(A::Error::custom(problem));
            }
            seen.insert(key);
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// A key as it is meant: its escapes are resolved.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(body: &[u8]) -> String {
        text(body).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_readers_may_read_differently_is_refused() {
        let deep = "[".repeat(MODEL_BODY_DEPTH + 1) + &"]".repeat(MODEL_BODY_DEPTH + 1);
        let keys: Vec<_> = (0..=MODEL_BODY_KEYS).map(|n| format!("\"{n}\":0")).collect();
        let many = format!("{{{}}}", keys.join(","));
        for (body, wrong) in [
            (&br#"{"a":1,"a":1}"#[..], r#"the key "a" stands twice"#),
            (br#"{"a":1,"\u0061":2}"#, r#"the key "a" stands twice"#),
            (br#"[{"x":[{"b":{},"c":0,"b":{}}]}]"#, r#"the key "b" stands twice"#),
            (br#"{"":0,"":0}"#, r#"the key "" stands twice"#),
            (b"{\"a\":\"\xff\"}", "it is not UTF-8 from byte 6 on"),
            (b"{\"a\":\"\xed\xa0\x80\"}", "it is not UTF-8 from byte 6 on"),
            (b"{\"a\":\"\xc0\xaf\"}", "it is not UTF-8 from byte 6 on"),
            (br#""\ud800""#, "hex escape"),
            (br#"["\udc00\ud800"]"#, "hex escape"),
            (br#"{"\ud800":0}"#, "hex escape"),
            (b"1e999", "number out of range"),
            (b"[-1e400]", "number out of range"),
            (b"01", "invalid number"),
            (b"+1", "expected value"),
            (b"NaN", "expected"),
            (b"\xef\xbb\xbf{}", "expected value"),
            (b"{}{}", "trailing characters"),
            (b"{} x", "trailing characters"),
            (b"{}\0", "trailing characters"),
            (b"\"\0\"", "control character"),
            (b"{\"a\":1,}", "trailing comma"),
            (b"/**/{}", "expected value"),
            (b"'a'", "expected value"),
            (b"", "EOF"),
            (deep.as_bytes(), "nested deeper than 100"),
            (many.as_bytes(), "more than 4096 keys"),
        ] {
            let got = problem(body);
            let shown = String::from_utf8_lossy(body.get(..60).unwrap_or(body)).into_owned();
            assert!(got.contains(wrong), "{shown}: {got}");
        }
    }

    #[test]
    fn what_is_read_alike_passes_as_it_is() {
        let deep = "[".repeat(MODEL_BODY_DEPTH) + &"]".repeat(MODEL_BODY_DEPTH);
        let keys: Vec<_> = (0..MODEL_BODY_KEYS).map(|n| format!("\"{n}\":0")).collect();
        let many = format!("{{{}}}", keys.join(","));
        for body in [
            r#"{"a":{"a":[{"a":1},{"a":2}]},"A":1,"a ":2}"#,
            " {\n\t\"ü\\u0000\\ud83d\\ude00\": [1, -2.5e-3, 9007199254740991, null, true]} ",
            "18446744073709551616",
            &deep,
            &many,
        ] {
            assert_eq!(text(body.as_bytes()).ok(), Some(body));
        }
    }
}
