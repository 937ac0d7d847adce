//! Commands that talk to a running gate over its admin listener. They decide nothing: what they print is what it said.

pub(super) mod args;
pub(super) mod credit;
pub(super) mod keys;
pub(super) mod reservations;
pub(super) mod usage;

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::environment;
use super::failure::Failure;
use args::{At, Token, Whose};

/// The longest that a gate may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The port of a URL without one.
const HTTP: u16 = 80;
/// Where the token is looked for without a file.
const TOKEN: &str = "TOLLGATE_ADMIN_TOKEN";

/// A running gate.
pub(super) struct Remote {
    authority: String,
    token: Option<HeaderValue>,
}

/// What was asked of it, and what it answered.
struct Said {
    status: StatusCode,
    body: Bytes,
}

/// The question found its way, or did not; then nobody knows whether it was heard, unless no connection was made.
enum Lost {
    Unreachable(String),
    BrokenOff(String),
}

impl Remote {
    /// The gate that the arguments name, and the token that it asks for.
    pub(super) fn at(at: &At) -> Result<Remote, Failure> {
        Remote::new(&at.admin, &at.token)
    }

    pub(super) fn new(authority: &str, token: &Token) -> Result<Remote, Failure> {
        let text = match &token.token_file {
            Some(file) => Some(
                std::fs::read_to_string(file)
                    .map_err(|error| Failure::cannot(format!("{}: {error}", file.display())))?,
            ),
            None => environment(TOKEN),
        };
        let token = text
            .map(|text| {
                let mut value =
                    HeaderValue::try_from(format!("Bearer {}", text.trim())).map_err(|_| {
                        Failure::problem("the admin token holds characters that no token has")
                    })?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        Ok(Remote { authority: authority.to_owned(), token })
    }

    /// Looks at something.
    pub(super) fn get(&self, path: &str) -> Result<String, Failure> {
        self.ask(&Method::GET, path, None, None)
            .map_err(|lost| self.lost(&lost))
            .and_then(|said| understood(&said))
    }

    /// The same, as the JSON object that has this field.
    pub(super) fn get_json(&self, path: &str, field: &str) -> Result<Value, Failure> {
        self.get(path).and_then(|text| json(&text, field))
    }

    /// Does something under a name. Where nobody knows whether the gate heard it, it is said once more: the name makes
    /// it one act.
    pub(super) fn act(
        &self,
        path: &str,
        body: &Value,
        once: Option<&str>,
    ) -> Result<Value, Failure> {
        let name = match once {
            Some(name) => name.to_owned(),
            None => made_up()?,
        };
        let ask = || self.ask(&Method::POST, path, Some(body), Some(&name));
        let said = match ask() {
            Err(Lost::BrokenOff(_)) => ask(),
            said => said,
        };
        let text = said.map_err(|lost| self.lost(&lost)).and_then(|said| understood(&said))?;
        json(&text, "act")
    }

    fn lost(&self, lost: &Lost) -> Failure {
        let authority = &self.authority;
        match lost {
            Lost::Unreachable(why) => {
                Failure::admin(format!("no admin listener answers at {authority}: {why}"))
            }
            Lost::BrokenOff(why) => Failure::admin(format!(
                "the answer of the admin listener at {authority} broke off: {why}; \
                 look at what is in force before trying again"
            )),
        }
    }

    fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        name: Option<&str>,
    ) -> Result<Said, Lost> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Lost::Unreachable(error.to_string()))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(name) = name {
            request = request.header("Idempotency-Key", name);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(body.map(Value::to_string).unwrap_or_default())
            .map_err(|error| Lost::Unreachable(error.to_string()))?;
        runtime.block_on(async {
            let late = |_| Lost::BrokenOff("it did not come in time".to_owned());
            let stream = tokio::time::timeout(PATIENCE, self.connect()).await.map_err(late)??;
            tokio::time::timeout(PATIENCE, exchange(stream, request)).await.map_err(late)?
        })
    }

    async fn connect(&self) -> Result<TcpStream, Lost> {
        let unreachable = |error: std::io::Error| Lost::Unreachable(error.to_string());
        let authority: http::uri::Authority =
            self.authority.parse().map_err(|_| Lost::Unreachable("it is no address".to_owned()))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(HTTP);
        TcpStream::connect((host, port)).await.map_err(unreachable)
    }
}

async fn exchange(stream: TcpStream, request: Request<String>) -> Result<Said, Lost> {
    let broken = |error: hyper::Error| Lost::BrokenOff(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with the answer; what goes wrong on it is told by the answer.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let mut body = response.into_body();
    let mut whole = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|task| std::pin::Pin::new(&mut body).poll_frame(task)).await
    {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    driver.abort();
    Ok(Said { status, body: whole.into() })
}

/// The text of a good answer; the words of a refusal, with exit code 4.
fn understood(said: &Said) -> Result<String, Failure> {
    let text = String::from_utf8_lossy(&said.body).into_owned();
    if said.status.is_success() {
        return Ok(text);
    }
    let status = said.status.as_u16();
    let told: Value = serde_json::from_str(&text).unwrap_or_default();
    Err(Failure::admin(match (told["code"].as_str(), told["message"].as_str()) {
        (Some(code), Some(message)) => {
            format!("the admin listener refused ({status} {code}): {message}")
        }
        _ => format!("what answers there is no admin listener of tollgate ({status})"),
    }))
}

/// The object with this field, which every answer of ours of this kind has.
fn json(text: &str, field: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .ok()
        .filter(|value: &Value| value.get(field).is_some())
        .ok_or_else(|| Failure::admin("what answers there is no admin listener of tollgate"))
}

fn made_up() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::cannot(format!("the operating system gave no random numbers: {error}"))
    })?;
    Ok(bytes.iter().fold("cli_".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// A path segment or a query's value, percent-encoded.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

impl Whose {
    /// The names that are given, with what the admin listener calls them.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Whose { key, tenant, plan, route } = self;
        [("key", key), ("tenant", tenant), ("plan", plan), ("route", route)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

/// What the gate said, in a table's cell: nothing in it may move the cursor.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.replace(char::is_control, " ")
}

/// Rows under their heads, in columns.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let all = || std::iter::once(&heads).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    all()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_and_a_cell_is_one_line() {
        assert_eq!(encoded("a/b c?d"), "a%2Fb%20c%3Fd");
        assert_eq!(cell(&Value::from("a\nb\u{1b}[31m")), "a b [31m");
        let rows = [vec!["1".to_owned(), "two".to_owned()]];
        assert_eq!(table(&["LONG", "B"], &rows), "LONG  B\n1     two\n");
    }
}
