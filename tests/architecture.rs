//! The walls of the house, as `ARCHITECTURE.md` draws them, held against the source text itself.
//!
//! Each rule reads a file's code (comments, the contents of strings, and tests taken out) and returns what is wrong with
//! it; each has a test that shows it would fire.

#[path = "architecture/source.rs"]
mod source;

use source::{Source, all_sources};

/// The rooms, and how high each stands. A room imports only what stands lower; rooms of one height import one another
/// only where they are listed in `NEIGHBOURS`.
const ROOMS: &[(&str, u8)] = &[
    ("clock", 0),
    ("fetch", 0),
    ("killpoint", 0),
    ("policy", 1),
    ("config", 2),
    ("keyfile", 2),
    ("store", 2),
    ("telemetry", 2),
    ("admin", 3),
    ("proxy", 3),
    ("reload", 3),
    ("upkeep", 3),
    ("gate", 4),
    ("demo", 5),
    ("cli", 6),
    ("main", 7),
];

/// Rooms of one height that may know one another: together they are the running gate.
const NEIGHBOURS: &[&str] = &["admin", "proxy", "reload", "upkeep"];

/// What a room must never mention: crates and paths by their beginning, identifiers whole (or up to a `*`).
struct Ban {
    room: &'static str,
    paths: &'static [&'static str],
    words: &'static [&'static str],
}

const BANS: &[Ban] = &[
    Ban {
        room: "policy",
        paths: &[
            "tokio",
            "hyper",
            "hyper_util",
            "h2",
            "parking_lot",
            "papaya",
            "arc_swap",
            "std::sync::Mutex",
            "std::sync::atomic",
            "std::fs",
            "std::env",
            "std::process",
            "std::thread",
            "socket2",
            "rustix",
            "rand",
            "getrandom",
            "log",
            "tracing",
            "serde",
            "serde_json",
            "serde_saphyr",
        ],
        words: &[
            "async",
            "await",
            "Future",
            "Mutex",
            "RwLock",
            "Condvar",
            "Atomic*",
            "Instant",
            "SystemTime",
            "UNIX_EPOCH",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "ToSocketAddrs",
            "print",
            "println",
            "eprint",
            "eprintln",
            "dbg",
            "Serialize",
            "Deserialize",
            "thread_rng",
            "RandomState",
        ],
    },
    Ban {
        room: "config",
        paths: &["tokio", "hyper", "hyper_util", "h2", "socket2", "std::os::unix::net"],
        words: &[
            "async",
            "await",
            "Instant",
            "SystemTime",
            "Clock",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
        ],
    },
    Ban {
        room: "store",
        paths: &["tokio", "hyper", "hyper_util", "http", "http_body", "h2"],
        words: &["async", "await", "Instant", "SystemTime", "Clock"],
    },
];

/// The most lines of a file before its tests: a longer one is two rooms.
const MOST_LINES: usize = 500;

type Rule = fn(&Source) -> Vec<String>;

/// All rules, each with the test that it fires.
const RULES: &[Rule] = &[imports_flow_down, nothing_banned, short_enough, rooms_are_introduced];

fn imports_flow_down(source: &Source) -> Vec<String> {
    let height =
        |room: &str| ROOMS.iter().find(|(name, _)| *name == room).map(|(_, height)| *height);
    let from = source.room();
    if from == "lib" {
        return Vec::new();
    }
    let Some(own) = height(from) else {
        return vec![format!("{}: the room `{from}` has no place in the house", source.path)];
    };
    let wrong = |to: &&String| match height(to) {
        // Items of the crate's root, or a name that is no room: nothing stands above it.
        None => false,
        Some(_) if to.as_str() == from => false,
        // The binary knows one room of the library.
        Some(_) if from == "main" => to.as_str() != "cli",
        Some(theirs) if theirs == own => {
            !(NEIGHBOURS.contains(&from) && NEIGHBOURS.contains(&to.as_str()))
        }
        Some(theirs) => theirs > own,
    };
    let rooms = source.rooms_named();
    rooms.iter().filter(wrong).map(|to| format!("{}: imports `{to}`", source.path)).collect()
}

fn nothing_banned(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    for ban in BANS.iter().filter(|ban| ban.room == source.room()) {
        let begins = |path: &str, with: &str| {
            path.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        for path in source.paths() {
            if let Some(banned) = ban.paths.iter().find(|banned| begins(&path, banned)) {
                problems.push(format!("{}: `{path}` ({banned})", source.path));
            }
        }
        for word in source.words() {
            let is = |banned: &&&str| match banned.strip_suffix('*') {
                Some(start) => word.starts_with(start),
                None => word == **banned,
            };
            if let Some(banned) = ban.words.iter().find(is) {
                problems.push(format!("{}: `{word}` ({banned})", source.path));
            }
        }
    }
    problems
}

fn short_enough(source: &Source) -> Vec<String> {
    let lines = source.lines_before_tests();
    if lines <= MOST_LINES || source.is_test() {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines before its tests; {MOST_LINES} are two rooms", source.path)]
}

fn rooms_are_introduced(source: &Source) -> Vec<String> {
    if source.path.ends_with("mod.rs") && !source.text.starts_with("//!") {
        return vec![format!("{}: does not say what the room is for", source.path)];
    }
    Vec::new()
}

#[test]
fn every_wall_stands() {
    let sources = all_sources();
    assert!(sources.len() > 10, "the tree was found");
    let problems: Vec<String> =
        sources.iter().flat_map(|source| RULES.iter().flat_map(|rule| rule(source))).collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

// === Each rule fires ===

fn fires(rule: Rule, path: &str, text: &str) -> bool {
    !rule(&Source::new(path, text)).is_empty()
}

#[test]
fn an_import_of_a_higher_room_is_seen_in_every_spelling() {
    for (path, text) in [
        ("policy/meter/bucket.rs", "use crate::store::Ledger;"),
        ("policy/route.rs", "use crate::{clock::Now, config};"),
        ("policy/route.rs", "fn f() { crate::proxy::serve(); }"),
        ("policy/route.rs", "use super::super::telemetry::Metrics;"),
        ("policy/mod.rs", "use super::telemetry::Metrics;"),
        ("clock.rs", "use crate::policy::Name;"),
        ("store/cell.rs", "pub use crate::config as settings;"),
        ("telemetry/mod.rs", "use crate::{store::{self, Ledger}};"),
        ("config/mod.rs", "use crate :: reload :: Watch ;"),
        ("proxy/serve.rs", "use crate::cli::Flags;"),
        ("admin/mod.rs", "fn f() -> crate::demo::Backend {}"),
        ("reload.rs", "use crate::cli;"),
        ("main.rs", "fn main() { tollgate::proxy::serve() }"),
        ("cellar/mod.rs", "//! A room that nobody planned."),
    ] {
        assert!(fires(imports_flow_down, path, text), "{path}: {text}");
    }
}

#[test]
fn an_import_of_a_lower_room_is_fine() {
    for (path, text) in [
        ("policy/meter/bucket.rs", "use crate::clock::Steady; use super::{Carried, Standing};"),
        ("store/ledger.rs", "use crate::policy::order::Ask; use super::cell::Cell;"),
        ("proxy/serve.rs", "use crate::{admin, reload::Watch, store::Ledger};"),
        ("cli/run.rs", "use crate::{proxy, config, demo};"),
        ("main.rs", "fn main() { tollgate::cli::main() }"),
        (
            "policy/mod.rs",
            "//! See [`crate::store`].\n// crate::proxy\nconst A: &str = \"crate::cli\";",
        ),
        ("policy/mod.rs", "#[cfg(test)]\nmod tests { use crate::store::Ledger; }"),
    ] {
        assert!(!fires(imports_flow_down, path, text), "{path}: {text}");
    }
}

#[test]
fn what_a_room_must_never_do_is_seen() {
    for (path, text) in [
        ("policy/head.rs", "pub async fn f() {}"),
        ("policy/head.rs", "fn f() { g().await }"),
        ("policy/head.rs", "use tokio::time;"),
        ("policy/head.rs", "fn f(b: hyper::body::Incoming) {}"),
        ("policy/head.rs", "use hyper_util::rt::TokioIo;"),
        ("policy/head.rs", "use std::{fmt, sync::{Arc, Mutex}};"),
        ("policy/head.rs", "static N: std::sync::atomic::AtomicU64 = x;"),
        ("policy/head.rs", "use std::{collections::HashMap, fs};"),
        ("policy/head.rs", "use std::net::{IpAddr, TcpStream};"),
        ("policy/head.rs", "let t = std::time::Instant::now();"),
        ("policy/head.rs", "use std::time::SystemTime;"),
        ("policy/head.rs", "getrandom::fill(&mut bytes);"),
        ("policy/head.rs", "log::info!(\"x\");"),
        ("policy/head.rs", "eprintln!(\"x\");"),
        ("policy/head.rs", "#[derive(Debug, serde::Deserialize)] struct A;"),
        ("config/load.rs", "use tokio::fs;"),
        ("config/load.rs", "use hyper::Uri;"),
        ("config/load.rs", "let now = Instant::now();"),
        ("config/load.rs", "std::net::TcpStream::connect(a)"),
        ("store/cell.rs", "use http::StatusCode;"),
        ("store/cell.rs", "use hyper::Request;"),
        ("store/cell.rs", "async fn f() {}"),
    ] {
        assert!(fires(nothing_banned, path, text), "{path}: {text}");
    }
}

#[test]
fn what_only_looks_forbidden_is_fine() {
    for (path, text) in [
        ("policy/head.rs", "//! Nothing here is async, or uses tokio.\nuse std::net::IpAddr;"),
        ("policy/head.rs", "/* Instant /* nested */ Mutex */ fn f() {}"),
        ("policy/head.rs", "const A: &str = \"async \\\" tokio::x\"; const B: char = '\"';"),
        ("policy/head.rs", "const A: &str = r#\"Mutex \" Instant\"#; fn f<'a>(x: &'a str) {}"),
        ("policy/head.rs", "use http::HeaderMap; fn f(catalog: u8) { let dialog = catalog; }"),
        ("policy/head.rs", "#[cfg(test)]\nmod tests { use std::sync::Mutex; }"),
        ("proxy/serve.rs", "pub async fn serve() { tokio::spawn(f()); }"),
        ("store/cell.rs", "use parking_lot::Mutex;"),
    ] {
        assert!(!fires(nothing_banned, path, text), "{path}: {text}");
    }
}

#[test]
fn a_long_file_is_two_rooms_but_its_tests_do_not_count() {
    let line = "fn f() {}\n";
    assert!(fires(short_enough, "proxy/serve.rs", &line.repeat(501)));
    assert!(!fires(short_enough, "proxy/serve.rs", &line.repeat(500)));
    let tested = line.repeat(400) + "#[cfg(test)]\nmod tests {\n" + &line.repeat(400) + "}\n";
    assert!(!fires(short_enough, "proxy/serve.rs", &tested));
    assert!(!fires(short_enough, "store/tests.rs", &line.repeat(501)));
}

#[test]
fn a_room_without_a_word_about_itself_is_seen() {
    assert!(fires(rooms_are_introduced, "store/mod.rs", "mod cell;\n"));
    assert!(!fires(rooms_are_introduced, "store/mod.rs", "//! The ledger.\nmod cell;\n"));
    assert!(!fires(rooms_are_introduced, "store/cell.rs", "struct Cell;\n"));
}
