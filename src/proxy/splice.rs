//! Large bodies pass from socket to socket inside the kernel, by way of a pipe (splice(2)): nobody here looks at them, so
//! nobody here copies them. Measured on loopback: less than half of the CPU a mebibyte that two copies through our memory
//! take. Whatever it lacks (descriptors, pipe memory, the system call) makes a body be copied as any other, never fail.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

/// Bodies of at least so many bytes go through a pipe: of 64 KiB they take a quarter less CPU by it, of 16 KiB nothing that
/// could be measured.
pub(crate) const LARGE: u64 = 64 * 1024;
/// How much a pipe holds, in bytes, if every page in it is full. A quarter of it, which is what a pipe is born with, takes
/// half as much CPU again; four times as much gains nothing for bodies of a mebibyte.
const SIZE: usize = 256 * 1024;
/// The most pipes of one worker that hold bytes at the same time, because those whom they are for do not read: two
/// descriptors and [`SIZE`] of the kernel's memory each. Beyond them bodies are copied.
const MOST: usize = 64;
/// The most empty pipes that a worker keeps.
const MOST_KEPT: usize = 16;
/// After one was not to be had, so many pieces are copied before another is tried for.
const REFRAINED: u32 = 1024;

/// A worker's pipes. Only empty ones are kept.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    kept: RefCell<Vec<Pipe>>,
    /// Pipes that somebody has.
    lent: Cell<usize>,
    refrains: Cell<u32>,
}

#[derive(Debug)]
struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
}

/// A pipe and how many bytes are in it. Emptied, it goes back to its worker; dropped with bytes in it, it is closed.
#[derive(Debug)]
pub(crate) struct Pipeful {
    /// `None` only while it is dropped.
    pipe: Option<Pipe>,
    bytes: usize,
    home: Rc<Pipes>,
}

/// A body that is carried from one connection to another.
pub(crate) trait Carried: http_body::Body<Data = Bytes> {
    /// Whether its next frame is here: was read together with the last one.
    fn is_at_hand(&self) -> bool;

    /// The next bytes in a pipe, at least one; `None` where what is next has to be asked for as a frame.
    fn poll_pipeful(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Pipeful>, Self::Error>>;
}

/// Where messages are written.
pub(crate) trait Outlet: AsyncWrite + Unpin {
    /// Whether bytes may be moved there from a pipe as they are.
    fn takes_pipefuls(&self) -> bool;

    /// Moves what it takes of these bytes there; how many that were.
    fn poll_drain(
        &mut self,
        pipeful: &mut Pipeful,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;
}

impl Pipe {
    fn open() -> Result<Pipe, Errno> {
        let (exit, entry) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&entry, SIZE)?;
        Ok(Pipe { exit, entry })
    }
}

impl Pipes {
    /// An empty pipe; `None` where there is none to be had.
    fn take(self: &Rc<Pipes>) -> Option<Pipeful> {
        if self.lent.get() >= MOST {
            return None;
        }
        let kept = self.kept.borrow_mut().pop();
        let pipe = kept.or_else(|| Pipe::open().inspect_err(|_| self.refrain()).ok())?;
        self.lent.set(self.lent.get() + 1);
        Some(Pipeful { pipe: Some(pipe), bytes: 0, home: Rc::clone(self) })
    }

    fn refrain(&self) {
        self.refrains.set(REFRAINED);
    }

    /// Whether bytes are copied for a while.
    fn refrains(&self) -> bool {
        let left = self.refrains.get();
        self.refrains.set(left.saturating_sub(1));
        left > 0
    }

    /// What has arrived at `from`, at most `most` bytes; without a byte at its end. `None` where it has to be read.
    pub(crate) fn poll_fill(
        self: &Rc<Pipes>,
        from: &TcpStream,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Pipeful>>> {
        if self.refrains() {
            return Poll::Ready(Ok(None));
        }
        let most = usize::try_from(most).unwrap_or(SIZE).min(SIZE);
        loop {
            // Before a pipe is taken: who waits for a slow sender holds none.
            ready!(from.poll_read_ready(cx))?;
            let Some(mut into) = self.take() else { return Poll::Ready(Ok(None)) };
            // The pipe is empty: would it block, it is for the socket.
            match from.try_io(Interest::READABLE, || into.fill(from, most)) {
                Ok(()) => return Poll::Ready(Ok(Some(into))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_impossible(&error) => {
                    self.refrain();
                    return Poll::Ready(Ok(None));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Whether the system does not do this, rather than the connection: a kernel without it, a filter of system calls.
fn is_impossible(error: &io::Error) -> bool {
    const IMPOSSIBLE: [Errno; 4] = [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP];
    Errno::from_io_error(error).is_some_and(|error| IMPOSSIBLE.contains(&error))
}

impl Pipeful {
    /// How many bytes are in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<()> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        self.bytes = splice(from, None, &pipe.entry, None, most, flags())?;
        Ok(())
    }

    /// Moves what `to` takes of it there; how many bytes that were.
    pub(crate) fn poll_drain(
        &mut self,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let drain = || Ok(splice(&pipe.exit, None, to, None, self.bytes, flags())?);
            match to.try_io(Interest::WRITABLE, drain) {
                Ok(moved) => {
                    self.bytes -= moved.min(self.bytes);
                    return Poll::Ready(Ok(moved));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

impl Drop for Pipeful {
    fn drop(&mut self) {
        self.home.lent.set(self.home.lent.get().saturating_sub(1));
        let mut kept = self.home.kept.borrow_mut();
        // What is left in a pipe would come out in the middle of somebody else's body.
        if self.bytes == 0 && kept.len() < MOST_KEPT {
            kept.extend(self.pipe.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (here, there) = tokio::join!(connecting, listener.accept());
        (here.unwrap(), there.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_filled_in_comes_out_and_no_more_than_was_asked_for() {
        let pipes = Rc::new(Pipes::default());
        let ((mut sender, from), (to, mut reader)) = (pair().await, pair().await);
        sender.write_all(b"body, and the next request").await.unwrap();
        let filled = poll_fn(|cx| pipes.poll_fill(&from, 4, cx)).await.unwrap();
        let mut filled = filled.expect("a pipe");
        assert_eq!(filled.bytes(), 4);
        assert_eq!(poll_fn(|cx| filled.poll_drain(&to, cx)).await.unwrap(), 4);
        assert_eq!(filled.bytes(), 0);
        drop((filled, to));
        let mut seen = String::new();
        reader.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "body");
        drop(sender);
        let mut rest = vec![0; 100];
        let read = from.try_read(&mut rest).unwrap();
        assert_eq!(rest[..read], *b", and the next request");
        let end = poll_fn(|cx| pipes.poll_fill(&from, 4, cx)).await.unwrap();
        assert_eq!(end.expect("a pipe").bytes(), 0, "the end");
    }

    #[tokio::test]
    async fn only_an_emptied_pipe_is_used_again() {
        let pipes = Rc::new(Pipes::default());
        let (mut sender, from) = pair().await;
        sender.write_all(b"left behind").await.unwrap();
        let filled = poll_fn(|cx| pipes.poll_fill(&from, 100, cx)).await.unwrap().expect("a pipe");
        assert_eq!((pipes.lent.get(), filled.bytes()), (1, 11));
        drop(filled);
        assert_eq!((pipes.lent.get(), pipes.kept.borrow().len()), (0, 0));
        drop(pipes.take());
        assert_eq!((pipes.lent.get(), pipes.kept.borrow().len()), (0, 1));
    }

    #[tokio::test]
    async fn who_waits_for_a_slow_sender_holds_no_pipe() {
        let pipes = Rc::new(Pipes::default());
        let (_sender, from) = pair().await;
        let waits = poll_fn(|cx| Poll::Ready(pipes.poll_fill(&from, 100, cx).is_pending())).await;
        assert!(waits);
        assert_eq!(pipes.lent.get(), 0);
    }

    #[tokio::test]
    async fn there_are_so_many_pipes_and_no_more_and_bytes_are_copied_where_there_is_none() {
        let pipes = Rc::new(Pipes::default());
        let (mut sender, from) = pair().await;
        sender.write_all(b"x").await.unwrap();
        let taken: Vec<_> = (0..MOST).map(|_| pipes.take().expect("one of the many")).collect();
        assert!(poll_fn(|cx| pipes.poll_fill(&from, 1, cx)).await.unwrap().is_none());
        drop(taken);
        assert_eq!(pipes.kept.borrow().len(), MOST_KEPT);
        pipes.refrain();
        for _ in 0..REFRAINED {
            assert!(poll_fn(|cx| pipes.poll_fill(&from, 1, cx)).await.unwrap().is_none());
        }
        assert!(poll_fn(|cx| pipes.poll_fill(&from, 1, cx)).await.unwrap().is_some());
    }
}
