//! Names of fields as documents print them. HTTP does not care about case and hyper writes lower case; a contract that
//! prints `X-RateLimit-Limit` has readers who compare it byte for byte.
//!
//! hyper spells a name otherwise only where the message carries its map of spellings, and makes such a map only by
//! reading one. So a small answer is read at the start, and what hyper remembers of it is copied onto the answers of
//! policies that ask for it (`report: { spelling: printed }`).

use std::io;

use http::{Extensions, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// The names of the fields that the gate itself writes, as the documents print them.
pub(super) const PRINTED: &[&str] = &[
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
    "Retry-After",
    "WWW-Authenticate",
    "Idempotent-Replayed",
    "X-Request-Id",
    "Content-Type",
    "Cache-Control",
    "Allow",
];

/// What hyper remembers of the printed names. One for each worker: a shared one would be a line that all of them write.
pub(super) fn printed() -> io::Result<Extensions> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(read_printed()).map_err(io::Error::other)
}

async fn read_printed() -> Result<Extensions, hyper::Error> {
    let (ours, mut theirs) = duplex(1024);
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.preserve_header_case(true);
    let (mut sender, connection) = builder.handshake::<_, String>(TokioIo::new(ours)).await?;
    let answer = async {
        let sent = sender.send_request(Request::new(String::new()));
        // An answer that comes before its request is out would be a stranger's, and end the connection.
        let spoken = async {
            theirs.read_u8().await?;
            theirs.write_all(answer_with_all().as_bytes()).await
        };
        let (answer, _) = tokio::join!(sent, spoken);
        answer
    };
    tokio::select! {
        answer = answer => answer.map(|answer| answer.into_parts().0.extensions),
        closed = connection => closed.map(|()| Extensions::new()),
    }
}

fn answer_with_all() -> String {
    let lines: String = PRINTED.iter().map(|name| format!("{name}: 0\r\n")).collect();
    format!("HTTP/1.1 204 No Content\r\n{lines}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_remembers_the_printed_names() {
        for _ in 0..100 {
            assert!(!printed().unwrap().is_empty());
        }
    }
}
