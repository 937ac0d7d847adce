//! A messaging backend as small as one can be: it takes messages, lists them, tells a balance, and streams events. It
//! believes whatever identity its headers name, as a backend behind a gate may. Everything is in memory and bounded.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::body::Answer;

/// Messages that are remembered; older ones are forgotten.
const MOST_MESSAGES: usize = 1_000;
/// Largest message, in bytes of JSON.
const MOST_BODY: usize = 64 * 1024;
/// Listeners to the events at one time.
const MOST_LISTENERS: usize = 64;
/// What a new account has, and what a message costs, in cents.
const FUNDS: u64 = 10_000;
const PRICE: u64 = 7;

/// The backend, on a thread of its own until dropped.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Backend {
    /// Starts one on a free port of loopback.
    pub fn start() -> io::Result<Backend> {
        let listener = StdListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("demo-backend".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Backend { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the backend was printed when it happened.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: StdListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let memory = Arc::new(Mutex::new(Memory::default()));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: those in use come back.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let memory = Arc::clone(&memory);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let memory = Arc::clone(&memory);
                async move { Ok::<_, std::convert::Infallible>(answer(request, &memory).await) }
            });
            // A connection that breaks is its client's affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// What the backend remembers.
#[derive(Debug, Default)]
struct Memory {
    messages: VecDeque<Message>,
    taken: u64,
    listeners: Vec<mpsc::Sender<Bytes>>,
}

#[derive(Clone, Debug)]
struct Message {
    id: u64,
    tenant: String,
    to: String,
    text: String,
}

impl Message {
    fn json(&self) -> Value {
        json!({ "id": self.id.to_string(), "to": self.to, "text": self.text, "status": "queued" })
    }
}

fn hold(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(request: Request<Incoming>, memory: &Mutex<Memory>) -> Response<Answer> {
    let tenant = tenant_of(request.headers());
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/sms/send") => match whole(request.into_body()).await {
            Some(body) => send(&body, tenant, memory),
            None => told(StatusCode::PAYLOAD_TOO_LARGE, "a message has at most 64 KiB"),
        },
        (&Method::GET, "/messages") => {
            let memory = hold(memory);
            let own = memory.messages.iter().filter(|message| message.tenant == tenant);
            let messages: Vec<Value> = own.map(Message::json).collect();
            as_json(StatusCode::OK, &json!({ "messages": messages }))
        }
        (&Method::GET, "/balance") => {
            let spent = hold(memory).taken.saturating_mul(PRICE);
            let cents = FUNDS.saturating_sub(spent);
            let balance = format!("{}.{:02}", cents / 100, cents % 100);
            as_json(StatusCode::OK, &json!({ "balance": balance, "currency": "EUR" }))
        }
        (&Method::GET, "/events") => events(memory),
        (&Method::GET, path) => {
            let memory = hold(memory);
            let wanted = path.strip_prefix("/messages/").and_then(|id| id.parse::<u64>().ok());
            let mut own = memory.messages.iter().filter(|message| message.tenant == tenant);
            match own.find(|message| Some(message.id) == wanted) {
                Some(message) => as_json(StatusCode::OK, &message.json()),
                None => told(StatusCode::NOT_FOUND, "there is no such thing here"),
            }
        }
        _ => told(StatusCode::NOT_FOUND, "there is no such thing here"),
    }
}

fn send(body: &[u8], tenant: String, memory: &Mutex<Memory>) -> Response<Answer> {
    let fields: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (to, text) = (text("to"), text("text"));
    if to.is_empty() {
        return told(StatusCode::UNPROCESSABLE_ENTITY, "`to` is missing");
    }
    let mut memory = hold(memory);
    memory.taken += 1;
    let message = Message { id: memory.taken, tenant, to, text };
    let event = Bytes::from(format!("event: queued\ndata: {}\n\n", message.json()));
    // Whoever reads too slowly, or left, is not waited for.
    memory.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
    let answer = json!({ "id": message.id.to_string(), "to": message.to, "status": "queued" });
    memory.messages.push_back(message);
    if memory.messages.len() > MOST_MESSAGES {
        memory.messages.pop_front();
    }
    as_json(StatusCode::ACCEPTED, &answer)
}

fn events(memory: &Mutex<Memory>) -> Response<Answer> {
    let mut memory = hold(memory);
    memory.listeners.retain(|listener| !listener.is_closed());
    if memory.listeners.len() >= MOST_LISTENERS {
        return told(StatusCode::SERVICE_UNAVAILABLE, "too many are listening");
    }
    let (sender, receiver) = mpsc::channel(64);
    // An empty channel of 64 takes a first event.
    let _ = sender.try_send(Bytes::from_static(b": listening\n\n"));
    memory.listeners.push(sender);
    let mut answer = Response::new(Answer::Events(receiver));
    let kind = header::HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn tenant_of(headers: &HeaderMap) -> String {
    let tenant = headers.get("x-tenant-id").and_then(|value| value.to_str().ok());
    tenant.unwrap_or_default().to_owned()
}

/// The whole body, unless it is larger than a message may be or breaks off.
async fn whole(mut body: Incoming) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MOST_BODY {
            return None;
        }
    }
    Some(bytes)
}

fn told(status: StatusCode, message: &str) -> Response<Answer> {
    as_json(status, &json!({ "message": message }))
}

fn as_json(status: StatusCode, value: &Value) -> Response<Answer> {
    let mut answer = Response::new(Answer::from(value.to_string() + "\n"));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    fn ask(backend: &Backend, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(backend.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Tenant-Id: acme\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_message_is_queued_listed_and_paid_for() {
        let backend = Backend::start().unwrap();
        assert!(ask(&backend, "GET /balance", "").contains("100.00"));
        let sent = ask(&backend, "POST /sms/send", r#"{"to":"+31611111111","text":"Hi"}"#);
        assert!(sent.starts_with("HTTP/1.1 202"), "{sent}");
        assert!(sent.contains(r#"{"id":"1","to":"+31611111111","status":"queued"}"#));
        assert!(ask(&backend, "GET /messages", "").contains(r#""text":"Hi""#));
        assert!(ask(&backend, "GET /messages/1", "").starts_with("HTTP/1.1 200"));
        assert!(ask(&backend, "GET /messages/2", "").starts_with("HTTP/1.1 404"));
        assert!(ask(&backend, "GET /balance", "").contains("99.93"));
    }

    #[test]
    fn nonsense_is_refused() {
        let backend = Backend::start().unwrap();
        assert!(ask(&backend, "POST /sms/send", "[").starts_with("HTTP/1.1 422"));
        assert!(ask(&backend, "POST /sms/send", &"x".repeat(70_000)).starts_with("HTTP/1.1 413"));
        assert!(ask(&backend, "DELETE /messages", "").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn a_message_is_an_event_to_whoever_listens() {
        let backend = Backend::start().unwrap();
        let mut stream = TcpStream::connect(backend.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut seen = String::new();
        let mut buffer = [0; 1024];
        let mut read_until = |mark: &str| {
            while !seen.contains(mark) {
                let count = stream.read(&mut buffer).unwrap();
                assert_ne!(count, 0, "the stream ended: {seen}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        };
        read_until(": listening");
        ask(&backend, "POST /sms/send", r#"{"to":"1"}"#);
        read_until("event: queued");
    }
}
