//! How an act is done: one at a time, under a name, durable before it is acknowledged, and told in the log. A repeat
//! under the same name gets the first one's answer and does nothing.

use std::sync::Arc;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, oneshot};

use super::AdminState;
use super::access::Person;
use super::answers::{Answer, Problem, json_answer, whole};
use crate::clock::Now;
use crate::policy::Name;
use crate::policy::idempotency::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, KeyText};
use crate::store::{Act, ActProblem, Health, Named};
use crate::telemetry::events::Event;

/// Acts are done one after the other: each reads what the one before has left.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<()>>);

/// What a request asks to be done.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) person: Person,
    /// Under which name.
    pub(super) id: Name,
    /// What two requests of one name must share.
    print: String,
}

/// What is to be done, found out under the turn.
#[derive(Debug)]
pub(super) enum Plan {
    /// This.
    Do(Box<Deed>),
    /// Nothing: it is so already, says this answer.
    Already(Value),
}

/// One act with everything that is said of it.
#[derive(Debug)]
pub(super) struct Deed {
    pub(super) act: Act,
    /// Its word in the log.
    pub(super) word: &'static str,
    /// What it is done to.
    pub(super) to: String,
    pub(super) before: String,
    pub(super) after: String,
    pub(super) note: String,
    /// Its answer, without the fields that every act's answer has.
    pub(super) answer: Value,
    pub(super) then: Then,
}

/// What follows when an act is durable.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    /// Open exchanges are looked at again.
    Wake,
    /// Further acts, of which nobody is told.
    Also(Vec<Act>),
}

impl Request {
    /// The name is the one in `Idempotency-Key`, or made up.
    pub(super) fn of(
        person: Person,
        headers: &HeaderMap,
        path: &str,
        body: &[u8],
    ) -> Result<Request, Problem> {
        let lines = headers.get_all(IDEMPOTENCY_KEY).iter().map(HeaderValue::as_bytes);
        let given = KeyText::of(lines.collect()).map_err(|malformed| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "idempotency_malformed",
                format!("The Idempotency-Key header is malformed: {}.", malformed.0),
            )
        })?;
        let id = match given {
            Some(text) => Name::from(text.as_str()),
            None => made_up()?,
        };
        let mut hasher = Sha256::new();
        hasher.update(path.as_bytes());
        hasher.update([0]);
        hasher.update(body);
        Ok(Request { person, id, print: hex(&hasher.finalize()[..16]) })
    }
}

fn made_up() -> Result<Name, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        let message = format!("The operating system gave no random numbers: {error}.");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })?;
    Ok(Name::from(format!("act_{}", hex(&bytes))))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Does what `plan` finds to be done. `plan` is called under the turn, once no earlier act of this name is found.
pub(super) async fn perform(
    state: &AdminState,
    request: Request,
    plan: impl FnOnce(Now) -> Result<Plan, Problem>,
) -> Result<Response<Answer>, Problem> {
    let _turn = state.turn.0.lock().await;
    if let Some(kept) = state.ledger.acted(&request.id) {
        return repeated(&request, &kept);
    }
    if state.ledger.backing().health() == Health::Failed {
        return Err(Problem::store_failed());
    }
    let now = state.clock.now();
    let durable = state.ledger.backing().remembers();
    let seal = |mut answer: Value| {
        answer["act"] = request.id.as_ref().into();
        answer["durable"] = durable.into();
        answer
    };
    let deed = match plan(now)? {
        Plan::Do(deed) => *deed,
        Plan::Already(answer) => return Ok(json_answer(StatusCode::OK, &seal(answer))),
    };
    let Deed { act, word, to, before, after, note, answer, then } = deed;
    let answer = seal(answer);
    let named = Named {
        id: Name::clone(&request.id),
        answer: format!("{}\n{answer}\n", request.print).into(),
    };
    let (told, outcome) = oneshot::channel();
    let reply = Box::new(move |done| {
        // Nobody waits any more only where the listener has ended.
        let _ = told.send(done);
    });
    state.ledger.act(now, act, Some(named), reply).map_err(problem)?;
    if !matches!(outcome.await, Ok(Ok(()))) {
        return Err(Problem::store_failed());
    }
    state.log.say(
        now.wall,
        &Event::AdminAct {
            by: request.person.by.name(),
            peer: request.person.peer,
            act: word,
            id: &request.id,
            to: &to,
            before: &before,
            after: &after,
            note: &note,
        },
    );
    match then {
        Then::Nothing => {}
        Then::Wake => state.wake.all(),
        Then::Also(acts) => {
            for act in acts {
                // What was asked for is done; a rule's count that stays is of no weight beside it.
                let _ = state.ledger.act(now, act, None, Box::new(|_| {}));
            }
        }
    }
    Ok(json_answer(StatusCode::OK, &answer))
}

fn repeated(request: &Request, kept: &str) -> Result<Response<Answer>, Problem> {
    let (print, answer) = kept.split_once('\n').unwrap_or(("", kept));
    if print != request.print {
        return Err(Problem::unfit(
            "idempotency_mismatch",
            "This Idempotency-Key was used for a different act.",
        ));
    }
    let mut response = whole(StatusCode::OK, "application/json", answer.to_owned());
    let replayed: HeaderName = IDEMPOTENT_REPLAYED;
    response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    Ok(response)
}

fn problem(problem: ActProblem) -> Problem {
    match problem {
        ActProblem::StoreFailed => Problem::store_failed(),
        ActProblem::NotFound => Problem::unknown(
            "not_found",
            "There is no such thing, or somebody has settled it already.",
        ),
        ActProblem::UnderWay => Problem::new(
            StatusCode::CONFLICT,
            "under_way",
            "The request is still under way; its outcome will settle it.",
        ),
    }
}

/// An answer without fields of its own.
pub(super) fn object() -> Value {
    json!({})
}
