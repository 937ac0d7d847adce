//! `errors:` → one compiled answer for each refusal.

use std::collections::HashMap;

use http::{HeaderName, HeaderValue, StatusCode};

use super::super::problem::{At, Span, did_you_mean};
use super::super::raw::{self, Template, bare_placeholder, tell_bare_placeholder};
use super::super::read::Named;
use super::super::template::{Allowed, Builder, Constants, Part, parts};
use super::super::tree::{Json, Node, Scalar, Value};
use super::Desk;
use super::identity::is_ours;
use crate::policy::answer::{Answer, Answers, Escape, Piece, Text};
use crate::policy::refusal::Refusal;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A body, its texts taken apart.
#[derive(Clone, Debug)]
enum Body {
    Null,
    /// A number or a bool as it was written.
    Literal(String),
    Text(Vec<Part>),
    List(Vec<Body>),
    Map(Vec<(Vec<Part>, Body)>),
}

/// What one entry of `on:` says.
#[derive(Clone, Debug, Default)]
struct Said {
    status: Option<u16>,
    code: Option<String>,
    message: Option<Vec<Part>>,
    headers: Headers,
    content_type: Option<HeaderValue>,
    body: Option<Body>,
}

type Headers = Vec<(HeaderName, Vec<Part>, Span)>;

pub(super) fn answers(raw: Option<raw::Errors>, desk: &mut Desk<'_>) -> Answers {
    let nothing = Span { file: 0, start: 0, end: 0 };
    let raw::Errors { at: _, content_type, body, headers, on } =
        raw.unwrap_or_else(|| raw::Errors::absent(nothing));
    let content_type = content_type.and_then(|given| media_type(&given, desk));
    let body = body.map(|body| self::body(&body, desk));
    let headers = self::headers(headers, desk);
    let said = said(on, desk);
    let by_refusal = Refusal::ALL
        .iter()
        .map(|refusal| {
            // Unless the policy tells them apart, a refusal that follows another is that other, word for word.
            let (speaker, said) = match (said.get(refusal), refusal.follows()) {
                (Some(own), _) => (*refusal, own.clone()),
                (None, Some(followed)) => {
                    (followed, said.get(&followed).cloned().unwrap_or_default())
                }
                (None, None) => (*refusal, Said::default()),
            };
            answer(speaker, said, content_type.as_ref(), body.as_ref(), &headers, desk)
        })
        .collect();
    Answers { by_refusal }
}

fn said(on: Option<Named<raw::ErrorsOn>>, desk: &mut Desk<'_>) -> HashMap<Refusal, Said> {
    let mut out = HashMap::new();
    for (key, entry) in on.unwrap_or_default().entries {
        let Some(refusal) = Refusal::ALL.iter().find(|refusal| refusal.name() == key.text) else {
            desk.findings.error_with(
                key.at,
                format!("there is no refusal `{}`", key.text),
                did_you_mean(&key.text, Refusal::ALL.iter().map(|refusal| refusal.name())),
            );
            continue;
        };
        let raw::ErrorsOn { at: _, status, code, message, headers, content_type, body } = entry;
        let status = status.and_then(|status| {
            let fine = u16::try_from(status.value).ok().filter(|code| (400..=599).contains(code));
            if fine.is_none() {
                desk.findings.error_with(
                    status.at,
                    format!("{} is no status of a refusal", status.value),
                    "from 400 to 599: clients and caches must see that it failed".to_owned(),
                );
            }
            fine
        });
        let message = message.map(|Template(text)| {
            parts(&text.value, text.at, Allowed::AllButMessage, &mut desk.findings)
        });
        let said = Said {
            status,
            code: code.map(|code| code.value),
            message,
            headers: self::headers(headers, desk),
            content_type: content_type.and_then(|given| media_type(&given, desk)),
            body: body.map(|body| self::body(&body, desk)),
        };
        out.insert(*refusal, said);
    }
    out
}

fn answer(
    refusal: Refusal,
    said: Said,
    content_type: Option<&HeaderValue>,
    general: Option<&Body>,
    general_headers: &Headers,
    desk: &mut Desk<'_>,
) -> Answer {
    let Said { status, code, message, headers, content_type: own_type, body } = said;
    let status = status.unwrap_or_else(|| refusal.default_status());
    let constants = Constants {
        status,
        code: code.unwrap_or_else(|| refusal.name().to_owned()),
        message: message.unwrap_or_else(|| vec![Part::Text(refusal.default_message().to_owned())]),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let given_type = own_type.or_else(|| content_type.cloned());
    let mut builder = Builder::default();
    let content_type = match body.as_ref().or(general) {
        None => {
            problem_details(&mut builder, refusal, status, &constants);
            given_type.unwrap_or(PROBLEM)
        }
        Some(Body::Text(parts)) if !given_type.as_ref().is_some_and(is_json) => {
            builder.text(parts, &constants, Escape::Plain);
            given_type.unwrap_or(PLAIN)
        }
        Some(body) => {
            write(&mut builder, body, &constants);
            given_type.unwrap_or(JSON)
        }
    };
    let mut all: Vec<(HeaderName, Text)> = Vec::new();
    for (name, parts, at) in general_headers.iter().chain(&headers) {
        let mut value = Builder::default();
        value.text(parts, &constants, Escape::Plain);
        let value = value.finish();
        if !is_header_value(&value) {
            desk.findings.error(*at, format!("the value of `{name}` is no header value"));
        }
        match all.iter_mut().find(|(known, _)| known == name) {
            Some(general) => general.1 = value,
            None => all.push((name.clone(), value)),
        }
    }
    Answer {
        status,
        code: constants.code.into(),
        headers: all,
        content_type,
        body: builder.finish(),
    }
}

/// RFC 9457, with the code and request id as extensions.
fn problem_details(
    builder: &mut Builder,
    refusal: Refusal,
    status: StatusCode,
    constants: &Constants,
) {
    use crate::policy::answer::Fact;
    let kind = match refusal {
        Refusal::Quota => "https://iana.org/assignments/http-problem-types#quota-exceeded",
        _ => "about:blank",
    };
    let title = status.canonical_reason().unwrap_or("Refused");
    let text = |text: &str| vec![Part::Text(text.to_owned())];
    let members = [
        ("type", text(kind)),
        ("title", text(title)),
        ("status", vec![Part::Status]),
        ("detail", vec![Part::Message]),
        ("code", vec![Part::Code]),
        ("request_id", vec![Part::Fact(Fact::RequestId)]),
    ];
    let members = members
        .into_iter()
        .map(|(name, value)| (text(name), Body::Text(value)))
        .collect::<Vec<_>>();
    write(builder, &Body::Map(members), constants);
}

fn write(builder: &mut Builder, body: &Body, constants: &Constants) {
    match body {
        Body::Null => builder.raw("null"),
        Body::Literal(text) => builder.raw(text),
        Body::Text(parts) => builder.json(parts, constants),
        Body::List(items) => {
            builder.raw("[");
            for (ordinal, item) in items.iter().enumerate() {
                if ordinal > 0 {
                    builder.raw(",");
                }
                write(builder, item, constants);
            }
            builder.raw("]");
        }
        Body::Map(members) => {
            builder.raw("{");
            for (ordinal, (name, value)) in members.iter().enumerate() {
                if ordinal > 0 {
                    builder.raw(",");
                }
                builder.raw("\"");
                builder.text(name, constants, Escape::JsonString);
                builder.raw("\":");
                write(builder, value, constants);
            }
            builder.raw("}");
        }
    }
}

fn body(node: &Node, desk: &mut Desk<'_>) -> Body {
    if let Some(name) = bare_placeholder(node)
        && ["status", "code", "message"]
            .into_iter()
            .chain(crate::policy::answer::Fact::ALL.iter().map(|(word, _)| *word))
            .any(|known| known == name)
    {
        tell_bare_placeholder(name, node.at, &mut desk.findings);
        return Body::Null;
    }
    match &node.value {
        Value::Null => Body::Null,
        Value::Scalar(Scalar { text, json: Json::Bool }) => Body::Literal(text.clone()),
        // A number that JSON writes otherwise (0x1f, .5) is repeated as text: its form was chosen.
        Value::Scalar(Scalar { text, json: Json::Number })
            if serde_json::from_str::<serde_json::Number>(text).is_ok() =>
        {
            Body::Literal(text.clone())
        }
        Value::Scalar(Scalar { text, .. }) => {
            Body::Text(parts(text, node.at, Allowed::All, &mut desk.findings))
        }
        Value::List(items) => Body::List(items.iter().map(|item| body(item, desk)).collect()),
        Value::Map(entries) => Body::Map(
            entries
                .iter()
                .map(|(key, value)| (vec![Part::Text(key.text.clone())], body(value, desk)))
                .collect(),
        ),
    }
}

fn headers(raw: Option<Named<At<String>>>, desk: &mut Desk<'_>) -> Headers {
    let mut out = Headers::new();
    for (key, value) in raw.unwrap_or_default().entries {
        let name = HeaderName::from_bytes(key.text.as_bytes()).ok();
        match name.filter(|name| !is_ours(name) && *name != http::header::CONTENT_TYPE) {
            Some(name) => {
                let parts = parts(&value.value, value.at, Allowed::All, &mut desk.findings);
                out.push((name, parts, value.at));
            }
            None => desk.findings.error_with(
                key.at,
                format!("`{}` cannot be set as a header", key.text),
                (key.text.eq_ignore_ascii_case("content-type"))
                    .then(|| "write `content_type: …`".to_owned()),
            ),
        }
    }
    out
}

fn media_type(given: &At<String>, desk: &mut Desk<'_>) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(&given.value).ok();
    let value = value.filter(|_| given.value.contains('/') && given.value.is_ascii());
    if value.is_none() {
        desk.findings.error_with(
            given.at,
            format!("`{}` is no media type", given.value),
            "for example application/json".to_owned(),
        );
    }
    value
}

fn is_json(media_type: &HeaderValue) -> bool {
    media_type.to_str().is_ok_and(|text| {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence.ends_with("/json") || essence.ends_with("+json")
    })
}

fn is_header_value(text: &Text) -> bool {
    match text {
        Text::Fixed(bytes) => HeaderValue::from_bytes(bytes).is_ok(),
        Text::Pieces(pieces) => pieces.iter().all(|piece| match piece {
            Piece::Literal(text) => HeaderValue::from_str(text).is_ok(),
            Piece::Fact(..) => true,
        }),
    }
}
