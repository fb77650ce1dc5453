//! Models that cannot be reached, refuse, break off or fall silent. The agent repeats for a while
//! what may pass; the limit of its silence ends that here, and the run tells the model's own words.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::ends::{assert_failed, assert_gone, assert_says, becomes, ends, post};
use crate::support::recorder::{Recorded, Recorder, Say};
use crate::support::{House, Result, ground};

/// A service whose model is at this address.
fn house(url: &str, args: &[&str]) -> Result<House> {
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, args)?;
    house.args(&["--model-api", url]);
    house.key("canary-77a1")?;
    house.open()?;
    Ok(house)
}

/// Does what the newest message says.
fn moody(_: usize, request: &Recorded) -> Say {
    let messages = request.body["messages"].to_string();
    let refuse = |status, words: &str| {
        let kind = "some_error";
        let error = json!({"type": "error", "error": {"type": kind, "message": words}});
        Say::Status(status, error.to_string())
    };
    match messages {
        m if m.contains("mood 401") => refuse(401, "this key was taken back on Tuesday"),
        m if m.contains("mood 429") => refuse(429, "come back on Wednesday"),
        m if m.contains("mood cut") => Say::Cut("half a sent".into()),
        m if m.contains("mood hang") => Say::Hang("half a thought".into()),
        _ => Say::Text("well".into()),
    }
}

/// Sends a message of this mood, as a user of the same name.
fn mood(house: &House, mood: &str) -> Result<Value> {
    post(house, &json!({"message": format!("mood {mood}"), "user": format!("u{mood}")}))
}

#[test]
fn a_model_s_bad_moods_are_told_in_its_own_words() -> Result {
    let recorder = Recorder::start(moody)?;
    let house = house(&recorder.url, &["--silence", "4", "--max-cells", "4"])?;
    let [refused, later, cut, hung] =
        [mood(&house, "401")?, mood(&house, "429")?, mood(&house, "cut")?, mood(&house, "hang")?];

    let refused = becomes(&house, &refused, "failed")?;
    assert_failed(&refused, &["agent error: ", "401", "this key was taken back on Tuesday"]);
    let asked = |request: &&Recorded| request.body["messages"].to_string().contains("mood 401");
    let asked = recorder.requests().iter().filter(asked).count();
    assert_eq!(asked, 1, "a wrong key is not tried again");
    // These the agent tries again, until it gives up or has been silent for too long.
    for (run, word) in [(later, "come back on Wednesday"), (cut, "the model's answer broke off")] {
        let run = ends(&house, &run)?;
        assert!(run["reply"].is_null(), "{run}");
        assert_says(&run, &[word]);
    }
    let hung = becomes(&house, &hung, "timed_out")?;
    assert_says(&hung, &["timed out: ", "silent for 4 s"]);
    assert_gone(&house)?;
    assert_eq!(house.send(&["hello"])?, "well");
    assert!(!house.logged().contains("canary-77a1"), "the key is in the log");
    Ok(())
}

#[test]
fn a_model_that_nobody_serves_is_named() -> Result {
    // A port that was just free.
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    let house = house(&url, &["--silence", "4"])?;
    let address = url.trim_start_matches("http://");
    let run = house.run(&["hello"])?;
    assert!(run["reply"].is_null(), "{run}");
    assert_says(&run, &[address, "cannot be reached", "refused"]);
    assert_gone(&house)
}
