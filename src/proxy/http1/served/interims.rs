//! What an upstream says before its answer (RFC 9110 §15.2), on its way to the client.

use std::rc::Rc;

use super::client::Client;
use crate::proxy::answer::Head;

/// Where interim answers to a client's request go.
#[derive(Debug)]
pub struct Interims(Rc<Client>);

impl Interims {
    pub(super) fn new(client: &Rc<Client>) -> Interims {
        Interims(Rc::clone(client))
    }

    /// Passes an interim answer on, unless the client does not know what that is, or does not take up those before it. It
    /// leaves when the connection's task has its turn: at once, or with the final one where a task of its own waits for that.
    pub(in crate::proxy::http1) fn say(&self, head: &Head) {
        self.0.say(head);
    }
}
