//! Agents that misbehave, behind the real launcher: a script in the agent's place in an image of
//! the test's own, or the real agent that is killed.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::ends::{assert_failed, assert_gone, assert_says, assert_well, bash, becomes, post};
use crate::support::podmans::OtherPodman;
use crate::support::{House, Result, until};

/// Does what stands in the user's workspace, at its begin or when it has heard the user's turn, and
/// speaks the protocol for it up to there. A user who has nothing there is answered.
const STAND_IN: &str = r#"#!/bin/sh
begin=/workspace/begin turn=/workspace/turn
[ ! -e $begin ] || . $begin
read -r line
echo '{"type":"control_response","response":{"subtype":"success","request_id":"initialize"}}'
read -r line
[ ! -e $turn ] || . $turn
echo '{"type":"result","subtype":"success","is_error":false,"session_id":"x","result":"well"}'
[ ! -e /workspace/end ] || . /workspace/end
cat >/dev/null
"#;

/// A user, the moment at which their agent goes wrong, how it does, and what is said of that.
type Bad = (&'static str, &'static str, &'static str, &'static [&'static str]);

const BROKEN: [Bad; 9] = [
    (
        "quitter",
        "begin",
        "echo 'not today' >&2; exit 3",
        &["agent: ", "before its result, with status 3", "not today"],
    ),
    ("cutter", "turn", "exit 0", &["agent: ", "before its result, with status 0"]),
    ("killed", "turn", "kill -9 $$", &["agent: ", "killed by signal 9"]),
    ("crasher", "turn", "kill -11 $$", &["agent: ", "killed by signal 11"]),
    ("babbler", "begin", "yes babble", &["breach: ", "101 lines", "babble"]),
    (
        "endless",
        "turn",
        "tr '\\0' x </dev/zero | head -c 100000000; echo",
        &["breach: ", "a line of more than 16777216 bytes"],
    ),
    (
        "flooding",
        "turn",
        r#"x=$(head -c 100000 /dev/zero | tr '\0' x); yes '{"type":"x","x":"'$x'"}'"#,
        &["breach: ", "output of more than 536870912 bytes"],
    ),
    (
        "refuser",
        "begin",
        r#"read -r line; echo '{"type":"control_response","response":{"subtype":"error","request_id":"initialize","error":"too tired"}}'; read -r line"#,
        &["agent: ", "refused to initialize", "too tired"],
    ),
    (
        "lingerer",
        "end",
        "trap '' HUP INT TERM; while :; do sleep 1; done",
        &["agent: ", "did not end the agent in time"],
    ),
];

/// A service whose agent is the stand-in.
fn house(podman: &OtherPodman, args: &[&str]) -> Result<House> {
    let mut house = House::closed(&podman.socket(), &["--model-api", "demo"])?;
    house.args(args);
    house.open()?;
    Ok(house)
}

/// Puts a script where the stand-in finds it.
fn teach(house: &House, user: &str, moment: &str, script: &str) -> Result {
    let workspace = house.path("state/users").join(user).join("workspace");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&workspace)?;
    Ok(fs::write(workspace.join(moment), script)?)
}

#[test]
fn agents_that_break_the_protocol_fail_with_words_that_say_how() -> Result {
    let podman = OtherPodman::with_agent(STAND_IN)?;
    let house = house(&podman, &["--max-cells", "4"])?;
    assert_eq!(house.send(&["hello"])?, "well", "the stand-in is an agent like any other");
    let mut runs = Vec::new();
    for (user, moment, script, _) in BROKEN {
        teach(&house, user, moment, script)?;
        runs.push(post(&house, &json!({"message": "hello", "user": user}))?);
    }
    for (run, (_, _, _, words)) in runs.iter().zip(BROKEN) {
        assert_failed(&becomes(&house, run, "failed")?, words);
    }
    assert_gone(&house)?;
    assert_eq!(house.send(&["-c", "afterwards", "hello"])?, "well");
    Ok(())
}

/// Answers with 200 kB and is gone.
const HASTY: &str = r#"x=$(head -c 200000 /dev/zero | tr '\0' x)
echo '{"type":"result","subtype":"success","is_error":false,"session_id":"x","result":"'$x'"}'
exit 0
"#;

#[test]
fn the_last_words_of_an_agent_that_leaves_at_once_are_heard() -> Result {
    let podman = OtherPodman::with_agent(STAND_IN)?;
    let house = house(&podman, &["--burst", "20"])?;
    teach(&house, "hasty", "turn", HASTY)?;
    for n in 0..10 {
        let conversation = format!("c{n}");
        let said = house.send(&["-u", "hasty", "-c", &conversation, "hello"])?;
        assert_eq!(said.len(), 200_000, "{n}");
    }
    Ok(())
}

#[test]
fn an_agent_that_heeds_nothing_is_ended_in_time() -> Result {
    let podman = OtherPodman::with_agent(STAND_IN)?;
    let house = house(&podman, &["--run-timeout", "2"])?;
    let script = "trap '' HUP INT TERM; touch /workspace/heard; while :; do sleep 1; done";
    teach(&house, "deaf", "turn", script)?;
    let run = post(&house, &json!({"message": "hello", "user": "deaf"}))?;
    let run = becomes(&house, &run, "timed_out")?;
    let ended = Instant::now();
    assert_says(&run, &["timed out: ", "longer than 2 s"]);
    assert!(house.path("state/users/deaf/workspace/heard").exists(), "it did not come that far");
    assert_gone(&house)?;
    assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
    assert_eq!(house.send(&["hello"])?, "well");
    Ok(())
}

#[test]
fn an_image_whose_agent_cannot_be_executed_says_which_program() -> Result {
    let podman = OtherPodman::with_agent(STAND_IN)?;
    let house = house(&podman, &["--burst", "200"])?;
    for (agent, word) in [(Some((STAND_IN, 0o644)), "Permission denied"), (None, "No such file")] {
        podman.build(agent)?;
        let words = ["agent: ", "/usr/local/bin/claude", word];
        // For a moment the service may still know the image that was there before.
        let said = until(&format!("{words:?} is said"), || {
            let run = house.run(&["hello"]).ok()?;
            words.iter().all(|word| run["error"].to_string().contains(word)).then_some(run)
        });
        assert_failed(&said?, &words);
        assert_gone(&house)?;
    }
    podman.build(Some((STAND_IN, 0o755)))?;
    let answered = |said: &String| said.starts_with("well");
    until("the next message is answered", || house.send(&["hello"]).ok().filter(answered))?;
    Ok(())
}

#[test]
fn a_killed_agent_fails_its_run_and_a_killed_child_does_not() -> Result {
    let house = House::start(&[])?;
    let run = house.run(&[&bash("kill -9 $PPID; sleep 60")])?;
    assert_failed(&run, &["agent: ", "killed by signal 9"]);
    assert!(!run["error"].to_string().contains("out of memory"), "{run}");
    let said = house.send(&[&bash("sh -c 'kill -9 $$'; echo status $?")])?;
    assert!(said.contains("status 137"), "{said}");
    assert_well(&house)
}
