//! A message on its way out, a request or an answer: the head, then the body as it comes, with back-pressure. Small pieces
//! are copied together, large ones go out beside their framing, and what is at hand together leaves in one write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use smallvec::SmallVec;

use super::framing::BodyLength;
use super::head_out::{Announced, chunk_size, last_chunk};
use super::text::Text;
use crate::proxy::io::COALESCED;
use crate::proxy::splice::{Carried, LARGE, Outlet, Pipeful};

/// The most pieces that leave in one write beside their framing.
const MOST_PIECES: usize = 16;
/// The most that is copied together of what is at hand, in bytes; more of it goes out beside its framing.
const MOST_TEXT: usize = 8 * 1024;

/// A message, and how far it is sent.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    /// The head, then whatever frames the body; what is written of it stays until all is.
    text: Text,
    /// Of the text and the pieces in it.
    written: usize,
    /// Large pieces of the body, each with its place in the text.
    pieces: Vec<(usize, Bytes)>,
    /// More of it behind all that, in a pipe.
    pipeful: Option<Pipeful>,
    size: Size,
    /// `None`: no more of it is wanted.
    body: Option<B>,
    length: BodyLength,
    announced: Announced,
    stage: Stage,
    accepted: Accepted,
    /// Whether bytes may wait in a TLS session.
    unflushed: bool,
}

/// How far a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The head waits one turn for the first bytes of the body.
    Held,
    /// Whatever there is of the body goes out as it comes.
    Open,
    /// All is at hand, and on its way.
    Last,
    /// It is gone.
    Sent,
}

/// Whether a body is worth a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// It is not, or nobody knows.
    Any,
    /// It is, by what its head says.
    Large,
}

/// Whether the system took any byte of a message: while it did not, nobody can have seen any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Not one byte: that is proved.
    Nothing,
    /// Some, perhaps all.
    Some,
}

/// When a head leaves whose body has not begun to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// At once.
    Leaves,
    /// A turn later: what has arrived behind it may not be decoded yet, and then both leave together.
    Waits,
}

/// Why a message cannot be sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The connection takes no more.
    Io,
    /// Its own body failed, or is not as long as its head says.
    Body,
}

impl<B> Outgoing<B> {
    /// Begins with another message, in place of one that is over. `text` is its whole head, which says that the body is of
    /// this `length`.
    pub(super) fn begin(
        &mut self,
        text: Text,
        body: B,
        length: BodyLength,
        announced: Announced,
        head: Head,
    ) {
        self.stage = match (length, head) {
            (BodyLength::Nothing | BodyLength::Exactly(0), _) => Stage::Last,
            (_, Head::Waits) => Stage::Held,
            (_, Head::Leaves) => Stage::Open,
        };
        self.size = match length {
            BodyLength::Exactly(LARGE..) => Size::Large,
            _ => Size::Any,
        };
        self.begin_anew(text);
        self.body = Some(body).filter(|_| self.stage != Stage::Last);
        (self.length, self.announced) = (length, announced);
    }

    /// As [`Outgoing::begin`], where `text` is the whole message.
    pub(super) fn begin_whole(&mut self, text: Text) {
        (self.stage, self.size) = (Stage::Last, Size::Any);
        self.begin_anew(text);
        (self.length, self.announced) = (BodyLength::Exactly(0), None);
    }

    fn begin_anew(&mut self, text: Text) {
        (self.text, self.written) = (text, 0);
        self.pieces.clear();
        self.pipeful = None;
        self.drop_body();
        (self.accepted, self.unflushed) = (Accepted::Nothing, false);
    }

    /// No message: it is as good as sent.
    pub(super) fn none() -> Outgoing<B> {
        Outgoing {
            text: Text::default(),
            written: 0,
            pieces: Vec::new(),
            pipeful: None,
            size: Size::Any,
            body: None,
            length: BodyLength::Nothing,
            announced: None,
            stage: Stage::Sent,
            accepted: Accepted::Nothing,
            unflushed: false,
        }
    }

    /// Whether all of it is gone.
    pub(super) fn is_sent(&self) -> bool {
        self.stage == Stage::Sent
    }

    /// Whether anybody can have seen a byte of it.
    pub(super) fn accepted(&self) -> Accepted {
        self.accepted
    }

    /// The memory of the head, when it is not needed any more.
    pub(super) fn take_text(&mut self) -> Text {
        self.written = 0;
        std::mem::take(&mut self.text)
    }

    /// Lets the body go: nobody wants the rest.
    pub(super) fn drop_body(&mut self) {
        // Mostly there is none any more, which takes a look and not a call.
        if self.body.is_some() {
            self.body = None;
        }
    }

    /// Whether more of the body is wanted now: while what waits is little, and goes out with it. Nothing is taken up behind
    /// what the connection does not take.
    fn asks(&self) -> bool {
        matches!(self.stage, Stage::Held | Stage::Open)
            && self.is_unbegun()
            && !self.large_waits()
            && self.text.len() <= COALESCED
    }

    /// Whether nothing of what waits is written.
    fn is_unbegun(&self) -> bool {
        self.written == 0 && !self.unflushed
    }

    fn length(&self) -> usize {
        self.text.len() + self.pieces.iter().map(|(_, piece)| piece.len()).sum::<usize>()
    }

    fn large_waits(&self) -> bool {
        !self.pieces.is_empty() || self.pipeful.is_some()
    }

    fn add_data(&mut self, data: Bytes) -> Result<(), Unsent> {
        let behind: &'static [u8] = match &mut self.length {
            BodyLength::Exactly(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Unsent::Body)?;
                b""
            }
            BodyLength::Chunked => {
                chunk_size(&mut self.text, &data);
                b"\r\n"
            }
            BodyLength::UntilClose => b"",
            // Said to have none: a byte more would be another message.
            BodyLength::Nothing => return Err(Unsent::Body),
        };
        if data.len() <= COALESCED && self.text.len() + data.len() <= MOST_TEXT {
            self.text.push(&data);
        } else {
            self.pieces.push((self.text.len(), data));
        }
        self.text.push(behind);
        Ok(())
    }

    fn add_pipeful(&mut self, pipeful: Pipeful) -> Result<(), Unsent> {
        self.stage = Stage::Open;
        if let BodyLength::Exactly(left) = &mut self.length {
            *left = left.checked_sub(pipeful.bytes()).ok_or(Unsent::Body)?;
        }
        self.pipeful = Some(pipeful);
        Ok(())
    }

    /// The body is over.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Unsent> {
        match self.length {
            BodyLength::Exactly(left) if left > 0 => return Err(Unsent::Body),
            BodyLength::Chunked => last_chunk(&mut self.text, trailers, &self.announced),
            BodyLength::Exactly(_) | BodyLength::Nothing | BodyLength::UntilClose => {}
        }
        self.stage = Stage::Last;
        Ok(())
    }

    /// Writes all that waits.
    pub(super) fn poll_out<W: Outlet>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.length() {
            self.written += ready!(self.poll_write(to, cx))?;
            (self.accepted, self.unflushed) = (Accepted::Some, true);
        }
        // Even an empty piece holds the memory that the next one is to be read into.
        self.pieces.clear();
        self.text.clear();
        self.written = 0;
        while let Some(pipeful) = &mut self.pipeful {
            if ready!(to.poll_drain(pipeful, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.accepted, self.unflushed) = (Accepted::Some, true);
            if pipeful.bytes() == 0 {
                self.pipeful = None;
            }
        }
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: Outlet>(&self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let text = self.text.as_bytes();
        let to = Pin::new(to);
        let wrote = if self.pieces.is_empty() {
            ready!(to.poll_write(cx, &text[self.written..]))?
        } else {
            let mut slices: SmallVec<[IoSlice<'_>; 2 * MOST_PIECES + 1]> = SmallVec::new();
            let mut written = self.written;
            let mut add = |part| {
                let part: &[u8] = part;
                let gone = written.min(part.len());
                written -= gone;
                if gone < part.len() {
                    slices.push(IoSlice::new(&part[gone..]));
                }
            };
            let mut from = 0;
            for (at, piece) in &self.pieces {
                add(&text[from..*at]);
                add(piece);
                from = *at;
            }
            add(&text[from..]);
            ready!(to.poll_write_vectored(cx, &slices))?
        };
        Poll::Ready(if wrote == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(wrote) })
    }
}

impl<B: Carried + Unpin> Outgoing<B> {
    /// Sends what can be sent. Ready when there is no more to do.
    pub(super) fn poll<W: Outlet>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            // What is at hand of the body goes out with what waits already.
            let mut more = true;
            while more && (self.asks() || self.gathers()) {
                more = match self.size {
                    Size::Large if to.takes_pipefuls() => self.poll_large(cx)?,
                    Size::Large | Size::Any => self.poll_more(cx)?,
                };
            }
            if !more && self.stage == Stage::Held {
                self.stage = Stage::Open;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if ready!(self.poll_out(to, cx)).is_err() {
                return Poll::Ready(Err(Unsent::Io));
            }
            match self.stage {
                Stage::Held | Stage::Open if more => {}
                Stage::Held | Stage::Open => return Poll::Pending,
                // A connection may wait long for its next message: it holds nothing of the last one's body.
                Stage::Last => {
                    self.stage = Stage::Sent;
                    self.drop_body();
                    if self.pieces.capacity() > 0 {
                        self.pieces = Vec::new();
                    }
                    return Poll::Ready(Ok(()));
                }
                Stage::Sent => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Whether what is at hand of the body goes out with what waits: pieces that were read together, as chunks often are.
    /// Memory that they lie in is not read into meanwhile.
    fn gathers(&self) -> bool {
        self.stage == Stage::Open
            && self.is_unbegun()
            && self.pipeful.is_none()
            && self.pieces.len() < MOST_PIECES
            && self.text.len() <= MOST_TEXT
            && self.body.as_ref().is_some_and(Carried::is_at_hand)
    }

    /// Takes up what is next of a large body. `false`: there is nothing yet.
    fn poll_large(&mut self, cx: &mut Context<'_>) -> Result<bool, Unsent> {
        let Some(body) = &mut self.body else { return self.poll_more(cx) };
        match body.poll_pipeful(cx) {
            Poll::Ready(Ok(Some(pipeful))) => {
                self.add_pipeful(pipeful)?;
                self.end_with_body().map(|()| true)
            }
            Poll::Ready(Ok(None)) => self.poll_more(cx),
            Poll::Ready(Err(_)) => Err(Unsent::Body),
            Poll::Pending => Ok(false),
        }
    }

    /// Takes up one more frame of the body. `false`: there is none yet.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Result<bool, Unsent> {
        let Some(body) = &mut self.body else { return self.end(None).map(|()| true) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => self.add(frame).map(|()| true),
            Poll::Ready(Some(Err(_))) => Err(Unsent::Body),
            Poll::Ready(None) => self.end(None).map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn add(&mut self, frame: Frame<Bytes>) -> Result<(), Unsent> {
        self.stage = Stage::Open;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.trailers_ref()),
        };
        if !data.is_empty() {
            self.add_data(data)?;
        }
        self.end_with_body()
    }

    /// Ends the message if its body is over.
    fn end_with_body(&mut self) -> Result<(), Unsent> {
        if self.body.as_ref().is_none_or(http_body::Body::is_end_stream) {
            self.end(None)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use tokio::io::AsyncWrite;

    use super::*;

    /// A body that was read in pieces: each inner list is what one read gave.
    struct Read(VecDeque<VecDeque<Bytes>>);

    impl http_body::Body for Read {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.front_mut().map(VecDeque::pop_front) {
                Some(Some(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(None) => {
                    self.0.pop_front();
                    if self.0.is_empty() { Poll::Ready(None) } else { Poll::Pending }
                }
                None => Poll::Ready(None),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.iter().all(VecDeque::is_empty)
        }
    }

    impl Carried for Read {
        fn is_at_hand(&self) -> bool {
            self.0.front().is_some_and(|read| !read.is_empty())
        }

        fn poll_pipeful(
            &mut self,
            _: &mut Context<'_>,
        ) -> Poll<Result<Option<Pipeful>, Infallible>> {
            Poll::Ready(Ok(None))
        }
    }

    /// Takes so many bytes at once, and knows each write.
    struct Taking(usize, Vec<Vec<u8>>);

    impl AsyncWrite for Taking {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let some = bytes.len().min(self.0);
            self.1.push(bytes[..some].to_vec());
            Poll::Ready(Ok(some))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_write(cx, &slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Outlet for Taking {
        fn takes_pipefuls(&self) -> bool {
            false
        }

        fn poll_drain(&mut self, _: &mut Pipeful, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(0))
        }
    }

    fn chunked(reads: &[&[usize]]) -> Outgoing<Read> {
        let mut head = Text::default();
        head.push(b"HEAD\r\n\r\n");
        let piece = |size: &usize| Bytes::from(vec![b'a' + (size % 23).to_le_bytes()[0]; *size]);
        let body = Read(reads.iter().map(|read| read.iter().map(piece).collect()).collect());
        let mut out = Outgoing::none();
        out.begin(head, body, BodyLength::Chunked, None, Head::Leaves);
        out
    }

    /// Sends as often as there is something; the writes of each turn.
    fn turns(mut out: Outgoing<Read>, takes: usize) -> Vec<Vec<Vec<u8>>> {
        let (mut cx, mut turns) = (Context::from_waker(std::task::Waker::noop()), Vec::new());
        loop {
            let mut to = Taking(takes, Vec::new());
            let sent = out.poll(&mut to, &mut cx);
            turns.push(to.1);
            if let Poll::Ready(sent) = sent {
                sent.unwrap();
                return turns;
            }
        }
    }

    #[test]
    fn chunks_that_were_read_together_leave_in_one_write() {
        let turns = turns(chunked(&[&[10_000, 20_000, 5_000, 30], &[6_000, 7]]), usize::MAX);
        let writes: Vec<usize> = turns.iter().map(Vec::len).collect();
        assert_eq!(writes, [1, 1]);
        let first = turns[0][0].strip_prefix(b"HEAD\r\n\r\n2710\r\n").unwrap();
        assert!(first[10_000..].starts_with(b"\r\n4e20\r\n"));
        assert!(turns[1][0].ends_with(b"\r\n0\r\n\r\n"));
    }

    #[test]
    fn what_is_here_never_waits_for_what_is_not() {
        let turns = turns(chunked(&[&[40], &[9_000], &[40]]), usize::MAX);
        let writes: Vec<usize> = turns.iter().map(Vec::len).collect();
        assert_eq!(writes, [1, 1, 1]);
    }

    #[test]
    fn one_write_takes_so_much_and_not_more() {
        let turns = turns(chunked(&[&[5_000; 50]]), usize::MAX);
        assert_eq!(turns.concat().len(), 50_usize.div_ceil(MOST_PIECES));
        let small = self::turns(chunked(&[&[1_000; 100]]), usize::MAX);
        let most = MOST_TEXT + (MOST_PIECES + 1) * COALESCED;
        assert!(small.concat().iter().all(|write| write.len() < most));
    }

    #[test]
    fn any_split_of_the_writes_gives_the_same_bytes() {
        let reads: &[&[usize]] = &[&[10_000, 3, 4_096, 4_097], &[1], &[8_000, 8_000]];
        let whole = turns(chunked(reads), usize::MAX).concat().concat();
        for takes in [1, 2, 7, 4_095, 4_096, 9_999, 10_009, 14_000] {
            assert!(turns(chunked(reads), takes).concat().concat() == whole, "{takes} at once");
        }
    }
}
