//! The instructions of a user, in the owner's own editor.
//!
//! They stand in a file that is the owner's alone. It is deleted once its text is saved, or was not
//! changed; else it stays, and its owner is told where: what was written is not lost.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::super::client::Client;
use super::super::{Ended, Failure};
use crate::channels::users::Instructions;
use crate::core::ids::UserName;
use crate::core::limits::MIB;
use crate::core::problem::ExitStatus;
use crate::host::owned;

/// What is tried when neither variable names an editor.
const USUAL: &str = "if command -v editor >/dev/null; then editor \"$@\"; else vi \"$@\"; fi";

/// Opens the editor, and saves what it leaves if that is another text.
pub async fn edit(client: &Client, user: &UserName, at: &str) -> Ended {
    let present: Instructions = client.get(at).await?.json()?;
    let mut before = present.instructions;
    // Editors end a file with a newline; that alone is no change.
    if !before.is_empty() && !before.ends_with('\n') {
        before.push('\n');
    }
    let editor = chosen()?;
    let file = write(user, &before)?;
    let ended = open(&editor, &file).await;
    let after = owned::read(&file, MIB);
    if after.as_ref().is_ok_and(|text| text == before.as_bytes()) {
        owned::remove(&file).ok();
        ended?;
        eprintln!("nothing was changed");
        return Ok(ExitStatus::Ok);
    }
    let kept = |mut failure: Failure| {
        let place = format!("your text is kept in {}", file.display());
        let hint =
            failure.hint.take().map_or_else(|| place.clone(), |hint| format!("{hint}; {place}"));
        failure.hint(hint)
    };
    ended.map_err(kept)?;
    let after = after.map_err(|error| kept(Failure::of(ExitStatus::Data, &error)))?;
    let instructions = String::from_utf8(after);
    let instructions = instructions.map_err(|error| kept(Failure::of(ExitStatus::Data, &error)))?;
    let saved = client.put(at, &Instructions { instructions }).await;
    saved.map_err(|miss| kept(miss.into()))?;
    owned::remove(&file).ok();
    eprintln!("saved; the next run of {user} is given it");
    Ok(ExitStatus::Ok)
}

/// A line for the shell, as `$VISUAL` and `$EDITOR` have always been.
fn chosen() -> Result<String, Failure> {
    let named = ["VISUAL", "EDITOR"].iter().filter_map(|name| std::env::var(name).ok());
    if let Some(editor) = named.into_iter().find(|editor| !editor.trim().is_empty()) {
        return Ok(format!("{editor} \"$@\""));
    }
    if std::io::stdin().is_terminal() {
        return Ok(USUAL.to_owned());
    }
    Err(Failure::new(ExitStatus::Usage, "there is no terminal to edit at")
        .hint("--instructions FILE, or - for standard input; or set EDITOR"))
}

fn write(user: &UserName, text: &str) -> Result<PathBuf, Failure> {
    let name = format!("noclaw-{user}-{}.md", Uuid::new_v4().simple());
    let path = std::env::temp_dir().join(name);
    owned::make_new(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(
        |error| {
            let message = format!("cannot write {}: {error}", path.display());
            Failure::new(ExitStatus::Failed, message).hint("TMPDIR names another place")
        },
    )?;
    Ok(path)
}

/// Ctrl-C at the terminal is the editor's: this process outlives it, to keep the text.
async fn open(line: &str, file: &Path) -> Result<(), Failure> {
    let failed = |why: String| {
        Failure::new(ExitStatus::Failed, format!("the editor {why}; nothing was saved"))
            .hint("VISUAL or EDITOR names another one")
    };
    let caught = signal(SignalKind::interrupt()).map_err(|error| failed(error.to_string()))?;
    let status = Command::new("sh").args(["-c", line, "sh"]).arg(file).status().await;
    drop(caught);
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("ended with {status}"))),
        Err(error) => Err(failed(format!("cannot be started: {error}"))),
    }
}
