//! Which path leads where: a request in, a whole answer out.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body::Body;

use super::AdminState;
use super::access::{KnownBy, Person, Place, admit};
use super::acts::{self, Plan};
use super::answers::{Answer, Problem, json_answer, whole};
use super::doubts::Verb;
use super::given::{Given, whole_body};
use super::usage::Told;
use super::{doubts, keys, money, probes, usage};
use crate::clock::Now;
use crate::policy::head::percent_decoded;
use crate::policy::snapshot::Snapshot;

/// What reads and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    Policy,
    Usage,
    Key(String),
    Revocations,
    Reservations,
}

/// What changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Deed {
    TopUp,
    Adjust,
    Reset,
    Revoke(String),
    Restore(String),
    Reservation(String, Verb),
    Record(String, Verb),
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Metrics,
    Health,
    Readiness,
    Look(Look),
    Deed(Deed),
}

impl Way {
    fn of(path: &str) -> Option<Way> {
        let id = |text: &str| {
            let decoded = String::from_utf8(percent_decoded(text.as_bytes())).ok()?;
            (!decoded.is_empty()).then_some(decoded)
        };
        let mut parts = [""; 4];
        let mut many = 0;
        for part in path.strip_prefix('/')?.split('/') {
            *parts.get_mut(many)? = part;
            many += 1;
        }
        let verb = |word| match word {
            "confirm" => Some(Verb::Confirm),
            "release" => Some(Verb::Release),
            _ => None,
        };
        Some(match &parts[..many] {
            ["metrics"] => Way::Metrics,
            ["healthz"] => Way::Health,
            ["readyz"] => Way::Readiness,
            ["v1", "policy"] => Way::Look(Look::Policy),
            ["v1", "usage"] => Way::Look(Look::Usage),
            ["v1", "revocations"] => Way::Look(Look::Revocations),
            ["v1", "reservations"] => Way::Look(Look::Reservations),
            ["v1", "keys", key] => Way::Look(Look::Key(id(key)?)),
            ["v1", "credit"] => Way::Deed(Deed::TopUp),
            ["v1", "usage", "adjust"] => Way::Deed(Deed::Adjust),
            ["v1", "usage", "reset"] => Way::Deed(Deed::Reset),
            ["v1", "keys", key, "revoke"] => Way::Deed(Deed::Revoke(id(key)?)),
            ["v1", "keys", key, "restore"] => Way::Deed(Deed::Restore(id(key)?)),
            ["v1", "reservations", one, word] => {
                Way::Deed(Deed::Reservation(id(one)?, verb(word)?))
            }
            ["v1", "records", one, word] => Way::Deed(Deed::Record(id(one)?, verb(word)?)),
            _ => return None,
        })
    }
}

/// Answers a request that came from `peer`.
pub(super) async fn answer<B>(
    request: Request<B>,
    place: Place,
    peer: SocketAddr,
    state: AdminState,
) -> Response<Answer>
where
    B: Body + Unpin,
{
    lead(request, place, peer, state).await.unwrap_or_else(|problem| problem.answer())
}

async fn lead<B: Body + Unpin>(
    request: Request<B>,
    place: Place,
    peer: SocketAddr,
    state: AdminState,
) -> Result<Response<Answer>, Problem> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    // Strangers learn no paths below `/v1`.
    let known = if path == "/v1" || path.starts_with("/v1/") {
        Some(admit(state.token.as_ref(), place, &head.method, &head.headers)?)
    } else {
        None
    };
    let way = Way::of(path).ok_or_else(nothing_here)?;
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    // hyper leaves the body of an answer to HEAD out and keeps its length.
    match (way, known) {
        (Way::Deed(_), _) if head.method != Method::POST => Err(Problem::method("POST")),
        (Way::Deed(deed), Some(by)) => act(deed, by, peer, &head, body, state).await,
        _ if !reads => Err(Problem::method("GET, HEAD")),
        (Way::Metrics, _) => Ok(probes::metrics(&state)),
        (Way::Health, _) => Ok(probes::healthz(&state)),
        (Way::Readiness, _) => Ok(probes::readyz(&state)),
        (Way::Look(look), Some(_)) => look_at(look, Given::query(&head.uri)?, &state),
        (Way::Look(_) | Way::Deed(_), None) => Err(nothing_here()),
    }
}

fn look_at(look: Look, given: Given, state: &AdminState) -> Result<Response<Answer>, Problem> {
    let json = |value| json_answer(StatusCode::OK, &value);
    Ok(match look {
        Look::Policy => probes::policy(state),
        Look::Usage => match usage::usage(state, &*policy(state)?, given)? {
            Told::Json(value) => json(value),
            Told::Csv(text) => whole(StatusCode::OK, "text/csv; charset=utf-8", text),
        },
        Look::Key(id) => {
            given.end()?;
            json(keys::standing(state, &*policy(state)?, &id)?)
        }
        Look::Revocations => json(keys::revocations(state, given)?),
        Look::Reservations => json(doubts::list(state, &*policy(state)?, given)?),
    })
}

/// Does what was asked for on a task of its own, so that it is done and told to its end though the client leaves.
async fn act<B: Body + Unpin>(
    deed: Deed,
    by: KnownBy,
    peer: SocketAddr,
    head: &http::request::Parts,
    body: B,
    state: AdminState,
) -> Result<Response<Answer>, Problem> {
    Given::query(&head.uri)?.end()?;
    let body = whole_body(body).await?;
    let given = Given::body(&body)?;
    let person = Person { by, peer };
    let request = acts::Request::of(person, &head.headers, head.uri.path(), &body)?;
    let done = tokio::spawn(async move {
        let policy = policy(&state)?;
        let plan = |now| plan(deed, given, &state, &policy, now);
        acts::perform(&state, request, plan).await
    });
    done.await.unwrap_or_else(|_| {
        let message = "The gate failed on this act; whether it was done is told by asking again.";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
    })
}

fn plan(
    deed: Deed,
    given: Given,
    state: &AdminState,
    policy: &Snapshot,
    now: Now,
) -> Result<Plan, Problem> {
    match deed {
        Deed::TopUp => money::top_up(state, policy, given, now),
        Deed::Adjust => money::adjust(state, policy, given, now),
        Deed::Reset => money::reset(state, policy, given, now),
        Deed::Revoke(id) => keys::revoke(state, policy, &id, given, now),
        Deed::Restore(id) => keys::restore(state, policy, &id, given, now),
        Deed::Reservation(id, verb) => doubts::settle_reservation(state, policy, &id, verb, given),
        Deed::Record(id, verb) => doubts::settle_record(state, &id, verb, given),
    }
}

/// The policy in force, for as long as one request looks at it.
fn policy(state: &AdminState) -> Result<Arc<Snapshot>, Problem> {
    state.snapshot.as_ref().map(|current| current.load_full()).ok_or_else(|| {
        let message = "No policy is in force yet.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", message)
    })
}

fn nothing_here() -> Problem {
    let words = "There is nothing at this path. Known: /metrics, /healthz, /readyz, and below /v1: policy, usage, \
                 credit, keys, revocations, reservations, records.";
    Problem::unknown("route_unknown", words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_thing_or_to_nothing() {
        assert_eq!(Way::of("/v1/keys/a%2Fb"), Some(Way::Look(Look::Key("a/b".into()))));
        let revoke = Way::Deed(Deed::Revoke("acme".into()));
        assert_eq!(Way::of("/v1/keys/acme/revoke"), Some(revoke));
        let release = Way::Deed(Deed::Record("7".into(), Verb::Release));
        assert_eq!(Way::of("/v1/records/7/release"), Some(release));
        for path in [
            "/",
            "",
            "/v1",
            "/v1/keys/",
            "/v1/keys//revoke",
            "/v1/keys/a/b",
            "/metrics/",
            "/v1/reservations/1/confirm/2",
            "/v1/usage/x",
            "/v1/keys/%ff",
        ] {
            assert_eq!(Way::of(path), None, "{path}");
        }
    }
}
