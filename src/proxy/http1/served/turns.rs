//! A connection of a client, request by request: reads a head, has it handled, sends the answer, and begins again. One
//! future, without a task, a channel or a timer for a request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Method, Version};
use http_body::Body as _;

use super::super::framing::{Asked, BodyLength};
use super::super::outgoing::{Head, Outgoing, Unsent};
use super::super::stock::{ROOM, Stock};
use super::super::text::Text;
use super::answer::{self, Asker, Then, Written};
use super::arriving::Arriving;
use super::client::{CONTINUE, Client, Hears, Reading, Writes};
use super::date::Today;
use super::head::{After, BadHead, Expects, FieldLines, Found, HeadBounds, HeadReader, Hop, Lines};
use crate::policy::fields::Fields;
use crate::policy::head::Unchecked;
use crate::policy::snapshot::Bounds;
use crate::proxy::answer::Answer;
use crate::proxy::body::{Body, BodyEnd, OnEnd};
use crate::proxy::client_body::ClientBody;
use crate::proxy::drain::DrainPhase;
use crate::proxy::io::{COALESCED, Stream};
use crate::proxy::peer::{AtHand, Coming, Handler};
use crate::proxy::serving::Serving;
use crate::proxy::watch::{Awaits, Sight};

/// How HTTP ended on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Ended {
    /// As it should, between two requests or behind the last answer.
    Done,
    /// The client has left, or ended its side: there is nobody to tell.
    Gone,
    /// By a head that is none; the status that says so.
    Unreadable(u16),
    /// An answer broke off, and its length shows it.
    Broken,
    /// An answer broke off whose end is the connection's.
    BrokenOpen,
    /// With a 101.
    Switched,
}

/// What a worker gives its connections.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Memory for heads and for reading.
    pub(crate) stock: Rc<Stock>,
    /// The time in words.
    pub(crate) today: Rc<Today>,
}

/// A connection on which HTTP/1 is spoken.
pub(in crate::proxy) struct Served<H: Handler> {
    serving: Serving<H>,
    terms: Terms,
    client: Rc<Client>,
    heads: HeadReader,
    requests: u64,
    asker: Asker,
    /// What follows the newest answer.
    then: Then,
    turn: Turn<H::End>,
    /// The newest answer, for as long as its turn lasts. Beside the turn, which stays small to move: 500 instructions a
    /// request.
    out: Outgoing<Body<H::End>>,
}

/// What a turn leads to: to the next, which stands in the connection then, or to the end of HTTP. Handed on from here to
/// there, a turn is written in pieces and read at once in larger ones, which costs more than to ask whose it is.
type Step = Result<(), Ended>;

/// Whose turn it is.
enum Turn<E: OnEnd> {
    /// The client's: to send a head, behind what is left of a body that nobody wants.
    Asking,
    /// The handler's.
    Handling(Coming<E>),
    /// The answer is on its way.
    Answering,
    /// The answer breaks off; what was taken up of it before goes out.
    Breaking,
    /// The answer is out, and somebody still reads the body.
    Reading,
}

impl<H: Handler> Served<H> {
    /// Begins on a connection of which nothing was read.
    pub(in crate::proxy) fn new(
        serving: Serving<H>,
        stream: Stream,
        bounds: &Bounds,
        terms: Terms,
    ) -> Served<H> {
        Served {
            serving,
            client: Client::new(stream, Rc::clone(&terms.stock)),
            terms,
            heads: HeadReader::new(HeadBounds { bytes: bounds.head, fields: bounds.fields }),
            requests: 0,
            asker: Asker::NOBODY,
            then: Then::Asks,
            turn: Turn::Asking,
            out: Outgoing::none(),
        }
    }

    /// What the connection's deadlines must know.
    pub(in crate::proxy) fn sight(&self) -> Sight {
        let io = self.client.io.borrow();
        let (open, of_head) = match self.turn {
            Turn::Asking => (false, io.holds_bytes()),
            Turn::Handling(_) | Turn::Answering | Turn::Breaking => (true, false),
            Turn::Reading => (false, false),
        };
        let awaits = match self.requests {
            _ if of_head => Awaits::RestOfHead,
            0 => Awaits::FirstRequest,
            _ => Awaits::Nothing,
        };
        Sight {
            awaits,
            open,
            // A body on its way in is as good as another request.
            requests: if matches!(self.turn, Turn::Reading) { io.moved } else { self.requests },
            moved: io.moved,
            write_waits: io.held_up,
            all_held_up: false,
            frames: 0,
        }
    }

    /// The stream, to close it by hand.
    pub(in crate::proxy) fn into_stream(self) -> Option<Stream> {
        self.client.leave().map(|(stream, _)| stream)
    }

    /// Ready when HTTP is over on this connection.
    pub(in crate::proxy) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let next = match &mut self.turn {
                Turn::Asking => self.poll_asking(cx),
                Turn::Handling(coming) => {
                    // Into its place from within: on the way out it would be moved twice.
                    let mut answer = AtHand::Nothing;
                    poll_handler(&self.serving, coming, &mut answer, cx);
                    if let AtHand::Nothing = answer {
                        self.poll_ahead(cx)
                    } else {
                        self.answer(&mut answer);
                        Poll::Ready(Ok(()))
                    }
                }
                Turn::Answering => match self.out.poll(&mut Writes(&self.client), cx) {
                    Poll::Ready(Ok(())) => {
                        self.terms.stock.put_text(self.out.take_text());
                        Poll::Ready(self.answered())
                    }
                    Poll::Ready(Err(Unsent::Io)) => Poll::Ready(Err(Ended::Gone)),
                    Poll::Ready(Err(Unsent::Body)) => {
                        self.out.drop_body();
                        self.turn = Turn::Breaking;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Pending => self.poll_leaving(cx),
                },
                Turn::Breaking => self.out.poll_out(&mut Writes(&self.client), cx).map(|out| {
                    Err(match (out, self.asker.version) {
                        (Err(_), _) => Ended::Gone,
                        (Ok(()), Version::HTTP_10) => Ended::BrokenOpen,
                        (Ok(()), _) => Ended::Broken,
                    })
                }),
                Turn::Reading => match self.client.reading(cx) {
                    Reading::Unasked | Reading::Asked => Poll::Pending,
                    Reading::Over | Reading::Unwanted | Reading::GivenUp => {
                        Poll::Ready(self.answered())
                    }
                },
            };
            match next {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads a head, and has it handled.
    fn poll_asking(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let client = Rc::clone(&self.client);
        let mut io = client.io.borrow_mut();
        if client.reading.get() == Reading::Unwanted {
            match io.poll_discard(cx) {
                Poll::Ready(None) => client.reading.set(Reading::Over),
                Poll::Ready(Some(_)) => return Poll::Ready(Err(Ended::Gone)),
                Poll::Pending if self.is_closing() => return Poll::Ready(Err(Ended::Done)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let mut lines = Lines::new();
        loop {
            match self.heads.read(io.unread(), &mut lines) {
                Ok(Some(found)) => {
                    drop(io);
                    let asked = self.ask(&found, &lines);
                    return Poll::Ready(asked.map_err(|bad| Ended::Unreadable(bad.status())));
                }
                Ok(None) => {}
                Err(bad) => return Poll::Ready(Err(Ended::Unreadable(bad.status()))),
            }
            match io.poll_read(cx, ROOM) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(Ended::Gone)),
                // Only now: a request that had arrived is being answered, and says that it is the last.
                Poll::Pending if io.unread().is_empty() && self.is_closing() => {
                    return Poll::Ready(Err(Ended::Done));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.serving.drain.phase() == DrainPhase::Closing
    }

    /// Has a request handled that was read.
    fn ask(&mut self, found: &Found, lines: &Lines) -> Result<(), BadHead> {
        let unread = self.client.io.borrow_mut().lend();
        let asked = self.ask_of(&unread, found, lines);
        self.client.io.borrow_mut().give_back(unread, found.bytes);
        asked
    }

    fn ask_of(&mut self, unread: &[u8], found: &Found, lines: &Lines) -> Result<(), BadHead> {
        let (head, behind) = unread.split_at(found.bytes);
        let (line, Hop { length, after, expects, trailers }) = (&found.line, found.hop);
        let target = self.heads.target(found, head);
        let mut at_hand = AtHand::Nothing;
        let later = {
            // Filled where it stands: collected, a kilobyte would be moved.
            let mut fields = FieldLines::new();
            self.heads.fields(found, head, lines, &mut fields);
            let unchecked = Unchecked {
                method: &line.method,
                target: target.ok_or(BadHead::Malformed)?,
                version: line.version,
                fields: Fields(&fields),
                mark: found.mark,
            };
            self.requests += 1;
            self.asker = Asker {
                version: line.version,
                asked: if line.method == Method::HEAD { Asked::FieldsAlone } else { Asked::Whole },
                after,
                trailers,
            };
            // A client whose body is here already waits for nothing.
            let waits = expects == Expects::Continue && behind.is_empty();
            let hears =
                if line.version == Version::HTTP_10 { Hears::Nothing } else { Hears::Interims };
            self.client.begin_body(length, if waits { CONTINUE } else { b"" }, hears);
            let body = ClientBody::http1(Arriving::new(&self.client));
            self.serving.handle(&unchecked, body, &mut at_hand)
        };
        match later {
            Some(coming) => self.turn = Turn::Handling(coming),
            None => self.answer(&mut at_hand),
        }
        Ok(())
    }

    /// Begins an answer that is at hand.
    fn answer(&mut self, at_hand: &mut AtHand<H::End>) {
        let mut io = self.client.io.borrow_mut();
        let ends = match self.client.reading.get() {
            Reading::Over | Reading::Unasked | Reading::Asked => false,
            Reading::Unwanted => !io.rest_is_small(),
            Reading::GivenUp => true,
        };
        if ends || self.serving.drain.phase() >= DrainPhase::Announcing {
            self.asker.after = After::Close;
        }
        let mut text = self.terms.stock.text();
        let (rest, ahead) = io.end_interim();
        if !rest.is_empty() || !ahead.is_empty() {
            text.push(rest);
            text.push(&ahead);
        }
        drop(io);
        match at_hand {
            AtHand::Formula(formula, end) if self.asker.takes_as_it_stands() => {
                formula.write(&mut text, &self.terms.today.line());
                if let Some(end) = end.take() {
                    end.ended(BodyEnd::Clean, formula.body().len() as u64);
                }
                self.then = Then::Asks;
                self.out.begin_whole(text);
            }
            AtHand::Formula(..) | AtHand::Answer(_) | AtHand::Nothing => {
                let answer = at_hand.take().unwrap_or_else(|| self.serving.panicked());
                self.answer_with(answer, text);
            }
        }
        self.turn = Turn::Answering;
    }

    /// Begins an answer behind this text.
    fn answer_with(&mut self, answer: Answer<Body<H::End>>, text: Text) {
        let Answer { mut head, mut body } = answer;
        let Written { mut text, length, then, announced } =
            answer::write(text, &mut head, &body.size_hint(), self.asker, &self.terms.today);
        self.then = then;
        if let BodyLength::Exactly(1..) = length
            && body.hand_on(COALESCED, &mut text).is_some()
        {
            self.out.begin_whole(text);
        } else {
            self.out.begin(text, body, length, announced, Head::Leaves);
        }
    }

    /// An answer is out.
    fn answered(&mut self) -> Step {
        self.turn = match (self.then, self.client.reading.get()) {
            (Then::Switches, _) => return Err(Ended::Switched),
            (_, Reading::Unasked | Reading::Asked) => Turn::Reading,
            (Then::Asks, Reading::Over) => Turn::Asking,
            (Then::Asks, Reading::Unwanted) if self.client.io.borrow().rest_is_small() => {
                Turn::Asking
            }
            (Then::Closes, _) | (_, Reading::GivenUp | Reading::Unwanted) => {
                return Err(Ended::Done);
            }
        };
        Ok(())
    }

    /// Passes on what comes before an answer, and waits for that.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let said = self.client.io.borrow_mut().poll_ahead(cx);
        match said {
            Poll::Ready(Err(_)) => Poll::Ready(Err(Ended::Gone)),
            Poll::Ready(Ok(())) | Poll::Pending => self.poll_leaving(cx),
        }
    }

    /// Notices a client that leaves while it has something to wait for; what it sends meanwhile waits, and no more is read
    /// than once.
    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        match self.client.reading(cx) {
            // Whoever reads the body notices.
            Reading::Unasked | Reading::Asked => return Poll::Pending,
            Reading::Over | Reading::Unwanted | Reading::GivenUp => {}
        }
        let mut io = self.client.io.borrow_mut();
        if !io.unread().is_empty() {
            return Poll::Pending;
        }
        match io.poll_read(cx, ROOM) {
            Poll::Ready(Ok(1..)) | Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(Err(Ended::Gone)),
        }
    }
}

impl<H: Handler> Drop for Served<H> {
    fn drop(&mut self) {
        if self.then != Then::Switches {
            self.client.leave();
        }
        self.client.is_over();
    }
}

/// Asks for an answer that comes later, which goes into `answer`. A panic on its way becomes another answer.
fn poll_handler<H: Handler>(
    serving: &Serving<H>,
    coming: &mut Coming<H::End>,
    answer: &mut AtHand<H::End>,
    cx: &mut Context<'_>,
) {
    let polled = catch_unwind(AssertUnwindSafe(|| {
        if let Poll::Ready(came) = coming.as_mut().poll(cx) {
            *answer = AtHand::Answer(came);
        }
    }));
    if polled.is_err() {
        *answer = AtHand::Answer(serving.panicked());
    }
}
