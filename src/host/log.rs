//! The log: the journal when systemd runs us, standard error otherwise. Never the text of a
//! message, never a secret.

use std::io::IsTerminal;

use nix::sys::stat::fstat;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging. `filter` is in the form of `tracing_subscriber`'s directives, `info` by default.
///
/// # Errors
/// When the filter is not of its form.
pub fn start(filter: Option<&str>) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter.unwrap_or("info,sea_orm_migration=warn"))?;
    begin(filter, Priority::Error);
    Ok(())
}

/// Starts logging for what tells its owner something: an error is to be seen at once (alert).
pub fn start_alerts() {
    begin(EnvFilter::new("info"), Priority::Alert);
}

fn begin(filter: EnvFilter, error: Priority) {
    let registry = tracing_subscriber::registry().with(filter);
    // What is as it should be is information, not a notice: `journalctl -p notice` has the rest.
    let priorities = PriorityMappings {
        error,
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    let started = match journal(priorities) {
        Some(journal) => registry.with(journal).try_init(),
        None => {
            // What a person reads needs no message id.
            let fields = debug_fn(|out, field, value| match field.name() {
                "message" => write!(out, "{value:?}"),
                "message_id" => Ok(()),
                name => write!(out, "{name}={value:?}"),
            });
            let layer = tracing_subscriber::fmt::layer()
                .fmt_fields(fields.delimited(" "))
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false);
            registry.with(layer).try_init()
        }
    };
    // Only a second start can fail: the first one's subscriber stays.
    started.ok();
}

/// systemd sets `JOURNAL_STREAM` for programs whose standard error is the journal. Whatever they
/// start has it, too: a terminal of a desktop, where people read standard error.
fn journal(priorities: PriorityMappings) -> Option<tracing_journald::Layer> {
    let stream = std::env::var("JOURNAL_STREAM").ok()?;
    let error = fstat(std::io::stderr()).ok()?;
    (stream == format!("{}:{}", error.st_dev, error.st_ino)).then_some(())?;
    let layer = tracing_journald::layer().ok()?;
    Some(layer.with_field_prefix(None).with_priority_mappings(priorities))
}
