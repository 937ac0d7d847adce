//! WebSocket messages, each sent when the one before came back.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use crate::arguments::Arguments;
use crate::ask::{Dialer, Requests};
use crate::wire::{self, PIECE, WEBSOCKET_KEY};

/// Bytes of a message.
const PAYLOAD: usize = 64;

/// `--to --connections --seconds [--path --keys]`.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let upgrade = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n"
    );
    let mut requests = Requests::new(arguments, &upgrade)?;
    let dialer = Rc::new(Dialer::new(arguments)?);
    let began = Instant::now();
    let until = began + arguments.seconds()?;
    let (messages, failed) = (Rc::new(Cell::new(0_u64)), Cell::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connections = arguments.or("connections", 1)?;
    runtime.block_on(LocalSet::new().run_until(async {
        let talking: Vec<_> = (0..connections)
            .map(|_| {
                tokio::task::spawn_local(talk(
                    Rc::clone(&dialer),
                    requests.next().to_vec(),
                    until,
                    Rc::clone(&messages),
                ))
            })
            .collect();
        for one in talking {
            if !matches!(one.await, Ok(Ok(()))) {
                failed.set(failed.get() + 1);
            }
        }
    }));
    println!(
        "{{\"requests\":{},\"failed\":{},\"seconds\":{:.3}}}",
        messages.get(),
        failed.get(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn talk(
    dialer: Rc<Dialer>,
    head: Vec<u8>,
    until: Instant,
    messages: Rc<Cell<u64>>,
) -> io::Result<()> {
    let mut stream = dialer.dial().await?;
    stream.write_all(&head).await?;
    let mut buffer = BytesMut::with_capacity(PIECE);
    let length =
        wire::read_head(&mut stream, &mut buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if wire::status(&buffer.split_to(length)) != 101 {
        return Err(io::Error::other("no upgrade"));
    }
    // A binary message, masked with zeros: the mask is there, and costs this side nothing.
    let mut message = vec![0x82, 0x80 | PAYLOAD as u8, 0, 0, 0, 0];
    message.extend([b'm'; PAYLOAD]);
    while Instant::now() < until {
        stream.write_all(&message).await?;
        let whole = loop {
            if let Some((head, payload)) = wire::frame(&buffer) {
                break head + payload;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        buffer.advance(whole);
        messages.set(messages.get() + 1);
    }
    Ok(())
}
