//! What the admin listener answers: a path and a method in, a whole answer out.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde_json::{Value, json};

use super::AdminState;
use crate::policy::address::canonical;
use crate::telemetry::metrics::TEXT_TYPE;
use crate::telemetry::rfc3339;

const JSON_TYPE: &str = "application/json";

/// A whole body.
pub(super) struct Answer(Option<Bytes>);

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// From where a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// This host, over loopback.
    Local,
    /// Anywhere else.
    Remote,
}

impl Asker {
    /// Both ends must be loopback: who comes from elsewhere to a loopback address was forwarded on purpose.
    pub(super) fn of(peer: IpAddr, local: IpAddr) -> Asker {
        if canonical(peer).is_loopback() && canonical(local).is_loopback() {
            Asker::Local
        } else {
            Asker::Remote
        }
    }
}

/// Answers a request.
pub(super) fn answer<B>(
    request: &Request<B>,
    asker: Asker,
    state: &AdminState,
) -> Response<Answer> {
    let resource = match request.uri().path() {
        "/metrics" => metrics,
        "/healthz" => healthz,
        "/readyz" => readyz,
        "/v1/policy" if asker == Asker::Remote || !names_this_host(request) => forbidden,
        "/v1/policy" => policy,
        _ => return nothing_here(),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let words = "This method is not allowed here; GET and HEAD are.";
        let mut refused = problem(StatusCode::METHOD_NOT_ALLOWED, "method_unknown", words);
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    // hyper leaves the body of an answer to HEAD out and keeps its length.
    resource(state)
}

/// Whether the request was meant for this host: by an address, or by a name without a dot. A page whose name was rebound
/// to 127.0.0.1 has a browser on this host ask under the page's name, which has one.
fn names_this_host<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    !bare.contains('.') || bare.parse::<IpAddr>().is_ok()
}

fn metrics(state: &AdminState) -> Response<Answer> {
    match state.metrics.render() {
        Ok(text) => whole(StatusCode::OK, TEXT_TYPE, text),
        Err(error) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", &error.to_string())
        }
    }
}

/// Says only that the process turns: what it depends on must not restart it.
fn healthz(_: &AdminState) -> Response<Answer> {
    json_answer(StatusCode::OK, &json!({ "status": "ok" }))
}

fn readyz(state: &AdminState) -> Response<Answer> {
    match state.lifecycle.ready() {
        Ok(()) => json_answer(StatusCode::OK, &json!({ "status": "ready" })),
        Err(not) => json_answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "status": "not_ready", "reason": not.name() }),
        ),
    }
}

fn policy(state: &AdminState) -> Response<Answer> {
    let status = state.metrics.policy_status();
    let refused = status.refused.map(|(at, problems)| {
        let at = rfc3339(at);
        json!({ "at": at, "problems": problems })
    });
    json_answer(
        StatusCode::OK,
        &json!({
            "digest": status.digest,
            "keys_digest": status.keys_digest,
            "generation": status.generation,
            "loaded_at": status.loaded_at.map(rfc3339),
            "keys": status.keys,
            "last_load_ok": refused.is_none() && status.loaded_at.is_some(),
            "last_error": refused,
            "restart_needed": status.restart_needed,
        }),
    )
}

fn forbidden(_: &AdminState) -> Response<Answer> {
    let words =
        "Without a token this is answered only to clients on the gate's own host, over loopback.";
    problem(StatusCode::FORBIDDEN, "loopback_only", words)
}

fn nothing_here() -> Response<Answer> {
    let words = "There is nothing at this path. Known: /metrics, /healthz, /readyz, /v1/policy.";
    problem(StatusCode::NOT_FOUND, "route_unknown", words)
}

fn problem(status: StatusCode, code: &str, message: &str) -> Response<Answer> {
    json_answer(status, &json!({ "code": code, "message": message }))
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Answer> {
    whole(status, JSON_TYPE, format!("{value}\n"))
}

fn whole(status: StatusCode, content_type: &'static str, body: String) -> Response<Answer> {
    let mut response = Response::new(Answer(Some(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebound_name_is_not_this_host() {
        let names = |host: &'static str| {
            names_this_host(&Request::builder().header(HOST, host).body(()).unwrap())
        };
        for host in ["127.0.0.1:9901", "[::1]:9901", "localhost:9901", "localhost", "gate", ""] {
            assert!(names(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9901", "127.0.0.1.evil.example"] {
            assert!(!names(host), "{host}");
        }
    }

    #[test]
    fn only_loopback_on_both_ends_is_local() {
        let of = |peer: &str, local: &str| Asker::of(peer.parse().unwrap(), local.parse().unwrap());
        assert_eq!(of("127.0.0.1", "127.0.0.1"), Asker::Local);
        assert_eq!(of("::1", "::1"), Asker::Local);
        assert_eq!(of("::ffff:127.0.0.1", "::ffff:127.0.0.1"), Asker::Local);
        assert_eq!(of("10.0.0.7", "10.0.0.1"), Asker::Remote);
        assert_eq!(of("10.0.0.7", "127.0.0.1"), Asker::Remote);
        assert_eq!(of("127.0.0.1", "10.0.0.1"), Asker::Remote);
    }
}
