//! A gate whose handler passes requests on, plus raw clients and backends.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use http::request::Parts;
use http::{Request, StatusCode};
use rustls::ServerConfig;
use tollgate::policy::head::Unchecked;
use tollgate::policy::snapshot::{
    Bounds, HostRule, Listener, Scheme, Upstream, UpstreamProtocol, UpstreamTls,
};
use tollgate::proxy::answer::Answer;
use tollgate::proxy::body::{Body, BodyEnd, OnEnd};
use tollgate::proxy::client_body::ClientBody;
use tollgate::proxy::cut::Cut;
use tollgate::proxy::field_text::Legal;
use tollgate::proxy::http1::RequestHead;
use tollgate::proxy::listen::Listeners;
use tollgate::proxy::peer::{AtHand, Coming, Handler, Peer};
use tollgate::proxy::pool::{Departure, Pools, SendFailure};
use tollgate::proxy::request_body::{BodyFate, RequestBody};
use tollgate::proxy::tunnel::{Tunnelled, carry};
use tollgate::proxy::worker::{WorkerParts, Workers};

/// Longest that any test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn bounds() -> Bounds {
    Bounds {
        head: 64 * 1024,
        fields: 100,
        target: 8000,
        body: None,
        head_timeout: Duration::from_secs(5),
        handshake_timeout: Duration::from_secs(5),
        body_idle: Duration::from_secs(5),
        keep_alive: Duration::from_secs(30),
        connections: 10_000,
        in_flight: 10_000,
        subjects: 1000,
        h2_streams: 100,
    }
}

pub fn upstream(address: SocketAddr) -> Upstream {
    Upstream {
        scheme: Scheme::Http,
        host: address.ip().to_string().into(),
        port: address.port(),
        base_path: "".into(),
        protocol: UpstreamProtocol::Http1,
        host_header: HostRule::Keep,
        tls: UpstreamTls::default(),
        set_headers: Vec::new(),
        remove_headers: Vec::new(),
        set_query: Vec::new(),
        remove_query: Vec::new(),
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(5),
        pool_size: 128,
        pool_idle: Duration::from_secs(30),
    }
}

/// What the handler tells the test.
#[derive(Debug)]
pub enum Event {
    Ended(BodyEnd, u64),
    Failed(SendFailure, BodyFate),
    Tunnel(Tunnelled),
    Worker(usize),
    Peer(Option<IpAddr>),
}

pub struct Note(Sender<Event>);

impl OnEnd for Note {
    fn ended(self, how: BodyEnd, bytes: u64) {
        let _ = self.0.send(Event::Ended(how, bytes));
    }
}

#[derive(Clone)]
pub struct PassOn(Rc<State>);

struct State {
    index: usize,
    setup: Arc<Setup>,
    pools: Pools,
    requests: Cell<u32>,
    cut: Cut,
    events: Sender<Event>,
}

/// A gate under test, before it starts.
pub struct Setup {
    pub upstream: Arc<Upstream>,
    /// Where requests for `/other` go.
    pub other: Option<Arc<Upstream>>,
    pub bounds: Bounds,
    pub max_body: Option<u64>,
    pub response_timeout: Duration,
    pub tls: Option<Arc<ServerConfig>>,
    pub proxy_protocol: Option<bool>,
    pub workers: usize,
}

pub struct Gate {
    pub address: SocketAddr,
    pub workers: Workers,
    pub events: Receiver<Event>,
}

impl Setup {
    pub fn before(address: SocketAddr) -> Setup {
        Setup::of(upstream(address))
    }

    pub fn of(upstream: Upstream) -> Setup {
        Setup {
            upstream: Arc::new(upstream),
            other: None,
            bounds: bounds(),
            max_body: None,
            response_timeout: Duration::from_secs(5),
            tls: None,
            proxy_protocol: None,
            workers: 1,
        }
    }

    pub fn start(self) -> Gate {
        let tls = self.tls.is_some().then(|| tollgate::policy::snapshot::ListenerTls {
            chain: Arc::new([]),
            key: Arc::new([]),
            client_ca: None,
        });
        let wanted = Listener {
            address: "127.0.0.1:0".parse().unwrap(),
            tls,
            proxy_protocol: self.proxy_protocol.is_some(),
        };
        let bound = Listeners::bind(&[wanted], &mut Vec::new()).unwrap();
        let address = bound[0].local_addr();
        let (events, seen) = channel();
        let (count, setup) = (self.workers, Arc::new(self));
        let make = move |parts: WorkerParts| {
            PassOn(Rc::new(State {
                index: parts.index,
                setup: Arc::clone(&setup),
                pools: Pools::new(parts.counters, parts.stock),
                requests: Cell::new(0),
                cut: Cut::new(),
                events: events.clone(),
            }))
        };
        let workers = Workers::start(count, &bound, make).unwrap();
        Gate { address, workers, events: seen }
    }
}

impl Gate {
    pub fn client(&self) -> TcpStream {
        connect(self.address)
    }

    /// One exchange on a connection of its own; the whole answer.
    pub fn ask(&self, request: &str) -> String {
        let mut client = self.client();
        client.write_all(request.as_bytes()).unwrap();
        rest(&mut client)
    }

    pub fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event in time")
    }

    pub fn stop(self) {
        self.workers.drain(Duration::ZERO, Duration::ZERO);
        self.workers.join().unwrap();
    }
}

fn own(status: u16, text: &str) -> Answer<Body<Note>> {
    Answer::new(StatusCode::from_u16(status).unwrap(), Body::full(text.to_owned()))
}

impl Handler for PassOn {
    type End = Note;

    fn handle(
        &self,
        peer: Rc<Peer>,
        head: &Unchecked<'_>,
        body: ClientBody,
        at_hand: &mut AtHand<Note>,
    ) -> Option<Coming<Note>> {
        let state = &*self.0;
        state.requests.set(state.requests.get() + 1);
        *at_hand = match head.target.path {
            "/panic" => panic!("asked to"),
            "/refused" => AtHand::Answer(own(401, "refused")),
            "/worker" => {
                let _ = state.events.send(Event::Worker(state.index));
                AtHand::Answer(own(200, "here"))
            }
            "/peer" => {
                let _ = state.events.send(Event::Peer(peer.announced));
                AtHand::Answer(own(200, "here"))
            }
            "/cut" => {
                state.cut.cut();
                AtHand::Answer(own(200, "cut"))
            }
            "/late-panic" => {
                return Some(Box::pin(async {
                    tokio::task::yield_now().await;
                    panic!("asked to")
                }));
            }
            "/slow" => {
                return Some(Box::pin(async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    own(200, "at last")
                }));
            }
            _ => {
                let (this, head) = (self.clone(), owned(head));
                return Some(Box::pin(async move { this.pass_on(peer, head, body).await }));
            }
        };
        None
    }

    fn panicked(&self) -> Answer<Body<Note>> {
        own(500, "panicked")
    }

    fn unreadable_head(&self, status: u16) -> Vec<u8> {
        let head = format!("HTTP/1.1 {status} Unreadable\r\nConnection: close\r\n");
        format!("{head}Content-Length: 8\r\n\r\nenvelope").into_bytes()
    }

    fn bounds(&self) -> Bounds {
        self.0.setup.bounds
    }

    fn trusts(&self, _: IpAddr) -> bool {
        self.0.setup.proxy_protocol == Some(true)
    }

    fn tls(&self, _: usize) -> Option<Arc<ServerConfig>> {
        self.0.setup.tls.clone()
    }
}

fn owned(head: &Unchecked<'_>) -> Parts {
    let query = head.target.query.map_or(String::new(), |query| format!("?{query}"));
    let mut request = Request::builder()
        .method(head.method)
        .version(head.version)
        .uri(format!("{}{query}", head.target.path));
    for field in head.fields {
        request = request.header(field.name, field.value);
    }
    request.body(()).unwrap().into_parts().0
}

impl PassOn {
    async fn pass_on(
        &self,
        peer: Rc<Peer>,
        mut head: Parts,
        body: ClientBody,
    ) -> Answer<Body<Note>> {
        let State { setup, pools, events, cut, .. } = &*self.0;
        let upgrades = head.headers.contains_key("upgrade");
        let client = body.upgrading().filter(|_| upgrades);
        let h2 = setup.upstream.protocol == UpstreamProtocol::Http2;
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let authority = format!("{}:{}", setup.upstream.host, setup.upstream.port);
        let target = if h2 { format!("http://{authority}{path}") } else { path };
        head.uri = target.parse().unwrap();
        head.version = if h2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        head.headers.remove("expect");
        if !upgrades {
            head.headers.remove("connection");
        }
        if h2 {
            head.headers.remove("host");
        } else if !head.headers.contains_key("host") {
            head.headers.insert("host", authority.parse().unwrap());
        }
        let interims = body.interims();
        let body = RequestBody::new(body, setup.max_body, setup.bounds.body_idle);
        let watch = body.watch();
        let to_other = head.uri.path() == "/other";
        let upstream = setup.other.as_ref().filter(|_| to_other).unwrap_or(&setup.upstream);
        let pool = pools.of(upstream).unwrap();
        let departure = if h2 {
            Departure::Http2(Box::new(head), body)
        } else {
            Departure::Http1(RequestHead::of(&head).unwrap().telling(interims), body)
        };
        match pool.send(departure, setup.response_timeout).await {
            Ok(answer) => {
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS
                    && let Some(client) = client
                {
                    let Answer { head, body } = answer;
                    let upstream = body.switched().unwrap();
                    let (cut, events) = (cut.clone(), events.clone());
                    tokio::task::spawn_local(async move {
                        let carried = carry(client, upstream, cut).await;
                        drop(peer);
                        let _ = events.send(Event::Tunnel(carried));
                    });
                    return Answer { head, body: Body::empty() };
                }
                answer.map(|body| {
                    Body::upstream(body).on_end(Note(events.clone())).cut_by(cut.clone())
                })
            }
            Err(failure) => {
                let _ = events.send(Event::Failed(failure, watch.fate()));
                let mut answer = own(502, failure.detail);
                if watch.fate() != BodyFate::Complete {
                    let close = Legal::of(b"close").unwrap();
                    answer.head.fields_mut().insert("connection", close);
                }
                answer
            }
        }
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Everything until the other side closes.
pub fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until `end` has been seen.
pub fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut one = [0];
    while !all.ends_with(end.as_bytes()) {
        let read = stream.read(&mut one).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&all));
        all.push(one[0]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Waits until a counter reads `wanted`: it is written by the worker, a moment after a client can see why.
pub fn reads(counter: &std::sync::atomic::AtomicU64, wanted: u64) {
    let mut read = 0;
    for _ in 0..200 {
        read = counter.load(std::sync::atomic::Ordering::Relaxed);
        if read == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the counter reads {read}, not {wanted}");
}

/// Reads one head.
pub fn head(stream: &mut TcpStream) -> String {
    until(stream, "\r\n\r\n")
}

/// A backend whose every connection is given to `serve` on a thread of its own, with its number.
pub fn backend(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (stream, serve) = (stream.unwrap(), Arc::clone(&serve));
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || serve(stream, number));
        }
    });
    address
}

/// A backend that answers nothing, and tells all that it was sent on a connection when that ends.
pub fn listening() -> (SocketAddr, Receiver<String>) {
    let (tell, told) = channel();
    let address = backend(move |mut stream, _| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        tell.send(String::from_utf8_lossy(&all).into_owned()).unwrap();
    });
    (address, told)
}

/// A backend that answers every request without a body by `answer`, for as long as the connection lives.
pub fn answering(answer: &'static str) -> SocketAddr {
    backend(move |mut stream, _| {
        let mut seen = Vec::new();
        let mut some = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut some) {
            seen.extend_from_slice(&some[..read]);
            while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                seen.drain(..end + 4);
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    })
}

pub const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
