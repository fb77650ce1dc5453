//! `noclaw token`: who may speak over TCP.

use jiff::Timestamp;

use super::client::Client;
use super::{Ended, block_on, local, print, print_json};
use crate::channels::tokens::{TokenBody, TokenList, TokenView};
use crate::core::ids::UserName;
use crate::core::problem::ExitStatus;

/// `noclaw token`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token; it is shown once
    Create(Create),
    /// List tokens
    List(List),
    /// Remove a token
    Remove(Remove),
}

/// `noclaw token create`
#[derive(Debug, clap::Args)]
pub struct Create {
    /// The user it speaks for; the owner, who may speak for all, when left out
    #[arg(long, short)]
    user: Option<UserName>,
    /// What you call it
    #[arg(long, default_value = "")]
    label: String,
    /// Days until it is no longer good; it always is when left out
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    days: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw token list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw token remove`
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The token's number, as `noclaw token list` shows it
    id: i64,
    #[command(flatten)]
    client: Client,
}

/// Makes, lists or removes.
pub fn run(command: Command) -> Ended {
    match command {
        Command::Create(args) => {
            let body = TokenBody { user: args.user, label: args.label, days: args.days };
            let made: TokenView =
                block_on(async { args.client.post("/v1/tokens", &body).await?.json() })?;
            match (&made.token, args.json) {
                (Some(token), false) => print(token),
                _ => print_json(&made),
            }
        }
        Command::List(args) => {
            let list: TokenList = block_on(async { args.client.get("/v1/tokens").await?.json() })?;
            if args.json {
                print_json(&list);
            } else {
                for token in list.tokens {
                    let TokenView { id, scope, label, expires_at, .. } = token;
                    let until = match expires_at {
                        None => "for ever".to_owned(),
                        Some(at) if at <= Timestamp::now() => format!("expired {}", local(at)),
                        Some(at) => format!("until {}", local(at)),
                    };
                    let line = format!("{id:<4} {scope:<24} {until:<27} {label}");
                    print(line.trim_end());
                }
            }
        }
        Command::Remove(args) => {
            let path = format!("/v1/tokens/{}", args.id);
            block_on(async { Ok(args.client.delete(&path).await?) })?;
        }
    }
    Ok(ExitStatus::Ok)
}
