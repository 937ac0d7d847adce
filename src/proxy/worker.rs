//! The workers: one thread and one current-thread runtime a core. Every worker accepts from every listener; who accepts
//! keeps the connection, unless another worker has fewer, which then gets the socket. From there on nothing of a
//! connection leaves its thread. Never looks at a request.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::connection::{self, Arrival};
use super::counters::{ConnectionCounters, up};
use super::drain::{DrainPhase, DrainSignal};
use super::http1::{Stock, Terms, Today};
use super::listen::Bound;
use super::peer::Handler;

/// How long accepting pauses after a failure: with no descriptor left, trying again at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Threads of a worker that may wait for a name's addresses at once.
pub(super) const NAME_LOOKUPS: usize = 4;

/// Connections of one worker, on a cache line of its own: every worker that accepts reads it, once a connection.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load(AtomicUsize);

/// A place for one connection in a worker's load.
#[derive(Debug)]
struct Reserved(Arc<Load>);

impl Reserved {
    fn on(load: &Arc<Load>) -> Reserved {
        load.0.fetch_add(1, Ordering::Relaxed);
        Reserved(Arc::clone(load))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection slot, held as long as anything of the connection lives.
#[derive(Debug)]
pub(crate) struct Slot {
    counters: Arc<ConnectionCounters>,
    released: Rc<Notify>,
    _reserved: Reserved,
}

impl Drop for Slot {
    fn drop(&mut self) {
        super::counters::down(&self.counters.open);
        self.released.notify_one();
    }
}

#[derive(Debug)]
enum Message {
    Adopt(StdStream, SocketAddr, usize, Reserved),
    Refresh,
    Drain { delay: Duration, deadline: Duration },
}

/// What a worker's handler is made of, on the worker's own thread and inside its runtime.
#[derive(Debug)]
pub struct WorkerParts {
    /// The worker's number, from 0.
    pub index: usize,
    /// What it counts; the worker's thread is the only writer.
    pub counters: Arc<ConnectionCounters>,
    /// Its drain, to be asked how far it is.
    pub drain: Rc<DrainSignal>,
    /// Its memory for messages of HTTP/1.
    pub stock: Rc<Stock>,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    senders: Vec<UnboundedSender<Message>>,
    counters: Vec<Arc<ConnectionCounters>>,
}

/// A worker's thread ended by a panic: a mistake of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerPanicked;

impl Workers {
    /// Starts `count` workers (at least one) on these listeners; all accept when this returns. `make` is called once on
    /// each worker's thread.
    pub fn start<H, M>(count: usize, listeners: &[Bound], make: M) -> io::Result<Workers>
    where
        H: Handler,
        M: Fn(WorkerParts) -> H + Send + Sync + 'static,
    {
        let count = count.max(1);
        let make = Arc::new(make);
        let loads: Arc<[Arc<Load>]> = (0..count).map(|_| Arc::default()).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| unbounded_channel()).unzip();
        let counters: Vec<Arc<ConnectionCounters>> = (0..count).map(|_| Arc::default()).collect();
        let facts: Arc<[ListenerFacts]> = listeners.iter().map(ListenerFacts::of).collect();
        let (started, starts) = channel();
        let mut threads = Vec::with_capacity(count);
        for (index, receiver) in receivers.into_iter().enumerate() {
            let sockets = listeners.iter().map(Bound::share).collect::<io::Result<Vec<_>>>()?;
            let shared = Shared {
                index,
                loads: Arc::clone(&loads),
                senders: senders.clone(),
                counters: Arc::clone(&counters[index]),
                facts: Arc::clone(&facts),
            };
            let (make, started) = (Arc::clone(&make), started.clone());
            let thread =
                std::thread::Builder::new().name(format!("tollgate-{index}")).spawn(move || {
                    // It cannot leave its thread, so it is built here, and its failure told to whoever starts us.
                    let runtime = Builder::new_current_thread()
                        .enable_all()
                        .max_blocking_threads(NAME_LOOKUPS)
                        .build_local(LocalOptions::default());
                    match runtime {
                        Ok(runtime) => run(&runtime, shared, sockets, receiver, &*make, started),
                        Err(error) => drop(started.send(Err(error))),
                    }
                })?;
            threads.push(thread);
        }
        drop(started);
        // Each worker says one word; one that panics instead ends the wait too, and `join` tells of it.
        for word in starts {
            word?;
        }
        Ok(Workers { threads, senders, counters })
    }

    /// What each worker counts.
    pub fn counters(&self) -> &[Arc<ConnectionCounters>] {
        &self.counters
    }

    /// Has every worker call [`Handler::refresh`] soon.
    pub fn refresh(&self) {
        self.tell(|| Message::Refresh);
    }

    /// What does the same from anywhere, without holding the workers.
    pub fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let senders = self.senders.clone();
        move || {
            for sender in &senders {
                // A worker that is gone has nothing to refresh.
                let _ = sender.send(Message::Refresh);
            }
        }
    }

    /// Begins a drain: `delay` of announcing, then up to `deadline` for what is in flight. Returns at once; see
    /// [`Workers::join`]. A second call replaces the times that are still to come.
    pub fn drain(&self, delay: Duration, deadline: Duration) {
        self.tell(|| Message::Drain { delay, deadline });
    }

    /// Waits for the workers' threads to end, which they do after a drain.
    pub fn join(self) -> Result<(), WorkerPanicked> {
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        if ended.iter().all(Result::is_ok) { Ok(()) } else { Err(WorkerPanicked) }
    }

    fn tell(&self, message: impl Fn() -> Message) {
        for sender in &self.senders {
            // A worker that has ended needs to be told nothing.
            let _ = sender.send(message());
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct ListenerFacts {
    tls: bool,
    proxy_protocol: bool,
}

impl ListenerFacts {
    fn of(bound: &Bound) -> ListenerFacts {
        ListenerFacts { tls: bound.tls(), proxy_protocol: bound.proxy_protocol() }
    }
}

/// What a worker shares with the others.
#[derive(Debug)]
struct Shared {
    index: usize,
    loads: Arc<[Arc<Load>]>,
    senders: Vec<UnboundedSender<Message>>,
    counters: Arc<ConnectionCounters>,
    facts: Arc<[ListenerFacts]>,
}

struct Worker<H> {
    shared: Shared,
    handler: H,
    drain: Rc<DrainSignal>,
    released: Rc<Notify>,
    terms: Terms,
}

fn run<H: Handler>(
    runtime: &LocalRuntime,
    shared: Shared,
    sockets: Vec<StdListener>,
    receiver: UnboundedReceiver<Message>,
    make: &dyn Fn(WorkerParts) -> H,
    started: Sender<io::Result<()>>,
) {
    runtime.block_on(async move {
        let drain = Rc::new(DrainSignal::default());
        let terms = Terms { stock: Rc::default(), today: Today::kept() };
        let parts = WorkerParts {
            index: shared.index,
            counters: Arc::clone(&shared.counters),
            drain: Rc::clone(&drain),
            stock: Rc::clone(&terms.stock),
        };
        let handler = make(parts);
        let worker = Rc::new(Worker { shared, handler, drain, released: Rc::default(), terms });
        let mut accepting: Vec<AbortHandle> = Vec::with_capacity(sockets.len());
        for (listener, socket) in sockets.into_iter().enumerate() {
            match TcpListener::from_std(socket) {
                Ok(socket) => {
                    let accepts = Rc::clone(&worker).accept(socket, listener);
                    accepting.push(tokio::task::spawn_local(accepts).abort_handle());
                }
                Err(error) => return drop(started.send(Err(error))),
            }
        }
        // Whoever started us may have given up already; then this worker is ended by the process.
        let _ = started.send(Ok(()));
        drop(started);
        worker.work(receiver, &accepting).await;
    });
}

impl<H: Handler> Worker<H> {
    /// Takes messages until the drain is over.
    async fn work(
        self: Rc<Self>,
        mut receiver: UnboundedReceiver<Message>,
        accepting: &[AbortHandle],
    ) {
        let (mut delay, mut deadline) = loop {
            match receiver.recv().await {
                Some(Message::Drain { delay, deadline }) => break (delay, deadline),
                Some(message) => self.take(message),
                // Whoever could end this worker is gone: it serves as long as the process lives.
                None => std::future::pending().await,
            }
        };
        self.drain.advance(DrainPhase::Announcing);
        while let Waited::Again(times) = self.take_for(&mut receiver, delay, Until::Time).await {
            (delay, deadline) = times;
        }
        for task in accepting {
            task.abort();
        }
        self.drain.advance(DrainPhase::Closing);
        loop {
            match self.take_for(&mut receiver, deadline, Until::Empty).await {
                Waited::Again((_, other)) => deadline = other,
                Waited::Time => {
                    let left = self.load().0.load(Ordering::Relaxed);
                    let left = u64::try_from(left).unwrap_or(u64::MAX);
                    return self.shared.counters.cut.store(left, Ordering::Relaxed);
                }
                Waited::Empty if receiver.is_closed() => return,
                // What another worker has handed over is still served; what comes later stays with its sender.
                Waited::Empty => receiver.close(),
            }
        }
    }

    /// Takes messages for that long, or until no connection is left; ends early with the times of another drain.
    async fn take_for(
        self: &Rc<Self>,
        receiver: &mut UnboundedReceiver<Message>,
        longest: Duration,
        until: Until,
    ) -> Waited {
        let mut over = std::pin::pin!(sleep(longest));
        loop {
            while let Ok(message) = receiver.try_recv() {
                match message {
                    Message::Drain { delay, deadline } => return Waited::Again((delay, deadline)),
                    message => self.take(message),
                }
            }
            if until == Until::Empty && self.load().0.load(Ordering::Relaxed) == 0 {
                return Waited::Empty;
            }
            tokio::select! {
                () = &mut over => return Waited::Time,
                () = self.released.notified() => {}
                message = receiver.recv(), if !receiver.is_closed() => match message {
                    Some(Message::Drain { delay, deadline }) => {
                        return Waited::Again((delay, deadline));
                    }
                    Some(message) => self.take(message),
                    None => {}
                },
            }
        }
    }

    fn take(self: &Rc<Self>, message: Message) {
        match message {
            Message::Adopt(socket, peer, listener, reserved) => {
                if let Ok(tcp) = TcpStream::from_std(socket) {
                    self.keep(tcp, peer, listener, reserved);
                }
            }
            Message::Refresh => self.handler.refresh(),
            Message::Drain { .. } => {}
        }
    }

    fn load(&self) -> &Arc<Load> {
        &self.shared.loads[self.shared.index]
    }

    async fn accept(self: Rc<Self>, socket: TcpListener, listener: usize) {
        loop {
            match socket.accept().await {
                Ok((tcp, peer)) => self.place(tcp, peer, listener),
                // That connection was gone before it was taken; the next one may be there already.
                Err(gone) if gone.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    up(&self.shared.counters.accept_errors);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Keeps the connection, hands it to the worker with the fewest, or closes it if there are too many.
    fn place(self: &Rc<Self>, tcp: TcpStream, peer: SocketAddr, listener: usize) {
        let (mut total, mut fewest) = (0, self.shared.index);
        let mut least = self.load().0.load(Ordering::Relaxed);
        for (index, load) in self.shared.loads.iter().enumerate() {
            let load = load.0.load(Ordering::Relaxed);
            total += load;
            if load < least {
                (least, fewest) = (load, index);
            }
        }
        if total >= self.handler.bounds().connections {
            return up(&self.shared.counters.refused_over_cap);
        }
        if fewest == self.shared.index {
            return self.keep(tcp, peer, listener, Reserved::on(self.load()));
        }
        let Ok(socket) = tcp.into_std() else { return };
        let reserved = Reserved::on(&self.shared.loads[fewest]);
        let message = Message::Adopt(socket, peer, listener, reserved);
        if let Err(unsent) = self.shared.senders[fewest].send(message)
            && let Message::Adopt(socket, ..) = unsent.0
            && let Ok(tcp) = TcpStream::from_std(socket)
        {
            self.keep(tcp, peer, listener, Reserved::on(self.load()));
        }
    }

    fn keep(
        self: &Rc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        listener: usize,
        reserved: Reserved,
    ) {
        let counters = &self.shared.counters;
        up(&counters.accepted);
        up(&counters.open);
        let slot = Slot {
            counters: Arc::clone(counters),
            released: Rc::clone(&self.released),
            _reserved: reserved,
        };
        let facts = self.shared.facts[listener];
        let arrival = Arrival {
            tcp,
            peer,
            listener,
            slot,
            tls: facts.tls,
            proxy_protocol: facts.proxy_protocol,
            drain: Rc::clone(&self.drain),
            counters: Arc::clone(counters),
            terms: self.terms.clone(),
        };
        tokio::task::spawn_local(connection::begin(arrival, self.handler.clone()));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The time is over.
    Time,
    /// The time is over, or no connection is left.
    Empty,
}

enum Waited {
    /// The time is over.
    Time,
    /// No connection is left.
    Empty,
    /// Another drain was asked for, with these times.
    Again((Duration, Duration)),
}
