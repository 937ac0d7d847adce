//! A client on a raw socket: it sends exactly the bytes it is given, and reads one answer by its framing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// The longest silence that a test waits through.
const PATIENCE: Duration = Duration::from_secs(15);

/// A request, written as it stands.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Request {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            host: Some("api.example".to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    pub(crate) fn post(target: &str, body: &str) -> Request {
        Request::new("POST", target).header("Content-Type", "application/json").body(body)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, key: &str) -> Request {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    pub(crate) fn host(mut self, host: &str) -> Request {
        self.host = Some(host.to_owned());
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Request {
        self.body = body.as_bytes().to_vec();
        self
    }

    /// The bytes on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut lines = vec![format!("{} {} HTTP/1.1", self.method, self.target)];
        lines.extend(self.host.iter().map(|host| format!("Host: {host}")));
        lines.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if !self.body.is_empty() {
            lines.push(format!("Content-Length: {}", self.body.len()));
        }
        let mut bytes = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// One answer, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names and values in their order and spelling.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of the header with this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The value of a header that must be there and a number.
    pub(crate) fn number(&self, name: &str) -> i64 {
        let value = self.header(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|problem| panic!("no JSON ({problem}): {self:?}"))
    }

    /// Checks the status and the body: JSON by meaning, its keys in the printed order.
    #[track_caller]
    pub(crate) fn is(&self, status: u16, body: &str) {
        let printed: Value = serde_json::from_str(body).expect("the test's own JSON is right");
        assert_eq!(self.status, status, "{self:?} {}", self.text());
        assert_eq!(self.json().to_string(), printed.to_string(), "status {status}");
        self.is_json();
    }

    /// Checks that the body says that it is JSON.
    #[track_caller]
    pub(crate) fn is_json(&self) {
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "content-type {kind:?}: {self:?}");
    }

    /// The answer without the two things that differ between any two answers.
    pub(crate) fn without_date_and_id(mut self) -> Answer {
        self.headers.retain(|(name, _)| {
            !name.eq_ignore_ascii_case("date") && !name.eq_ignore_ascii_case("x-request-id")
        });
        self
    }
}

/// A connection that is kept open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(crate) fn to(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).expect("somebody listens there");
        Connection::over(stream)
    }

    /// A connection from this loopback address (all of 127.0.0.0/8 are ours).
    pub(crate) fn from(source: [u8; 4], address: SocketAddr) -> Connection {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket can be had");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("it is a loopback address");
        socket.connect(&address.into()).expect("somebody listens there");
        Connection::over(socket.into())
    }

    fn over(stream: TcpStream) -> Connection {
        stream.set_read_timeout(Some(PATIENCE)).expect("a duration above zero is accepted");
        stream.set_write_timeout(Some(PATIENCE)).expect("a duration above zero is accepted");
        stream.set_nodelay(true).expect("a fresh socket takes options");
        Connection { stream, unread: Vec::new() }
    }

    /// Reads until `end` has been seen; what came before it, and it.
    pub(crate) fn until(&mut self, end: &str) -> String {
        let at = self.read_until(|bytes| find(bytes, end.as_bytes()).map(|at| at + end.len()));
        String::from_utf8_lossy(&self.unread.drain(..at).collect::<Vec<u8>>()).into_owned()
    }

    /// Whether the other side closes within `time`; what it sends until then is dropped.
    pub(crate) fn is_closed_within(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a duration above zero is accepted");
        let mut buffer = [0; 16 * 1024];
        let closed = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(problem) => {
                    break !matches!(problem.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                }
            }
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a duration above zero is accepted");
        closed
    }

    /// Sends bytes that the other side may refuse to read to the end.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn send(&mut self, request: &Request) -> Answer {
        self.write(&request.bytes());
        self.answer(if request.method == "HEAD" { Asked::Head } else { Asked::Other })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the gate reads what it is sent");
    }

    /// Reads one final answer; interim ones are passed over.
    pub(crate) fn answer(&mut self, asked: Asked) -> Answer {
        loop {
            let end = self.read_until(|bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4));
            let head = String::from_utf8(self.unread.drain(..end).collect())
                .expect("heads are ASCII in these tests");
            let mut answer = parse_head(&head);
            if (100..200).contains(&answer.status) && answer.status != 101 {
                continue;
            }
            answer.body = self.body(&answer, asked);
            return answer;
        }
    }

    fn body(&mut self, answer: &Answer, asked: Asked) -> Vec<u8> {
        if asked == Asked::Head || matches!(answer.status, 101 | 204 | 304) {
            return Vec::new();
        }
        if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return self.chunks();
        }
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().expect("a Content-Length is a number");
            self.read_until(|bytes| (bytes.len() >= length).then_some(length));
            return self.unread.drain(..length).collect();
        }
        self.rest()
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = self.read_until(|bytes| find(bytes, b"\r\n").map(|at| at + 2));
            let line = String::from_utf8(self.unread.drain(..end).collect()).expect("ASCII");
            let digits = line.trim_end().split(';').next().unwrap_or_default().to_owned();
            let size = usize::from_str_radix(&digits, 16).expect("a chunk starts with its size");
            if size == 0 {
                // Trailers, if any, up to the empty line.
                loop {
                    let end = self.read_until(|bytes| find(bytes, b"\r\n").map(|at| at + 2));
                    self.unread.drain(..end);
                    if end == 2 {
                        return body;
                    }
                }
            }
            self.read_until(|bytes| (bytes.len() >= size + 2).then_some(size + 2));
            body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
        }
    }

    /// Everything until the other side closes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.unread);
        match self.stream.read_to_end(&mut all) {
            Ok(_) => {}
            Err(problem) if problem.kind() == ErrorKind::ConnectionReset => {}
            Err(problem) => panic!("the connection was not closed in time: {problem}"),
        }
        all
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    fn read_until(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> usize {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(end) = enough(&self.unread) {
                return end;
            }
            let read = self.stream.read(&mut buffer).unwrap_or_else(|problem| {
                panic!("no answer: {problem}; so far: {:?}", String::from_utf8_lossy(&self.unread))
            });
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&self.unread));
            self.unread.extend_from_slice(&buffer[..read]);
        }
    }
}

/// Whether an answer has a body to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Head,
    Other,
}

/// Sends a request on a connection of its own.
pub(crate) fn send(address: SocketAddr, request: &Request) -> Answer {
    Connection::to(address).send(request)
}

fn parse_head(head: &str) -> Answer {
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no status line: {first:?}")),
        headers: lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}")))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
        body: Vec::new(),
    }
}

/// Where `needle` begins.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
