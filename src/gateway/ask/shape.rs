//! What a request holds, as far as it decides whether it may pass: found while it is read, by the
//! forms of the Messages API. `json` has checked before that it reads alike everywhere.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::core::limits::MODEL_SERVER_TOOLS;
use crate::gateway::policy;

/// What was found in a request that not every cell may use.
#[derive(Default)]
pub(super) struct Found {
    // The first thing that no cell may use.
    refused: Option<String>,
    // Types of tools that run on the model's side.
    server_tools: BTreeSet<String>,
    // A block that such a tool brings into a conversation.
    server_block: Option<String>,
}

impl Found {
    fn refused(what: String) -> Self {
        Self { refused: Some(what), ..Self::default() }
    }

    /// Takes over what else was found. It stays small, whatever a request holds.
    fn add(&mut self, other: Self) {
        let Self { refused, server_tools, server_block } = other;
        self.refused = self.refused.take().or(refused);
        self.server_block = self.server_block.take().or(server_block);
        self.server_tools.extend(server_tools);
        if self.server_tools.len() > MODEL_SERVER_TOOLS {
            let what = format!("more than {MODEL_SERVER_TOOLS} tools of the model's side");
            self.refused.get_or_insert(what);
            self.server_tools.clear();
        }
    }

    /// What of it is not granted.
    pub(super) fn forbidden(self, granted: &BTreeSet<String>) -> Option<String> {
        let tool = self.server_tools.difference(granted).next();
        let tool = tool.map(|kind| format!("the tool {kind:?}, which runs on the model's side"));
        let block = self.server_block.filter(|_| granted.is_empty());
        self.refused.or(tool).or(block.map(|kind| format!("the block {kind:?}")))
    }
}

/// A part of a request that is looked through.
trait Part {
    fn found(self) -> Found;
}

/// A list, looked through item by item; `null` is an empty one.
struct Each<T>(Found, PhantomData<T>);

impl<'de, T: Part + Deserialize<'de>> Deserialize<'de> for Each<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Part + Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Found;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Found, E> {
                Ok(Found::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
                let mut found = Found::default();
                while let Some(item) = seq.next_element::<T>()? {
                    found.add(item.found());
                }
                Ok(found)
            }
        }
        let found = deserializer.deserialize_any(List::<T>(PhantomData))?;
        Ok(Self(found, PhantomData))
    }
}

/// A request: its model, and what was found in it.
#[derive(Default)]
pub(super) struct Shape {
    pub(super) model: Option<String>,
    pub(super) found: Found,
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
        while let Some(key) = map.next_key::<String>()? {
            let found = match key.as_str() {
                "model" => {
                    shape.model = Some(map.next_value()?);
                    Found::default()
                }
                "messages" => map.next_value::<Each<Turn>>()?.0,
                "system" => map.next_value::<Content>()?.0,
                "tools" => map.next_value::<Each<Tool>>()?.0,
                "context_management" => {
                    let management = map.next_value::<Option<ContextManagement>>()?;
                    management.and_then(|m| m.edits).map_or_else(Found::default, |e| e.0)
                }
                "metadata" => {
                    map.next_value::<Option<Metadata>>()?;
                    Found::default()
                }
                "max_tokens" => {
                    map.next_value::<Option<u32>>()?;
                    Found::default()
                }
                "stream" => {
                    map.next_value::<Option<bool>>()?;
                    Found::default()
                }
                name => {
                    map.next_value::<IgnoredAny>()?;
                    match policy::field(name) {
                        true => Found::default(),
                        false => Found::refused(format!("the field {name:?}")),
                    }
                }
            };
            shape.found.add(found);
        }
        Ok(shape)
    }
}

/// Who the provider is told that a request is from: an opaque id, and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    #[serde(rename = "user_id")]
    _user_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextManagement {
    edits: Option<Each<Edit>>,
}

#[derive(Deserialize)]
struct Edit {
    #[serde(rename = "type")]
    kind: String,
}

impl Part for Edit {
    fn found(self) -> Found {
        match policy::edit(&self.kind) {
            true => Found::default(),
            false => Found::refused(format!("the context edit {:?}", self.kind)),
        }
    }
}

/// A tool that the agent offers the model.
#[derive(Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Part for Tool {
    /// Tools of the agent's own have no type, or `custom`. All others run on the model's side, or
    /// are known to it.
    fn found(self) -> Found {
        let kind = self.kind.filter(|kind| kind != "custom");
        Found { server_tools: kind.into_iter().collect(), ..Found::default() }
    }
}

#[derive(Deserialize)]
struct Turn {
    content: Option<Content>,
}

impl Part for Turn {
    fn found(self) -> Found {
        self.content.map_or_else(Found::default, |content| content.0)
    }
}

/// A block of content. What is not named here is text, or an input that the agent reads itself.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    source: Option<Source>,
    content: Option<Content>,
    tool: Option<Change>,
}

impl Part for Block {
    fn found(self) -> Found {
        let mut found = match self.kind {
            kind if policy::block(&kind) => Found::default(),
            kind if policy::server_block(&kind) => {
                Found { server_block: Some(kind), ..Found::default() }
            }
            kind => Found::refused(format!("the block {kind:?}")),
        };
        let definition = self.tool.and_then(|change| change.definition);
        found.add(self.content.map_or_else(Found::default, |content| content.0));
        found.add(self.source.map_or_else(Found::default, |source| source.0));
        found.add(definition.map_or_else(Found::default, Part::found));
        found
    }
}

/// A tool that is added in the middle of a conversation: `tool_addition`.
#[derive(Deserialize)]
struct Change {
    definition: Option<Tool>,
}

/// Where an image or a document comes from; a search result's source is a string.
struct Source(Found);

#[derive(Deserialize)]
struct SourceObject {
    #[serde(rename = "type")]
    kind: String,
    content: Option<Content>,
    url: Option<IgnoredAny>,
    file_id: Option<IgnoredAny>,
}

impl Part for SourceObject {
    fn found(self) -> Found {
        let data = matches!(self.kind.as_str(), "base64" | "text" | "content");
        if !data || self.url.is_some() || self.file_id.is_some() {
            let what = "a source of the type";
            return Found::refused(format!("{what} {:?}: send the data itself", self.kind));
        }
        self.content.map_or_else(Found::default, |content| content.0)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SourceVisitor;
        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Source, E> {
                Ok(Source(Found::default()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                let object = SourceObject::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Source(object.found()))
            }
        }
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// Text, or blocks.
struct Content(Found);

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
        Ok(Content(Found::default()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Content, E> {
        Ok(Content(Found::default()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut found = Found::default();
        while let Some(block) = seq.next_element::<Block>()? {
            found.add(block.found());
        }
        Ok(Content(found))
    }

    // The result of a tool on the model's side may be one object.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
        let block = Block::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Content(block.found()))
    }
}
