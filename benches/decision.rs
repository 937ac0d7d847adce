//! Nanoseconds a decision: steps 2 to 7 of the way of a request (head, address, route, key, scopes and allowlists, limits
//! taken from the ledger), by the number of keys, routes, networks and limits. Prints a table and draws
//! `benches/decision.svg`.
//!
//! `cargo bench --bench decision`: all panels. `cargo bench --bench decision -- keys 10 10000`: some sizes of one panel, and
//! no drawing.
//!
//! A decision has everything in it from a parsed head to its readings: the key's digest too, for every request is the first
//! one of its connection. The clock is read before and behind eight of them.
//!
//! What is asked for is drawn uniformly and in no order of any table; the head is fresh, as one that was just parsed is;
//! what was taken is settled between the measurements. Sizes of one panel take turns, and each figure is the median of
//! its rounds.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Version};
use sha2::{Digest, Sha256};

use tollgate::clock::{Clock, Now, Wall};
use tollgate::config::{self, Overrides, Sources};
use tollgate::policy::authenticate::{approach, authenticate};
use tollgate::policy::authorize::authorize;
use tollgate::policy::covering;
use tollgate::policy::fields::{Field, Fields};
use tollgate::policy::head::{Head, Seen, Target, Unchecked};
use tollgate::policy::order::{Asks, Readings};
use tollgate::policy::recall::Recall;
use tollgate::policy::route::Routed;
use tollgate::policy::snapshot::Snapshot;
use tollgate::store::{Backing, Ledger, Order, Reservation, Restored, Told};

/// As in the gate.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How large the policy is that a decision is made under.
#[derive(Clone, Copy)]
struct Shape {
    keys: usize,
    /// Half of them with a parameter in the path.
    routes: usize,
    /// Networks of the one allowlist.
    networks: usize,
    /// Limits that cover the request.
    limits: usize,
    /// Whom they count, in turn.
    counted: [&'static str; 4],
}

/// What each panel changes one number of.
const USUAL: Shape = Shape {
    keys: 10_000,
    routes: 10,
    networks: 20,
    limits: 3,
    counted: ["key", "tenant", "address", "route"],
};

const TENANTS: usize = 100;

/// Decisions between two readings of the clock: few, so that their heads are where a parser would have left them.
const BATCH: usize = 8;
/// Batches of a round.
const BATCHES: usize = 2_500;
const ROUNDS: usize = 15;

/// Figures of one changing number.
struct Panel {
    title: &'static str,
    sizes: &'static [usize],
    shape: fn(usize) -> Shape,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "keys",
        sizes: &[10, 100, 1_000, 10_000, 100_000, 1_000_000],
        shape: |keys| Shape { keys, ..USUAL },
    },
    Panel {
        title: "routes",
        sizes: &[1, 10, 100, 1_000, 10_000],
        shape: |routes| Shape { routes, ..USUAL },
    },
    Panel {
        title: "networks of an allowlist",
        sizes: &[1, 10, 100, 1_000, 10_000, 100_000],
        // Not by address: there would be as many subjects as networks.
        shape: |networks| Shape { networks, counted: ["key", "tenant", "plan", "route"], ..USUAL },
    },
    Panel {
        title: "limits a request",
        sizes: &[1, 2, 3, 4, 6, 8],
        shape: |limits| Shape { limits, ..USUAL },
    },
];

fn main() {
    // Cargo says `--bench` to whatever it runs here.
    let said: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let Some((title, sizes)) = said.split_first() {
        return measure_some(title, sizes);
    }
    let mut curves = Vec::new();
    for panel in &PANELS {
        let curve = measure(panel, panel.sizes);
        print(panel, panel.sizes, &curve);
        curves.push(curve);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/decision.svg");
    match fs::write(&path, drawing(&curves)) {
        Ok(()) => println!("\ndrawn: {}", path.display()),
        Err(error) => println!("\nnot drawn: {}: {error}", path.display()),
    }
}

/// One panel, by the first word of its title, at the sizes that are said, or else at all of its own.
fn measure_some(title: &str, sizes: &[String]) {
    let is_it = |panel: &&Panel| panel.title.split(' ').next() == Some(title);
    let Some(panel) = PANELS.iter().find(is_it) else {
        println!("no panel is called {title}: keys, routes, networks, limits");
        return;
    };
    let sizes: Result<Vec<usize>, _> = sizes.iter().map(|size| size.parse()).collect();
    match sizes {
        Ok(sizes) => {
            let sizes = if sizes.is_empty() { panel.sizes } else { &sizes };
            print(panel, sizes, &measure(panel, sizes));
        }
        Err(problem) => println!("a size is a number: {problem}"),
    }
}

/// Median nanoseconds a decision, for each of these sizes of a panel.
fn measure(panel: &Panel, sizes: &[usize]) -> Vec<f64> {
    let mut worlds: Vec<World> =
        sizes.iter().map(|size| World::new((panel.shape)(*size))).collect();
    worlds.iter_mut().for_each(World::warm_up);
    let mut rounds = vec![Vec::new(); worlds.len()];
    for _ in 0..ROUNDS {
        for (world, rounds) in worlds.iter_mut().zip(&mut rounds) {
            rounds.push(world.round());
        }
    }
    rounds.into_iter().map(median).collect()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A policy of one shape, what was used under it, and requests to come.
struct World {
    shape: Shape,
    snapshot: Snapshot,
    ledger: Arc<Ledger>,
    clock: Clock,
    dice: Dice,
    requests: Vec<Request>,
    answers: Vec<Answer>,
}

/// One request as it stands after its head was parsed.
struct Request {
    path: String,
    authorization: String,
    client: IpAddr,
}

/// What a request's connection and its exchange would hold.
#[derive(Default)]
struct Answer {
    /// Emptied before each: every request is the first one of its connection, so that the digest is made.
    recall: Recall,
    asks: Rc<Asks>,
    readings: Readings,
    held: Option<Reservation>,
}

impl World {
    fn new(shape: Shape) -> World {
        let request = || Request {
            path: "/".to_owned(),
            authorization: String::new(),
            client: [127, 0, 0, 1].into(),
        };
        World {
            shape,
            snapshot: snapshot(shape),
            ledger: Ledger::new(65_536, Backing::None, Restored::default()),
            clock: Clock::system(),
            dice: Dice(0x9e37_79b9_7f4a_7c15),
            requests: (0..BATCH).map(|_| request()).collect(),
            answers: (0..BATCH).map(|_| Answer::default()).collect(),
        }
    }

    /// Every key is asked for once, so that everything that is made once is there.
    fn warm_up(&mut self) {
        let most = self.shape.keys.max(self.shape.routes);
        for first in (0..most).step_by(BATCH) {
            for at in 0..BATCH {
                let n = first + at;
                self.prepare(at, n % self.shape.keys, n % self.shape.routes, n);
            }
            self.batch();
        }
        self.round();
    }

    /// Nanoseconds a decision over one round: of its median batch, so that what interrupts a batch is not counted.
    fn round(&mut self) -> f64 {
        let mut batches = Vec::with_capacity(BATCHES);
        for _ in 0..BATCHES {
            for at in 0..BATCH {
                let key = self.dice.below(self.shape.keys);
                let route = self.dice.below(self.shape.routes);
                let network = self.dice.below(self.shape.networks);
                self.prepare(at, key, route, network);
            }
            batches.push(self.batch().as_secs_f64());
        }
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let decisions = BATCH as f64;
        median(batches) * 1e9 / decisions
    }

    fn prepare(&mut self, at: usize, key: usize, route: usize, network: usize) {
        let request = &mut self.requests[at];
        request.authorization = format!("Bearer {}", secret(key));
        request.path = path(route);
        if self.shape.counted[2] != "address" {
            request.client = address(network % self.shape.networks).into();
        }
    }

    /// Decides about what was prepared, and settles it unmeasured.
    fn batch(&mut self) -> Duration {
        let now = self.clock.now();
        let begun = self.clock.steady();
        for (request, answer) in self.requests.iter().zip(&mut self.answers) {
            black_box(decide(&self.snapshot, &self.ledger, request, now, answer));
        }
        let spent = Duration::from_nanos(self.clock.steady().since(begun));
        for answer in &mut self.answers {
            answer.recall.forget();
            if let Some(reservation) = answer.held.take() {
                reservation.close(&self.ledger);
            }
        }
        spent
    }
}

fn decide(
    snapshot: &Snapshot,
    ledger: &Ledger,
    request: &Request,
    now: Now,
    answer: &mut Answer,
) -> usize {
    let Request { path, authorization, client } = request;
    let field = |name, value| Field { name, value };
    let lines = [
        field("host", b"127.0.0.1:8080"),
        field("user-agent", b"bench/1.0"),
        field("accept", b"application/json"),
        field("authorization", authorization.as_bytes()),
    ];
    let head = Unchecked {
        method: &Method::GET,
        target: Target { authority: None, path, query: Some("id=42") },
        version: Version::HTTP_11,
        fields: Fields(&lines),
        mark: None,
    };
    let seen = Seen::of(head.fields);
    let (overlay, recall) = (ledger.overlay(), &mut answer.recall);
    let near = |secret| ledger.approach(secret);
    let remembered = approach(snapshot, (&head, &seen), recall, near);
    let head = Head::check(&head, &seen, &snapshot.bounds).expect("a good head");
    let client = snapshot.client_address.client(*client, head.fields);
    let Routed::To(route) = snapshot.router.find(head.method, head.path) else { panic!("a route") };
    let caller = authenticate(snapshot, &overlay, &head, (recall, remembered), now.wall);
    let caller = caller.expect("a good key");
    let permit = authorize(snapshot, route, Some(caller), client, &head).expect("a permit");
    let asks = Rc::get_mut(&mut answer.asks).expect("the last decision was settled");
    asks.clear();
    covering::asks_into(asks, snapshot, route, permit.caller.as_ref(), client, now.wall);
    let order = Order { caller: permit.caller.as_ref(), ..Order::of(&answer.asks) };
    let told = ledger.open_into(now, &order, &mut answer.readings, &mut answer.held);
    assert!(matches!(told, Told::Admitted), "the limits are large");
    answer.readings.len()
}

/// Numbers that look drawn, the same ones every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let wide = u128::from(self.0) * most as u128;
        usize::try_from(wide >> 64).expect("less than `most`")
    }
}

fn secret(n: usize) -> String {
    format!("bk_{n:032}")
}

fn path(route: usize) -> String {
    if route.is_multiple_of(2) {
        format!("/api/v1/things{route}")
    } else {
        format!("/api/v1/things{route}/42")
    }
}

/// The first address of a network.
fn address(n: usize) -> [u8; 4] {
    let byte = |n: usize| u8::try_from(n & 255).expect("cut to a byte");
    [10, byte(n >> 14), byte(n >> 6), byte((n & 63) << 2)]
}

fn policy(shape: Shape) -> String {
    let mut text = String::from(
        "version: 1\nlisten: 127.0.0.1:8080\nupstream: http://127.0.0.1:9000\nadmin: none\nstate: memory\n\
         credentials: { accept: [bearer], keys: keys.jsonl }\nallow:\n",
    );
    if shape.counted[2] == "address" {
        text.push_str("  - 127.0.0.0/8\n");
    }
    for n in 0..shape.networks {
        // Every second address apart, so that no two networks are merged into one.
        let [a, b, c, d] = address(n);
        let _ = writeln!(text, "  - {a}.{b}.{c}.{d}/31");
    }
    text.push_str("routes:\n");
    for n in 0..shape.routes {
        let below = if n.is_multiple_of(2) { "" } else { "/{id}" };
        let _ = writeln!(
            text,
            "  - {{ name: r{n}, match: \"GET /api/v1/things{n}{below}\", scope: read }}"
        );
    }
    text.push_str("limits:\n");
    for n in 0..shape.limits {
        let per = shape.counted[n % shape.counted.len()];
        let _ = writeln!(text, "  l{n}: {{ rate: {}/minute, per: {per} }}", 1_000_000_000 + n);
    }
    text
}

fn snapshot(shape: Shape) -> Snapshot {
    let policy = policy(shape);
    let mut lines = String::new();
    for n in 0..shape.keys {
        let digest = Sha256::digest(secret(n).as_bytes());
        let _ = write!(
            lines,
            "{{\"id\":\"k{n}\",\"tenant\":\"t{}\",\"scopes\":[\"read\"],\"digest\":{{\"sha256\":\"",
            n % TENANTS
        );
        for byte in digest {
            let _ = write!(lines, "{byte:02x}");
        }
        lines.push_str("\"}}\n");
    }
    let read = |path: &Path| match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml") => Ok(policy.as_bytes().to_vec()),
        Some("jsonl") => Ok(lines.as_bytes().to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let list = |_: &Path| Ok(Vec::<PathBuf>::new());
    let sources = Sources { read: &read, open: None, list: &list, env: &|_| None, breathe: &|| () };
    let loaded =
        config::load(Path::new("policy.yaml"), &Overrides::default(), &sources, Wall(0), None);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).snapshot
}

fn print(panel: &Panel, sizes: &[usize], curve: &[f64]) {
    println!("\n{:>24} {:>10} {:>12}", panel.title, "ns", "to smallest");
    for (size, nanos) in sizes.iter().zip(curve) {
        println!("{size:>24} {nanos:>10.0} {:>12.2}", nanos / curve[0]);
    }
    if sizes.len() > 1 {
        println!("{:>24}", verdict(sizes, curve));
    }
}

/// How the figures grow. By the exponent of a power of the size: 0 is flat, 1 is in proportion.
fn verdict(sizes: &[usize], curve: &[f64]) -> String {
    let (first, last) = (curve[0], curve[curve.len() - 1]);
    let tenfold = ratio(sizes).log10();
    let exponent = (last / first).log10() / tenfold;
    match exponent {
        ..0.03 => "flat".to_owned(),
        ..0.25 => format!("logarithmic: {:+.0} ns each tenfold", (last - first) / tenfold),
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "a handful")]
            let more = (sizes[sizes.len() - 1] - sizes[0]) as f64;
            format!("linear: {:+.0} ns each", (last - first) / more)
        }
    }
}

/// The largest size to the smallest.
#[expect(clippy::cast_precision_loss, reason = "sizes are round numbers far below 2^52")]
fn ratio(sizes: &[usize]) -> f64 {
    sizes[sizes.len() - 1] as f64 / sizes[0] as f64
}

/// Four panels, the sizes on a logarithmic axis.
fn drawing(curves: &[Vec<f64>]) -> String {
    const WIDE: f64 = 400.0;
    const HIGH: f64 = 240.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        2.0 * WIDE,
        2.0 * HIGH,
    );
    let corners = [(0.0, 0.0), (WIDE, 0.0), (0.0, HIGH), (WIDE, HIGH)];
    for ((panel, curve), (left, top)) in PANELS.iter().zip(curves).zip(corners) {
        let _ = writeln!(svg, "<g transform=\"translate({left} {top})\">");
        draw(&mut svg, panel, curve);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// One panel of 400 by 240.
fn draw(svg: &mut String, panel: &Panel, curve: &[f64]) {
    let (left, right, top, bottom) = (50.0, 380.0, 40.0, 205.0);
    let step = if curve.iter().any(|nanos| *nanos > 800.0) { 400.0 } else { 200.0 };
    let most = (curve.iter().fold(0.0, |a: f64, b| a.max(*b)) / step).ceil() * step;
    let across = |size: usize| {
        left + (right - left) * ratio(&[panel.sizes[0], size]).log10() / ratio(panel.sizes).log10()
    };
    let up = |nanos: f64| bottom - (bottom - top) * nanos / most;
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"20\" font-size=\"13\" fill=\"#222\">ns a decision, by {}</text>\n\
         <text x=\"{left}\" y=\"34\" fill=\"#777\">{}</text>",
        panel.title,
        verdict(panel.sizes, curve),
    );
    let mut line = 0.0;
    while line <= most {
        let y = up(line);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#777\">{line:.0}</text>",
            left - 6.0,
            y + 4.0,
        );
        line += step;
    }
    let mut points = String::new();
    for (size, nanos) in panel.sizes.iter().zip(curve) {
        let (x, y) = (across(*size), up(*nanos));
        let _ = write!(points, "{x:.1},{y:.1} ");
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#06c\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#222\">{nanos:.0}</text>\
             <text x=\"{x:.1}\" y=\"222\" text-anchor=\"middle\" fill=\"#777\">{}</text>",
            y - 8.0,
            spaced(*size),
        );
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"1.5\"/>",
        points.trim_end()
    );
}

/// A number with a space before each three digits.
fn spaced(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
