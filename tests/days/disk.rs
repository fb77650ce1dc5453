//! The database: no room in it, garbage in it, another program's or a newer version's.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use sea_orm::{ConnectionTrait, Database};
use serde_json::json;

use crate::ends::{assert_gone, assert_well, becomes, post};
use crate::support::recorder::{Recorder, Say};
use crate::support::{House, Result, ground, told, until};

const PAGE: u64 = 4096;

/// Has the next writer of a closed house's database find room for so many pages more.
fn leave_room(house: &House, pages: u64) -> Result {
    let used = fs::metadata(house.path("state/noclaw.db"))?.len() / PAGE;
    Ok(fs::write(house.point("pages")?, (used + pages).to_string())?)
}

/// A service whose disk can be full.
fn house(args: &[&str]) -> Result<House> {
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, args)?;
    let pages = house.point("pages")?.display().to_string();
    house.env("NOCLAW_TEST_PAGES", &pages);
    house.open()?;
    Ok(house)
}

#[test]
fn a_full_disk_refuses_a_message_and_keeps_nothing_of_it() -> Result {
    let mut house = house(&["--model-api", "demo"])?;
    assert_eq!(house.send(&["hello"])?, "You said: hello");
    house.close()?;
    leave_room(&house, 0)?;
    house.open()?;
    let before = house.get("/v1/runs")?.body;
    let long = "x".repeat(200_000);
    for conversation in ["main", "new"] {
        let body = json!({"message": long, "conversation": conversation});
        let refused = house.post("/webhook", &body.to_string())?;
        assert_eq!((refused.status, refused.problem()?.as_str()), (507, "storage-full"));
    }
    let file = house.path("long");
    fs::write(&file, &long)?;
    let send = house.noclaw(&["send"]).stdin(fs::File::open(&file)?).output()?;
    assert_eq!(send.status.code(), Some(75), "{}", told(&send));
    assert_eq!(house.get("/v1/runs")?.body, before, "a refused message was kept");
    fs::remove_file(house.point("pages")?)?;
    let send = house.noclaw(&["send"]).stdin(fs::File::open(&file)?).output()?;
    assert!(send.status.success() && send.stdout.len() > long.len(), "there is room again");
    assert_well(&house)
}

#[test]
fn a_reply_that_finds_no_room_is_written_when_there_is() -> Result {
    const REPLY: usize = 500_000;
    let recorder = Recorder::start(|_, request| {
        let long = request.body["messages"].to_string().contains("at length");
        Say::Text(if long { "x".repeat(REPLY) } else { "You said: hello".into() })
    })?;
    let mut house = house(&["--model-api", &recorder.url])?;
    house.close()?;
    house.key("canary")?;
    leave_room(&house, 60)?;
    house.open()?;
    let run = post(&house, &json!({"message": "tell me at length"}))?;
    until("the outcome finds no room", || {
        house.logged().contains("cannot write the outcome").then_some(())
    })?;
    assert_eq!(house.show(&run)?["status"], "running", "it has no outcome yet");
    fs::remove_file(house.point("pages")?)?;
    let run = becomes(&house, &run, "answered")?;
    assert_eq!(run["reply"].as_str().map(str::len), Some(REPLY));
    assert_gone(&house)?;
    assert_well(&house)
}

/// `noclaw serve` on this database must end by itself; it is ended if it does not.
fn served(house: &House) -> Result<Output> {
    let mut command = house.serve()?;
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let ended = until("it ends by itself", || child.try_wait().ok().flatten());
    if ended.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    ended.map_err(|error| format!("{error}: {}", told(&output)))?;
    Ok(output)
}

/// The database as a later version of the program would leave it.
fn newer(path: &Path) -> Result<Vec<u8>> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let database = Database::connect(format!("sqlite:{}", path.display())).await?;
            let row = "INSERT INTO seaql_migrations VALUES ('m9999_better', 0)";
            database.execute_unprepared(row).await?;
            Ok(database.close().await?)
        })
        .and_then(|()| Ok(fs::read(path)?))
}

#[test]
fn a_database_that_cannot_be_used_is_refused_and_left_as_it_is() -> Result {
    let mut house = House::start(&[])?;
    house.post("/webhook?wait=0", r#"{"message":"hello"}"#)?;
    house.close()?;
    let path = house.path("state/noclaw.db");
    let whole = fs::read(&path)?;
    let middle = whole.len() / 2;
    let mut garbage = whole.clone();
    for byte in garbage.iter_mut().skip(4096).take(middle) {
        *byte = 0xa5;
    }
    let newer = newer(&path)?;
    for (what, bytes, word) in [
        ("newer", newer, "belongs to a newer NoClaw"),
        ("garbage", garbage, "damaged"),
        ("cut", whole[..middle].to_vec(), "damaged"),
        ("text", b"Dear diary, today was a good day.\n".repeat(200), "not a database of NoClaw"),
    ] {
        fs::write(&path, &bytes)?;
        let output = served(&house)?;
        assert_eq!(output.status.code(), Some(78), "{what}: {}", told(&output));
        assert!(told(&output).contains(word), "{what}: {}", told(&output));
        assert!(fs::read(&path)? == bytes, "{what}: the file was changed");
    }
    fs::write(&path, &whole)?;
    house.open()?;
    assert_well(&house)
}
