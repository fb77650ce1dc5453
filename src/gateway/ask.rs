//! What a cell asks of the model, checked before anything is sent.
//!
//! | what is wrong | the agent gets |
//! |---|---|
//! | another path or a query but `beta=true` | 404 |
//! | another method | 405 |
//! | no JSON object, a field twice, a field of the wrong form | 400 |
//! | a model without a price | 400 |
//! | a field that is not listed in `policy` | 403 |
//! | a tool that runs on the model's side | 403 |
//! | an image or a document that the model's side would fetch (`url`) or has (`file`) | 403 |
//!
//! The last one would let a cell send data to any address, or read what another user left there.
//! The body is looked at and passed on as it came, byte by byte: writing it anew would reorder keys
//! and miss the prompt cache. A key that stands twice is refused, since two readers of it might
//! see two different requests.

use std::collections::BTreeSet;
use std::fmt;

use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::ModelError;
use super::policy;
use crate::core::money::Prices;

/// The two things that a cell may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// An answer.
    Messages,
    /// How long a prompt is. Costs nothing.
    CountTokens,
}

impl Endpoint {
    /// The endpoint and the path to send a request to.
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<(Self, &'static str), ModelError> {
        let beta = match uri.query() {
            None => false,
            Some("beta=true") => true,
            Some(_) => return Err(not_found(uri)),
        };
        let found = match (uri.path(), beta) {
            ("/v1/messages", false) => (Self::Messages, "/v1/messages"),
            ("/v1/messages", true) => (Self::Messages, "/v1/messages?beta=true"),
            ("/v1/messages/count_tokens", false) => {
                (Self::CountTokens, "/v1/messages/count_tokens")
            }
            ("/v1/messages/count_tokens", true) => {
                (Self::CountTokens, "/v1/messages/count_tokens?beta=true")
            }
            _ => return Err(not_found(uri)),
        };
        if method != Method::POST {
            let message = format!("{method} is not allowed here: use POST");
            return Err(ModelError::refused(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        Ok(found)
    }
}

fn not_found(uri: &Uri) -> ModelError {
    let message = format!("a cell cannot reach {:?}: only the Messages API", uri.path());
    ModelError::refused(StatusCode::NOT_FOUND, message)
}

/// The model that `body` asks for, if all in it is allowed.
pub(super) fn model(body: &[u8], prices: &Prices) -> Result<String, ModelError> {
    let bad = |message: String| ModelError::refused(StatusCode::BAD_REQUEST, message);
    let shape: Shape = serde_json::from_slice(body)
        .map_err(|e| bad(format!("this is no request of the Messages API: {e}")))?;
    if let Some(what) = shape.refused {
        let message = format!("a cell may not use {what}");
        return Err(ModelError::refused(StatusCode::FORBIDDEN, message));
    }
    let model = shape.model.ok_or_else(|| bad("the request has no model".into()))?;
    if !prices.allows(&model) {
        return Err(bad(format!("model not allowed: no price is known for {model:?}")));
    }
    Ok(model)
}

/// What was found in a request.
#[derive(Default)]
struct Shape {
    model: Option<String>,
    // The first thing that is not allowed.
    refused: Option<String>,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::default();
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let refused = match key.as_str() {
                "model" => {
                    shape.model = Some(map.next_value()?);
                    None
                }
                "messages" => first(&map.next_value::<Vec<Turn>>()?, Turn::refused),
                "system" => map.next_value::<Content>()?.refused(),
                "tools" => {
                    let tools = map.next_value::<Option<Vec<Tool>>>()?.unwrap_or_default();
                    first(&tools, Tool::refused)
                }
                name => {
                    map.next_value::<IgnoredAny>()?;
                    (!policy::field(name)).then(|| format!("the field {name:?}"))
                }
            };
            shape.refused = shape.refused.or(refused);
            if !seen.insert(key) {
                return Err(de::Error::custom("a field stands twice"));
            }
        }
        Ok(shape)
    }
}

fn first<T>(list: &[T], refused: impl Fn(&T) -> Option<String>) -> Option<String> {
    list.iter().find_map(refused)
}

/// A tool that the agent offers the model.
#[derive(Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Tool {
    /// Tools of the agent's own have no type, or `custom`. All others run on the model's side, or
    /// are known to it.
    fn refused(&self) -> Option<String> {
        let kind = self.kind.as_deref().filter(|kind| *kind != "custom")?;
        Some(format!("the tool {kind:?}, which runs on the model's side"))
    }
}

#[derive(Deserialize)]
struct Turn {
    content: Option<Content>,
}

impl Turn {
    fn refused(&self) -> Option<String> {
        self.content.as_ref()?.refused()
    }
}

/// Text, or blocks.
struct Content(Vec<Block>);

impl Content {
    fn refused(&self) -> Option<String> {
        first(&self.0, Block::refused)
    }
}

/// A block of content. What is not named here is text, or an input that the agent reads itself.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: Option<String>,
    source: Option<Source>,
    content: Option<Content>,
    tool: Option<Change>,
}

impl Block {
    fn refused(&self) -> Option<String> {
        if self.kind.as_deref() == Some("container_upload") {
            return Some("files on the model's side".into());
        }
        let nested = self.content.as_ref().and_then(Content::refused);
        let source = || self.source.as_ref().and_then(Source::refused);
        let tool = || self.tool.as_ref()?.definition.as_ref()?.refused();
        nested.or_else(source).or_else(tool)
    }
}

/// A tool that is added in the middle of a conversation: `tool_addition`.
#[derive(Deserialize)]
struct Change {
    definition: Option<Tool>,
}

/// Where an image or a document comes from; a search result's source is a string.
enum Source {
    Text,
    Of { kind: Option<String>, content: Option<Content> },
}

impl Source {
    fn refused(&self) -> Option<String> {
        let Self::Of { kind, content } = self else { return None };
        match kind.as_deref() {
            Some("base64" | "text" | "content") | None => content.as_ref()?.refused(),
            Some(kind) => Some(format!("a source of the type {kind:?}: send the data itself")),
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Object {
            #[serde(rename = "type")]
            kind: Option<String>,
            content: Option<Content>,
        }
        struct SourceVisitor;
        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Source, E> {
                Ok(Source::Text)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                let object = Object::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Source::Of { kind: object.kind, content: object.content })
            }
        }
        deserializer.deserialize_any(SourceVisitor)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of blocks")
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Content, E> {
        Ok(Content(Vec::new()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Content, E> {
        Ok(Content(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut blocks = Vec::new();
        while let Some(block) = seq.next_element()? {
            blocks.push(block);
        }
        Ok(Content(blocks))
    }

    // The result of a tool on the model's side may be one object.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
        let block = Block::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Content(vec![block]))
    }
}

#[cfg(test)]
mod tests;
