//! The gate before a backend that no one here wrote: Kannel's smsbox, with the shipped policy. What counts is what
//! arrives at the carrier.

mod support;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use support::contract::is_replay_of;
use support::frail::attempt;
use support::kannel::{Kannel, PASSWORD, USERNAME};
use support::policy::shipped;
use support::process::Launch;
use support::{A_SECOND, Answer, Connection, Gate, Policy, Request, eventually};

fn policy() -> Policy {
    Policy::copy_of(&shipped("kannel.yaml"))
        .set("KANNEL_USERNAME", USERNAME)
        .set("KANNEL_PASSWORD", PASSWORD)
}

/// Kannel, a gate before it, and a key that may send.
fn start() -> (Kannel, Gate, String) {
    let kannel = Kannel::start();
    let policy = policy();
    let key = policy.key("acme", &["--id", "first", "--scope", "sms:send"]);
    let gate = Gate::before(policy, &kannel.url());
    (kannel, gate, key)
}

fn sms(query: &str) -> Request {
    Request::get(&format!("/cgi-bin/sendsms?from=12345&to=31612345678&{query}"))
}

#[track_caller]
fn accepted(answer: &Answer) {
    assert_eq!((answer.status, &*answer.text()), (202, "0: Accepted for delivery"), "{answer:?}");
}

#[test]
fn an_sms_sent_with_an_api_key_arrives_at_the_carrier() {
    let (kannel, gate, key) = start();
    accepted(&gate.send(&sms("text=hello+world").bearer(&key)));
    accepted(&gate.send(&sms("text=a%26b%3Dc").header("X-API-Key", &key)));
    kannel.has_received_exactly(2);
    let expected = ["12345 31612345678 text hello world", "12345 31612345678 text a&b=c"];
    assert_eq!(kannel.arrived(), expected);
}

#[test]
fn without_a_key_or_without_its_scope_nothing_is_sent() {
    let (kannel, gate, key) = start();
    let other = gate.policy.try_keys("new", &["--tenant", "acme"]);
    assert!(!other.status.success() && other.stdout.is_empty(), "a key for nothing is a mistake");
    let request = sms(&format!("username={USERNAME}&password={PASSWORD}&text=x"));
    assert_eq!(gate.send(&request).status, 401, "Kannel's own account is no key");
    assert_eq!(gate.send(&request.clone().bearer(PASSWORD)).status, 401);
    assert_eq!(gate.send(&request.header("Authorization", "Basic Z2F0ZTpnYXRl")).status, 401);
    accepted(&gate.send(&sms("text=only").bearer(&key)));
    kannel.has_received_exactly(1);
}

#[test]
fn kannels_account_is_unknown_to_the_client_and_cannot_be_overridden() {
    let (kannel, gate, key) = start();
    let attempts = [
        "username=evil&password=evil",
        "USERNAME=evil&Password=evil",
        "user=evil&pass=evil",
        "USER=evil&PASS=evil&usEr=evil",
        "%75sername=evil&%70assword=evil",
        "user%6Eame=evil&%50%41%53%53=evil",
        "username=evil&username=evil&password=&password",
        "username=&user&pass&password=",
    ];
    for (n, attempt) in attempts.iter().enumerate() {
        accepted(&gate.send(&sms(&format!("{attempt}&text=before{n}")).bearer(&key)));
        let request = Request::get(&format!(
            "/cgi-bin/sendsms?{attempt}&from=12345&to=31612345678&text=after{n}"
        ));
        accepted(&gate.send(&request.bearer(&key)));
    }
    kannel.has_received_exactly(2 * attempts.len());
    let output = gate.output();
    assert!(!output.contains(PASSWORD), "the gate wrote Kannel's password:\n{output}");
    assert!(!output.contains("before0"), "the gate wrote a message's text:\n{output}");
}

#[test]
fn a_client_cannot_make_kannel_call_out() {
    let (kannel, gate, key) = start();
    let trap = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    trap.set_nonblocking(true).expect("a listener takes options");
    let port = trap.local_addr().expect("it is bound").port();
    let url = format!("http%3A%2F%2F127.0.0.1%3A{port}%2Freport");
    let sprung = || trap.accept().is_ok();

    let names = ["dlr-url", "DLR-URL", "Dlr-Url", "dlr%2Durl", "%64lr-url", "dlrurl", "DLRURL"];
    for (n, name) in names.iter().enumerate() {
        let request = sms(&format!("dlr-mask=31&{name}={url}&text=n{n}")).bearer(&key);
        accepted(&gate.send(&request));
    }
    kannel.has_received_exactly(names.len());
    // Kannel's strings end at a zero byte, so to Kannel this too is `dlr-url`. Refused or removed, both are right.
    for name in ["dlr-url%00", "dlr-url%00x", "dlr-url%00%00"] {
        let answer = gate.send(&sms(&format!("dlr-mask=31&{name}={url}&text=zero")).bearer(&key));
        assert!([202, 400].contains(&answer.status), "{answer:?}");
    }
    thread::sleep(Duration::from_secs(1));
    assert!(!sprung(), "Kannel called an address that the client chose:\n{}", kannel.log());

    // The trap works: past the gate, with Kannel's own account, the report comes.
    accepted(&kannel.ask_directly(&format!(
        "/cgi-bin/sendsms?username={USERNAME}&password={PASSWORD}&from=1&to=2&text=x&dlr-mask=31&dlr-url={url}"
    )));
    assert!(eventually(Duration::from_secs(10), sprung), "{}", kannel.log());
}

#[test]
fn a_zero_byte_is_no_way_to_name_another_account() {
    let (kannel, gate, key) = start();
    let spelled = sms("username%00=evil&password%00x=evil&text=zero").bearer(&key);
    let answer = gate.send(&spelled);
    assert!([202, 400].contains(&answer.status), "Kannel saw the client's account: {answer:?}");
    kannel.has_received_exactly(usize::from(answer.status == 202));
}

#[test]
fn keys_are_made_where_kannels_account_is_not_known() {
    let policy = Policy::copy_of(&shipped("kannel.yaml"));
    let key = policy.key("acme", &["--scope", "sms:send"]);
    assert!(key.starts_with("sms_"), "as the policy says");
    let file = policy.file().to_str().expect("temporary directories have plain names");
    let output = policy.run(&["run", "--config", file]);
    assert_eq!(output.status.code(), Some(1), "a gate without the account does not start");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("KANNEL_USERNAME") && told.contains("KANNEL_PASSWORD"), "{told}");
}

#[test]
fn a_revoked_key_is_stopped_within_a_second() {
    let (kannel, gate, key) = start();
    accepted(&gate.send(&sms("text=before").bearer(&key)));
    gate.policy.revoke("first");
    // Asked without a text, so that the waiting itself sends nothing.
    let probe = Request::get("/cgi-bin/elsewhere").bearer(&key);
    assert!(eventually(A_SECOND, || gate.send(&probe).status == 401), "it works on");
    for _ in 0..5 {
        assert_eq!(gate.send(&sms("text=after").bearer(&key)).status, 401);
    }
    kannel.has_received_exactly(1);
}

#[test]
fn a_limit_of_three_lets_three_arrive() {
    let kannel = Kannel::start();
    let policy = policy();
    policy.replace(
        "rate: 60/minute, window: sliding, per: key",
        "rate: 3/minute, window: sliding, per: key",
    );
    let key = policy.key("acme", &["--scope", "sms:send"]);
    let gate = Gate::before(policy, &kannel.url());
    let answers: Vec<_> =
        (0..8).map(|n| gate.send(&sms(&format!("text=n{n}")).bearer(&key))).collect();
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [202, 202, 202, 429, 429, 429, 429, 429]);
    assert!((1..=60).contains(&answers[3].number("retry-after")));
    kannel.has_received_exactly(3);
}

/// A send under an idempotency key.
fn keyed(text: &str, key: &str, name: &str) -> Request {
    sms(&format!("text={text}")).bearer(key).header("Idempotency-Key", name)
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.text().contains(code), "{}", answer.text());
}

#[test]
fn a_retry_with_the_same_key_reaches_the_carrier_once() {
    let (kannel, gate, key) = start();
    let first = gate.send(&keyed("once", &key, "order-7"));
    accepted(&first);
    for _ in 0..5 {
        is_replay_of(&first, &gate.send(&keyed("once", &key, "order-7")));
    }
    let head = gate.send(&Request::new("HEAD", "/cgi-bin/sendsms").bearer(&key));
    assert_ne!(head.header("idempotent-replayed"), Some("true"));
    refused(&gate.send(&keyed("twice", &key, "order-7")), 422, "idempotency_mismatch");
    kannel.has_received_exactly(1);
    accepted(&gate.send(&keyed("once", &key, "order-8")));
    accepted(&gate.send(&sms("text=once").bearer(&key)));
    kannel.has_received_exactly(3);
}

#[test]
fn of_ten_duplicates_at_once_one_reaches_the_carrier() {
    let (kannel, gate, key) = start();
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let (mut connection, request) = (gate.connect(), keyed("dup", &key, "dup"));
            thread::spawn(move || connection.send(&request).status)
        })
        .collect();
    for client in clients {
        let status = client.join().expect("a client");
        assert!([202, 409].contains(&status), "{status}");
    }
    kannel.has_received_exactly(1);
}

#[test]
fn a_gate_killed_between_the_send_and_the_answer_says_unknown_and_the_carrier_saw_one() {
    let kannel = Kannel::start();
    let relay = kannel.relay();
    let policy = policy();
    assert!(policy.text().lines().any(|line| line.starts_with("state: ./state")), "as shipped");
    let key = policy.key("acme", &["--scope", "sms:send"]);
    let launch = Launch::new(&policy, &relay.url(), &policy.directory().join("state"));

    let gate = launch.start();
    accepted(&attempt(gate.traffic, &keyed("before", &key, "before")).expect("it runs"));
    relay.hold();
    let mut client = Connection::to(gate.traffic);
    client.write(&keyed("between", &key, "between").bytes());
    kannel.has_received_exactly(2);
    gate.kill();
    relay.let_go();
    assert_eq!(client.rest(), b"", "the client was told nothing");

    // Killed once more and stopped in order: it stays unknown, and is never sent again.
    for round in 0..3 {
        let gate = launch.start();
        let retry = |text| attempt(gate.traffic, &keyed(text, &key, "between")).expect("it runs");
        refused(&retry("between"), 409, "idempotency_unknown");
        refused(&retry("another"), 422, "idempotency_mismatch");
        refused(&retry("between"), 409, "idempotency_unknown");
        match round {
            0 => gate.kill(),
            _ => assert_eq!(gate.stop(), Some(0)),
        }
    }
    kannel.has_received_exactly(2);
    let gate = launch.start();
    accepted(&attempt(gate.traffic, &keyed("between", &key, "anew")).expect("it runs"));
    kannel.has_received_exactly(3);
}

#[test]
fn however_the_gate_is_killed_no_message_arrives_twice_and_none_that_was_accepted_is_lost() {
    let kannel = Kannel::start();
    let policy = policy();
    let key = policy.key("acme", &["--scope", "sms:send"]);
    let launch = Launch::new(&policy, &kannel.url(), &policy.directory().join("state"));
    let mut told = Vec::new();
    for round in 0..8 {
        let request = keyed(&format!("n{round}"), &key, &format!("k{round}"));
        let gate = launch.start();
        let mut client = Connection::to(gate.traffic);
        client.write(&request.bytes());
        thread::sleep(Duration::from_millis(round));
        gate.kill();
        let early = client.rest().starts_with(b"HTTP/1.1 202");

        let gate = launch.start();
        let retry = attempt(gate.traffic, &request).expect("it runs");
        match retry.status {
            202 => assert_eq!(retry.text(), "0: Accepted for delivery"),
            _ => refused(&retry, 409, "idempotency_unknown"),
        }
        told.push(early || retry.status == 202);
    }
    thread::sleep(Duration::from_secs(1));
    for (round, told) in told.iter().enumerate() {
        let arrived =
            kannel.arrived().iter().filter(|m| m.ends_with(&format!("text n{round}"))).count();
        assert!(arrived <= 1, "n{round} arrived {arrived} times");
        assert!(arrived == 1 || !told, "n{round} was accepted and is lost");
    }
}

#[test]
fn smsboxs_other_pages_and_methods_are_out_of_reach() {
    let (kannel, gate, key) = start();
    for path in ["/cgi-bin/sendota", "/cgi-bin/sendsms/", "/", "/cgi-bin/../cgi-bin/sendota"] {
        let answer = gate.send(&Request::get(path).bearer(&key));
        assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
    }
    // A POST would take account, recipient and text from headers.
    let post = Request::new("POST", "/cgi-bin/sendsms")
        .header("X-Kannel-Username", USERNAME)
        .header("X-Kannel-Password", PASSWORD)
        .header("X-Kannel-To", "316")
        .body("hello");
    assert_eq!(gate.send(&post.bearer(&key)).status, 405);
    kannel.has_received_exactly(0);
}
