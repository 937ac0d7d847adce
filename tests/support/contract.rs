//! What all five contracts promise, said once: each suite runs these with its own policy, key and request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::streams;
use super::wire::{Answer, Connection, Request, find};
use super::{A_SECOND, Backend, Gate, Policy, Reply, eventually, wire};

/// A contract, as far as the common sentences need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contract {
    /// Name of its policy under `config/contracts/`.
    pub(crate) name: &'static str,
    /// What `keys new` needs, so that `ask` is admitted.
    pub(crate) grants: &'static [&'static str],
    /// A request that a key with `grants` may make; without the key.
    pub(crate) ask: fn() -> Request,
    /// Puts a key where the contract wants it.
    pub(crate) sign: fn(Request, &str) -> Request,
}

impl Contract {
    /// A gate with a key of tenant `acme`, whose id is `first`.
    pub(crate) fn start(&self, backend: &Backend) -> (Gate, String) {
        let policy = Policy::contract(self.name);
        let key = self.key(&policy, "acme", "first");
        (Gate::start(policy, backend), key)
    }

    /// A new key with the usual grants.
    #[track_caller]
    pub(crate) fn key(&self, policy: &Policy, tenant: &str, id: &str) -> String {
        policy.key(tenant, &[&["--id", id], self.grants].concat())
    }

    /// The usual request with this key.
    pub(crate) fn signed(&self, key: &str) -> Request {
        (self.sign)((self.ask)(), key)
    }

    /// A gate before a port where nobody listens, and a key.
    pub(crate) fn start_before_nobody(&self) -> (Gate, String) {
        let gone = Backend::start().url();
        let policy = Policy::contract(self.name);
        let key = self.key(&policy, "acme", "first");
        // The backend was dropped at the end of its statement; its port is free again.
        eventually(A_SECOND, || {
            std::net::TcpStream::connect(gone.trim_start_matches("http://")).is_err()
        });
        (Gate::before(policy, &gone), key)
    }

    /// "A backend's own answers (200, 402, 422 …) pass byte for byte."
    pub(crate) fn a_backends_own_answers_pass_byte_for_byte(&self) {
        let backend = Backend::start();
        let (gate, key) = self.start(&backend);
        let body = "{ \"message\" : \"\u{20ac} \\u00e9\",\n\t\"a\":1,\"a\":2 }  \n";
        let statuses =
            ["200 OK", "201 Created", "402 Payment Required", "404 Not Found", "422 Nope", "500 X"];
        for status in statuses {
            let reply = Reply::json(status, body)
                .header("X-Backend", "as it  is; \"quoted\"")
                .header("Set-Cookie", "a=1")
                .header("Set-Cookie", "b=2");
            backend.answers(reply);
            let answer = gate.send(&self.signed(&key));
            assert_eq!(answer.status.to_string(), status[..3]);
            assert_eq!(answer.text(), body);
            assert_eq!(answer.header("x-backend"), Some("as it  is; \"quoted\""));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let cookies =
                answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"));
            assert_eq!(cookies.map(|(_, v)| &**v).collect::<Vec<_>>(), ["a=1", "b=2"]);
        }
    }

    /// "Any Host is accepted."
    pub(crate) fn any_host_is_accepted(&self) {
        let backend = Backend::start();
        let (gate, key) = self.start(&backend);
        for host in ["api.example", "pulse.example:443", "127.0.0.1", "[::1]:8080", "UPPER.example"]
        {
            let answer = gate.send(&self.signed(&key).host(host));
            assert_eq!(answer.status, 200, "{host}");
            assert_eq!(backend.last().only("host"), host, "kept as the client said it");
        }
    }

    /// A client's word about who it is never reaches the backend, in whatever spelling; the gate's own does, once.
    pub(crate) fn identity_cannot_be_forged(&self) {
        let backend = Backend::start();
        let (gate, key) = self.start(&backend);
        let forgeries: &[&[(&str, &str)]] = &[
            &[("X-Tenant-Id", "evil")],
            &[("x-tenant-id", "evil")],
            &[("X-TENANT-ID", "evil"), ("x-Tenant-Id", "evil too")],
            &[("x_tenant_id", "evil")],
            &[("X_Tenant-Id", "evil"), ("X-Tenant_ID", "evil")],
            &[("X-Tenant-Id", "")],
            &[("X-Tenant-Id", "acme, evil")],
            &[("Connection", "X-Tenant-Id")],
            &[("Connection", "close, X-Tenant-Id, X-Key-Id"), ("X-Tenant-Id", "evil")],
            &[("X-Key-Id", "evil"), ("X_KEY_ID", "evil")],
        ];
        for forged in forgeries {
            let request = forged
                .iter()
                .fold(self.signed(&key), |request, (name, value)| request.header(name, value));
            assert_eq!(gate.send(&request).status, 200, "{forged:?}");
            let seen = backend.last();
            for (name, value) in [("x-tenant-id", "acme"), ("x-key-id", "first")] {
                let spelled = |n: &str| n.to_ascii_lowercase().replace('_', "-") == name;
                let told: Vec<_> = seen.headers.iter().filter(|(n, _)| spelled(n)).collect();
                assert_eq!(told.len(), 1, "{forged:?}: {}", seen.head);
                assert_eq!(seen.only(name), value, "{forged:?}");
            }
        }
    }

    /// The backend and the logs never see the key; the key file never does either.
    pub(crate) fn the_secret_is_seen_once(&self) {
        let backend = Backend::start();
        let (gate, key) = self.start(&backend);
        assert_eq!(gate.send(&self.signed(&key)).status, 200);
        assert_eq!(gate.send(&(self.sign)(Request::get("/nowhere/at/all"), &key)).status / 100, {
            // Where the contract has a route for every path, this is one more admitted request.
            if self.name == "mottasl" { 2 } else { 4 }
        });
        gate.send(&(self.sign)((self.ask)(), &format!("{key}x")));
        gate.record(2);
        for seen in backend.seen() {
            assert!(!seen.head.contains(&key), "{}", seen.head);
        }
        assert!(!gate.output().contains(&key), "the gate wrote a secret");
        assert!(!gate.policy.keys_text().contains(&key), "the key file holds a secret");
        for arguments in [&[][..], &["--json"]] {
            let listed = gate.policy.keys("list", arguments);
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert!(text.contains("first"), "{text}");
            assert!(!text.contains(&key), "{text}");
        }
    }

    /// "A key is created through the command line": it works on a running gate within a second; revoked, it stops as soon,
    /// on connections that are open, too.
    pub(crate) fn a_key_works_and_stops_within_a_second(&self) {
        let backend = Backend::start();
        let policy = Policy::contract(self.name);
        let gate = Gate::start(policy, &backend);
        let key = self.key(&gate.policy, "acme", "late");
        let request = self.signed(&key);
        assert!(gate.soon(&request, 200), "a new key did not work in time");
        let mut open = Connection::to(gate.traffic);
        assert_eq!(open.send(&request).status, 200);

        gate.policy.revoke("late");
        assert!(gate.soon(&request, 401), "a revoked key worked on");
        let reached = backend.count();
        assert_eq!(open.send(&request).status, 401, "an open connection is no way round");
        assert_eq!(backend.count(), reached);
    }

    /// Every refusal of the gate's own wears the envelope, before and after authentication. `envelope` checks one.
    pub(crate) fn the_gates_own_refusals_wear(&self, envelope: fn(&Answer)) {
        let backend = Backend::start();
        let (gate, key) = self.start(&backend);
        let refused = |status: u16, answer: &Answer| {
            assert_eq!(answer.status, status, "{answer:?} {}", answer.text());
            answer.is_json();
            envelope(answer);
        };
        // 400: two hosts, which two parsers could read two ways.
        refused(400, &gate.send(&self.signed(&key).header("Host", "other.example")));
        // 401 without a key, wherever it goes: strangers learn no routes.
        refused(401, &gate.send(&(self.ask)()));
        refused(401, &gate.send(&Request::get("/no/such/path")));
        if self.name != "mottasl" {
            refused(404, &gate.send(&(self.sign)(Request::get("/no/such/path"), &key)));
        }
        // 431: more head than anyone needs.
        let long = "x".repeat(200_000);
        refused(431, &gate.send(&self.signed(&key).header("X-Long", &long)));
        assert_eq!(backend.count(), 0, "nothing that was refused reached the backend");
        drop(gate);

        // 502: nobody behind the gate.
        let (gate, key) = self.start_before_nobody();
        refused(502, &gate.send(&self.signed(&key)));
    }

    /// 413, in the envelope, where the policy bounds the body.
    pub(crate) fn a_body_over_the_bound_is_413(&self, post: Request, envelope: fn(&Answer)) {
        let backend = Backend::start();
        let policy = Policy::contract(self.name);
        policy.append("bounds: { body: 64B }");
        let key = self.key(&policy, "acme", "first");
        let gate = Gate::start(policy, &backend);
        let long = "x".repeat(65);
        let told = gate.send(&(self.sign)(post.clone().body(&long), &key));
        assert_eq!(told.status, 413, "{}", told.text());
        told.is_json();
        envelope(&told);
        assert_eq!(backend.count(), 0);

        let exactly = "x".repeat(64);
        assert_eq!(gate.send(&(self.sign)(post, &key).body(&exactly)).status, 200);
        assert_eq!(backend.last().body, exactly.as_bytes());
    }

    /// Sends the usual request until the connection has seen `n` answers.
    pub(crate) fn many(&self, gate: &Gate, key: &str, n: usize) -> Vec<wire::Answer> {
        let mut connection = gate.connect();
        (0..n).map(|_| connection.send(&self.signed(key))).collect()
    }
}

/// `messagesmart`, for both of its suites.
pub(crate) const SMART: Contract = Contract {
    name: "messagesmart",
    grants: &[],
    ask: || Request::post("/api/v1/whatsapp/messages/text", r#"{"body":"Hello"}"#),
    sign: |request, key| request.header("X-API-Key", key),
};

/// `{"success":false,"error":{…}}`, as `messagesmart` words every refusal.
pub(crate) fn success_false(status: u16, code: &str, message: &str) -> String {
    format!(
        r#"{{"success":false,"error":{{"code":"{code}","message":"{message}","httpStatus":{status}}}}}"#
    )
}

/// `{"message":"…","code":"…"}` and nothing else, as `sms-platform` words every refusal.
#[track_caller]
pub(crate) fn has_message_and_code(answer: &Answer) {
    let told = answer.json();
    let text = |name: &str| told[name].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let printed = serde_json::json!({
        "message": text("message").expect("a message"),
        "code": text("code").expect("a code"),
    });
    assert_eq!(told.to_string(), printed.to_string());
}

/// The same, with this status and this code.
#[track_caller]
pub(crate) fn message_and_code(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    answer.is_json();
    has_message_and_code(answer);
    assert_eq!(answer.json()["code"], code);
}

/// `answer` is `first` once more: status, headers that matter, body to the byte, and the word that it is a replay.
#[track_caller]
pub(crate) fn is_replay_of(first: &Answer, answer: &Answer) {
    assert_eq!(answer.header("idempotent-replayed"), Some("true"), "{answer:?}");
    assert_eq!(first.header("idempotent-replayed"), None, "the first is no replay");
    assert_eq!((answer.status, &answer.body), (first.status, &first.body));
    // What is of its own moment, or of one connection, is told anew or not at all.
    let momentary = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("x-ratelimit-")
            || [
                "date",
                "x-request-id",
                "idempotent-replayed",
                "ratelimit",
                "connection",
                "set-cookie",
            ]
            .contains(&&*name)
    };
    let matter = |answer: &Answer| {
        let mut headers: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| !momentary(name))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect();
        headers.sort();
        headers
    };
    assert_eq!(matter(answer), matter(first));
}

/// A backend that gives every request another answer: `201 {"id": n}`, with a `Location`.
pub(crate) fn counting() -> Backend {
    let backend = Backend::start();
    let sent = AtomicUsize::new(0);
    backend.scripted(move |_| {
        let n = sent.fetch_add(1, Ordering::SeqCst) + 1;
        Reply::json("201 Created", &format!("{{ \"id\" : {n} }}\n"))
            .header("Location", &format!("/messages/{n}"))
            .header("X-Message-Id", &format!("m{n}"))
    });
    backend
}

/// How a backend dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// It has read the request, and closes without a word.
    BeforeItsAnswer,
    /// In the middle of the body of a 200.
    AmidItsAnswer,
}

/// A backend that reads each request whole, and dies; and how many it has read so far.
pub(crate) fn dying(how: Death) -> (SocketAddr, std::sync::Arc<AtomicUsize>) {
    use std::io::{Read as _, Write as _};
    let seen = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&seen);
    let address = streams::raw(move |mut stream| {
        let mut unread = Vec::new();
        let Some(head) = streams::head(&mut stream, &mut unread) else { return };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let mut buffer = [0; 4096];
        while unread.len() < length.unwrap_or(0) {
            match stream.read(&mut buffer) {
                Ok(read @ 1..) => unread.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
        counted.fetch_add(1, Ordering::SeqCst);
        if how == Death::AmidItsAnswer {
            let half = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{\"id";
            // The gate may be gone; then there is nobody to tell.
            let _ = stream.write_all(half);
        }
    });
    (address, seen)
}

/// Sends a request whose answer may break off, and reads as far as it comes.
pub(crate) fn what_comes_of(gate: SocketAddr, request: &Request) -> Vec<u8> {
    let mut connection = Connection::to(gate);
    connection.write(&request.clone().header("Connection", "close").bytes());
    connection.rest()
}

/// The status of an answer that may break off.
pub(crate) fn status_of(bytes: &[u8]) -> Option<u16> {
    let end = find(bytes, b"\r\n")?;
    String::from_utf8_lossy(&bytes[..end]).split(' ').nth(1)?.parse().ok()
}
