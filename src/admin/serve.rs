//! Accepting and serving. Connections are few and short; when there are too many, the oldest goes, so that a client
//! that holds them open never keeps a probe out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::access::Place;
use super::answers::Answer;
use super::ways::answer;
use super::{AdminState, Connections};
use crate::telemetry::events::Event;

/// Connections open at once.
const MOST: usize = 64;
/// Time for a head to arrive, and for an idle connection to ask again.
const HEAD: Duration = Duration::from_secs(10);
/// The longest life of a connection. A scraper that keeps one opens another now and then.
const LIFE: Duration = Duration::from_mins(5);
/// Pause after a failed accept: descriptors do not come back in a microsecond.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest head, and so the largest buffer, of a connection.
const BUFFER: usize = 16 * 1024;

/// Serves for ever. Dropped, it ends every connection.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    state: &AdminState,
    connections: &Arc<Connections>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            let why = error.to_string();
            let event = Event::TaskFailed { task: "admin", why: &why };
            state.log.say(state.clock.now().wall, &event);
            return std::future::pending().await;
        }
    };
    let mut tasks = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::with_capacity(MOST);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => {
                oldest_first.retain(|task| !task.is_finished());
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                connections.failing.store(false, Ordering::Relaxed);
                connections.accepted.fetch_add(1, Ordering::Relaxed);
                oldest_first.retain(|task| !task.is_finished());
                if oldest_first.len() >= MOST
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                    connections.evicted.fetch_add(1, Ordering::Relaxed);
                }
                let open = Open::new(Arc::clone(connections));
                let served = connection(stream, peer, state.clone(), open);
                oldest_first.push_back(tasks.spawn(served));
            }
            Err(error) => {
                if !connections.failing.swap(true, Ordering::Relaxed) {
                    let why = error.to_string();
                    let event = Event::AcceptFailed { listener: "admin", why: &why };
                    state.log.say(state.clock.now().wall, &event);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Connections>);

impl Open {
    fn new(connections: Arc<Connections>) -> Open {
        connections.open.fetch_add(1, Ordering::Relaxed);
        Open(connections)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, state: AdminState, _open: Open) {
    let Ok(local) = stream.local_addr() else { return };
    let place = Place::of(peer.ip(), local.ip());
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(request, place, peer, state.clone());
        async move { Ok::<Response<Answer>, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off or stays too long is its own affair.
    let _ = tokio::time::timeout(LIFE, served).await;
}
