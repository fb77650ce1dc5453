//! `noclaw history`: a user's messages and their replies, as a chat reads: newest at the bottom.

use std::collections::HashMap;
use std::fmt::Write;

use super::client::Client;
use super::{Ended, Failure, block_on, local, print, print_json};
use crate::channels::history::{History, HistoryView};
use crate::core::ids::{ConversationName, RunId, UserName};
use crate::core::problem::ExitStatus;
use crate::host::machine;
use crate::store::retry::CHANNEL;

/// `noclaw history`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose; yours when left out
    #[arg(long, short)]
    user: Option<UserName>,
    /// Only this conversation
    #[arg(long, short)]
    conversation: Option<ConversationName>,
    /// How many messages, at most 100
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Only messages before the one of this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
    /// Print JSON, newest first
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// Prints a page of it.
pub fn run(args: &Args) -> Ended {
    let user = match &args.user {
        Some(user) => user.clone(),
        None => machine::owner().map_err(|error| {
            Failure::of(ExitStatus::Config, &error).hint("name the user: --user NAME")
        })?,
    };
    let mut path = format!("/v1/users/{user}/history?limit={}", args.limit);
    if let Some(conversation) = &args.conversation {
        path.push_str(&format!("&conversation={conversation}"));
    }
    if let Some(before) = args.before {
        path.push_str(&format!("&before={before}"));
    }
    let history: History = block_on(async { args.client.get(&path).await?.json() })?;
    if args.json {
        print_json(&history);
        return Ok(ExitStatus::Ok);
    }
    if history.messages.is_empty() {
        eprintln!("no messages of {user} here");
        return Ok(ExitStatus::Ok);
    }
    print(transcript(&user, &history.messages).trim_end());
    if let Some(before) = history.before {
        let mut older = format!("noclaw history --user {user} --before {before}");
        if let Some(conversation) = &args.conversation {
            older.push_str(&format!(" --conversation {conversation}"));
        }
        eprintln!("older: {older}");
    }
    Ok(ExitStatus::Ok)
}

/// What was said stands indented, so that no text can look like the line of another speaker.
fn transcript(user: &UserName, newest_first: &[HistoryView]) -> String {
    // Messages of one run share its reply: it follows the last of them.
    let mut last: HashMap<RunId, i64> = HashMap::new();
    for message in newest_first {
        last.entry(message.run).or_insert(message.id);
    }
    let mut text = String::new();
    for message in newest_first.iter().rev() {
        let HistoryView { id, conversation, run, .. } = message;
        let at = local(message.created_at);
        let again = if message.channel == CHANNEL { ", again" } else { "" };
        // Writing to a string does not fail.
        writeln!(text, "{at}  {user} in {conversation}{again}  ({id})").ok();
        indent(&mut text, &message.message);
        if last.get(run) != Some(id) {
            continue;
        }
        let at = message.ended_at.map_or_else(String::new, |at| format!("{}  ", local(at)));
        match &message.reply {
            Some(reply) => {
                writeln!(text, "{at}noclaw in {conversation}").ok();
                indent(&mut text, reply);
            }
            None => {
                writeln!(text, "{at}{} in {conversation}, run {run}", message.status).ok();
                indent(&mut text, message.error.as_deref().unwrap_or_default());
            }
        }
    }
    text
}

fn indent(text: &mut String, said: &str) {
    for line in said.lines() {
        writeln!(text, "{}", format!("    {line}").trim_end()).ok();
    }
    text.push('\n');
}
