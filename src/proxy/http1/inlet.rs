//! What is read from a connection, on either side, and belongs to nobody yet. Memory is taken when something comes and given
//! back when nothing is unread: who only waits holds none, and a worker's connections read into the same few pieces.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::stock::{ROOM, Stock};
use crate::proxy::io::Stream;
use crate::proxy::splice::Pipeful;
use crate::proxy::upstream::BUFFER;

/// What was read and belongs to nobody yet.
#[derive(Debug)]
pub(super) struct Inlet {
    /// The unread bytes.
    pub(super) unread: BytesMut,
    /// How much is read at once, in bytes: more when a body proves to be large.
    room: usize,
    /// Where its memory comes from.
    pub(super) stock: Rc<Stock>,
}

impl Inlet {
    /// Nothing, and no memory.
    pub(super) fn new(stock: Rc<Stock>) -> Inlet {
        Inlet { unread: BytesMut::new(), room: ROOM, stock }
    }

    /// Reads once behind what is unread, at most about `room` bytes; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        match stream.poll_readable(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            // Nearly every second look is in vain, and takes no memory: 350 instructions a request.
            Poll::Pending => {
                self.wait();
                return Poll::Pending;
            }
        }
        // A large body reads into its own memory once more, as soon as its last piece is gone.
        if self.unread.capacity() == 0 && self.room <= ROOM {
            self.unread = self.stock.room();
        }
        if self.unread.capacity() - self.unread.len() < room / 2 {
            self.unread.reserve(room);
            self.room = self.room.max(room);
        }
        let spare = self.unread.capacity() - self.unread.len();
        let read = stream.poll_read_behind(&mut self.unread, cx);
        match &read {
            Poll::Ready(Ok(read)) if *read == spare => self.room = BUFFER,
            Poll::Ready(_) => {}
            Poll::Pending => self.wait(),
        }
        read
    }

    /// Gives the memory back while nothing comes. A large body has its own until its end.
    fn wait(&mut self) {
        if self.room <= ROOM && self.unread.capacity() > 0 {
            self.rest();
        }
    }

    /// The next bytes of a body of which `left` bytes are to come, in a pipe, without a byte at the stream's end; `None` where
    /// they have to be read.
    pub(super) fn poll_pipeful(
        &mut self,
        stream: &Stream,
        cx: &mut Context<'_>,
        left: u64,
    ) -> Poll<io::Result<Option<Pipeful>>> {
        match stream.bare() {
            Some(tcp) if self.unread.is_empty() => {
                if self.unread.capacity() > 0 {
                    self.rest();
                }
                self.stock.pipes().poll_fill(tcp, left, cx)
            }
            Some(_) | None => Poll::Ready(Ok(None)),
        }
    }

    /// How much is read at once for a body of which `left` bytes are to come, as far as that is known.
    pub(super) fn room_for(&self, left: Option<u64>) -> usize {
        let known = left.map(|left| usize::try_from(left).unwrap_or(BUFFER).min(BUFFER));
        known.unwrap_or(self.room)
    }

    /// Gives the memory back where nothing is unread.
    pub(super) fn rest(&mut self) {
        if !self.unread.is_empty() {
            return;
        }
        let room = std::mem::take(&mut self.unread);
        // Large ones are rare, and would make the stock large.
        if self.room <= ROOM {
            self.stock.put_room(room);
        }
        self.room = ROOM;
    }
}
