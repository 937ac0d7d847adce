//! The fields that every answer to a limited request carries.

use super::field_text::{FieldText, Legal};
use super::refrain::LimitRefrain;
use crate::clock::Wall;
use crate::policy::limit::Mode;
use crate::policy::order::Reading;
use crate::policy::report::{Report, Spelling, XFields, state_member};

const X_LIMIT: &str = "x-ratelimit-limit";
const X_REMAINING: &str = "x-ratelimit-remaining";
const X_RESET: &str = "x-ratelimit-reset";

/// What limits say on an answer. Written when the request is decided, so that it outlives the policy.
#[derive(Debug)]
pub(super) struct LimitFields {
    /// How the names of all of the gate's fields are written, limits or not.
    pub(super) spelling: Spelling,
    lines: FieldText,
    x: XLines,
}

/// Whether `X-RateLimit-*` is among the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum XLines {
    Absent,
    Present,
}

impl Default for LimitFields {
    fn default() -> Self {
        LimitFields { spelling: Spelling::Lower, lines: FieldText::none(), x: XLines::Absent }
    }
}

impl LimitFields {
    /// The fields for these readings, of which `refrain` is what is always said.
    pub(super) fn new(
        report: &Report,
        refrain: &mut LimitRefrain,
        readings: &[Reading],
        now: Wall,
    ) -> LimitFields {
        let mut fields = LimitFields { spelling: report.spelling, ..LimitFields::default() };
        let x = report.x_fields(readings, now);
        if x.is_none() && refrain.policy_field.is_none() {
            return fields;
        }
        let mut lines = FieldText::new();
        if let Some(XFields { shown, remaining, reset }) = x
            && let Some(words) = refrain.limits.get(shown)
        {
            lines.add(X_LIMIT, (&words.most).into());
            lines.add_number(X_REMAINING, remaining);
            lines.add_number(X_RESET, u64::try_from(reset).unwrap_or(0));
            fields.x = XLines::Present;
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
        fields.lines = lines;
        fields
    }

    /// Moves the fields to the answer, over whatever the backend said of limits of its own under the `X-` names. The draft
    /// forbids an intermediary to remove the backend's own `RateLimit` fields: ours are further list members.
    pub(super) fn give(&mut self, to: &mut FieldText) {
        if self.x == XLines::Present {
            for name in [X_LIMIT, X_REMAINING, X_RESET] {
                to.remove(name);
            }
        }
        to.append(&self.lines);
        (self.lines, self.x) = (FieldText::none(), XLines::Absent);
    }
}
