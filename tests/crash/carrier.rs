//! The backend: it writes down every request before it answers, and answers well, badly, late, in part or not at all.

use std::io::{Result, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::dice::Dice;
use crate::support::eventually;
use crate::support::streams;
use crate::terms::{ONE, RESERVE, Route, TIMEOUT_MS};

/// One request that reached the backend, and what it decided to do with it.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    pub(crate) tenant: String,
    pub(crate) route: Route,
    /// The gate's name for it.
    pub(crate) request: String,
    /// Its idempotency key, if it had one.
    pub(crate) key: Option<String>,
    /// Its body.
    pub(crate) payload: String,
    /// What it answers.
    pub(crate) plan: Plan,
    /// The answer's body, whole.
    pub(crate) answer: String,
}

/// What the backend does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) status: u16,
    /// What the answer says that it did cost.
    stated: &'static str,
    pub(crate) ending: Ending,
}

/// How far an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    /// The connection ends in the middle of the body.
    Cut,
    /// The connection is reset without an answer.
    Reset,
    /// Nothing comes until nobody waits any more.
    Silence,
}

impl Plan {
    fn of(send: u64) -> Plan {
        let mut dice = Dice::named("plan", send);
        let status = match dice.below(100) {
            0..80 => 200,
            80..88 => 422,
            88..94 => 500,
            _ => 503,
        };
        let stated = ["0.5", "2", "4.999999", "7", "", "no number"];
        let ending = match dice.below(200) {
            0..4 => Ending::Cut,
            4..9 => Ending::Reset,
            9..11 => Ending::Silence,
            _ => Ending::Whole,
        };
        Plan { status, stated: dice.one_of(&stated).copied().unwrap_or_default(), ending }
    }
}

impl Forward {
    /// Whether its outcome can be known from its answer.
    pub(crate) fn has_head(&self) -> bool {
        matches!(self.plan.ending, Ending::Whole | Ending::Cut)
    }

    /// What it costs once its head is known, in millionths.
    pub(crate) fn charge(&self) -> u64 {
        match (self.plan.status, self.route.priced) {
            (400..500, _) => 0,
            (200, true) => match self.plan.stated {
                "0.5" => ONE / 2,
                "2" => 2 * ONE,
                "4.999999" => 4_999_999,
                // More than was reserved, or unreadable: the reserve stands.
                _ => RESERVE,
            },
            _ => self.route.cost,
        }
    }
}

/// The running backend. It lives as long as the test's process.
#[derive(Debug)]
pub(crate) struct Carrier {
    address: SocketAddr,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Log {
    forwards: Mutex<Vec<Forward>>,
    open: AtomicUsize,
    trap: Mutex<Option<Trap>>,
}

/// A gate that is to be killed while the backend has a request and has not answered it.
#[derive(Clone, Copy, Debug)]
struct Trap {
    gate: Pid,
    /// Requests until then.
    left: u64,
}

impl Carrier {
    pub(crate) fn start() -> Carrier {
        let log = Arc::new(Log::default());
        let inside = Arc::clone(&log);
        let address = streams::raw(move |stream| {
            inside.open.fetch_add(1, Ordering::SeqCst);
            // A gate that dies closes its connections in every state.
            drop(serve(stream, &inside));
            inside.open.fetch_sub(1, Ordering::SeqCst);
        });
        Carrier { address, log }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that reached it so far.
    pub(crate) fn forwards(&self) -> Vec<Forward> {
        self.log.forwards().clone()
    }

    /// Kills this gate when the `nth` request from now has arrived, before anything is answered.
    pub(crate) fn trap(&self, gate: Pid, nth: u64) {
        *self.log.trap() = Some(Trap { gate, left: nth });
    }

    /// Waits until it has read all that a dead gate sent.
    pub(crate) fn settles(&self) -> bool {
        // Twice, a moment apart: a connection may be accepted and not counted yet.
        let quiet = || self.log.open.load(Ordering::SeqCst) == 0;
        eventually(Duration::from_secs(10), || {
            quiet() && {
                thread::sleep(Duration::from_millis(5));
                quiet()
            }
        })
    }
}

impl Log {
    fn forwards(&self) -> MutexGuard<'_, Vec<Forward>> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trap(&self) -> MutexGuard<'_, Option<Trap>> {
        self.trap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step_on_trap(&self) {
        let mut trap = self.trap();
        let Some(Trap { gate, left }) = &mut *trap else { return };
        *left -= 1;
        if *left == 0 {
            kill_process(*gate, Signal::KILL).expect("nobody else ends it");
            *trap = None;
        }
    }
}

fn serve(mut stream: TcpStream, log: &Log) -> Result<()> {
    let mut unread = Vec::new();
    while let Some(head) = streams::head(&mut stream, &mut unread) {
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (field, value) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let Some(body) = body(&mut stream, &mut unread, length) else { return Ok(()) };
        let path = head.split(' ').nth(1).unwrap_or_default();
        let send = field("x-send").and_then(|text| text.parse().ok()).unwrap_or(0);
        let plan = Plan::of(send);
        let padding = "x".repeat(usize::try_from(send % 3000).unwrap_or(0));
        let forward = Forward {
            tenant: field("x-tenant-id").unwrap_or_default(),
            route: Route::at(path).expect("the gate forwards nothing but routes"),
            request: field("x-request-id").unwrap_or_default(),
            key: field("idempotency-key"),
            payload: body,
            plan,
            answer: format!("{{\"send\":{send},\"padding\":\"{padding}\"}}"),
        };
        let answer = head_of(&forward) + &forward.answer;
        log.forwards().push(forward);
        log.step_on_trap();
        match plan.ending {
            Ending::Whole => stream.write_all(answer.as_bytes())?,
            Ending::Cut => {
                stream.write_all(&answer.as_bytes()[..answer.len() - 5])?;
                return stream.shutdown(Shutdown::Both);
            }
            Ending::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Ending::Silence => {
                thread::sleep(Duration::from_millis(2 * TIMEOUT_MS));
                return Ok(());
            }
        }
    }
    Ok(())
}

fn head_of(forward: &Forward) -> String {
    let Plan { status, stated, .. } = forward.plan;
    let cost = if forward.route.priced && !stated.is_empty() {
        format!("X-Cost: {stated}\r\n")
    } else {
        String::new()
    };
    let length = forward.answer.len();
    format!(
        "HTTP/1.1 {status} As Planned\r\nContent-Type: application/json\r\n{cost}Content-Length: {length}\r\n\r\n"
    )
}

fn body(stream: &mut TcpStream, unread: &mut Vec<u8>, length: usize) -> Option<String> {
    use std::io::Read as _;

    let mut buffer = [0; 4096];
    while unread.len() < length {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => unread.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&unread.drain(..length).collect::<Vec<u8>>()).into_owned())
}
