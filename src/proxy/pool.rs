//! A worker's connections to one upstream: last used, first taken, closed when idle for too long.
//!
//! A request is sent a second time only with proof that the upstream did not process it: hyper gave the message back
//! untouched, or (HTTP/2, without a body) the stream was refused or lies above GOAWAY's last id. Then a fresh
//! connection is opened, at most twice. A connection returns here only when its answer ended cleanly and its request was
//! sent whole; hyper closes one on which bytes arrive unasked. Nothing here crosses threads.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::body::UpstreamBody;
use super::counters::{ConnectionCounters, down, up};
use super::request_body::{BodyFate, BodyWatch, RequestBody};
use super::tls::TlsProblem;
use super::upstream::{Http1, Http2, NoConnection, Target};
use crate::policy::snapshot::{Upstream, UpstreamProtocol};

/// How often a request that was provably not processed is sent on a fresh connection.
const FRESH_ATTEMPTS: u32 = 2;
/// An idle connection's age is counted in this many steps of `pool_idle`; it closes at most one step late.
const AGE_STEPS: u32 = 4;
/// Whether a request's body still moves is looked at this many times in `response_timeout`.
const ANSWER_LOOKS: u32 = 16;

/// Why an exchange with the upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// In which of the three ways.
    pub why: Why,
    /// Whether the upstream may have acted on the request.
    pub processed: Processed,
    /// For the log; never for the client.
    pub detail: &'static str,
}

/// The ways in which an exchange fails before its answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No connection, or none in time: 502 or 503.
    Unreachable,
    /// No answer in time: 504.
    Timeout,
    /// The connection broke, or what came was no HTTP: 502. Also when the request's body failed; ask its `BodyWatch`.
    Broken,
}

/// Whether the upstream may have acted on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// It is proved that it did not.
    NotProcessed,
    /// Nobody knows.
    MayHaveBeen,
}

impl SendFailure {
    fn unreachable(failure: NoConnection) -> SendFailure {
        let NoConnection(detail) = failure;
        SendFailure { why: Why::Unreachable, processed: Processed::NotProcessed, detail }
    }
}

#[derive(Debug)]
struct Idle {
    send: Http1,
    parked: u32,
}

/// The connections of one worker to one upstream.
#[derive(Debug)]
pub struct Pool {
    target: Target,
    counters: Arc<ConnectionCounters>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Rc<Http2>>>,
    /// Held while a shared connection is opened, so that a burst opens one and not a hundred.
    opening: Mutex<()>,
    step: Cell<u32>,
    retired: Cell<bool>,
}

/// The pool of a worker: always that of the upstream in force.
#[derive(Debug)]
pub struct Pools {
    counters: Arc<ConnectionCounters>,
    current: RefCell<Option<Rc<Pool>>>,
}

impl Pools {
    /// None yet; the first request makes it.
    pub fn new(counters: Arc<ConnectionCounters>) -> Pools {
        Pools { counters, current: RefCell::new(None) }
    }

    /// The pool of `upstream`. If it is another than before, the former's idle connections are closed, and those in use
    /// close with their exchange.
    pub fn of(&self, upstream: &Arc<Upstream>) -> Result<Rc<Pool>, TlsProblem> {
        if let Some(pool) = &*self.current.borrow()
            && Arc::ptr_eq(&pool.target.upstream, upstream)
        {
            return Ok(Rc::clone(pool));
        }
        let pool = Pool::new(Arc::clone(upstream), Arc::clone(&self.counters))?;
        if let Some(former) = self.current.replace(Some(Rc::clone(&pool))) {
            former.retire();
        }
        Ok(pool)
    }
}

impl Pool {
    /// An empty pool. To be called on a worker: idle connections are closed by a local task.
    pub fn new(
        upstream: Arc<Upstream>,
        counters: Arc<ConnectionCounters>,
    ) -> Result<Rc<Pool>, TlsProblem> {
        let every = (upstream.pool_idle / AGE_STEPS).max(Duration::from_millis(1));
        let pool = Rc::new(Pool {
            target: Target::new(upstream)?,
            counters,
            idle: RefCell::new(Vec::new()),
            shared: RefCell::new(Vec::new()),
            opening: Mutex::new(()),
            step: Cell::new(0),
            retired: Cell::new(false),
        });
        tokio::task::spawn_local(close_old(Rc::downgrade(&pool), every));
        Ok(pool)
    }

    /// The upstream it leads to.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.target.upstream
    }

    /// Sends a request, of which everything is final (the target in origin form for HTTP/1, absolute for HTTP/2), and
    /// waits for the head of the answer. `response_timeout` runs from the last byte that moved of the request.
    ///
    /// The request is with hyper before this returns, where a connection is at hand: what waits holds no request.
    pub fn send(
        self: &Rc<Pool>,
        request: Request<RequestBody>,
        response_timeout: Duration,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, SendFailure>> + use<> {
        let pool = Rc::clone(self);
        let rest =
            Rest { active: Active::new(self), watch: request.body().watch(), response_timeout };
        let begun = match self.target.upstream.protocol {
            UpstreamProtocol::Http1 => match self.take_idle() {
                Some(mut send) => {
                    let answer = send.try_send_request(request);
                    Begun::Pooled { send, answer }
                }
                None => Begun::Fresh(Box::new(request)),
            },
            UpstreamProtocol::Http2 => Begun::Shared(Box::new(request)),
        };
        async move {
            match begun {
                Begun::Pooled { send, answer } => {
                    let answer = in_time(answer, &rest.watch, response_timeout).await;
                    match answer.ok_or(LATE)? {
                        Ok(answer) => Ok(pool.leased(answer, rest.lease(send))),
                        Err(mut error) => match error.take_message() {
                            // Boxed, as all that is rare: its future would be moved with every request.
                            Some(untouched) => Box::pin(pool.send_fresh(untouched, rest)).await,
                            None => Err(broken(&error.into_error())),
                        },
                    }
                }
                Begun::Fresh(request) => Box::pin(pool.send_fresh(*request, rest)).await,
                Begun::Shared(request) => Box::pin(pool.send_http2(*request, rest)).await,
            }
        }
    }

    /// Sends on connections that nothing was sent on yet.
    async fn send_fresh(
        self: &Rc<Pool>,
        mut request: Request<RequestBody>,
        rest: Rest,
    ) -> Result<Response<UpstreamBody>, SendFailure> {
        for _ in 0..FRESH_ATTEMPTS {
            let mut send = self.counted(self.target.http1().await)?;
            let answer = send.try_send_request(request);
            match in_time(answer, &rest.watch, rest.response_timeout).await.ok_or(LATE)? {
                Ok(answer) => return Ok(self.leased(answer, rest.lease(send))),
                Err(mut error) => match error.take_message() {
                    Some(untouched) => request = untouched,
                    None => return Err(broken(&error.into_error())),
                },
            }
        }
        Err(GAVE_UP)
    }

    async fn send_http2(
        self: &Rc<Pool>,
        mut request: Request<RequestBody>,
        rest: Rest,
    ) -> Result<Response<UpstreamBody>, SendFailure> {
        let Rest { active, watch, response_timeout } = rest;
        for attempt in 0..=FRESH_ATTEMPTS {
            let connection = self.share(attempt > 0).await?;
            let stream = SharedStream::new(Rc::clone(&connection));
            // hyper keeps a message it has begun to send; without a body a copy of the head is the whole message.
            let copy = (watch.fate() == BodyFate::Complete).then(|| head_of(&request));
            let mut send = connection.send.clone();
            let answer = in_time(send.try_send_request(request), &watch, response_timeout).await;
            let mut error = match answer.ok_or(LATE)? {
                Ok(answer) => {
                    return Ok(
                        self.leased(answer, Lease::Http2 { _active: active, _stream: stream })
                    );
                }
                Err(error) => error,
            };
            let untouched = error.take_message();
            let error = error.into_error();
            let refused = proves_unprocessed(&error);
            match untouched.or_else(|| copy.filter(|_| refused)) {
                Some(again) => {
                    self.forget(&connection);
                    request = again;
                }
                None if refused => {
                    let processed = Processed::NotProcessed;
                    return Err(SendFailure { processed, ..broken(&error) });
                }
                None => return Err(broken(&error)),
            }
        }
        Err(GAVE_UP)
    }

    fn leased(&self, answer: Response<Incoming>, lease: Lease) -> Response<UpstreamBody> {
        // The bytes behind a 101 belong to whoever upgrades; that connection never comes back.
        let lease = Some(lease).filter(|_| answer.status() != StatusCode::SWITCHING_PROTOCOLS);
        let idle = self.target.upstream.idle_timeout;
        answer.map(|incoming| UpstreamBody::new(incoming, lease, idle))
    }

    fn counted<C>(&self, opened: Result<C, NoConnection>) -> Result<C, SendFailure> {
        match opened {
            Ok(connection) => {
                up(&self.counters.upstream_connects);
                Ok(connection)
            }
            Err(failure) => {
                up(&self.counters.upstream_connect_failures);
                Err(SendFailure::unreachable(failure))
            }
        }
    }

    /// The connection that was used last and is ready. One whose upload still runs is left where it is.
    fn take_idle(&self) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            if idle[at].send.is_ready() {
                down(&self.counters.upstream_idle);
                return Some(idle.remove(at).send);
            }
            if idle[at].send.is_closed() {
                down(&self.counters.upstream_idle);
                idle.remove(at);
            }
        }
        None
    }

    fn park(&self, send: Http1) {
        let mut idle = self.idle.borrow_mut();
        if !self.retired.get() && !send.is_closed() && idle.len() < self.target.upstream.pool_size {
            idle.push(Idle { send, parked: self.step.get() });
            up(&self.counters.upstream_idle);
        }
    }

    /// A shared connection with room for a stream; `fresh` asks for one that nothing was sent on.
    async fn share(&self, fresh: bool) -> Result<Rc<Http2>, SendFailure> {
        if let Some(connection) = self.with_room().filter(|_| !fresh) {
            return Ok(connection);
        }
        // Those who wait behind an upstream that does not answer must not wait for one another's attempts in turn.
        let turn = timeout(self.target.upstream.connect_timeout, self.opening.lock()).await;
        let Ok(_one_at_a_time) = turn else { return Err(NO_TURN) };
        if let Some(connection) = self.with_room().filter(|_| !fresh) {
            return Ok(connection);
        }
        let connection = Rc::new(self.counted(self.target.http2().await)?);
        if !self.retired.get() {
            self.shared.borrow_mut().push(Rc::clone(&connection));
        }
        Ok(connection)
    }

    /// A connection with room, or at the pool's size the one with the fewest streams: hyper queues what is over.
    fn with_room(&self) -> Option<Rc<Http2>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.send.is_closed());
        let least = shared.iter().min_by_key(|connection| connection.active.get())?;
        let full = least.active.get() >= least.most.get();
        let may_open = shared.len() < self.target.upstream.pool_size;
        Some(Rc::clone(least)).filter(|_| !full || !may_open)
    }

    fn forget(&self, connection: &Rc<Http2>) {
        self.shared.borrow_mut().retain(|known| !Rc::ptr_eq(known, connection));
    }

    fn grow_older(&self) {
        let step = self.step.get().wrapping_add(1);
        self.step.set(step);
        self.idle.borrow_mut().retain(|idle| {
            let stays = step.wrapping_sub(idle.parked) <= AGE_STEPS && !idle.send.is_closed();
            if !stays {
                down(&self.counters.upstream_idle);
            }
            stays
        });
    }

    fn retire(&self) {
        self.retired.set(true);
        for _ in self.idle.borrow_mut().drain(..) {
            down(&self.counters.upstream_idle);
        }
        self.shared.borrow_mut().clear();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.retire();
    }
}

async fn close_old(pool: Weak<Pool>, every: Duration) {
    loop {
        sleep(every).await;
        match pool.upgrade() {
            Some(pool) if !pool.retired.get() => pool.grow_older(),
            _ => return,
        }
    }
}

/// How far a request came without waiting.
enum Begun<A> {
    /// It is with a pooled connection.
    Pooled { send: Http1, answer: A },
    /// It needs a connection of its own.
    Fresh(Box<Request<RequestBody>>),
    /// It needs a stream of a shared connection.
    Shared(Box<Request<RequestBody>>),
}

/// What goes with a request on its way: what it holds, and how long it may take.
struct Rest {
    active: Active,
    watch: BodyWatch,
    response_timeout: Duration,
}

impl Rest {
    fn lease(self, send: Http1) -> Lease {
        Lease::Http1 { active: self.active, send, watch: self.watch }
    }
}

/// A hold on the connection that an answer comes from. Dropped, an HTTP/1 connection closes.
#[derive(Debug)]
pub(crate) enum Lease {
    /// The whole connection: its sending half, and whether the request was sent whole.
    Http1 { active: Active, send: Http1, watch: BodyWatch },
    /// One stream of a shared connection.
    Http2 { _active: Active, _stream: SharedStream },
}

impl Lease {
    /// The answer ended cleanly: the connection may serve another request, unless its own is not sent whole yet.
    pub(crate) fn give_back(self) {
        if let Lease::Http1 { active, send, watch } = self
            && watch.fate() == BodyFate::Complete
        {
            active.0.park(send);
        }
    }
}

/// Counts a stream of a shared connection as long as it lives.
#[derive(Debug)]
pub(crate) struct SharedStream(Rc<Http2>);

impl SharedStream {
    fn new(connection: Rc<Http2>) -> SharedStream {
        connection.active.set(connection.active.get() + 1);
        SharedStream(connection)
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

/// Counts an exchange as long as it lives.
#[derive(Debug)]
pub(crate) struct Active(Rc<Pool>);

impl Active {
    fn new(pool: &Rc<Pool>) -> Active {
        up(&pool.counters.upstream_active);
        Active(Rc::clone(pool))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        down(&self.0.counters.upstream_active);
    }
}

const LATE: SendFailure = SendFailure {
    why: Why::Timeout,
    processed: Processed::MayHaveBeen,
    detail: "the upstream did not answer in time",
};

const NO_TURN: SendFailure = SendFailure {
    why: Why::Unreachable,
    processed: Processed::NotProcessed,
    detail: "the upstream took too long to connect",
};

const GAVE_UP: SendFailure = SendFailure {
    why: Why::Broken,
    processed: Processed::NotProcessed,
    detail: "the upstream closed every connection before it took the request",
};

fn broken(error: &hyper::Error) -> SendFailure {
    let detail = if error.is_parse() {
        "the upstream's answer is not valid HTTP"
    } else if error.is_user() {
        "the request's body could not be sent to its end"
    } else {
        "the connection to the upstream broke before an answer"
    };
    SendFailure { why: Why::Broken, processed: Processed::MayHaveBeen, detail }
}

/// Whether an HTTP/2 error is the upstream's own word that it did not look at the request (RFC 9113 §8.7). A GOAWAY
/// other than the graceful one ends streams below its last id too, so that it proves nothing.
fn proves_unprocessed(error: &hyper::Error) -> bool {
    let cause =
        std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.filter(|cause| cause.is_remote()).is_some_and(|cause| {
        let reason = cause.reason();
        (cause.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
            || (cause.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}

fn head_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Waits for an answer; `None` if there was none in time. While the request's body moves, time starts again: a slow
/// upload is the body's own deadline's business. Never too early, and late by at most one of its looks.
async fn in_time<F: Future>(answer: F, watch: &BodyWatch, longest: Duration) -> Option<F::Output> {
    let mut answer = std::pin::pin!(answer);
    let (mut sent, mut silent_looks) = (watch.bytes(), 0);
    while silent_looks < ANSWER_LOOKS {
        match timeout(longest / ANSWER_LOOKS, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) if watch.bytes() == sent => silent_looks += 1,
            Err(_) => (sent, silent_looks) = (watch.bytes(), 0),
        }
    }
    None
}
