//! The fields that every answer to a limited request carries: written when the answer is, from numbers that were read when
//! the request was decided.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;

use http::HeaderValue;
use smallvec::SmallVec;

use super::field_text::{FieldText, Legal};
use crate::clock::Wall;
use crate::policy::decimal::Numeral;
use crate::policy::limit::Mode;
use crate::policy::order::{Heard, Line};
use crate::policy::report::{
    Report, Spelling, XFields, policy_member, state_beginning, state_member, state_of,
};
use crate::policy::snapshot::Snapshot;

const X_LIMIT: &str = "x-ratelimit-limit";
const X_REMAINING: &str = "x-ratelimit-remaining";
const X_RESET: &str = "x-ratelimit-reset";

/// What limits say on an answer. Outlives the policy.
#[derive(Debug, Default)]
pub(super) struct LimitFields {
    /// How the names of all of the gate's fields are written, limits or not.
    pub(super) spelling: Spelling,
    said: Option<(Rc<FieldWords>, Numbers)>,
}

/// What fields say of limits whatever is left of them.
#[derive(Debug)]
pub(super) struct FieldWords {
    /// In the order of the readings.
    limits: Box<[LimitWords]>,
    /// `RateLimit-Policy`; `None` where it is not sent, or no limit is enforced.
    policy: Option<HeaderValue>,
    latest: RefCell<Latest>,
}

/// What fields say of one limit.
#[derive(Debug)]
struct LimitWords {
    /// For `RateLimit`.
    state: Vec<u8>,
    /// `X-RateLimit-Limit`, where this limit is the one that is shown.
    most: HeaderValue,
    mode: Mode,
}

/// What fields say of one request's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Numbers {
    x: Option<XFields>,
    /// What remains of each limit, and the seconds until more does: of all, where `RateLimit` is sent.
    states: SmallVec<[(u64, u64); 6]>,
}

/// The lines as they were last said: nearly always numbers alone change, and those are written over. 1 000 instructions an
/// answer fewer than to put the lines together again.
#[derive(Debug)]
struct Latest {
    lines: FieldText,
    of: Numbers,
    /// Another one whenever the lines say something else.
    edition: u64,
    /// `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    x: Option<(Numeral, Numeral)>,
    /// One a limit that is enforced.
    states: SmallVec<[(Numeral, Option<Numeral>); 6]>,
}

impl Default for Latest {
    fn default() -> Latest {
        Latest {
            lines: FieldText::new(),
            of: Numbers::default(),
            edition: 0,
            x: None,
            states: SmallVec::new(),
        }
    }
}

impl LimitFields {
    /// The fields for what the limits said, of which `words` is what is always said.
    pub(super) fn new(
        report: &Report,
        words: &Rc<FieldWords>,
        heard: Heard<'_>,
        now: Wall,
    ) -> LimitFields {
        let x = report.x_fields(heard, now);
        if x.is_none() && words.policy.is_none() {
            return LimitFields { spelling: report.spelling, said: None };
        }
        let states = match words.policy {
            Some(_) => heard.lines().map(state_of).collect(),
            None => SmallVec::new(),
        };
        LimitFields {
            spelling: report.spelling,
            said: Some((Rc::clone(words), Numbers { x, states })),
        }
    }

    /// Moves the fields to the answer, over whatever the backend said of limits of its own under the `X-` names. The draft
    /// forbids an intermediary to remove the backend's own `RateLimit` fields: ours are further list members.
    pub(super) fn give(&mut self, to: &mut FieldText) {
        if let Some((words, numbers)) = self.said.take() {
            words.hear(&numbers).say(to);
        }
    }

    /// The fields as lines, if there are any.
    pub(super) fn lines(&self) -> Option<LimitLines<'_>> {
        self.said.as_ref().map(|(words, numbers)| words.hear(numbers))
    }
}

/// What the latest one said of these limits, as lines, for as long as nobody else says anything.
#[derive(Debug)]
pub(super) struct LimitLines<'a> {
    words: &'a Rc<FieldWords>,
    latest: RefMut<'a, Latest>,
}

/// By what the lines are known again: two that are equal say the same.
#[derive(Clone, Debug)]
pub(super) struct Edition(Rc<FieldWords>, u64);

impl LimitLines<'_> {
    /// Adds the lines to an answer, as [`LimitFields::give`] does.
    pub(super) fn say(&self, to: &mut FieldText) {
        if self.latest.of.x.is_some() {
            // Lengths first: one look at each line, for all three names.
            to.remove_all(|name| {
                matches!(name.len(), 17 | 21)
                    && [X_LIMIT, X_REMAINING, X_RESET].iter().any(|own| own.as_bytes() == name)
            });
        }
        to.append(&self.latest.lines);
    }

    /// By what they are known again.
    pub(super) fn edition(&self) -> Edition {
        Edition(Rc::clone(self.words), self.latest.edition)
    }

    /// Whether they say what this one did.
    pub(super) fn say_as(&self, edition: &Edition) -> bool {
        self.latest.edition == edition.1 && Rc::ptr_eq(self.words, &edition.0)
    }
}

impl FieldWords {
    /// What is said of the limits that were heard.
    pub(super) fn new(policy: &Snapshot, heard: Heard<'_>) -> FieldWords {
        let mut field = Vec::new();
        let words = |line: Line<'_>| {
            let Line { ask, .. } = line;
            let limit = policy.limit(ask.limit);
            if ask.mode == Mode::Enforce {
                policy_member(&mut field, limit, line);
            }
            LimitWords {
                state: state_beginning(limit),
                most: HeaderValue::from(ask.ceiling.burst),
                mode: ask.mode,
            }
        };
        let limits = heard.lines().map(words).collect();
        let sent = policy.report.sends_ratelimit() && !field.is_empty();
        let policy = sent.then(|| HeaderValue::try_from(field).ok()).flatten();
        FieldWords { limits, policy, latest: RefCell::default() }
    }

    /// The lines that say these numbers.
    fn hear(self: &Rc<Self>, numbers: &Numbers) -> LimitLines<'_> {
        let mut latest = self.latest.borrow_mut();
        if latest.of != *numbers {
            latest.say(self, numbers);
        }
        LimitLines { words: self, latest }
    }

    /// As [`LimitFields::lines`] of these readings, for an answer that is worded at once. A flood of refusals takes nothing, so
    /// that little but the time is another: 250 instructions fewer than by way of [`LimitFields`].
    pub(super) fn lines(
        self: &Rc<Self>,
        report: &Report,
        heard: Heard<'_>,
        now: Wall,
    ) -> LimitLines<'_> {
        let mut latest = self.latest.borrow_mut();
        let Numbers { x: before, states } = &latest.of;
        let sends_states = self.policy.is_some();
        let mut same_left = states.len() == heard.lines().len();
        let mut same = same_left || !sends_states;
        for (before, line) in states.iter().zip(heard.lines()) {
            let now = state_of(line);
            if now != *before {
                same = false;
                same_left &= now.0 == before.0;
            }
        }
        let x = match before {
            // Which limit is shown follows from what is left of each.
            Some(before) if same_left => report.x_fields_of(before.shown, heard, now),
            Some(_) | None => report.x_fields(heard, now),
        };
        if !same || x != *before {
            let states = sends_states.then(|| heard.lines().map(state_of).collect());
            latest.say(self, &Numbers { x, states: states.unwrap_or_default() });
        }
        LimitLines { words: self, latest }
    }

    /// The limits of which `RateLimit` speaks, with what it says of them.
    fn enforced<'a>(
        &'a self,
        numbers: &'a Numbers,
    ) -> impl Iterator<Item = (&'a LimitWords, (u64, u64))> {
        let all = self.limits.iter().zip(numbers.states.iter().copied());
        all.filter(|(words, _)| words.mode == Mode::Enforce)
    }
}

impl Latest {
    /// Says these numbers from now on, which are others.
    fn say(&mut self, words: &FieldWords, numbers: &Numbers) {
        let over = self.write_over(words, numbers);
        self.of.clone_from(numbers);
        self.edition += 1;
        if !over {
            self.put_together(words);
        }
    }

    /// Whether the lines say these numbers now, because only numbers had to change, each for one of as many digits.
    fn write_over(&mut self, words: &FieldWords, numbers: &Numbers) -> bool {
        let Latest { lines, of, x, states, edition: _ } = self;
        if lines.is_empty() {
            return false;
        }
        let same_x = match (x, of.x, numbers.x) {
            (Some((remaining, reset)), Some(before), Some(now)) => {
                before.shown == now.shown
                    && lines.now_says(remaining, now.remaining)
                    && lines.now_says(reset, said_reset(now))
            }
            (None, None, None) => true,
            _ => false,
        };
        let mut states = states.iter_mut().zip(words.enforced(numbers));
        same_x
            && states.all(|((remaining, seconds), (_, now))| {
                lines.now_says(remaining, now.0)
                    && match seconds {
                        Some(seconds) => now.1 > 0 && lines.now_says(seconds, now.1),
                        None => now.1 == 0,
                    }
            })
    }

    #[cold]
    fn put_together(&mut self, words: &FieldWords) {
        let mut lines = FieldText::new();
        self.x = None;
        self.states.clear();
        if let Some(now) = self.of.x
            && let Some(limit) = words.limits.get(now.shown)
        {
            lines.add(X_LIMIT, (&limit.most).into());
            let remaining = lines.add_numeral(X_REMAINING, now.remaining);
            self.x = Some((remaining, lines.add_numeral(X_RESET, said_reset(now))));
        }
        if let Some(policy) = &words.policy {
            let mut state = Vec::new();
            for (limit, now) in words.enforced(&self.of) {
                self.states.push(state_member(&mut state, &limit.state, now));
            }
            lines.add("ratelimit-policy", policy.into());
            // Numbers, and the names that are in the value above.
            lines.add("ratelimit", Legal::known(&state));
            let before = lines.place_of_last().start;
            for (remaining, seconds) in &mut self.states {
                *remaining = remaining.behind(before);
                *seconds = seconds.map(|seconds| seconds.behind(before));
            }
        }
        self.lines = lines;
    }
}

fn said_reset(x: XFields) -> u64 {
    u64::try_from(x.reset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::wording::tests::policy;
    use super::*;
    use crate::policy::calendar::Period;
    use crate::policy::limit::{LimitId, LimitIx, OnStoreFailure, SubjectKey};
    use crate::policy::order::{Ask, Reading};

    fn ask(policy: &Snapshot, limit: u16) -> Ask {
        let limit = LimitIx(limit);
        Ask {
            limit,
            id: LimitId(u64::from(limit.0)),
            subject: SubjectKey(1),
            crowded: None,
            ceiling: policy.limit(limit).ceiling.unwrap(),
            period: Period::default(),
            weight: 1,
            mode: Mode::Enforce,
            on_store_failure: OnStoreFailure::Local,
        }
    }

    fn said(lines: &LimitLines<'_>) -> String {
        let mut text = FieldText::new();
        lines.say(&mut text);
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn lines_worded_at_once_are_those_that_are_kept_and_known_again_while_they_say_the_same() {
        for report in ["", "report: { ratelimit: none }", "report: { x-ratelimit: none }"] {
            let policy = policy(&format!(
                "limits:\n  a: {{ rate: 100/minute, per: address }}\n  b: {{ rate: 60/minute, window: sliding, per: address }}\n{report}"
            ));
            let asks = [ask(&policy, 0), ask(&policy, 1)];
            let reading = |remaining, wait: u64| Reading {
                whole: 100,
                used: 100 - remaining,
                remaining,
                admits: wait == 0,
                wait: Some(wait),
                more_in: Some(3_000_000_000),
            };
            let first = [reading(50, 0), reading(0, 7_000_000_000)];
            let heard = Heard { asks: &asks, readings: &first };
            let words = Rc::new(FieldWords::new(&policy, heard));
            let mut before: Option<(Edition, String)> = None;
            for (left, wait, now) in [
                (50, 7_000_000_000, 0),
                (50, 7_000_000_000, 0),
                (50, 6_999_999_000, 1),
                (50, 5_999_999_000, 1_001),
                (0, 5_999_999_000, 1_001),
                (9, 5_999_999_000, 1_001),
                (50, 7_000_000_000, 0),
                (50, 0, 0),
            ] {
                let readings = [reading(left, 0), reading(0, wait)];
                let heard = Heard { asks: &asks, readings: &readings };
                let anew = Rc::new(FieldWords::new(&policy, heard));
                let kept = LimitFields::new(&policy.report, &anew, heard, Wall(now));
                let expected = kept.lines().map(|lines| said(&lines)).unwrap();
                let lines = words.lines(&policy.report, heard, Wall(now));
                assert_eq!(said(&lines), expected, "{report}");
                assert!(expected.contains("ratelimit"));
                let same = before.as_ref().is_some_and(|(edition, _)| lines.say_as(edition));
                assert_eq!(same, before.is_some_and(|(_, text)| text == expected), "{report}");
                before = Some((lines.edition(), expected));
            }
        }
    }
}
