//! What the agent itself asks for: one model a run, whatever it is called.

use serde_json::{Value, json};

use crate::cell::house;
use crate::support::Result;
use crate::support::recorder::{Recorder, Say};

#[test]
fn the_agent_asks_for_the_model_that_its_run_was_begun_with_and_no_other() -> Result {
    // Its tools are what makes it ask more than once, and reading a long file what makes it count.
    let recorder = Recorder::start(|_, request| {
        let tool = |command: &str| Say::Tool("Bash", json!({"command": command}));
        match (request.head.contains("count_tokens"), request.results().len()) {
            (true, _) => Say::Status(501, "{}".to_owned()),
            (false, 0) => tool("seq 6500 | sed 's/$/ a line of words/' >long.txt"),
            (false, 1) => Say::Tool("Read", json!({"file_path": "/workspace/long.txt"})),
            _ => Say::Text("done".to_owned()),
        }
    })?;
    let house = house(&recorder, &["--burst", "50"])?;
    let prices: Value = serde_json::from_str(include_str!("../../data/prices.json"))?;
    let mut seen = 0;
    for model in prices.as_object().ok_or("no prices")?.keys() {
        let conversation = model.replace('.', "-");
        let message = json!({"message": "begin", "model": model, "conversation": conversation});
        let answer = house.post("/webhook", &message.to_string())?;
        assert_eq!(answer.json()?["reply"], "done", "{model}: {answer:?}");
        let requests = recorder.requests().split_off(seen);
        seen += requests.len();
        let counted = requests.iter().filter(|r| r.head.contains("count_tokens")).count();
        assert!(counted > 0 && requests.len() > counted + 2, "{model}: {}", requests.len());
        for request in requests {
            assert_eq!(request.body["model"], *model, "{}", request.head);
        }
    }
    Ok(())
}
