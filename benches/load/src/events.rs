//! Listens to streams of server-sent events, some busy, some idle.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use crate::arguments::Arguments;
use crate::ask::{Dialer, Requests};
use crate::wire::{self, PIECE};

/// Streams that are opened at once, so that no listener's queue runs over.
const AT_ONCE: usize = 64;

/// `--to --connections --seconds --path [--keys]`: so many streams of `--path`. With `--hold true` it says `ready` on a line of
/// its own, if and when all are open.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let mut requests = Requests::new(arguments, "")?;
    let dialer = Rc::new(Dialer::new(arguments)?);
    let connections: usize = arguments.or("connections", 1)?;
    let (events, open, failed) =
        (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(0_usize)), Rc::new(Cell::new(0_usize)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut seconds = 0.0;
    runtime.block_on(LocalSet::new().run_until(async {
        for at in 0..connections {
            let (dialer, head) = (Rc::clone(&dialer), requests.next().to_vec());
            let (counted, opened, ended) =
                (Rc::clone(&events), Rc::clone(&open), Rc::clone(&failed));
            tokio::task::spawn_local(async move {
                if listen(&dialer, &head, &counted, &opened).await.is_err() {
                    ended.set(ended.get() + 1);
                }
            });
            while at + 1 > open.get() + failed.get() + AT_ONCE {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let patience = Instant::now() + Duration::from_secs(10);
        while open.get() + failed.get() < connections && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if arguments.or("hold", false)? && open.get() == connections {
            println!("ready");
        }
        let (began, before) = (Instant::now(), events.get());
        tokio::time::sleep(arguments.seconds()?).await;
        events.set(events.get() - before);
        seconds = began.elapsed().as_secs_f64();
        io::Result::Ok(())
    }))?;
    let failed = failed.get() + connections.saturating_sub(open.get() + failed.get());
    println!("{{\"requests\":{},\"failed\":{failed},\"seconds\":{seconds:.3}}}", events.get());
    Ok(())
}

async fn listen(
    dialer: &Dialer,
    head: &[u8],
    events: &Cell<u64>,
    open: &Cell<usize>,
) -> io::Result<()> {
    let mut stream = dialer.dial().await?;
    stream.write_all(head).await?;
    let mut buffer = BytesMut::with_capacity(PIECE / 16);
    let length =
        wire::read_head(&mut stream, &mut buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if wire::status(&buffer.split_to(length)) != 200 {
        return Err(io::Error::other("no stream"));
    }
    open.set(open.get() + 1);
    // An empty line ends an event; the lines of the chunks around it end in CR LF.
    let mut last = 0;
    loop {
        for byte in buffer.split() {
            if byte == b'\n' && last == b'\n' {
                events.set(events.get() + 1);
            }
            last = byte;
        }
        buffer.reserve(PIECE / 16);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}
