//! A worker's connections to one upstream: last used, first taken, closed when idle for too long.
//!
//! A request is sent a second time only with proof that the upstream did not process it: the system took not one byte of
//! it (HTTP/1), or the stream was refused or lies above GOAWAY's last id (HTTP/2, without a body). Then a fresh
//! connection is opened, at most twice. An HTTP/1 connection returns here only when its answer ended cleanly and its
//! request was sent whole; one on which the upstream says something unasked is not used again. Nothing here crosses
//! threads.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, request};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::answer::{Answer, Head};
use super::body::UpstreamBody;
use super::counters::{ConnectionCounters, down, up};
use super::failure::{GAVE_UP, LATE, NO_TURN, broken, proves_unprocessed};
pub use super::failure::{Processed, SendFailure, Why};
use super::forward::response_fields;
use super::http1::{self, AnswerBody, Errand, RequestHead, Shared, Stock};
use super::request_body::{BodyFate, BodyWatch, RequestBody};
use super::tls::TlsProblem;
use super::upstream::{Http2, NoConnection, Target};
use crate::policy::snapshot::Upstream;

/// How often a request that was provably not processed is sent on a fresh connection.
const FRESH_ATTEMPTS: u32 = 2;
/// An idle connection's age is counted in at least this many steps of `pool_idle`; it closes at most one step late.
const AGE_STEPS: u32 = 4;
/// The longest of these steps: so long a connection that its upstream has closed keeps its descriptor at most. To look
/// takes no system call.
const LONGEST_STEP: Duration = Duration::from_secs(1);
/// Whether a request's body still moves is looked at this many times in `response_timeout` (HTTP/2).
const ANSWER_LOOKS: u32 = 16;

/// A request that is ready to leave: everything of it is final.
#[derive(Debug)]
pub enum Departure {
    /// In HTTP/1: as it is written.
    Http1(RequestHead, RequestBody),
    /// In HTTP/2: its target is absolute. Boxed, because it is rarer and larger.
    Http2(Box<request::Parts>, RequestBody),
}

impl Departure {
    /// The body on its way.
    pub(super) fn body(&self) -> &RequestBody {
        match self {
            Departure::Http1(_, body) | Departure::Http2(_, body) => body,
        }
    }
}

#[derive(Debug)]
struct Idle {
    connection: Shared,
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
    /// Steps for which a connection may be idle.
    oldest: u32,
    retired: Cell<bool>,
    stock: Rc<Stock>,
}

/// The pool of a worker: always that of the upstream in force.
#[derive(Debug)]
pub struct Pools {
    counters: Arc<ConnectionCounters>,
    stock: Rc<Stock>,
    current: RefCell<Option<Rc<Pool>>>,
}

impl Pools {
    /// None yet; the first request makes it.
    pub fn new(counters: Arc<ConnectionCounters>, stock: Rc<Stock>) -> Pools {
        Pools { counters, stock, current: RefCell::new(None) }
    }

    /// The pool of `upstream`. If it is another than before, the former's idle connections are closed, and those in use
    /// close with their exchange.
    pub fn of(&self, upstream: &Arc<Upstream>) -> Result<Rc<Pool>, TlsProblem> {
        if let Some(pool) = &*self.current.borrow()
            && Arc::ptr_eq(&pool.target.upstream, upstream)
        {
            return Ok(Rc::clone(pool));
        }
        let (upstream, counters) = (Arc::clone(upstream), Arc::clone(&self.counters));
        let pool = Pool::new(upstream, counters, Rc::clone(&self.stock))?;
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
        stock: Rc<Stock>,
    ) -> Result<Rc<Pool>, TlsProblem> {
        let every = (upstream.pool_idle / AGE_STEPS).min(LONGEST_STEP);
        let every = every.max(Duration::from_millis(1));
        let oldest = upstream.pool_idle.as_nanos().div_ceil(every.as_nanos());
        let pool = Rc::new(Pool {
            target: Target::new(upstream)?,
            counters,
            idle: RefCell::new(Vec::new()),
            shared: RefCell::new(Vec::new()),
            opening: Mutex::new(()),
            step: Cell::new(0),
            oldest: u32::try_from(oldest).unwrap_or(u32::MAX),
            retired: Cell::new(false),
            stock,
        });
        tokio::task::spawn_local(close_old(Rc::downgrade(&pool), every));
        Ok(pool)
    }

    /// The upstream it leads to.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.target.upstream
    }

    /// Memory for the head of a request.
    pub(super) fn stock(&self) -> &Stock {
        &self.stock
    }

    /// Sends a request and waits for the head of the answer. `response_timeout` runs from the last byte that moved of the
    /// request. What waits holds no request: it is with its connection, where one is at hand.
    pub fn send(self: &Rc<Pool>, departure: Departure, response_timeout: Duration) -> Sending {
        let (pool, active) = (Rc::clone(self), Active::new(self));
        match departure {
            Departure::Http1(head, body) => {
                if let Some(connection) = self.take_idle() {
                    connection.borrow_mut().begin(head, body, response_timeout);
                    Sending(Way::Pooled(connection, active))
                } else {
                    let errand = Box::new(Errand::new(head, body, response_timeout));
                    Sending::fresh(pool, errand, active)
                }
            }
            Departure::Http2(head, body) => Sending(Way::Else(Box::pin(async move {
                let request = Request::from_parts(*head, body);
                pool.send_http2(request, active, response_timeout).await
            }))),
        }
    }

    /// Sends on connections that nothing was sent on yet.
    async fn send_fresh(
        self: &Rc<Pool>,
        mut errand: Box<Errand>,
        active: Active,
    ) -> Result<Answer<UpstreamBody>, SendFailure> {
        for _ in 0..FRESH_ATTEMPTS {
            let connection = self.counted(self.target.http1(&self.stock).await)?;
            connection.borrow_mut().take_up(*errand);
            match poll_fn(|cx| connection.borrow_mut().poll_answer(cx)).await {
                Ok(head) => return Ok(active.answered(head, connection)),
                Err(failure) if failure.may_be_repeated() => {
                    *errand = connection.borrow_mut().give_up();
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(GAVE_UP)
    }

    async fn send_http2(
        self: &Rc<Pool>,
        mut request: Request<RequestBody>,
        active: Active,
        response_timeout: Duration,
    ) -> Result<Answer<UpstreamBody>, SendFailure> {
        let watch = request.body().watch();
        let idle = self.target.upstream.idle_timeout;
        for attempt in 0..=FRESH_ATTEMPTS {
            let connection = self.share(attempt > 0).await?;
            let stream = StreamCount::new(Rc::clone(&connection));
            // hyper keeps a message it has begun to send; without a body a copy of the head is the whole message.
            let copy = (watch.fate() == BodyFate::Complete).then(|| head_of(&request));
            let mut send = connection.send.clone();
            let answer = in_time(send.try_send_request(request), &watch, response_timeout).await;
            let mut error = match answer.ok_or(LATE)? {
                Ok(answer) => {
                    let stream = SharedStream { _active: active, _count: stream };
                    let (mut parts, incoming) = answer.into_parts();
                    response_fields(&mut parts.headers);
                    let head = Head::of(parts.status, &parts.headers);
                    return Ok(Answer { head, body: UpstreamBody::http2(incoming, stream, idle) });
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

    /// The connection that was used last, unless the upstream has done something with it meanwhile.
    fn take_idle(&self) -> Option<Shared> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, .. }) = idle.pop() {
            down(&self.counters.upstream_idle);
            if connection.borrow_mut().is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    fn park(&self, connection: Shared) {
        let mut idle = self.idle.borrow_mut();
        if !self.retired.get() && idle.len() < self.target.upstream.pool_size {
            idle.push(Idle { connection, parked: self.step.get() });
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
            let stays = step.wrapping_sub(idle.parked) <= self.oldest
                && idle.connection.borrow_mut().is_quiet();
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

/// A request on its way, until the head of its answer is there. Written by hand, because it is moved with every request:
/// 24 bytes.
#[derive(Debug)]
pub struct Sending(Way);

/// How far a request came without waiting.
enum Way {
    /// It is with a pooled connection.
    Pooled(Shared, Active),
    /// It needs a connection of its own, or a stream of a shared one.
    Else(Pin<Box<dyn Future<Output = Result<Answer<UpstreamBody>, SendFailure>>>>),
    /// The answer was given.
    Over,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Way::Pooled(..) => "Pooled",
            Way::Else(_) => "Else",
            Way::Over => "Over",
        })
    }
}

impl Sending {
    fn fresh(pool: Rc<Pool>, errand: Box<Errand>, active: Active) -> Sending {
        let sent = async move { pool.send_fresh(errand, active).await };
        Sending(Way::Else(Box::pin(sent)))
    }
}

impl Future for Sending {
    type Output = Result<Answer<UpstreamBody>, SendFailure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.0 {
            Way::Pooled(connection, _) => ready!(connection.borrow_mut().poll_answer(cx)),
            Way::Else(sending) => return sending.as_mut().poll(cx),
            // Nobody asks again for what was given.
            Way::Over => return Poll::Pending,
        };
        let Way::Pooled(connection, active) = std::mem::replace(&mut self.0, Way::Over) else {
            return Poll::Pending;
        };
        match answer {
            Ok(head) => Poll::Ready(Ok(active.answered(head, connection))),
            Err(failure) if failure.may_be_repeated() => {
                let errand = Box::new(connection.borrow_mut().give_up());
                *self = Sending::fresh(Rc::clone(&active.0), errand, active);
                self.poll(cx)
            }
            Err(failure) => Poll::Ready(Err(failure.into())),
        }
    }
}

/// An exchange on a shared connection, as long as it lives.
#[derive(Debug)]
pub(crate) struct SharedStream {
    _active: Active,
    _count: StreamCount,
}

/// Counts a stream of a shared connection as long as it lives.
#[derive(Debug)]
struct StreamCount(Rc<Http2>);

impl StreamCount {
    fn new(connection: Rc<Http2>) -> StreamCount {
        connection.active.set(connection.active.get() + 1);
        StreamCount(connection)
    }
}

impl Drop for StreamCount {
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

    /// The head of the exchange's answer has come on this connection.
    fn answered(self, head: http1::AnswerHead, connection: Shared) -> Answer<UpstreamBody> {
        let idle = self.0.target.upstream.idle_timeout;
        AnswerBody::answer(head, connection, self, idle).map(UpstreamBody::http1)
    }

    /// Keeps the exchange's connection for another.
    pub(super) fn park(&self, connection: Shared) {
        self.0.park(connection);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        down(&self.0.counters.upstream_active);
    }
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
