//! What a run may spend, by its own budget and by what the day's have left.

use serde_json::json;

use crate::cell::house;
use crate::support::Result;
use crate::support::recorder::{Recorder, Say};

#[test]
fn a_spent_budget_ends_the_run() -> Result {
    // Each answer costs 2 × 1000 + 10 × 1000 millionths of a dollar; the run may spend 20000.
    let recorder = Recorder::start(|_, _| Say::Tool("Bash", json!({"command": "true"})))?;
    let house = house(&recorder, &["--budget-run", "0.02"])?;
    let run = house.run(&["spend"])?;
    assert_eq!(run["status"], "failed", "{run}");
    assert!(run["error"].as_str().is_some_and(|error| error.contains("budget")), "{run}");
    assert_eq!(recorder.requests().len(), 2, "{run}");
    assert_eq!(run["cost_usd"], 0.024, "{run}");
    Ok(())
}

#[test]
fn what_a_day_s_budget_leaves_is_what_a_run_may_spend() -> Result {
    for whose in ["--budget-user", "--budget"] {
        // As above: a run's own budget is two answers, the day's leave half of a third one.
        let recorder = Recorder::start(|_, _| Say::Tool("Bash", json!({"command": "true"})))?;
        let house = house(&recorder, &["--budget-run", "0.02", whose, "0.03"])?;
        for requests in [2, 3, 3] {
            let run = house.run(&["spend"])?;
            assert!(run["error"].as_str().is_some_and(|error| error.contains("budget")), "{run}");
            assert_eq!(recorder.requests().len(), requests, "{whose}: {run}");
        }
    }
    Ok(())
}
