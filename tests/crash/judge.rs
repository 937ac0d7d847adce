//! Compares what the backend saw with what clients were told, one idempotency key after the other.

use std::collections::HashMap;

use crate::books::{Books, Send, Telling, Told};
use crate::carrier::{Ending, Forward};
use crate::tally::{Promise, Tally};

/// Judges all keyed sends of a world.
pub(crate) fn judge(books: &Books, forwards: &[Forward], tally: &mut Tally) {
    let mut by_key: HashMap<&str, Vec<&Forward>> = HashMap::new();
    for forward in forwards {
        if let Some(key) = &forward.key {
            by_key.entry(key).or_default().push(forward);
        }
    }
    for send in books.sends() {
        let forwards = by_key.remove(&*send.key).unwrap_or_default();
        Case { send: &send, tellings: send.tellings(), forwards, tally }.judge();
    }
    for key in by_key.keys() {
        tally.breach(Promise::Honest, format!("{key} was forwarded and never sent"));
    }
}

struct Case<'a> {
    send: &'a Send,
    tellings: Vec<Telling>,
    forwards: Vec<&'a Forward>,
    tally: &'a mut Tally,
}

impl Case<'_> {
    fn judge(mut self) {
        self.at_most_one_forward();
        self.answers_are_the_backends();
        self.what_was_answered_stays();
        self.unknown_has_a_reason_and_stays();
        for telling in &self.tellings {
            match &telling.told {
                Told::Answer { replayed: true, .. } => self.tally.replays += 1,
                told if told.is("idempotency_unknown") => self.tally.unknown += 1,
                _ => {}
            }
        }
    }

    fn breach(&mut self, promise: Promise, what: &str) {
        let tellings: Vec<String> = self.tellings.iter().map(brief).collect();
        let forwards: Vec<String> = self
            .forwards
            .iter()
            .map(|f| format!("{} {:?} {}", f.plan.status, f.plan.ending, f.payload))
            .collect();
        let Send { key, route, .. } = self.send;
        let what =
            format!("{what}: {key} {} told {tellings:?}, forwarded {forwards:?}", route.path);
        self.tally.breach(promise, what);
    }

    /// A second forward needs an answer that frees the key before it.
    fn at_most_one_forward(&mut self) {
        let count = self.forwards.len();
        let freed = |forward: &&&Forward| forward.plan.status == 503 && forward.has_head();
        if count > 1 && self.forwards[..count - 1].iter().filter(freed).count() < count - 1 {
            self.breach(Promise::Once, "forwarded twice");
        }
    }

    /// Whatever a client got is one of the backend's answers, to the payload that was sent; first hand at most once.
    fn answers_are_the_backends(&mut self) {
        let mut first_hand = Vec::new();
        for telling in self.tellings.clone() {
            let Told::Answer { status, replayed, body } = &telling.told else { continue };
            let source = self.forwards.iter().find(|f| f.answer == *body);
            let right = source.is_some_and(|forward| {
                forward.plan.status == *status
                    && forward.plan.ending == Ending::Whole
                    && forward.payload == telling.payload
            });
            if !right {
                self.breach(Promise::Acknowledged, "told what the backend did not answer");
            }
            if !replayed && first_hand.contains(body) {
                self.breach(Promise::Honest, "a repeat that does not say so");
            }
            first_hand.extend((!replayed).then(|| body.clone()));
        }
    }

    /// After an answer that is kept: the same again, unknown, or "another payload". In the same boot: never unknown.
    fn what_was_answered_stays(&mut self) {
        let kept = |telling: &&Telling| match &telling.told {
            Told::Answer { status, .. } => *status != 503,
            Told::Refused { .. } | Told::Nothing => false,
        };
        let Some(first) = self.tellings.iter().find(kept).cloned() else { return };
        let Told::Answer { body: first_body, .. } = &first.told else { return };
        for later in self.tellings.clone() {
            if later.begun < first.ended {
                continue;
            }
            let same_payload = later.payload == first.payload;
            let fine = match &later.told {
                Told::Nothing => true,
                Told::Answer { body, replayed, .. } => {
                    *replayed && same_payload && body == first_body
                }
                Told::Refused { code, .. } => match &**code {
                    // The second where a person has settled the doubt.
                    "idempotency_unknown" | "idempotency_not_replayable" => later.boot > first.boot,
                    "idempotency_mismatch" => !same_payload,
                    _ => false,
                },
            };
            if !fine {
                self.breach(
                    Promise::Acknowledged,
                    &format!("an answer was lost ({})", brief(&later)),
                );
                return;
            }
        }
    }

    /// "Unknown" is said only where something died or broke, and does not turn into an answer by itself: between two gates
    /// a person may have found out that nothing was processed.
    fn unknown_has_a_reason_and_stays(&mut self) {
        let unknown = |telling: &&Telling| telling.told.is("idempotency_unknown");
        let Some(first) = self.tellings.iter().find(unknown).cloned() else { return };
        let began_in = self.tellings.iter().map(|telling| telling.boot).min();
        let failed = |telling: &Telling| {
            matches!(&telling.told, Told::Nothing)
                || matches!(&telling.told, Told::Refused { code, .. } if code.starts_with("upstream_"))
        };
        let broke = self.forwards.iter().any(|forward| forward.plan.ending != Ending::Whole);
        let reason = broke
            || began_in.is_some_and(|boot| boot < first.boot)
            || self.tellings.iter().any(|telling| telling.begun < first.ended && failed(telling));
        if !reason {
            self.breach(Promise::Honest, "unknown without a reason");
        }
        let answered_later = |telling: &&Telling| {
            let answered = matches!(telling.told, Told::Answer { .. });
            answered && telling.begun > first.ended && telling.boot == first.boot
        };
        if self.tellings.iter().any(|telling| answered_later(&telling)) {
            self.breach(Promise::Honest, "unknown, and then answered");
        }
    }
}

fn brief(telling: &Telling) -> String {
    let told = match &telling.told {
        Told::Answer { status, replayed: true, body } => format!("{status} again {body:.16}"),
        Told::Answer { status, replayed: false, body } => format!("{status} {body:.16}"),
        Told::Refused { status, code } => format!("{status} {code}"),
        Told::Nothing => "nothing".to_owned(),
    };
    format!("[{}–{} boot {}] {told}", telling.begun, telling.ended, telling.boot)
}
