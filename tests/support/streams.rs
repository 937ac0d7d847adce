//! Backends whose answers take their time: events, tunnels, large bodies. Each connection has a thread of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::wire::find;

/// The longest that a backend waits for its other side.
const PATIENCE: Duration = Duration::from_secs(20);

/// A backend that gives each connection to `serve`. It lives as long as the test's process.
pub(crate) fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            let ready = stream
                .set_read_timeout(Some(PATIENCE))
                .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
                .and_then(|()| stream.set_nodelay(true));
            if ready.is_ok() {
                thread::spawn(move || serve(stream));
            }
        }
    });
    address
}

/// Reads one head; what comes behind it stays in `unread`. `None`: the other side is done.
pub(crate) fn head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<String> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(at) = find(unread, b"\r\n\r\n") {
            let head: Vec<u8> = unread.drain(..at + 4).collect();
            return Some(String::from_utf8_lossy(&head).into_owned());
        }
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => unread.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
}

/// How often a stream of events has one.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// A backend that answers `/events/N` with N events, one a tick, echoes on `/tunnel` after a 101, and anything else without a
/// body by `{"ok":true}`.
pub(crate) fn streaming() -> SocketAddr {
    raw(|mut stream| {
        let mut unread = Vec::new();
        while let Some(head) = head(&mut stream, &mut unread) {
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let served = if let Some(count) = target.strip_prefix("/events/") {
                events(&mut stream, count.parse().unwrap_or(1))
            } else if target.starts_with("/tunnel") {
                drop(echo(&mut stream));
                return;
            } else {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"ok\":true}")
            };
            if served.is_err() {
                return;
            }
        }
    })
}

fn events(stream: &mut TcpStream, count: usize) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    for n in 0..count {
        let event = format!("data: {n}\n\n");
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
        thread::sleep(TICK);
    }
    stream.write_all(b"0\r\n\r\n")
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    )?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}
