//! The traffic: clients on kept connections who send, retry, send twice at once, and reuse keys for other payloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::books::{Send, Telling, Told};
use crate::scene::{Door, Scene};
use crate::support::Request;
use crate::support::dice::Dice;
use crate::support::frail::Frail;
use crate::terms::{ROUTES, Route, secret};

/// Names of attempts, which are no part of what makes two requests the same. One counter for all worlds.
static SENDS: AtomicU64 = AtomicU64::new(1);

/// How far back "a send of another client, at this moment" reaches.
const HOT: usize = 3;

/// What a client does next.
enum Step {
    Keyed(Arc<Send>, String),
    Loose(Request),
}

/// One client, until the world ends.
pub(crate) fn live(scene: &Scene, mut dice: Dice) {
    while let Some(door) = scene.enter() {
        let Ok(mut line) = Frail::to(door.traffic) else {
            thread::sleep(Duration::from_millis(2));
            continue;
        };
        while scene.is_open(door) && act(scene, &mut dice, door, &mut line) {}
    }
}

/// One step; whether the connection still holds.
fn act(scene: &Scene, dice: &mut Dice, door: Door, line: &mut Frail) -> bool {
    match choose(scene, dice) {
        Step::Keyed(send, payload) => attempt(scene, &send, payload, door, line),
        Step::Loose(request) => {
            let told = Told::of(&line.exchange(&request));
            let holds = told != Told::Nothing;
            scene.books.loose(told);
            holds
        }
    }
}

/// One attempt of a keyed send, written down; whether the connection still holds.
pub(crate) fn attempt(
    scene: &Scene,
    send: &Send,
    payload: String,
    door: Door,
    line: &mut Frail,
) -> bool {
    let request = request(send.route, send.tenant, &payload).header("Idempotency-Key", &send.key);
    let begun = scene.books.moment();
    let told = Told::of(&line.exchange(&request));
    let ended = scene.books.moment();
    let holds = told != Told::Nothing;
    send.tell(Telling { begun, ended, boot: door.boot, payload, told });
    holds
}

fn choose(scene: &Scene, dice: &mut Dice) -> Step {
    let (sort, pick) = (dice.below(100), dice.next());
    let again = |of: &[Arc<Send>]| Dice::seeded(pick).one_of(of).cloned();
    let books = &scene.books;
    let earlier = match sort {
        0..40 | 85.. => None,
        // A client that got no answer asks again.
        40..58 => {
            let open: Vec<_> = books.latest(200).into_iter().filter(|s| s.is_open()).collect();
            again(&open)
        }
        58..68 => again(&books.sends()),
        68..85 => again(&books.latest(HOT)),
    };
    match (sort, earlier) {
        (80..85, Some(send)) => {
            // The same head with another body, or another head as well.
            let other = if dice.below(2) == 0 {
                send.payload.replace("text", "TEXT")
            } else {
                format!("{} ", send.payload)
            };
            Step::Keyed(send, other)
        }
        (_, Some(send)) => {
            let payload = send.payload.clone();
            Step::Keyed(send, payload)
        }
        (90.., None) => {
            let tenant = tenant(scene, dice);
            Step::Loose(request(route(dice), tenant, "{\"text\":\"loose\"}"))
        }
        (_, None) => {
            let number = dice.next();
            let (key, payload) = (format!("key-{number:x}"), format!("{{\"text\":\"{number}\"}}"));
            let send = Send::new(key, tenant(scene, dice), route(dice), payload.clone());
            Step::Keyed(books.add(send), payload)
        }
    }
}

fn route(dice: &mut Dice) -> Route {
    *dice.one_of(ROUTES).expect("there are routes")
}

/// Mostly the tenant of this round, sometimes the one before it.
fn tenant(scene: &Scene, dice: &mut Dice) -> usize {
    let now = scene.tenant.load(Ordering::SeqCst);
    if dice.below(5) == 0 { now.saturating_sub(1) } else { now }
}

fn request(route: Route, tenant: usize, payload: &str) -> Request {
    Request::post(route.path, payload)
        .bearer(&secret(tenant))
        .header("X-Send", &SENDS.fetch_add(1, Ordering::Relaxed).to_string())
}
