//! The log: the journal when systemd runs us, standard error otherwise. Never the text of a
//! message, never a secret.

use std::io::IsTerminal;

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
    let registry = tracing_subscriber::registry().with(filter);
    let started = match journal() {
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
    Ok(())
}

/// systemd sets `JOURNAL_STREAM` for programs whose standard error is the journal.
fn journal() -> Option<tracing_journald::Layer> {
    std::env::var_os("JOURNAL_STREAM")?;
    tracing_journald::layer().ok().map(|layer| layer.with_field_prefix(None))
}
