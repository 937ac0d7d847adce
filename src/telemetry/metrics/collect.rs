//! A scrape: the workers' cells summed into families, and the families as text.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::MetricType;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily};

use crate::policy::limit::Mode;
use crate::policy::refusal::Refusal;

use super::cells::{
    BUCKETS, CLASSES, Cell, GATE_BOUNDS, MODES, OUTCOMES, RouteCells, Times, UPSTREAM_BOUNDS,
    UPSTREAM_ERRORS, WorkerCells,
};
use super::names::{self, Family, label};
use super::policy::InForce;
use super::{ConnectionFigures, Metrics, mode_name, process};

/// `Content-Type` of [`Metrics::render`] (text exposition format 0.0.4).
pub const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Metrics {
    /// Everything as text exposition format 0.0.4. Fails only where a family breaks the format, which is a bug.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.families())
    }

    /// Everything, in families that each hold at least one series.
    fn families(&self) -> Vec<MetricFamily> {
        let workers: Vec<Arc<WorkerCells>> = self.workers.lock().clone();
        let mut out = Families(Vec::new());
        {
            let in_force = self.in_force.lock();
            out.requests(&workers, &in_force);
            out.refusals(&workers, &in_force);
            out.times(&workers, &in_force);
            self.policy(&mut out, &in_force);
            self.connections(&mut out, &in_force);
            self.lasting(&mut out, &workers, &in_force);
        }
        let sum = |cell: fn(&WorkerCells) -> &Cell| total(workers.iter().map(|w| cell(w)));
        let in_flight = sum(|worker| &worker.in_flight).cast_signed();
        out.gauge(names::IN_FLIGHT, &[(label::LISTENER, "traffic")], float_signed(in_flight));
        out.counter(names::PANICS, &[], sum(|worker| &worker.panics));
        for (at, why) in UPSTREAM_ERRORS.iter().enumerate() {
            let labels = [(label::UPSTREAM, names::UPSTREAM), (label::REASON, why.name())];
            let errors = total(workers.iter().map(|worker| &worker.upstream_errors[at]));
            out.counter(names::UPSTREAM_ERRORS, &labels, errors);
        }
        self.dropped(&mut out);
        let build = [(label::VERSION, self.build.version), (label::REVISION, self.build.revision)];
        out.gauge(names::BUILD_INFO, &build, 1.0);
        self.process(&mut out);
        out.0
    }

    fn policy(&self, out: &mut Families, in_force: &InForce) {
        let (refused, restart_needed) = {
            let last = self.last_load.lock();
            (last.refused.is_some(), !last.restart_needed.is_empty())
        };
        let ok = !refused && in_force.loaded_at.is_some();
        out.gauge(names::LAST_LOAD_OK, &[], float(u64::from(ok)));
        out.gauge(names::RESTART_NEEDED, &[], float(u64::from(restart_needed)));
        let Some(loaded_at) = in_force.loaded_at else { return };
        out.gauge(names::LOADED_AT, &[], float_signed(loaded_at.0) / 1000.0);
        let generation = in_force.generation.to_string();
        let info = [(label::DIGEST, &*in_force.digest), (label::GENERATION, &generation)];
        out.gauge(names::POLICY_INFO, &info, 1.0);
        for (limit, units) in &in_force.ceilings {
            let labels = [(label::LIMIT, &**limit), (label::PLAN, names::BASE_PLAN)];
            out.gauge(names::LIMIT_CEILING, &labels, *units);
        }
        let now = self.clock.now().wall;
        let states = in_force.keys.states(now);
        for (state, count) in [
            ("live", states.live),
            ("not_yet", states.not_yet),
            ("expired", states.expired),
            ("revoked", states.revoked),
        ] {
            out.gauge(names::KEYS, &[(label::STATE, state)], float(count as u64));
        }
        for (within, days) in [("1d", 1), ("7d", 7), ("30d", 30)] {
            let count = in_force.keys.expiring(now, days);
            out.gauge(names::KEYS_EXPIRING, &[(label::WITHIN, within)], float(count as u64));
        }
    }

    fn connections(&self, out: &mut Families, in_force: &InForce) {
        let mut by_listener: BTreeMap<&'static str, ConnectionFigures> = BTreeMap::new();
        by_listener.insert("traffic", ConnectionFigures::default());
        for (listener, source) in &*self.connections.lock() {
            let sum = by_listener.entry(listener).or_default();
            let more = source();
            sum.open += more.open;
            sum.accepted += more.accepted;
            sum.refused += more.refused;
            sum.upstream_active += more.upstream_active;
            sum.upstream_idle += more.upstream_idle;
        }
        let (mut active, mut idle) = (0, 0);
        for (listener, figures) in &by_listener {
            let labels = [(label::LISTENER, *listener)];
            out.gauge(names::CONNECTIONS, &labels, float(figures.open));
            out.counter(names::CONNECTIONS_ACCEPTED, &labels, figures.accepted);
            out.counter(names::CONNECTIONS_REFUSED, &labels, figures.refused);
            active += figures.upstream_active;
            idle += figures.upstream_idle;
        }
        let limit = [(label::LISTENER, "traffic")];
        out.gauge(names::CONNECTIONS_LIMIT, &limit, float(in_force.connections_limit));
        for (state, count) in [("active", active), ("idle", idle)] {
            let labels = [(label::UPSTREAM, names::UPSTREAM), (label::STATE, state)];
            out.gauge(names::UPSTREAM_CONNECTIONS, &labels, float(count));
        }
    }

    fn dropped(&self, out: &mut Families) {
        let mut by_sink = BTreeMap::from([("records", 0), ("log", 0)]);
        for (sink, source) in &*self.dropped.lock() {
            *by_sink.entry(*sink).or_default() += source();
        }
        for (sink, count) in by_sink {
            out.counter(names::LOG_DROPPED, &[(label::SINK, sink)], count);
        }
    }

    fn process(&self, out: &mut Families) {
        let process = process::read();
        if let Some(seconds) = process.cpu_seconds {
            out.counter_float(names::PROCESS_CPU, &[], seconds);
        }
        for (family, value) in [
            (names::PROCESS_OPEN_FDS, process.open_fds),
            (names::PROCESS_MAX_FDS, process.max_fds),
            (names::PROCESS_RESIDENT, process.resident_bytes),
            (names::PROCESS_VIRTUAL, process.virtual_bytes),
            (names::PROCESS_THREADS, process.threads),
        ] {
            if let Some(value) = value {
                out.gauge(family, &[], float(value));
            }
        }
        out.gauge(names::PROCESS_START, &[], float_signed(self.started.wall.0) / 1000.0);
    }
}

/// Families under construction, in the order of their first series.
pub(super) struct Families(Vec<MetricFamily>);

impl Families {
    /// By route, outcome and class; the combinations that happened, and all of `_unlisted` from the start.
    fn requests(&mut self, workers: &[Arc<WorkerCells>], in_force: &InForce) {
        for (route, slots) in routes(in_force) {
            for (at, outcome) in OUTCOMES.iter().enumerate() {
                for (class, class_name) in CLASSES.iter().enumerate() {
                    let cells = cells_of(workers, &slots);
                    let count = total(cells.map(|cells| &cells.requests[at][class]));
                    if count > 0 || (route == names::UNLISTED && class > 0) {
                        let labels = [
                            (label::ROUTE, route),
                            (label::OUTCOME, outcome.name()),
                            (label::CLASS, class_name),
                        ];
                        self.counter(names::REQUESTS, &labels, count);
                    }
                }
            }
        }
    }

    /// By route, reason, limit and mode; the combinations that happened, and every enforced reason of `_unlisted`
    /// from the start. A route's own series appear with their first event.
    fn refusals(&mut self, workers: &[Arc<WorkerCells>], in_force: &InForce) {
        let mut sums: BTreeMap<(&str, Refusal, &str, usize), u64> = Refusal::ALL
            .iter()
            .map(|why| ((names::UNLISTED, *why, "", Mode::Enforce as usize), 0))
            .collect();
        let each = || Refusal::ALL.iter().flat_map(|why| MODES.map(|mode| (*why, mode)));
        for (route, slots) in routes(in_force) {
            for refused in cells_of(workers, &slots).filter_map(|cells| cells.refusals.get()) {
                for (why, mode) in each() {
                    add(&mut sums, (route, why, "", mode as usize), refused.at(why, mode));
                }
            }
            for (slot, limit) in (0..).zip(&in_force.limits) {
                for worker in workers {
                    let Some(limited) = worker.limits.get(slot) else { continue };
                    let refused = slots.iter().filter_map(|slot| {
                        let place = slot.map_or(0, |slot| slot.saturating_add(1));
                        limited.by_route.get(place)?.get()
                    });
                    for refused in refused {
                        for (why, mode) in each() {
                            let series = (route, why, &**limit, mode as usize);
                            add(&mut sums, series, refused.at(why, mode));
                        }
                    }
                }
            }
        }
        for ((route, why, limit, mode), count) in sums {
            let labels = [
                (label::ROUTE, route),
                (label::REASON, why.name()),
                (label::LIMIT, limit),
                (label::MODE, mode_name(MODES[mode])),
            ];
            self.counter(names::REFUSALS, &labels, count);
        }
    }

    fn times(&mut self, workers: &[Arc<WorkerCells>], in_force: &InForce) {
        for (at, outcome) in OUTCOMES.iter().enumerate() {
            let labels = [(label::OUTCOME, outcome.name())];
            let times = workers.iter().map(|worker| &worker.gate[at]);
            self.histogram(names::GATE_SECONDS, &labels, histogram(&GATE_BOUNDS, times));
        }
        for (route, slots) in routes(in_force) {
            let times = cells_of(workers, &slots).map(|cells| &cells.upstream);
            let summed = histogram(&UPSTREAM_BOUNDS, times);
            if summed.get_sample_count() > 0 {
                self.histogram(names::UPSTREAM_SECONDS, &[(label::ROUTE, route)], summed);
            }
        }
    }

    pub(super) fn counter(&mut self, family: Family, labels: &[(&str, &str)], value: u64) {
        self.counter_float(family, labels, float(value));
    }

    fn counter_float(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.add(family, metric);
    }

    pub(super) fn gauge(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.add(family, metric);
    }

    pub(super) fn histogram(&mut self, family: Family, labels: &[(&str, &str)], value: Histogram) {
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(value);
        self.add(family, metric);
    }

    fn add(&mut self, family: Family, metric: Metric) {
        if let Some(last) = self.0.iter_mut().rev().find(|known| known.name() == family.name) {
            last.mut_metric().push(metric);
            return;
        }
        let mut fresh = MetricFamily::default();
        fresh.set_name(family.name.to_owned());
        fresh.set_help(family.help.to_owned());
        fresh.set_field_type(family.kind);
        debug_assert!(matches!(
            family.kind,
            MetricType::COUNTER | MetricType::GAUGE | MetricType::HISTOGRAM
        ));
        fresh.set_metric(vec![metric]);
        self.0.push(fresh);
    }
}

/// Each route that has series of its own with its slots; `_unlisted` stands for no route and for those beyond the most.
pub(super) fn routes(in_force: &InForce) -> impl Iterator<Item = (&str, Vec<Option<u32>>)> {
    let listed = (0..).zip(&in_force.routes).take(names::MOST_ROUTES);
    let beyond = (0..).zip(&in_force.routes).skip(names::MOST_ROUTES).map(|(slot, _)| Some(slot));
    let unlisted =
        std::iter::once((names::UNLISTED, std::iter::once(None).chain(beyond).collect()));
    listed.map(|(slot, name)| (&**name, vec![Some(slot)])).chain(unlisted)
}

/// The cells of these slots in every worker. A slot that a worker has no room for was counted as unlisted.
pub(super) fn cells_of<'a>(
    workers: &'a [Arc<WorkerCells>],
    slots: &'a [Option<u32>],
) -> impl Iterator<Item = &'a RouteCells> {
    workers.iter().flat_map(move |worker| {
        slots.iter().filter_map(move |slot| match slot {
            Some(slot) => worker.routes.get(*slot),
            None => Some(&worker.unlisted),
        })
    })
}

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, series: K, cell: &Cell) {
    let count = cell.get();
    if count > 0 {
        let sum = sums.entry(series).or_default();
        *sum = sum.wrapping_add(count);
    }
}

pub(super) fn total<'a>(cells: impl Iterator<Item = &'a Cell>) -> u64 {
    cells.fold(0, |sum, cell| sum.wrapping_add(cell.get()))
}

/// The count is the sum of the buckets that were read, so that a scrape in the middle of a write is consistent.
pub(super) fn histogram<'a>(bounds: &[u64], times: impl Iterator<Item = &'a Times>) -> Histogram {
    let mut buckets = [0u64; BUCKETS];
    let mut nanos = 0u64;
    for times in times {
        for (sum, cell) in buckets.iter_mut().zip(&times.buckets) {
            *sum += cell.get();
        }
        nanos = nanos.wrapping_add(times.sum_nanos.get());
    }
    let mut below = 0;
    let cumulative = bounds.iter().zip(&buckets).map(|(bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(float(*bound) / 1e9);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut out = Histogram::default();
    out.set_bucket(cumulative.collect());
    out.set_sample_count(buckets.iter().sum());
    out.set_sample_sum(float(nanos) / 1e9);
    out
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[expect(clippy::cast_precision_loss, reason = "the exposition format knows floats only")]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "the exposition format knows floats only")]
fn float_signed(value: i64) -> f64 {
    value as f64
}
