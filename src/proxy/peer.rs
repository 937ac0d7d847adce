//! Who is at the other end of a client connection, and what answers it: the seam between the transport and the steps of
//! a request. Never says who the *client* is; that is the policy's, from these facts.

use std::cell::RefCell;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;

use super::answer::Answer;
use super::body::{Body, OnEnd};
use super::client_body::ClientBody;
use super::formula::Formula;
use super::refrain::Refrain;
use super::worker::Slot;
use crate::policy::head::Unchecked;
use crate::policy::snapshot::Bounds;

/// The protocol of a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientHttp {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What the TLS handshake told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// The name that the client asked for.
    pub sni: Option<Box<str>>,
    /// The client's own certificate, DER, verified against the listener's client CA.
    pub client_certificate: Option<Arc<[u8]>>,
}

/// One client connection, shared by its requests. Whoever holds it holds its connection slot: a tunnel keeps it.
#[derive(Debug)]
pub struct Peer {
    /// The connection's other end.
    pub socket: SocketAddr,
    /// The client that a trusted proxy announced with a PROXY header.
    pub announced: Option<IpAddr>,
    /// The connection's own end.
    pub local: SocketAddr,
    /// What the TLS handshake told; `None`: clear text.
    pub tls: Option<TlsFacts>,
    /// Place of the listener in the policy.
    pub listener: usize,
    /// The protocol spoken.
    pub http: ClientHttp,
    /// What its records have in common, rendered for the latest one.
    pub(crate) refrain: RefCell<Refrain>,
    /// Given up with the last of the connection's requests; `None` where there is no connection, as in tests.
    #[expect(dead_code, reason = "it is held, not read")]
    pub(crate) slot: Option<Slot>,
}

impl Peer {
    /// The connection's other end, as its PROXY header says it where a trusted proxy sent one.
    pub(super) fn address(&self) -> IpAddr {
        self.announced.unwrap_or(self.socket.ip())
    }
}

/// An answer that takes time. Boxed, so that a connection that waits for its next request stays small. Dropped unfinished when
/// the client leaves.
pub type Coming<E> = Pin<Box<dyn Future<Output = Answer<Body<E>>>>>;

/// Where an answer goes that is at hand: from hand to hand it would be moved five times, for some 150 instructions.
#[derive(Debug)]
pub enum AtHand<E: OnEnd> {
    /// None is.
    Nothing,
    /// This one.
    Answer(Answer<Body<E>>),
    /// One in set words, with what hangs on its end.
    Formula(Rc<Formula>, Option<E>),
}

impl<E: OnEnd> AtHand<E> {
    /// Takes the answer that is there, in whatever words.
    pub fn take(&mut self) -> Option<Answer<Body<E>>> {
        match mem::replace(self, AtHand::Nothing) {
            AtHand::Nothing => None,
            AtHand::Answer(answer) => Some(answer),
            AtHand::Formula(formula, end) => {
                let mut answer = formula.answer();
                if let Some(end) = end {
                    answer.body.hang(end);
                }
                Some(answer)
            }
        }
    }
}

/// What answers requests: one value a worker, cloned for every connection (an `Rc` inside).
pub trait Handler: Clone + 'static {
    /// What hangs on the end of an answer.
    type End: OnEnd;

    /// Answers one request: with what is `at_hand` then, or else with what comes later. A panic in it becomes
    /// [`Handler::panicked`], for this request alone.
    fn handle(
        &self,
        peer: Rc<Peer>,
        head: &Unchecked<'_>,
        body: ClientBody,
        at_hand: &mut AtHand<Self::End>,
    ) -> Option<Coming<Self::End>>;

    /// The answer to a request whose handling panicked.
    fn panicked(&self) -> Answer<Body<Self::End>>;

    /// A whole HTTP/1.1 answer, with `Connection: close` and its length, to a head that cannot be read: 400, 414, 431,
    /// or 408 when it took too long.
    fn unreadable_head(&self, status: u16) -> Vec<u8>;

    /// The sizes and times in force; read once a connection.
    fn bounds(&self) -> Bounds;

    /// Whether a peer's PROXY header is believed.
    fn trusts(&self, peer: IpAddr) -> bool;

    /// The TLS configuration in force of a listener that has TLS. `None` closes the connection.
    fn tls(&self, listener: usize) -> Option<Arc<ServerConfig>>;

    /// Called on the worker's thread after [`super::worker::Workers::refresh`].
    fn refresh(&self) {}
}
