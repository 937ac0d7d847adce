//! So many connections, each asking again as soon as it is answered.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::task::LocalSet;

use crate::arguments::Arguments;
use crate::ask::{Dialer, Requests};
use crate::wire::{self, PIECE};

struct Run {
    dialer: Dialer,
    requests: RefCell<Requests>,
    /// Whether each request gets a connection of its own.
    fresh: bool,
    body: usize,
    until: Instant,
    tally: RefCell<Tally>,
}

#[derive(Default)]
struct Tally {
    answered: u64,
    failed: u64,
    bytes: u64,
}

/// `--to --connections --seconds [--path --keys --trust --body BYTES --fresh true]`. Requests begun in time are finished and
/// counted; those not answered with 2xx have failed.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let fresh = arguments.or("fresh", false)?;
    let more = if fresh { "Connection: close\r\n" } else { "" };
    let began = Instant::now();
    let run = Rc::new(Run {
        dialer: Dialer::new(arguments)?,
        requests: RefCell::new(Requests::new(arguments, more)?),
        fresh,
        body: arguments.or("body", 0)?,
        until: began + arguments.seconds()?,
        tally: RefCell::default(),
    });
    let connections = arguments.or("connections", 1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        let asking: Vec<_> = (0..connections)
            .map(|_| tokio::task::spawn_local(ask_until_then(Rc::clone(&run))))
            .collect();
        for one in asking {
            let _ = one.await;
        }
    }));
    let tally = run.tally.borrow();
    println!(
        "{{\"requests\":{},\"failed\":{},\"bytes\":{},\"seconds\":{:.3}}}",
        tally.answered,
        tally.failed,
        tally.bytes,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn ask_until_then(run: Rc<Run>) {
    while Instant::now() < run.until {
        if ask_on_one_connection(&run).await.is_err() {
            run.tally.borrow_mut().failed += 1;
        }
    }
}

async fn ask_on_one_connection(run: &Run) -> io::Result<()> {
    let mut stream = run.dialer.dial().await?;
    let mut buffer = BytesMut::with_capacity(PIECE);
    while Instant::now() < run.until {
        let head = run.requests.borrow_mut().next().to_vec();
        stream.write_all(&head).await?;
        wire::fill(&mut stream, run.body).await?;
        stream.flush().await?;
        let length =
            wire::read_head(&mut stream, &mut buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let head = buffer.split_to(length);
        let body = wire::content_length(&head);
        wire::discard(&mut stream, &mut buffer, body).await?;
        let mut tally = run.tally.borrow_mut();
        match wire::status(&head) {
            200..=299 => tally.answered += 1,
            _ => tally.failed += 1,
        }
        tally.bytes += (body + run.body) as u64;
        if run.fresh {
            break;
        }
    }
    Ok(())
}
