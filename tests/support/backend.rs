//! A backend that knows nothing of keys: it records each request to the byte and answers what the test says.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::wire::find;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query, as they stood.
    pub(crate) target: String,
    /// Names and values in their order and spelling.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub(crate) body: Vec<u8>,
    /// The head, to the byte.
    pub(crate) head: String,
}

impl Seen {
    /// All values of the header with this name, in any case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| &**value).collect()
    }

    /// The value of the header with this name, which must be there once.
    #[track_caller]
    pub(crate) fn only(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {}", self.head);
        all[0]
    }
}

/// What the backend says.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
}

impl Reply {
    /// A status with its reason (`200 OK`) and a JSON body.
    pub(crate) fn json(status: &str, body: &str) -> Reply {
        Reply {
            status: status.to_owned(),
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: body.as_bytes().to_vec(),
            delay: Duration::ZERO,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }
}

type Script = Box<dyn Fn(&Seen) -> Reply + Send>;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    script: Mutex<Script>,
    stopped: AtomicBool,
}

/// The running backend; it stops when dropped.
pub(crate) struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.address)
    }
}

impl Backend {
    /// Starts one that answers `200 {"ok":true}`.
    pub(crate) fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            seen: Mutex::new(Vec::new()),
            script: Mutex::new(Box::new(|_| Reply::json("200 OK", r#"{"ok":true}"#))),
            stopped: AtomicBool::new(false),
        });
        let inside = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if inside.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&inside);
                // A gate that closes its connection ends the thread; what it closed with matters to no test.
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Backend { address, shared }
    }

    /// From now on every request is answered so.
    pub(crate) fn answers(&self, reply: Reply) {
        self.scripted(move |_| reply.clone());
    }

    /// From now on every request is answered as `script` says.
    pub(crate) fn scripted(&self, script: impl Fn(&Seen) -> Reply + Send + 'static) {
        *locked(&self.shared.script) = Box::new(script);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `--upstream` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        locked(&self.shared.seen).clone()
    }

    pub(crate) fn count(&self) -> usize {
        locked(&self.shared.seen).len()
    }

    /// The latest request.
    pub(crate) fn last(&self) -> Seen {
        locked(&self.shared.seen).last().cloned().expect("a request reached the backend")
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which may be gone already.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut unread)? {
        locked(&shared.seen).push(seen.clone());
        let reply = locked(&shared.script)(&seen);
        thread::sleep(reply.delay);
        let mut lines = vec![format!("HTTP/1.1 {}", reply.status)];
        lines.extend(reply.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.push(format!("Content-Length: {}\r\n\r\n", reply.body.len()));
        let mut bytes = lines.join("\r\n").into_bytes();
        if seen.method != "HEAD" {
            bytes.extend_from_slice(&reply.body);
        }
        stream.write_all(&bytes)?;
    }
    Ok(())
}

fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    let Some(end) = fill(stream, unread, |b| find(b, b"\r\n\r\n").map(|at| at + 4))? else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&unread.drain(..end).collect::<Vec<u8>>()).into_owned();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut seen = Seen {
        method: first.next().unwrap_or_default().to_owned(),
        target: first.next().unwrap_or_default().to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
        body: Vec::new(),
        head: head.clone(),
    };
    let length = seen.all("content-length").first().and_then(|v| v.parse::<usize>().ok());
    if let Some(length) = length {
        if fill(stream, unread, |b| (b.len() >= length).then_some(length))?.is_none() {
            return Ok(None);
        }
        seen.body = unread.drain(..length).collect();
    } else if seen.all("transfer-encoding").iter().any(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let Some(end) = fill(stream, unread, |b| find(b, b"\r\n").map(|at| at + 2))? else {
                return Ok(None);
            };
            let line = String::from_utf8_lossy(&unread.drain(..end).collect::<Vec<u8>>())
                .trim()
                .to_owned();
            let size = usize::from_str_radix(&line, 16).unwrap_or(0);
            if fill(stream, unread, |b| (b.len() >= size + 2).then_some(size + 2))?.is_none() {
                return Ok(None);
            }
            seen.body.extend(unread.drain(..size));
            unread.drain(..2);
            if size == 0 {
                break;
            }
        }
    }
    Ok(Some(seen))
}

fn fill(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    enough: impl Fn(&[u8]) -> Option<usize>,
) -> std::io::Result<Option<usize>> {
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(end) = enough(unread) {
            return Ok(Some(end));
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(None),
            read => unread.extend_from_slice(&buffer[..read]),
        }
    }
}
