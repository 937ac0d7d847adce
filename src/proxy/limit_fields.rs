//! The fields that every answer to a limited request carries: written when the answer is, from numbers that were read when
//! the request was decided.

use std::cell::RefCell;
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

/// Two that are equal say the same.
impl PartialEq for LimitFields {
    fn eq(&self, other: &LimitFields) -> bool {
        match (&self.said, &other.said) {
            (None, None) => true,
            (Some((words, numbers)), Some((others, other))) => {
                Rc::ptr_eq(words, others) && numbers == other
            }
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
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
    /// `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    x: Option<(Numeral, Numeral)>,
    /// One a limit that is enforced.
    states: SmallVec<[(Numeral, Option<Numeral>); 6]>,
}

impl Default for Latest {
    fn default() -> Latest {
        Latest { lines: FieldText::new(), of: Numbers::default(), x: None, states: SmallVec::new() }
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

    /// The fields, which are then somebody else's to give.
    pub(super) fn taken(&mut self) -> LimitFields {
        LimitFields { spelling: self.spelling, said: self.said.take() }
    }

    /// Moves the fields to the answer, over whatever the backend said of limits of its own under the `X-` names. The draft
    /// forbids an intermediary to remove the backend's own `RateLimit` fields: ours are further list members.
    pub(super) fn give(&mut self, to: &mut FieldText) {
        self.taken().say(to);
    }

    /// As [`LimitFields::give`], and keeps them.
    pub(super) fn say(&self, to: &mut FieldText) {
        let Some((words, numbers)) = &self.said else { return };
        if numbers.x.is_some() {
            // Lengths first: one look at each line, for all three names.
            to.remove_all(|name| {
                matches!(name.len(), 17 | 21)
                    && [X_LIMIT, X_REMAINING, X_RESET].iter().any(|own| own.as_bytes() == name)
            });
        }
        let latest = &mut *words.latest.borrow_mut();
        if latest.of != *numbers {
            let over = latest.write_over(words, numbers);
            latest.of.clone_from(numbers);
            if !over {
                latest.put_together(words);
            }
        }
        to.append(&latest.lines);
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
    /// Whether the lines say these numbers now, because only numbers had to change, each for one of as many digits.
    fn write_over(&mut self, words: &FieldWords, numbers: &Numbers) -> bool {
        let Latest { lines, of, x, states } = self;
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
