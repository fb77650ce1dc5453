//! How the service speaks with the agent: `cell::agent::Agent` on a real cell's streams.

use noclaw::cell::agent::{Agent, AgentError, LineLimits};
use noclaw::cell::stream_json::{Line, TurnResult};
use noclaw::core::limits::AGENT_BROKEN_LINES;
use serde_json::{Value, json};

use crate::support::{Result, until};
use crate::talk::{OpenCell, Place, new_run, within};

async fn agent(place: &Place) -> Result<(OpenCell, Agent)> {
    let run = new_run();
    let (cell, up, down) = place.open(run, &place.job(run, None)?).await?;
    let mut agent = Agent::new(up, down, LineLimits::default());
    within("the agent is ready", agent.initialize("Be brief.")).await??;
    Ok((cell, agent))
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// Has the agent call Bash.
fn bash(command: &str) -> Value {
    text(&format!("!tool Bash {}", json!({"command": command})))
}

async fn result(agent: &mut Agent) -> Result<TurnResult> {
    loop {
        if let Line::Result(turn) = within("a result", agent.next()).await?? {
            return Ok(turn);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_interrupted_agent_answers_the_next_turn() -> Result {
    let place = Place::new().await?;
    let (cell, mut agent) = agent(&place).await?;
    agent.say(&[bash("touch begun; tail -f /dev/null")]).await?;
    let begun = place.path("workspace/begun");
    until("Bash works", || begun.exists().then_some(()))?;
    agent.interrupt().await?;
    let stopped = result(&mut agent).await?;
    assert!(stopped.failed, "{stopped:?}");

    agent.say(&[text("and now?")]).await?;
    let turn = result(&mut agent).await?;
    assert!(!turn.failed && turn.text.ends_with("and now?"), "{turn:?}");
    assert_eq!(turn.session, stopped.session);
    agent.close();
    assert_eq!(cell.end().await?.status, Some(0));
    Ok(())
}

/// What Bash starts can write to the agent's own standard output, so anything may come from there.
fn printf(bytes: &str) -> Value {
    bash(&format!("printf '{bytes}' >/proc/$PPID/fd/1; echo written"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn broken_lines_between_the_agents_are_survived() -> Result {
    let place = Place::new().await?;
    let (cell, mut agent) = agent(&place).await?;
    // The half line swallows the agent's next one: a tool's result, which nobody needs here.
    let broken = r#"Killed\n\n\377\376\n[1]\n{"type":"assistant","mess"#;
    agent.say(&[printf(broken)]).await?;
    let turn = result(&mut agent).await?;
    assert!(!turn.failed && turn.text.starts_with("written"), "{turn:?}");
    agent.close();
    assert_eq!(cell.end().await?.status, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_of_broken_lines_is_the_end() -> Result {
    let place = Place::new().await?;
    let (cell, mut agent) = agent(&place).await?;
    let flood = "Killed\\n".repeat(AGENT_BROKEN_LINES as usize + 1);
    agent.say(&[printf(&flood)]).await?;
    let error = result(&mut agent).await.err().ok_or("a result came")?;
    let garbage = error.downcast_ref::<AgentError>();
    assert!(matches!(garbage, Some(AgentError::Garbage(_, line)) if line == "Killed"), "{error}");
    cell.remove().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slash_makes_a_command_in_the_last_block_only() -> Result {
    let place = Place::new().await?;
    let (cell, mut agent) = agent(&place).await?;
    let time = || text("<noclaw:time>{}</noclaw:time>");
    agent.say(&[text("/clear"), time()]).await?;
    let turn = result(&mut agent).await?;
    assert_eq!(turn.text, "You said: /clear");

    let asked = place.asked()?.len();
    agent.say(&[time(), text("/clear")]).await?;
    let cleared = result(&mut agent).await?;
    assert_eq!((cleared.text.as_str(), cleared.failed), ("", false));
    assert_ne!(cleared.session, turn.session, "it began another session");
    assert_eq!(place.asked()?.len(), asked, "the model was not asked");
    agent.close();
    cell.end().await.map(drop)
}
