//! A resolver on the host's loopback, for a cell to find.
//!
//! | what comes | what it answers |
//! |---|---|
//! | a query for any name | its own question, and the same address each time |
//! | what is shorter than a query's head | nothing |

use std::io;

use tokio::net::UdpSocket;
use tokio::time::sleep;

use super::service::LOOK;

/// The longest query (RFC 1035).
const QUERY_BYTES: usize = 512;
/// A query's head: its id comes first.
const HEAD_BYTES: usize = 12;
/// The rest of an answer's head: all is well; one question, one answer.
const HEAD: [u8; 10] = [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
/// The name that was asked for is at 192.0.2.53 for a minute: one of the addresses for examples
/// (RFC 5737).
const RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 53];

/// Listens for as long as this process lives. Returns the port.
pub(super) async fn listen() -> io::Result<u16> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let port = socket.local_addr()?.port();
    tokio::spawn(async move {
        let mut query = [0; QUERY_BYTES];
        loop {
            // An error is that of an earlier answer: who asked is gone.
            let Ok((length, from)) = socket.recv_from(&mut query).await else {
                sleep(LOOK).await;
                continue;
            };
            if let Some(answer) = query.get(..length).and_then(answer) {
                socket.send_to(&answer, from).await.ok();
            }
        }
    });
    Ok(port)
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (id, question) = (query.get(..2)?, query.get(HEAD_BYTES..)?);
    Some([id, &HEAD, question, &RECORD].concat())
}
