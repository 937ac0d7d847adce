//! One HTTP/1 connection to the upstream, and the exchange on it: sends a request, reads the head of its answer, and
//! gives the bytes of the body to whoever asks for them. Has no task of its own: who waits for it drives it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::head_in::{AnswerHead, BadHead, HeadReader};
use super::head_out::RequestHead;
use super::inlet::Inlet;
use super::outgoing::Accepted;
use super::patience::Patience;
use super::stock::{ROOM, Stock};
use super::upload::{Upload, UploadFailure};
use crate::proxy::io::Stream;
use crate::proxy::request_body::{BodyWatch, RequestBody};
use crate::proxy::splice::Pipeful;

/// A request and what goes with it, until its answer's head is there.
#[derive(Debug)]
pub(crate) struct Errand {
    upload: Upload,
    reader: HeadReader,
    watch: BodyWatch,
    longest: Duration,
}

impl Errand {
    /// A request of which nothing is sent. The head of its answer may take `longest` from its last byte.
    pub(crate) fn new(head: RequestHead, body: RequestBody, longest: Duration) -> Errand {
        let mut errand = Errand::none();
        errand.begin(head, body, longest);
        errand
    }

    fn begin(&mut self, mut head: RequestHead, body: RequestBody, longest: Duration) {
        self.watch = body.watch();
        self.reader = HeadReader::new(head.asked(), head.take_interims());
        self.upload.begin(head, body);
        self.longest = longest;
    }

    fn none() -> Errand {
        let reader = HeadReader::new(super::framing::Asked::Whole, None);
        let (upload, watch) = (Upload::none(), BodyWatch::default());
        Errand { upload, reader, watch, longest: Duration::ZERO }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What went wrong.
    pub(crate) why: Wrong,
    /// Whether the upstream can have seen anything of the request.
    pub(crate) seen: Seen,
}

impl Failure {
    /// Whether another connection may be tried: this one took nothing, and the request itself is sound.
    pub(crate) fn may_be_repeated(self) -> bool {
        self.seen == Seen::Nothing && self.why == Wrong::Broke
    }
}

/// What went wrong before an answer's head was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The connection broke, or ended.
    Broke,
    /// What came is no answer.
    NoAnswer,
    /// The request's own body failed.
    Body,
    /// Nothing came in time.
    Late,
}

/// Whether the upstream can have seen anything of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The system took not one byte: that is proved, and the request is as it was.
    Nothing,
    /// It can.
    Perhaps,
}

/// What a connection is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Sound,
    /// The request broke off in the middle of its answer: nothing on it is believed any more.
    Broken,
}

/// A connection to the upstream. Shared by who reads the answer and who sends the rest of the request.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    inlet: Inlet,
    errand: Errand,
    patience: Patience,
    health: Health,
}

/// A connection as its holders have it. Dropped by all of them, it closes.
pub(crate) type Shared = Rc<RefCell<Connection>>;

impl Connection {
    /// A connection that was just opened.
    pub(crate) fn new(stream: Stream, stock: Rc<Stock>) -> Shared {
        Rc::new(RefCell::new(Connection {
            stream,
            inlet: Inlet::new(stock),
            errand: Errand::none(),
            patience: Patience::default(),
            health: Health::Sound,
        }))
    }

    /// Whether the upstream has neither closed it nor said anything unasked. Costs no system call unless something
    /// happened.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.stream {
            Stream::Plain(socket) => {
                let read = socket.tcp().try_read(&mut byte);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            // A session ticket is nothing unasked: the session reads it by itself.
            stream @ Stream::Tls(_) => {
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }

    /// Takes up a request; [`Connection::poll_answer`] sends it. The head of its answer may take `longest` from its last
    /// byte.
    pub(crate) fn begin(&mut self, head: RequestHead, body: RequestBody, longest: Duration) {
        self.errand.begin(head, body, longest);
        self.patience.begin(longest, &self.errand.watch);
    }

    /// Takes up a request of which nothing was sent.
    pub(crate) fn take_up(&mut self, errand: Errand) {
        self.patience.begin(errand.longest, &errand.watch);
        self.errand = errand;
    }

    /// Gives back a request of which nothing was accepted.
    pub(crate) fn give_up(&mut self) -> Errand {
        std::mem::replace(&mut self.errand, Errand::none())
    }

    /// Sends, and reads until the head of the answer is there.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<AnswerHead, Failure>> {
        match self.poll_sending(cx) {
            Poll::Pending | Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(UploadFailure::NothingAccepted)) => return self.fails(Wrong::Broke),
            Poll::Ready(Err(UploadFailure::Body)) => return self.fails(Wrong::Body),
        }
        loop {
            match self.poll_read(cx, ROOM) {
                Poll::Ready(Ok(0) | Err(_)) => return self.fails(Wrong::Broke),
                // Bytes that came before anything was asked answer somebody else's question.
                Poll::Ready(Ok(_)) if self.errand.upload.accepted() == Accepted::Nothing => {
                    return self.fails(Wrong::Broke);
                }
                Poll::Ready(Ok(_)) => {
                    let Inlet { unread, stock, .. } = &mut self.inlet;
                    match self.errand.reader.read(unread, stock.recent()) {
                        Ok(Some(head)) => return Poll::Ready(Ok(head)),
                        Ok(None) => {}
                        Err(BadHead) => return self.fails(Wrong::NoAnswer),
                    }
                }
                Poll::Pending => break,
            }
        }
        match self.patience.poll(&self.errand.watch, cx) {
            Poll::Ready(()) => self.fails(Wrong::Late),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends what can be sent. Ready when there is no more to do.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadFailure>> {
        let upload = &mut self.errand.upload;
        if upload.is_over() {
            return Poll::Ready(Ok(()));
        }
        let sent = upload.poll(&mut self.stream, cx);
        if upload.is_over() {
            // While its memory is warm: who waits for an answer holds none of it.
            self.inlet.stock.put_text(upload.take_text());
        }
        sent
    }

    fn fails<T>(&self, why: Wrong) -> Poll<Result<T, Failure>> {
        // Of a failed write under TLS nobody knows whether some of its records went out.
        let seen = match (self.errand.upload.accepted(), &self.stream) {
            (Accepted::Nothing, Stream::Plain(_)) => Seen::Nothing,
            (Accepted::Nothing, Stream::Tls(_)) if why == Wrong::Body => Seen::Nothing,
            _ => Seen::Perhaps,
        };
        Poll::Ready(Err(Failure { why, seen }))
    }

    /// Reads once behind what is unread, at most about `room` bytes; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        self.inlet.poll_read(&mut self.stream, cx, room)
    }

    /// The next bytes of a body of which `left` bytes are to come, in a pipe; see [`Inlet::poll_pipeful`].
    pub(super) fn poll_pipeful(
        &mut self,
        cx: &mut Context<'_>,
        left: u64,
    ) -> Poll<io::Result<Option<Pipeful>>> {
        self.inlet.poll_pipeful(&self.stream, cx, left)
    }

    /// How much is read at once for a body of which `left` bytes are to come, as far as that is known.
    pub(super) fn room_for(&self, left: Option<u64>) -> usize {
        self.inlet.room_for(left)
    }

    /// What was read and belongs to nobody yet.
    pub(super) fn unread(&mut self) -> &mut BytesMut {
        &mut self.inlet.unread
    }

    /// Whether what comes on it is still to be believed.
    pub(super) fn is_sound(&self) -> bool {
        self.health == Health::Sound
    }

    /// Whether there is nothing left to send, for whichever reason.
    pub(super) fn is_upload_over(&self) -> bool {
        self.errand.upload.is_over()
    }

    /// Sends the rest of the request while somebody else reads the answer. A body that fails takes the answer with it:
    /// the upstream must not take the part for the whole.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_sending(cx).map(|ended| {
            if ended.is_err() {
                self.health = Health::Broken;
                // Wakes who reads. It fails where the connection is gone already.
                let _ = SockRef::from(self.stream.tcp()).shutdown(std::net::Shutdown::Both);
            }
        })
    }

    /// As [`Connection::poll_upload`], when nobody reads any more: an upstream that closes, or says more, wants no rest.
    pub(super) fn poll_rest_of_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_read(cx, ROOM).is_ready() { Poll::Ready(()) } else { self.poll_upload(cx) }
    }

    /// The exchange is over as it should be. `true` if the connection is fit for another: the request was sent whole,
    /// and nothing was said beyond the answer.
    pub(super) fn end(&mut self) -> bool {
        let sent = self.errand.upload.is_sent();
        let fit = sent && self.inlet.unread.is_empty() && self.is_sound();
        if fit {
            self.inlet.rest();
        }
        fit
    }

    /// Takes the connection out of HTTP: the stream, and what was read of it too far. `None` while the request is not
    /// sent.
    pub(super) fn leave_http(self) -> Option<(Stream, BytesMut)> {
        self.errand.upload.is_sent().then_some((self.stream, self.inlet.unread))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::proxy::io::Socket;

    /// A connection and the upstream's end of it.
    async fn pair() -> (Shared, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        (
            Connection::new(Stream::Plain(Socket::new(ours.unwrap())), Rc::default()),
            theirs.unwrap().0,
        )
    }

    fn get() -> Errand {
        let (head, ()) = Request::get("/x").header("host", "a").body(()).unwrap().into_parts();
        let head = RequestHead::of(&head).unwrap();
        Errand::new(head, RequestBody::empty(), Duration::from_secs(10))
    }

    async fn answer(connection: &Shared) -> Result<AnswerHead, Failure> {
        poll_fn(|cx| connection.borrow_mut().poll_answer(cx)).await
    }

    #[tokio::test]
    async fn a_request_of_which_nothing_was_accepted_leaves_whole_on_another_connection() {
        let (dead, _theirs) = pair().await;
        // Nothing that is written on it is accepted any more.
        let shut = SockRef::from(dead.borrow().stream.tcp()).shutdown(std::net::Shutdown::Write);
        shut.unwrap();
        dead.borrow_mut().take_up(get());
        let failure = answer(&dead).await.unwrap_err();
        assert_eq!(failure, Failure { why: Wrong::Broke, seen: Seen::Nothing });
        assert!(failure.may_be_repeated());

        let errand = dead.borrow_mut().give_up();
        let (fresh, mut theirs) = pair().await;
        fresh.borrow_mut().take_up(errand);
        let upstream = async {
            let mut seen = vec![0; 100];
            let read = theirs.read(&mut seen).await.unwrap();
            assert_eq!(seen[..read], *b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
            theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        let (head, ()) = tokio::join!(answer(&fresh), upstream);
        assert_eq!(head.unwrap().head.status(), 204);
        assert!(fresh.borrow_mut().end(), "fit for another");
    }

    #[tokio::test]
    async fn one_accepted_byte_ends_all_proof() {
        let (connection, mut theirs) = pair().await;
        connection.borrow_mut().take_up(get());
        let upstream = async {
            theirs.read_exact(&mut [0; 10]).await.unwrap();
            drop(theirs);
        };
        let (failure, ()) = tokio::join!(answer(&connection), upstream);
        let failure = failure.unwrap_err();
        assert_eq!(failure, Failure { why: Wrong::Broke, seen: Seen::Perhaps });
        assert!(!failure.may_be_repeated());
    }

    #[tokio::test]
    async fn a_connection_is_quiet_until_its_upstream_speaks_or_closes() {
        for speaks in [true, false] {
            let (connection, mut theirs) = pair().await;
            assert!(connection.borrow_mut().is_quiet());
            if speaks {
                theirs.write_all(b"x").await.unwrap();
            } else {
                drop(theirs);
            }
            poll_fn(|cx| connection.borrow().stream.tcp().poll_read_ready(cx)).await.unwrap();
            assert!(!connection.borrow_mut().is_quiet());
        }
    }
}
