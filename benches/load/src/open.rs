//! Requests at fixed times, whatever the answers take, and latency from the time a request was *meant* to leave: a server that
//! stalls is charged for everyone who would have waited, where a generator that waits for it would ask less often instead.
//!
//! Waits with the nanoseconds of `epoll_pwait2`; a runtime's timers of one millisecond would be most of what is measured.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::arguments::Arguments;
use crate::ask::Requests;
use crate::wire;

/// How long after the last request its answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// When the request under way was meant to leave.
    meant: Option<Instant>,
}

#[derive(Default)]
struct Tally {
    nanos: Vec<u64>,
    /// Other statuses than the one expected, and requests that could not be sent.
    failed: u64,
    /// Requests without an answer when patience ended: more was asked than could be done.
    unanswered: u64,
    /// Requests that found every connection busy, and waited for one.
    queued: u64,
}

/// `--to --rate PER_SECOND --connections --seconds [--path --keys --expect STATUS]`.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    // The kernel may otherwise wake this process 50 µs late.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let to = arguments.to()?;
    let rate: f64 = arguments.or("rate", 1000.0)?;
    let expected: u16 = arguments.or("expect", 200)?;
    let mut requests = Requests::new(arguments, "")?;
    let watched = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::new();
    for at in 0..arguments.or("connections", 64)? {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&watched, &stream, EventData::new_u64(at), EventFlags::IN)?;
        connections.push(Connection { stream, received: Vec::new(), meant: None });
    }
    // In turn, so that every connection carries as much as the others.
    let mut idle: VecDeque<usize> = (0..connections.len()).collect();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut tally = Tally::default();
    let began = Instant::now() + Duration::from_millis(20);
    let seconds = arguments.seconds()?;
    let total = (seconds.as_secs_f64() * rate) as u64;
    let gap = Duration::from_secs_f64(1.0 / rate);
    let (mut sent, mut under_way) = (0_u64, 0_usize);
    let mut events: Vec<Event> = Vec::with_capacity(256);
    loop {
        let mut now = Instant::now();
        while sent < total {
            let meant = began + Duration::from_secs_f64(sent as f64 / rate);
            if meant > now {
                break;
            }
            sent += 1;
            match idle.pop_front() {
                Some(at) => {
                    under_way +=
                        usize::from(leave(&mut connections[at], requests.next(), meant, &mut tally))
                }
                None => {
                    tally.queued += 1;
                    waiting.push_back(meant);
                }
            }
            now = Instant::now();
        }
        if sent == total && (under_way == 0 || now > began + seconds + PATIENCE) {
            break;
        }
        let next = if sent == total {
            PATIENCE
        } else {
            (began + Duration::from_secs_f64(sent as f64 / rate))
                .saturating_duration_since(now)
                .min(gap.max(PATIENCE))
        };
        let timeout =
            Timespec { tv_sec: next.as_secs().cast_signed(), tv_nsec: next.subsec_nanos().into() };
        events.clear();
        match epoll::wait(&watched, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let at = event.data.u64() as usize;
            if !arrive(&mut connections[at], expected, &mut tally)? {
                continue;
            }
            under_way -= 1;
            match waiting.pop_front() {
                Some(meant) => {
                    under_way +=
                        usize::from(leave(&mut connections[at], requests.next(), meant, &mut tally))
                }
                None => idle.push_back(at),
            }
        }
    }
    tally.unanswered = (under_way + waiting.len()) as u64;
    tell(&mut tally, total);
    Ok(())
}

/// Sends a request; whether it is under way.
fn leave(connection: &mut Connection, head: &[u8], meant: Instant, tally: &mut Tally) -> bool {
    // A head of some 200 bytes on a connection with nothing under way: the socket has room for it.
    let sent = connection.stream.write(head).is_ok_and(|written| written == head.len());
    if sent {
        connection.meant = Some(meant);
    } else {
        tally.failed += 1;
    }
    sent
}

/// Reads what is there; whether the answer is whole.
fn arrive(connection: &mut Connection, expected: u16, tally: &mut Tally) -> io::Result<bool> {
    let mut piece = [0; 16 * 1024];
    match connection.stream.read(&mut piece) {
        Ok(0) => {
            return Err(io::Error::other(
                "a connection was closed under a generator that keeps them open",
            ));
        }
        Ok(read) => connection.received.extend_from_slice(&piece[..read]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    }
    let Some(head) = wire::head_length(&connection.received) else { return Ok(false) };
    if connection.received.len() < head + wire::content_length(&connection.received[..head]) {
        return Ok(false);
    }
    let status = wire::status(&connection.received);
    connection.received.clear();
    let Some(meant) = connection.meant.take() else { return Ok(false) };
    if status == expected {
        tally.nanos.push(u64::try_from(meant.elapsed().as_nanos()).unwrap_or(u64::MAX));
    } else {
        tally.failed += 1;
    }
    Ok(true)
}

fn tell(tally: &mut Tally, total: u64) {
    tally.nanos.sort_unstable();
    let micros = |share: f64| {
        let last = tally.nanos.len().saturating_sub(1);
        tally
            .nanos
            .get(((last as f64) * share).round() as usize)
            .map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    };
    println!(
        "{{\"asked\":{total},\"requests\":{},\"failed\":{},\"unanswered\":{},\"queued\":{},\"p50\":{:.1},\"p90\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"most\":{:.1}}}",
        tally.nanos.len(),
        tally.failed,
        tally.unanswered,
        tally.queued,
        micros(0.5),
        micros(0.9),
        micros(0.99),
        micros(0.999),
        micros(1.0)
    );
}
