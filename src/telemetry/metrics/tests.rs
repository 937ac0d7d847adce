use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::{Clock, ManualClock, Now, Steady, Wall};
use crate::policy::Name;
use crate::policy::limit::Mode;
use crate::policy::refusal::Refusal;

use super::{BuildInfo, ConnectionFigures, Metrics, Outcome};

const BUILD: BuildInfo = BuildInfo { version: "0.1.0", revision: "unknown" };

fn metrics() -> Arc<Metrics> {
    let start = Now { steady: Steady(0), wall: Wall(1_700_000_000_000) };
    Metrics::new(2, BUILD, Clock::Manual(ManualClock::starting_at(start)))
}

fn in_force(metrics: &Metrics, routes: &[&str], limits: &[&str]) {
    metrics.grow(routes.len(), limits.len());
    let mut in_force = metrics.in_force.lock();
    in_force.routes = routes.iter().map(|name| Name::from(*name)).collect();
    in_force.limits = limits.iter().map(|name| Name::from(*name)).collect();
    in_force.digest = "abc".into();
    in_force.generation = 1;
    in_force.loaded_at = Some(Wall(1_700_000_000_000));
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn counts_of_all_workers_are_summed() {
    let metrics = metrics();
    in_force(&metrics, &["send", "read"], &["throttle"]);
    let (one, two) = (metrics.worker(), metrics.worker());
    one.request(Some(0), Outcome::Admitted, 200, 40_000, Some(3_000_000));
    two.request(Some(0), Outcome::Admitted, 202, 40_000, Some(300_000_000));
    two.request(None, Outcome::Refused, 404, 9_000, None);
    two.refusal(None, Refusal::RouteUnknown, None, Mode::Enforce);
    one.refusal(Some(1), Refusal::Rate, Some(0), Mode::Enforce);
    two.refusal(Some(1), Refusal::Rate, Some(0), Mode::Enforce);
    two.refusal(Some(1), Refusal::Rate, Some(0), Mode::Shadow);
    one.in_flight(1);
    one.in_flight(1);
    one.in_flight(-1);
    two.in_flight(1);
    two.upstream_error(Refusal::UpstreamTimeout);
    two.upstream_error(Refusal::KeyMissing);
    one.panic();
    let text = metrics.render().unwrap();
    for (series, expected) in [
        (r#"tollgate_requests_total{route="send",outcome="admitted",class="2xx"}"#, 2.0),
        (r#"tollgate_requests_total{route="_unlisted",outcome="refused",class="4xx"}"#, 1.0),
        (
            r#"tollgate_refusals_total{route="read",reason="rate",limit="throttle",mode="enforce"}"#,
            2.0,
        ),
        (
            r#"tollgate_refusals_total{route="read",reason="rate",limit="throttle",mode="shadow"}"#,
            1.0,
        ),
        (
            r#"tollgate_refusals_total{route="_unlisted",reason="route_unknown",limit="",mode="enforce"}"#,
            1.0,
        ),
        (r#"tollgate_requests_in_flight{listener="traffic"}"#, 2.0),
        (r#"tollgate_upstream_errors_total{upstream="default",reason="upstream_timeout"}"#, 1.0),
        ("tollgate_panics_total", 1.0),
        (r#"tollgate_upstream_seconds_bucket{route="send",le="0.005"}"#, 1.0),
        (r#"tollgate_upstream_seconds_bucket{route="send",le="+Inf"}"#, 2.0),
        (r#"tollgate_upstream_seconds_count{route="send"}"#, 2.0),
        (r#"tollgate_upstream_seconds_sum{route="send"}"#, 0.303),
        (r#"tollgate_gate_seconds_bucket{outcome="admitted",le="0.00005"}"#, 2.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}\n{text}");
    }
}

#[test]
fn counts_survive_new_routes_and_a_worker_that_was_there_before_them() {
    let metrics = metrics();
    in_force(&metrics, &["a"], &["l"]);
    let worker = metrics.worker();
    worker.request(Some(0), Outcome::Admitted, 200, 1, None);
    worker.refusal(Some(0), Refusal::Rate, Some(0), Mode::Enforce);
    let names: Vec<String> =
        std::iter::once("a".into()).chain((1..100).map(|n| format!("route-{n}"))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    worker.request(Some(60), Outcome::Admitted, 200, 1, None);
    in_force(&metrics, &names, &["l", "m"]);
    worker.request(Some(60), Outcome::Admitted, 200, 1, None);
    worker.refusal(Some(60), Refusal::Concurrent, Some(1), Mode::Enforce);
    let text = metrics.render().unwrap();
    for (series, expected) in [
        (r#"tollgate_requests_total{route="a",outcome="admitted",class="2xx"}"#, 1.0),
        (r#"tollgate_requests_total{route="route-60",outcome="admitted",class="2xx"}"#, 1.0),
        (r#"tollgate_requests_total{route="_unlisted",outcome="admitted",class="2xx"}"#, 1.0),
        (r#"tollgate_refusals_total{route="a",reason="rate",limit="l",mode="enforce"}"#, 1.0),
        (
            r#"tollgate_refusals_total{route="route-60",reason="concurrent",limit="m",mode="enforce"}"#,
            1.0,
        ),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
}

#[test]
fn what_alerts_on_a_first_event_is_there_at_zero_before_any_worker() {
    let text = metrics().render().unwrap();
    for why in Refusal::ALL {
        let series = format!(
            r#"tollgate_refusals_total{{route="_unlisted",reason="{}",limit="",mode="enforce"}}"#,
            why.name()
        );
        assert_eq!(value(&text, &series), Some(0.0), "{series}");
    }
    for series in [
        "tollgate_panics_total",
        r#"tollgate_log_dropped_total{sink="records"}"#,
        r#"tollgate_log_dropped_total{sink="log"}"#,
        r#"tollgate_upstream_errors_total{upstream="default",reason="upstream_broken"}"#,
        "tollgate_policy_last_load_ok",
        "tollgate_policy_restart_needed",
        r#"tollgate_connections{listener="traffic"}"#,
    ] {
        assert_eq!(value(&text, series), Some(0.0), "{series}");
    }
    assert_eq!(value(&text, r#"tollgate_store_up{store="memory"}"#), Some(1.0));
    assert_eq!(
        value(&text, r#"tollgate_build_info{version="0.1.0",revision="unknown"}"#),
        Some(1.0)
    );
}

#[test]
fn every_line_parses_and_no_series_appears_twice() {
    let metrics = metrics();
    in_force(&metrics, &["send", "quoted\"\\\nname"], &["throttle"]);
    let worker = metrics.worker();
    worker.request(Some(1), Outcome::Failed, 999, 1, Some(1));
    worker.request(Some(1), Outcome::Failed, 0, 1, Some(1));
    worker.refusal(Some(1), Refusal::Rate, Some(77), Mode::Enforce);
    worker.refusal(Some(u32::MAX), Refusal::Rate, Some(0), Mode::Enforce);
    metrics.watch_connections("admin", || ConnectionFigures { open: 3, ..Default::default() });
    metrics.watch_connections("admin", || ConnectionFigures { open: 4, ..Default::default() });
    metrics.watch_dropped("records", || 5);
    let text = metrics.render().unwrap();
    let mut seen = BTreeSet::new();
    let mut typed = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(rest.split(' ').next().unwrap()), "typed twice: {line}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(series), "twice: {series}");
    }
    assert!(text.contains(r#"route="quoted\"\\\nname""#));
    assert_eq!(value(&text, r#"tollgate_connections{listener="admin"}"#), Some(7.0));
    assert_eq!(value(&text, r#"tollgate_log_dropped_total{sink="records"}"#), Some(5.0));
}

#[test]
fn routes_beyond_the_most_are_summed_as_unlisted() {
    let metrics = metrics();
    let names: Vec<String> = (0..1003).map(|n| format!("r{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    in_force(&metrics, &names, &[]);
    let worker = metrics.worker();
    for slot in [999, 1000, 1001, 1002] {
        worker.request(Some(slot), Outcome::Admitted, 200, 1, None);
    }
    let text = metrics.render().unwrap();
    let unlisted = r#"tollgate_requests_total{route="_unlisted",outcome="admitted",class="2xx"}"#;
    assert_eq!(value(&text, unlisted), Some(3.0));
    assert!(text.contains(r#"route="r999""#));
    assert!(!text.contains(r#"route="r1000""#));
}

#[test]
fn a_refused_load_shows_and_recovers_with_the_next_good_one() {
    let metrics = metrics();
    in_force(&metrics, &[], &[]);
    let now = Now { steady: Steady(1), wall: Wall(1_700_000_001_000) };
    let ok = |text: &str| value(text, "tollgate_policy_last_load_ok");
    assert_eq!(ok(&metrics.render().unwrap()), Some(1.0));
    metrics.load_failed("line 3: no such plan", now);
    metrics.restart_needed(["listen"]);
    let text = metrics.render().unwrap();
    assert_eq!(ok(&text), Some(0.0));
    assert_eq!(value(&text, "tollgate_policy_restart_needed"), Some(1.0));
    assert_eq!(metrics.policy_status().refused, Some((now.wall, "line 3: no such plan".into())));
    metrics.load_ok();
    metrics.restart_needed([]);
    let text = metrics.render().unwrap();
    assert_eq!(ok(&text), Some(1.0));
    assert_eq!(value(&text, "tollgate_policy_restart_needed"), Some(0.0));
    assert_eq!(value(&text, r#"tollgate_policy_info{digest="abc",generation="1"}"#), Some(1.0));
    assert_eq!(value(&text, "tollgate_policy_loaded_timestamp_seconds"), Some(1_700_000_000.0));
}

#[test]
fn a_scrape_beside_a_writing_worker_never_goes_backwards() {
    let metrics = metrics();
    in_force(&metrics, &["a"], &[]);
    let worker = metrics.worker();
    let writer = std::thread::spawn(move || {
        for _ in 0..20_000 {
            worker.request(Some(0), Outcome::Admitted, 200, 1, None);
        }
    });
    let series = r#"tollgate_requests_total{route="a",outcome="admitted",class="2xx"}"#;
    let mut last = 0.0;
    while !writer.is_finished() {
        let now = value(&metrics.render().unwrap(), series).unwrap_or(0.0);
        assert!(now >= last);
        last = now;
    }
    writer.join().unwrap();
    assert_eq!(value(&metrics.render().unwrap(), series), Some(20_000.0));
}
