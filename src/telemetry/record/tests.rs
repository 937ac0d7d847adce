use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use crate::clock::Clock;
use crate::policy::limit::{LimitKind, Mode};
use crate::policy::order::Reading;
use crate::policy::snapshot::RecordSink;
use crate::telemetry::decision_id::{BootId, DecisionIds};
use crate::telemetry::events::Log;

use super::buffer::MOST;
use super::*;

/// A whole record, as one exchange makes it in three steps.
#[derive(Clone, Debug)]
struct Record<'a> {
    opening: Opening<'a>,
    refusal: Option<RefusalLine<'a>>,
    closing: Closing,
}

impl Record<'_> {
    fn draft(&self) -> Draft {
        let mut draft = Draft::wanted(0);
        draft.open(&mut Beginning::default(), &self.opening);
        if let Some(refusal) = &self.refusal {
            draft.refuse(&mut Because::default(), refusal);
        }
        draft
    }
}

static ORIGIN: LazyLock<Vec<u8>> =
    LazyLock::new(|| origin_of(SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)), "POST"));

static CALLER: LazyLock<Vec<u8>> = LazyLock::new(|| caller_of(Some(b"api.example")));

fn caller_of(host: Option<&[u8]>) -> Vec<u8> {
    let caller = Caller {
        route: Some("sms-send"),
        key: Some("k1"),
        tenant: Some("acme"),
        plan: Some("pro"),
        scope: Some("sms:send"),
    };
    let mut out = Vec::new();
    write_host(&mut out, host);
    caller.write(&mut out);
    out
}

fn origin_of(peer: SocketAddr, method: &str) -> Vec<u8> {
    let origin = Origin {
        policy: "0123456789abcdef0123456789abcdef",
        listener: 0,
        peer,
        client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        protocol: "http/1.1",
    };
    let mut out = Vec::new();
    origin.write(&mut out);
    write_method(&mut out, method);
    out
}

fn parts(path: &str) -> Place<'_> {
    Place::Parts { origin: &ORIGIN, path, caller: &CALLER }
}

fn record<'a>() -> Record<'a> {
    Record {
        opening: Opening {
            time: Wall(1_709_209_845_007),
            id: DecisionIds::new(BootId::from_bytes([1; 24]), 0).next_id(),
            place: parts("/sms/send"),
            limits: b"",
            shadow: &[],
            request_id: ShownId::Given(b"r-1"),
            headers: &[],
        },
        refusal: None,
        closing: CLOSING,
    }
}

pub(super) const CLOSING: Closing = Closing {
    outcome: Outcome::Admitted,
    status: 202,
    upstream_status: Some(202),
    request_bytes: 10,
    response_bytes: 20,
    gate_nanos: 12_345,
    upstream_nanos: Some(3_000_999),
    total_nanos: 4_000_000,
    end: End::Clean,
    idempotency: None,
    cost: None,
    charged: None,
};

fn write(buffer: &mut RecordBuffer, record: &Record<'_>) {
    buffer.close(record.draft(), &record.closing);
}

fn written(record: &Record<'_>) -> Value {
    let mut draft = record.draft();
    draft.close(&mut CameOut::default(), &record.closing);
    let text = String::from_utf8(draft.line.unwrap().0).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_record_holds_every_input_of_the_decision_under_its_name() {
    let mut limits = LimitsMember::new([
        LimitPhrase::new("throttle", LimitKind::Rate, Mode::Enforce, 60),
        LimitPhrase::new("wallet", LimitKind::Credit, Mode::Shadow, 50_000_000),
    ]);
    let (whole, more_in) = (60, None);
    let readings = [
        Reading { whole, used: 60, remaining: 0, admits: false, wait: Some(999_001), more_in },
        Reading {
            whole: 50_000_000,
            used: 2_500_000,
            remaining: 47_500_000,
            admits: true,
            wait: Some(0),
            more_in,
        },
    ];
    let refused = Record {
        opening: Opening {
            limits: limits.of(&readings),
            shadow: &[Refusal::ScopeDenied, Refusal::Concurrent],
            headers: &[("user-agent", b"curl")],
            ..record().opening
        },
        closing: Closing {
            outcome: Outcome::Refused,
            status: 429,
            upstream_status: None,
            upstream_nanos: None,
            ..CLOSING
        },
        refusal: Some(RefusalLine {
            why: Refusal::Rate,
            limit: Some("throttle"),
            detail: "60 of 60",
        }),
    };
    let expected = serde_json::json!({
        "v": 1, "time": "2024-02-29T12:30:45.007Z", "id": "010101010101-0-1",
        "policy": "0123456789ab", "listener": 0,
        "peer": "127.0.0.1:4711", "client": "203.0.113.7", "protocol": "http/1.1",
        "method": "POST", "path": "/sms/send", "host": "api.example", "route": "sms-send",
        "key": "k1", "tenant": "acme", "plan": "pro", "scope": "sms:send",
        "limits": [{"name": "throttle", "mode": "enforce", "used": 60, "ceiling": 60,
            "remaining": 0, "admits": false, "wait_us": 1000}, {"name": "wallet", "mode": "shadow",
            "used": "2.5", "ceiling": "50", "remaining": "47.5", "admits": true}],
        "shadow": ["scope_denied", "concurrent"],
        "outcome": "refused", "refusal": "rate", "limit": "throttle", "detail": "60 of 60",
        "status": 429, "request_bytes": 10, "response_bytes": 20, "gate_us": 12,
        "total_us": 4000, "end": "clean", "request_id": "r-1", "headers": {"user-agent": "curl"}
    });
    assert_eq!(written(&refused), expected);
}

#[test]
fn an_opening_is_written_in_the_order_that_readers_know() {
    let mut draft = record().draft();
    draft.close(&mut CameOut::default(), &CLOSING);
    let text = String::from_utf8(draft.line.unwrap().0).unwrap();
    let expected = "{\"v\":1,\"time\":\"2024-02-29T12:30:45.007Z\",\"id\":\"010101010101-0-1\",\
        \"policy\":\"0123456789ab\",\"listener\":0,\"peer\":\"127.0.0.1:4711\",\"client\":\"203.0.113.7\",\
        \"protocol\":\"http/1.1\",\"method\":\"POST\",\"path\":\"/sms/send\",\"host\":\"api.example\",\
        \"route\":\"sms-send\",\"key\":\"k1\",\"tenant\":\"acme\",\"plan\":\"pro\",\"scope\":\"sms:send\",\
        \"request_id\":\"r-1\",\"outcome\":\"admitted\",\"status\":202,\"upstream_status\":202,\
        \"request_bytes\":10,\"response_bytes\":20,\"gate_us\":12,\"upstream_us\":3000,\"total_us\":4000,\
        \"end\":\"clean\"}\n";
    assert_eq!(text, expected);
}

#[test]
fn a_peer_of_ipv6_is_written_with_its_brackets() {
    let text = String::from_utf8(origin_of("[2001:db8::1]:443".parse().unwrap(), "GET")).unwrap();
    assert!(text.contains("\"peer\":\"[2001:db8::1]:443\""), "{text}");
}

#[test]
fn a_query_and_a_secret_header_are_never_written() {
    let opening = Opening {
        place: parts("/sms/send?api_key=hunter2#hunter2"),
        headers: &[("Authorization", b"Bearer hunter2"), ("cookie", b"hunter2")],
        ..record().opening
    };
    let text = written(&Record { opening, ..record() });
    assert_eq!(text["path"], "/sms/send");
    assert_eq!(text["headers"]["Authorization"], "[secret]");
    assert!(!text.to_string().contains("hunter2"));
}

proptest! {
    #[test]
    fn hostile_text_can_neither_break_nor_add_a_line(
        path in any::<String>(), host in any::<String>(), method in any::<String>(),
        name in any::<String>(), header in any::<Vec<u8>>(), request_id in any::<String>(),
    ) {
        let headers = [(name.as_str(), header.as_slice())];
        let origin = origin_of("127.0.0.1:1".parse().unwrap(), &method);
        let caller = caller_of(Some(host.as_bytes()));
        let place = Place::Parts { origin: &origin, path: &path, caller: &caller };
        let request_id = request_id.as_str();
        let opening = Opening {
            place, request_id: ShownId::Given(request_id.as_bytes()), headers: &headers, ..record().opening
        };
        let value = written(&Record { opening: opening.clone(), ..record() });
        let mut whole = origin.clone();
        write_path(&mut whole, &path);
        whole.extend_from_slice(&caller);
        let opening = Opening { place: Place::Whole(&whole), ..opening };
        prop_assert_eq!(&value, &written(&Record { opening, ..record() }));
        prop_assert_eq!(&value["host"], host.as_str());
        prop_assert_eq!(&value["method"], method.as_str());
        prop_assert_eq!(&value["request_id"], request_id);
        prop_assert_eq!(&value["outcome"], "admitted");
        prop_assert_eq!(&value["status"], 202);
    }
}

/// A pipe whose reader can stop reading.
#[derive(Clone, Default)]
struct Pipe(Arc<(Mutex<PipeState>, Condvar)>);

#[derive(Default)]
struct PipeState {
    blocked: bool,
    bytes: Vec<u8>,
}

impl Pipe {
    fn block(&self, blocked: bool) {
        self.0.0.lock().unwrap().blocked = blocked;
        self.0.1.notify_all();
    }

    fn lines(&self) -> usize {
        String::from_utf8_lossy(&self.0.0.lock().unwrap().bytes).lines().count()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |s| s.blocked).unwrap();
        state.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn writer(pipe: &Pipe) -> RecordWriter {
    let out = Box::new(pipe.clone());
    RecordWriter::start_on(out, RecordSink::Off, Log::discard(), Clock::system()).unwrap()
}

#[test]
fn records_of_all_workers_arrive_whole() {
    let pipe = Pipe::default();
    let writer = writer(&pipe);
    let dropped = writer.dropped();
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let mut buffer = writer.buffer();
            std::thread::spawn(move || {
                for _ in 0..500 {
                    write(&mut buffer, &record());
                }
                buffer.flush();
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(writer.finish(Duration::from_secs(10)));
    let lost = usize::try_from(dropped()).unwrap();
    assert_eq!(pipe.lines() + lost, 1500);
    let text = String::from_utf8(pipe.0.0.lock().unwrap().bytes.clone()).unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn a_blocked_pipe_drops_and_counts_and_blocks_no_worker() {
    let pipe = Pipe::default();
    pipe.block(true);
    let writer = writer(&pipe);
    let dropped = writer.dropped();
    let mut buffer = writer.buffer();
    let mut written = 0;
    let one = {
        let mut draft = record().draft();
        draft.close(&mut CameOut::default(), &CLOSING);
        draft.line.unwrap().0.len()
    };
    // More than the queue and the buffer can hold together.
    while dropped() < 10 {
        write(&mut buffer, &record());
        written += 1;
        assert!(written * one < 64 * MOST, "nothing was dropped");
    }
    assert!(!writer.finish(Duration::from_millis(20)));
    pipe.block(false);
    // The worker's tick hands on what its buffer kept.
    for _ in 0..500 {
        buffer.flush();
        if pipe.lines() + usize::try_from(dropped()).unwrap() == written {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(pipe.lines() + usize::try_from(dropped()).unwrap(), written);
    assert!(pipe.lines() > 0);
}

#[test]
fn a_file_that_was_moved_away_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let sink = RecordSink::File(path.clone());
    let writer = RecordWriter::start(&sink, Log::discard(), Clock::system()).unwrap();
    let mut buffer = writer.buffer();
    write(&mut buffer, &record());
    buffer.flush();
    assert!(writer.finish(Duration::from_secs(10)));
    let moved = directory.path().join("access.log.1");
    std::fs::rename(&path, &moved).unwrap();
    assert!(writer.reopen());
    write(&mut buffer, &record());
    buffer.flush();
    assert!(writer.finish(Duration::from_secs(10)));
    for file in [path, moved] {
        assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 1);
    }
}

#[test]
fn a_sink_that_is_off_or_fails_stops_nobody() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let off = RecordWriter::start(&RecordSink::Off, Log::discard(), Clock::system()).unwrap();
    let mut buffer = off.buffer();
    write(&mut buffer, &record());
    buffer.flush();
    assert!(off.finish(Duration::ZERO));
    assert_eq!(off.dropped()(), 0);

    let out = Box::new(Full);
    let full =
        RecordWriter::start_on(out, RecordSink::Off, Log::discard(), Clock::system()).unwrap();
    let mut buffer = full.buffer();
    write(&mut buffer, &record());
    buffer.flush();
    assert!(full.finish(Duration::from_secs(10)));
    assert_eq!(full.dropped()(), 1);
}

#[test]
fn money_is_decimal_text_and_is_there_only_where_there_was_some() {
    let mut draft = Draft::wanted(0);
    draft.close(&mut CameOut::default(), &CLOSING);
    let plain: Value = serde_json::from_slice(&draft.line.unwrap().0).unwrap();
    assert!(plain.get("cost").is_none() && plain.get("idempotency").is_none());
    let mut draft = Draft::wanted(0);
    draft.close(
        &mut CameOut::default(),
        &Closing {
            idempotency: Some(IdempotencyOutcome::Fresh),
            cost: Some(Money(5_000_000)),
            charged: Some(Money(50_000)),
            ..CLOSING
        },
    );
    let told: Value = serde_json::from_slice(&draft.line.unwrap().0).unwrap();
    assert_eq!((&told["idempotency"], &told["cost"]), (&Value::from("fresh"), &Value::from("5")));
    assert_eq!((&told["charged"], &told["end"]), (&Value::from("0.05"), &Value::from("clean")));
}
