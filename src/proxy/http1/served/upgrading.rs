//! A client's connection on its way out of HTTP: whoever will carry its bytes waits here until the 101 is written.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::super::answer::Switched;
use super::client::Client;

/// What a client's connection will be behind the 101 of its request. Fails where there is none.
#[derive(Debug)]
pub struct Upgrading(Rc<Client>);

impl Upgrading {
    pub(super) fn new(client: &Rc<Client>) -> Upgrading {
        Upgrading(Rc::clone(client))
    }
}

impl Future for Upgrading {
    type Output = io::Result<Switched>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_over(cx).map(|left| {
            let (stream, unread) = left.ok_or(io::ErrorKind::NotConnected)?;
            Ok(Switched::new(stream, unread))
        })
    }
}
