//! `noclaw demo-model`: the stand-in for the Messages API, on its own.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{Ended, Failure, block_on, print};
use crate::core::problem::ExitStatus;
use crate::gateway::demo;

/// `noclaw demo-model`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Serves until Ctrl-C.
pub fn run(args: &Args) -> Ended {
    block_on(async {
        let failed = |error: std::io::Error| {
            Failure::new(
                ExitStatus::Unavailable,
                format!("cannot listen at {}: {error}", args.listen),
            )
            .hint("--listen ADDR names another one; port 0 is any")
        };
        let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        print(format_args!("http://{address}"));
        demo::serve(listener, async { drop(tokio::signal::ctrl_c().await) }).await;
        Ok(ExitStatus::Ok)
    })
}
