//! A talk with the agent in a cell, and what it asked the model meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Collected, Full};
use hyper::Request;
use noclaw_cell::job::Job;
use serde_json::{Value, json};

use super::{Probed, opened};
use crate::cell::Cell;
use crate::cell::agent::{Agent, LineLimits};
use crate::cell::door::{Door, Model};
use crate::cell::stream_json::Line;
use crate::core::plan::CellPlan;
use crate::core::problem::chain;
use crate::gateway::RunGateway;

/// What the model was asked: headers and body of each request. Clones share it.
#[derive(Clone)]
pub(super) struct Asked(Arc<Mutex<Vec<(String, String)>>>);

/// What the conversation has in answer to the call of a tool.
pub(super) struct Answer {
    pub(super) failed: bool,
    pub(super) text: String,
}

impl Asked {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// A cell's way to the model, on which everything is kept.
    pub(super) fn model(&self, gateway: RunGateway) -> Model {
        let asked = Arc::clone(&self.0);
        Arc::new(move |request| {
            let (gateway, asked) = (gateway.clone(), Arc::clone(&asked));
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
                let kept = (format!("{head:?}"), String::from_utf8_lossy(&body).into_owned());
                asked.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
                let request = Request::from_parts(head, Full::new(body));
                gateway.handle(request).await.map(BodyExt::boxed)
            })
        })
    }

    fn look<T>(&self, look: impl FnOnce(&[(String, String)]) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether nothing was asked.
    pub(super) fn is_empty(&self) -> bool {
        self.look(<[_]>::is_empty)
    }

    /// Whether a request has this word in it.
    pub(super) fn has(&self, word: &str) -> bool {
        self.look(|all| all.iter().any(|(head, body)| head.contains(word) || body.contains(word)))
    }

    /// The answers to the conversation's calls, in their order. Its last request holds all of them,
    /// and no other request holds as many.
    pub(super) fn answers(&self) -> Vec<Answer> {
        let all = |(_, body): &(String, String)| answers(body);
        self.look(|requests| requests.iter().map(all).max_by_key(Vec::len).unwrap_or_default())
    }
}

fn answers(request: &str) -> Vec<Answer> {
    let request: Value = serde_json::from_str(request).unwrap_or_default();
    let list = |value: &Value, key: &str| match value.get(key) {
        Some(Value::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let messages = list(&request, "messages").into_iter();
    let blocks = messages.flat_map(|message| list(&message, "content"));
    let results = blocks.filter(|block| block.get("type") == Some(&json!("tool_result")));
    let answer = |block: Value| Answer {
        failed: block.get("is_error") == Some(&json!(true)),
        text: block.get("content").map(ToString::to_string).unwrap_or_default(),
    };
    results.map(answer).collect()
}

/// A cell's agent, ready for a message. What goes wrong is told in words.
pub(super) struct Talk {
    /// What came of the cell's preflight.
    pub(super) preflight: Probed,
    door: Door,
    agent: Agent,
}

impl Talk {
    pub(super) async fn begin(
        cell: &Cell,
        (plan, job): &(CellPlan, Job),
        model: Model,
    ) -> Result<Self, String> {
        let opened = opened(cell, job, model, plan).await.map_err(|failure| failure.message)?;
        let (preflight, door, up, down) = opened;
        let mut agent = Agent::new(up, down, LineLimits::default());
        agent.initialize("").await.map_err(|error| chain(&error))?;
        Ok(Self { preflight, door, agent })
    }

    /// Says a text and waits for the end of a turn.
    pub(super) async fn turn(&mut self, text: &str) -> Result<(), String> {
        let said = self.agent.say(&[json!({"type": "text", "text": text})]).await;
        said.map_err(|error| chain(&error))?;
        self.result().await
    }

    /// Waits for the end of a turn.
    pub(super) async fn result(&mut self) -> Result<(), String> {
        loop {
            match self.agent.next().await {
                Ok(Line::Result(_)) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(chain(&error)),
            }
        }
    }

    /// Says that nothing more comes, and waits for the agent's exit.
    pub(super) async fn end(mut self) -> Result<(), String> {
        self.agent.close();
        // It does not end while nobody reads what it still says.
        while self.agent.next().await.is_ok() {}
        let exit = self.door.exit().await.map_err(|error| chain(&error))?;
        match exit.status {
            Some(0) => Ok(()),
            status => Err(format!("it ended with {status:?}: {}", exit.stderr)),
        }
    }
}
