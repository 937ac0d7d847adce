//! The access record: one line of JSON for each request, with every input of its decision, in a versioned form
//! (`"v":1`). Never: a query, a body, a credential, or a wait for whoever reads the records.

mod buffer;
mod limits;
mod phrase;
mod remembered;
mod writer;

use crate::clock::Wall;
use crate::policy::money::Money;
use crate::policy::refusal::Refusal;

use super::decision_id::{DecisionId, RequestId};
use super::json::{Object, count, inside, string};
use super::metrics::{IdempotencyOutcome, Outcome};
use remembered::{Because, Beginning, CameOut};

pub use buffer::RecordBuffer;
pub use limits::{LimitPhrase, LimitsMember};
pub use phrase::{Caller, Origin, write_host, write_method, write_path};
pub use writer::RecordWriter;

/// The version of the record's form. Fields may be added under one version; none changes its meaning.
pub const VERSION: u8 = 1;

/// What is written when a request was decided: every input of the decision. The policy it was made under is at hand
/// then, and need not be kept for the rest of the exchange.
#[derive(Clone, Debug)]
pub struct Opening<'a> {
    /// When its head was complete.
    pub time: Wall,
    /// Its name.
    pub id: DecisionId,
    /// Where it came from, and who asked for what.
    pub place: Place<'a>,
    /// What each limit that was asked said: a [`LimitsMember`], rendered.
    pub limits: &'a [u8],
    /// What `mode: shadow` rules would have refused.
    pub shadow: &'a [Refusal],
    /// The id that is returned and forwarded.
    pub request_id: ShownId<'a>,
    /// The request headers that the policy names, by lower-case name.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Where a request came from, and who asked for what.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Rendered: what [`Place::Parts`] says, with its path as [`write_path`] has it.
    Whole(&'a [u8]),
    /// In parts, of which the path is not rendered yet.
    Parts {
        /// An [`Origin`] with the method behind it, rendered.
        origin: &'a [u8],
        /// The path without its query.
        path: &'a str,
        /// The host with a [`Caller`] behind it, rendered.
        caller: &'a [u8],
    },
}

/// Whose words the id of a request is.
#[derive(Clone, Copy, Debug)]
pub enum ShownId<'a> {
    /// The gate's own.
    Made(&'a RequestId),
    /// Somebody else's.
    Given(&'a [u8]),
}

/// What is written when the exchange is over. Times are nanoseconds here and whole microseconds in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// How it ended.
    pub outcome: Outcome,
    /// The status that was sent; 499 where the client left before there was one.
    pub status: u16,
    /// The status that the upstream sent.
    pub upstream_status: Option<u16>,
    /// Bytes of the request's body that were read.
    pub request_bytes: u64,
    /// Bytes of the answer's body that were sent.
    pub response_bytes: u64,
    /// From the head of the request to the first byte towards the upstream, or to the refusal.
    pub gate_nanos: u64,
    /// Time to the head of the upstream's answer.
    pub upstream_nanos: Option<u64>,
    /// From the head of the request to the end of the exchange.
    pub total_nanos: u64,
    /// What became of the answer's body.
    pub end: End,
    /// What its idempotency key came to, on routes to which keys mean something.
    pub idempotency: Option<IdempotencyOutcome>,
    /// What was reserved of money for it.
    pub cost: Option<Money>,
    /// What of that was charged in the end.
    pub charged: Option<Money>,
}

/// What became of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was sent whole.
    Clean,
    /// The upstream broke it off, or fell silent.
    Broke,
    /// The client left before its end.
    ClientLeft,
    /// The gate cut it: its key, tenant or address was no longer admitted.
    Cut,
}

impl End {
    /// The last member of a record, and the end of its line.
    const fn finish(self) -> &'static [u8] {
        match self {
            End::Clean => b",\"end\":\"clean\"}\n",
            End::Broke => b",\"end\":\"broke\"}\n",
            End::ClientLeft => b",\"end\":\"client_left\"}\n",
            End::Cut => b",\"end\":\"cut\"}\n",
        }
    }
}

/// One record under construction: opened when its request is decided, closed when the exchange is over.
#[derive(Debug, Default)]
pub struct Draft {
    /// `None`: nobody will read it (`record: { to: none }`), and nothing is written at all. Boxed, so that a draft goes from
    /// hand to hand in a register: a length that was just written, moved in a larger piece, waits until all that was written
    /// before it has left for the caches (3 % of the gate's own time).
    line: Option<Box<Line>>,
}

/// The text of a record, as far as it is known.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalLine<'a> {
    /// The reason.
    pub why: Refusal,
    /// The limit that refused.
    pub limit: Option<&'a str>,
    /// What exactly was wrong; never the caller's text.
    pub detail: &'static str,
}

/// Headers whose values are secrets by their nature. They are not written even where they are named.
const SECRET_HEADERS: [&str; 7] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
];

impl Draft {
    /// Whether anyone will read it.
    pub fn is_wanted(&self) -> bool {
        self.line.is_some()
    }

    /// An empty one that somebody will read.
    fn wanted(room: usize) -> Draft {
        Draft { line: Some(Box::new(Line(Vec::with_capacity(room)))) }
    }

    /// Writes what the decision was made of. To be called once, first.
    fn open(&mut self, beginning: &mut Beginning, opening: &Opening<'_>) {
        let Some(line) = &mut self.line else { return };
        let out = &mut line.0;
        // Every request writes these: whole pieces, each with the quotes of its neighbours.
        out.extend_from_slice(beginning.of(opening.time, opening.id));
        match opening.place {
            Place::Whole(text) => out.extend_from_slice(text),
            Place::Parts { origin, path, caller } => {
                out.extend_from_slice(origin);
                write_path(out, path);
                out.extend_from_slice(caller);
            }
        }
        out.extend_from_slice(opening.limits);
        opening.finish(out);
    }

    /// Writes why the request was refused. After [`Draft::open`], at most once.
    fn refuse(&mut self, because: &mut Because, refusal: &RefusalLine<'_>) {
        let Some(line) = &mut self.line else { return };
        let out = &mut line.0;
        let before = out.len();
        out.extend_from_slice(because.of(refusal));
        if let (0, Some(first)) = (before, out.first_mut()) {
            *first = b'{';
        }
    }

    /// Writes how it ended, and ends the line.
    fn close(&mut self, came_out: &mut CameOut, closing: &Closing) {
        let Some(line) = &mut self.line else { return };
        let out = &mut line.0;
        let before = out.len();
        out.extend_from_slice(came_out.of(closing));
        if let (0, Some(first)) = (before, out.first_mut()) {
            *first = b'{';
        }
        count(out, closing.gate_nanos / 1000);
        if let Some(nanos) = closing.upstream_nanos {
            out.extend_from_slice(b",\"upstream_us\":");
            count(out, nanos / 1000);
        }
        out.extend_from_slice(b",\"total_us\":");
        count(out, closing.total_nanos / 1000);
        if let Some(outcome) = closing.idempotency {
            out.extend_from_slice(b",\"idempotency\":\"");
            out.extend_from_slice(outcome.name().as_bytes());
            out.push(b'"');
        }
        money_if(out, b",\"cost\":\"", closing.cost);
        money_if(out, b",\"charged\":\"", closing.charged);
        out.extend_from_slice(closing.end.finish());
    }
}

/// Writes a member, whose name comes with what stands around it, as decimal text, if there is an amount.
fn money_if(out: &mut Vec<u8>, name: &[u8], amount: Option<Money>) {
    if let Some(amount) = amount {
        out.extend_from_slice(name);
        amount.write(out);
        out.push(b'"');
    }
}

impl Opening<'_> {
    /// What most requests have little of.
    fn finish(&self, out: &mut Vec<u8>) {
        if !self.shadow.is_empty() {
            out.extend_from_slice(b",\"shadow\":");
            for (at, refusal) in self.shadow.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                string(out, refusal.name().as_bytes());
            }
            out.push(b']');
        }
        out.extend_from_slice(b",\"request_id\":\"");
        match self.request_id {
            // Digits, which need no look: 100 instructions.
            ShownId::Made(id) => out.extend_from_slice(id.as_bytes()),
            ShownId::Given(id) => inside(out, id),
        }
        out.push(b'"');
        if !self.headers.is_empty() {
            out.extend_from_slice(b",\"headers\":");
            let mut headers = Object::begin(out);
            for (name, value) in self.headers {
                let secret = SECRET_HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name));
                let value: &[u8] = if secret { b"[secret]" } else { value };
                string(headers.foreign_member(name), value);
            }
            headers.end();
        }
    }
}

#[cfg(test)]
mod tests;
