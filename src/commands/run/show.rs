//! A run, for people: what is known of it, where its time went, what its cell measured.

use std::fmt::Write;

use noclaw_cell::preflight::{IdRange, Measured, Mount, Preflight};

use crate::channels::view::RunView;
use crate::core::preflight::{FINGERPRINT_ERRNO, LANDLOCK_ERRNO, SECOND_FILTER_ERRNO};

/// All that is known of a run.
pub fn describe(run: &RunView) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let value = value.replace('\n', "\n              ");
        // Writing to a string does not fail.
        writeln!(text, "{name:<13} {value}").ok();
    };
    row("run", &run.run.to_string());
    row("user", run.user.as_str());
    row("conversation", run.conversation.as_str());
    row("status", run.status.as_str());
    row("accepted", &run.created_at.to_string());
    if let Some(of) = run.retry_of {
        row("retry of", &of.to_string());
    }
    if let Some(ms) = run.duration_ms {
        row("took", &format!("{ms} ms, {} attempt(s)", run.attempts));
    }
    row("cost", &format!("${:.6}, {}", run.cost_usd, tokens(run)));
    row("container", run.container.as_deref().unwrap_or("none"));
    if let Some(gone) = run.gone_at {
        row("gone", &gone.to_string());
    }
    if let Some(space) = run.workspace {
        row("workspace", &space.to_string());
    }
    for message in run.messages.iter().flatten() {
        row("message", message);
    }
    if let Some(reply) = &run.reply {
        row("reply", reply);
    }
    if let Some(error) = &run.error {
        row("error", error);
    }
    if let Some(isolation) = &run.isolation {
        row("isolation", isolation);
    }
    if let Some(preflight) = &run.preflight {
        match serde_json::from_value::<Preflight>(preflight.clone()) {
            Ok(preflight) => text.push_str(&table(&preflight)),
            Err(_) => row("preflight", &preflight.to_string()),
        }
    }
    text
}

/// Where a run's time went: since it was accepted, and since the step before.
pub fn timeline(run: &RunView) -> String {
    let mut text = format!("{:<18} {:>10} {:>10}\n", "step", "at ms", "took ms");
    let mut before = 0.0;
    for moment in &run.timeline {
        let took = moment.at_ms - before;
        // Writing to a string does not fail.
        writeln!(text, "{:<18} {:>10.1} {took:>10.1}", moment.step, moment.at_ms).ok();
        before = moment.at_ms;
    }
    text
}

fn tokens(run: &RunView) -> String {
    let usage = &run.usage;
    format!(
        "{} requests, {} tokens in, {} out",
        usage.requests,
        usage.prompt(),
        usage.output_tokens
    )
}

/// The preflight as a table: what, pid 1, the agent.
fn table(preflight: &Preflight) -> String {
    let mut text = format!("\n{:<18} {:<32} {}\n", "preflight", "launcher", "agent");
    let (launcher, agent) = (&preflight.launcher, &preflight.agent);
    let mut row = |name: &str, value: fn(&Measured) -> String| {
        writeln!(text, "{name:<18} {:<32} {}", value(launcher), value(agent)).ok();
    };
    row("user", |m| m.uids.first().map_or_else(String::new, u32::to_string));
    row("no new privileges", |m| m.no_new_privs.to_string());
    row("users (in:out+n)", |m| map(&m.uid_map));
    row("seccomp", |m| format!("mode {}, {} filter(s)", m.seccomp_mode, m.seccomp_filters));
    row("seccomp's mark", |m| match m.seccomp_answer {
        FINGERPRINT_ERRNO => "the cell's own filter".to_owned(),
        SECOND_FILTER_ERRNO => "the agent's own filter".to_owned(),
        other => format!("another filter ({other})"),
    });
    row("capabilities", |m| {
        let sets = &m.capabilities;
        let any = sets.inheritable | sets.permitted | sets.effective | sets.bounding | sets.ambient;
        format!("{any:#x}")
    });
    row("process", |m| m.pid.to_string());
    row("namespaces", |m| {
        let of = |kind| m.namespaces.get(kind).map_or_else(|| "-".to_owned(), u64::to_string);
        format!("pid {}, net {}", of("pid"), of("net"))
    });
    row("interfaces", |m| m.interfaces.join(" "));
    row("Landlock", |m| match &m.landlock {
        Some(l) => format!("ABI {}, {} rules", l.abi, l.rules),
        None => "(not applied here)".to_owned(),
    });
    row("a file in /run", |m| match m.landlock_answer {
        0 => "can be made".to_owned(),
        LANDLOCK_ERRNO => "is refused".to_owned(),
        other => format!("error {other}"),
    });
    row("memory.max", |m| limit(m.limits.memory_max.as_ref()));
    row("memory.swap.max", |m| limit(m.limits.memory_swap_max.as_ref()));
    row("pids.max", |m| limit(m.limits.pids_max.as_ref()));
    row("cpu.max", |m| limit(m.limits.cpu_max.as_ref()));
    row("open files", |m| number(m.limits.nofile));
    row("file size", |m| number(m.limits.fsize));
    row("file descriptors", |m| m.descriptors.len().to_string());
    row("variables", |m| m.environment.len().to_string());
    row("devices", |m| m.devices.len().to_string());
    row("mounts", |m| m.mounts.len().to_string());
    text.push_str(&mounts(agent));
    text
}

/// What is mounted in the cell: where, how, what.
fn mounts(agent: &Measured) -> String {
    let mut mounts: Vec<_> = agent.mounts.iter().collect();
    mounts.sort_by(|a, b| a.destination.cmp(&b.destination));
    let mut text = String::new();
    for Mount { destination, options, kind, root, .. } in mounts {
        let mode = if options.split(',').any(|option| option == "ro") { "ro" } else { "rw" };
        // Writing to a string does not fail.
        writeln!(text, "  {destination:<32} {mode}  {kind:<9} {root}").ok();
    }
    text
}

fn map(ranges: &[IdRange]) -> String {
    let range = |r: &IdRange| format!("{}:{}+{}", r.inside, r.outside, r.count);
    ranges.iter().map(range).collect::<Vec<_>>().join(" ")
}

fn limit(value: Option<&String>) -> String {
    value.map_or_else(|| "not enforced".to_owned(), Clone::clone)
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())
}
