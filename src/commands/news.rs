//! `noclaw` alone: what happened since you last looked. Once it was printed, it has been seen.

use std::fmt::Write;

use jiff::Timestamp;

use super::client::{Client, Miss, QUICK};
use super::halt::since;
use super::{Ended, all_printed, block_on, local, notice, print, print_json};
use crate::channels::news::{FullView, NewsView, SeenBody, ToldView};
use crate::core::problem::ExitStatus;

/// How much of an error is shown; `noclaw run show` has all of it.
const SHOWN: usize = 100;

/// `noclaw`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the news as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// Prints the news, then says that they were seen.
pub fn run(args: &Args) -> Ended {
    if !args.json {
        notice::show(&args.client);
    }
    block_on(async {
        let news = match args.client.within(QUICK).get("/v1/news").await {
            Ok(answer) => answer.json::<NewsView>()?,
            Err(Miss::Absent(mut failure)) => {
                let hint = failure.hint.take().unwrap_or_default();
                return Err(failure.hint(format!("{hint}\n`noclaw --help` lists all commands")));
            }
            Err(miss) => return Err(miss.into()),
        };
        if args.json {
            print_json(&news);
        } else {
            print(tell(&news).trim_end());
        }
        if all_printed() {
            args.client.post("/v1/news/seen", &SeenBody { until: news.until }).await?;
        }
        Ok(ExitStatus::Ok)
    })
}

fn tell(news: &NewsView) -> String {
    let halted = news.halt.as_ref().map(|halt| format!("HALTED {} (noclaw unhalt)\n", since(halt)));
    halted.unwrap_or_default() + &happened(news)
}

fn happened(news: &NewsView) -> String {
    let moment = |ms| local(Timestamp::from_millisecond(ms).unwrap_or_default());
    let since = news.since.map_or_else(
        || "since the beginning".to_owned(),
        |since| format!("since {}", moment(since)),
    );
    let ended = [
        (news.answered, "answered"),
        (news.failed, "failed"),
        (news.timed_out, "timed out"),
        (news.cancelled, "cancelled"),
    ];
    let counts: Vec<_> =
        ended.iter().filter(|(n, _)| *n > 0).map(|(n, w)| format!("{n} {w}")).collect();
    let quiet = counts.is_empty() && news.new_users.is_empty() && news.open.is_empty();
    if quiet && news.nearly_full.is_empty() {
        let today = news.spent_today_usd;
        return format!("nothing new {since}; spent today (UTC): ${today:.4}");
    }
    let mut text = String::new();
    let counts = if counts.is_empty() { "no run ended".to_owned() } else { counts.join(", ") };
    // Writing to a string does not fail.
    writeln!(text, "{since}: {counts}").ok();
    for run in &news.failures {
        writeln!(text, "  {}", line(run)).ok();
    }
    let more = (news.failed + news.timed_out).saturating_sub(news.failures.len() as u64);
    if more > 0 {
        writeln!(text, "  and {more} more: noclaw run list --status failed").ok();
    }
    if news.active + news.queued > 0 {
        writeln!(text, "now: {} going on, {} waiting", news.active, news.queued).ok();
        for run in &news.open {
            writeln!(text, "  {}, accepted {}", line(run), moment(run.created_at)).ok();
        }
    }
    let users: Vec<_> = news.new_users.iter().map(|user| user.as_str()).collect();
    if !users.is_empty() {
        writeln!(text, "new users: {}", users.join(", ")).ok();
    }
    for FullView { user, used, quota } in &news.nearly_full {
        let percent = quota.percent(*used);
        writeln!(text, "the workspace of {user} is {percent} % full: {used} of {quota}").ok();
    }
    let (spent, today) = (news.spent_usd, news.spent_today_usd);
    writeln!(text, "spent: ${spent:.4}, today (UTC) ${today:.4}").ok();
    text
}

fn line(run: &ToldView) -> String {
    let ToldView { run, user, status, error, .. } = run;
    let mut line = format!("{run}  {user}  {status}");
    if let Some(error) = error {
        let shown = error.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c });
        line.push_str("  ");
        line.extend(shown);
        if error.chars().nth(SHOWN).is_some() {
            line.push('…');
        }
    }
    line
}
