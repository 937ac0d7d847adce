//! The fields that every answer to a limited request carries.

use std::rc::Rc;

use smallvec::SmallVec;

use super::field_text::{FieldText, Legal};
use super::refrain::LimitRefrain;
use super::serve::Facts;
use crate::clock::Wall;
use crate::policy::limit::Mode;
use crate::policy::order::{Reading, Standing};
use crate::policy::report::{Report, Spelling, XFields, state_member, state_of};

const X_LIMIT: &str = "x-ratelimit-limit";
const X_REMAINING: &str = "x-ratelimit-remaining";
const X_RESET: &str = "x-ratelimit-reset";

/// What limits say on an answer. Written when the request is decided, so that it outlives the policy.
#[derive(Debug)]
pub(super) struct LimitFields {
    /// How the names of all of the gate's fields are written, limits or not.
    pub(super) spelling: Spelling,
    lines: Shown,
    x: XLines,
}

/// The lines themselves.
#[derive(Debug)]
enum Shown {
    None,
    Own(FieldText),
    /// As the latest answer had them.
    Latest(Rc<FieldText>),
}

/// Whether `X-RateLimit-*` is among the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum XLines {
    Absent,
    Present,
}

impl Default for LimitFields {
    fn default() -> Self {
        LimitFields { spelling: Spelling::Lower, lines: Shown::None, x: XLines::Absent }
    }
}

/// What the latest answer showed of limits that it left as they were. Of one refusal after the other it is the same text,
/// as long as the second is: 2 300 instructions fewer.
#[derive(Debug, Default)]
pub(super) struct Latest {
    /// Of these numbers.
    x: Option<XFields>,
    states: SmallVec<[(u64, u64); 6]>,
    /// This was shown.
    lines: Option<Rc<FieldText>>,
}

impl Latest {
    /// What was shown of the same numbers.
    fn of(&self, x: Option<XFields>, readings: &[Reading]) -> Option<&Rc<FieldText>> {
        let lines = self.lines.as_ref()?;
        let same = self.x == x
            && self.states.len() == readings.len()
            && readings
                .iter()
                .zip(&self.states)
                .all(|(reading, state)| state_of(reading) == *state);
        same.then_some(lines)
    }
}

impl LimitFields {
    /// The fields for what the limits said, of which `refrain` is what is always said.
    pub(super) fn new(
        report: &Report,
        refrain: &mut LimitRefrain,
        facts: &Facts,
        now: Wall,
    ) -> LimitFields {
        let readings = &*facts.readings;
        let mut fields = LimitFields { spelling: report.spelling, ..LimitFields::default() };
        let x = report.x_fields(readings, now);
        if x.is_none() && refrain.policy_field.is_none() {
            return fields;
        }
        if x.is_some() {
            fields.x = XLines::Present;
        }
        if facts.standing == Standing::Kept
            && let Some(lines) = refrain.latest.of(x, readings)
        {
            fields.lines = Shown::Latest(Rc::clone(lines));
            return fields;
        }
        let mut lines = FieldText::new();
        if let Some(XFields { shown, remaining, reset }) = x
            && let Some(words) = refrain.limits.get(shown)
        {
            lines.add(X_LIMIT, (&words.most).into());
            lines.add_number(X_REMAINING, remaining);
            lines.add_number(X_RESET, u64::try_from(reset).unwrap_or(0));
        }
        if let Some(policy) = &refrain.policy_field {
            let state = &mut refrain.state;
            state.clear();
            for (words, reading) in refrain.limits.iter().zip(readings) {
                if reading.mode == Mode::Enforce {
                    state_member(state, &words.state, reading);
                }
            }
            lines.add("ratelimit-policy", policy.into());
            // Numbers, and the names that are in the value above.
            lines.add("ratelimit", Legal::known(state));
        }
        fields.lines = match facts.standing {
            Standing::Moved => Shown::Own(lines),
            Standing::Kept => {
                let (states, lines) = (readings.iter().map(state_of).collect(), Rc::new(lines));
                refrain.latest = Latest { x, states, lines: Some(Rc::clone(&lines)) };
                Shown::Latest(lines)
            }
        };
        fields
    }

    /// Moves the fields to the answer, over whatever the backend said of limits of its own under the `X-` names. The draft
    /// forbids an intermediary to remove the backend's own `RateLimit` fields: ours are further list members.
    pub(super) fn give(&mut self, to: &mut FieldText) {
        if self.x == XLines::Present {
            // Lengths first: one look at each line, for all three names.
            to.remove_all(|name| {
                matches!(name.len(), 17 | 21)
                    && [X_LIMIT, X_REMAINING, X_RESET].iter().any(|own| own.as_bytes() == name)
            });
        }
        match &self.lines {
            Shown::None => {}
            Shown::Own(lines) => to.append(lines),
            Shown::Latest(lines) => to.append(lines),
        }
        (self.lines, self.x) = (Shown::None, XLines::Absent);
    }
}
