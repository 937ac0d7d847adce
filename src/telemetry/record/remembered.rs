//! What one worker's records say again and again at their beginnings and in their ends, kept as text: what changes from
//! record to record is put into it.

use std::ptr;

use super::{Closing, RefusalLine};
use crate::clock::Wall;
use crate::policy::decimal::Numeral;
use crate::policy::refusal::Refusal;
use crate::telemetry::decision_id::DecisionId;
use crate::telemetry::json::{Stamp, count, string};
use crate::telemetry::metrics::Outcome;

/// The members before an [`Origin`](super::Origin): version, time and id. 200 instructions a record fewer than from their
/// parts.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    stamp: Stamp,
    /// The latest id, and where its count stands.
    id: Option<(DecisionId, Numeral)>,
    text: Vec<u8>,
}

const BEFORE_TIME: &[u8] = b"{\"v\":1,\"time\":\"";

impl Beginning {
    pub(super) fn of(&mut self, time: Wall, id: DecisionId) -> &[u8] {
        let stamp = self.stamp.of(time);
        let text = &mut self.text;
        let known = match &mut self.id {
            Some((known, counted)) if known.same_source(id) => counted.now_is(text, id.count()),
            Some(_) | None => false,
        };
        match text.get_mut(BEFORE_TIME.len()..BEFORE_TIME.len() + stamp.len()) {
            Some(place) if known => place.copy_from_slice(stamp),
            Some(_) | None => {
                text.clear();
                text.extend_from_slice(BEFORE_TIME);
                text.extend_from_slice(stamp);
                text.extend_from_slice(b"\",\"id\":\"");
                id.write_source(text);
                self.id = Some((id, Numeral::append(text, id.count())));
            }
        }
        text
    }
}

/// How an exchange came out, which is how the one before did, nearly always: 180 instructions a record.
#[derive(Debug, Default)]
pub(super) struct CameOut {
    last: Option<(Outcome, u16, Option<u16>)>,
    /// Where its bytes begin to be told, and how many there were of the request and of the answer.
    bytes: Option<(usize, [Numeral; 2])>,
    text: Vec<u8>,
}

impl CameOut {
    /// The members from the outcome to the name of the time that the gate took, after a comma.
    pub(super) fn of(&mut self, closing: &Closing) -> &[u8] {
        let Closing { outcome, status, upstream_status, .. } = *closing;
        let bytes = [closing.request_bytes, closing.response_bytes];
        let CameOut { last, bytes: said, text } = self;
        if *last != Some((outcome, status, upstream_status)) {
            *last = Some((outcome, status, upstream_status));
            *said = None;
            text.clear();
            text.extend_from_slice(b",\"outcome\":\"");
            text.extend_from_slice(outcome.name().as_bytes());
            text.extend_from_slice(b"\",\"status\":");
            count(text, u64::from(status));
            if let Some(status) = upstream_status {
                text.extend_from_slice(b",\"upstream_status\":");
                count(text, u64::from(status));
            }
        }
        let at = match said {
            None => text.len(),
            Some((at, numerals)) => {
                let mut both = numerals.iter_mut().zip(bytes);
                if both.all(|(numeral, bytes)| numeral.now_is(text, bytes)) {
                    return text;
                }
                *at
            }
        };
        text.truncate(at);
        let names = [b",\"request_bytes\":".as_slice(), b",\"response_bytes\":"];
        let numerals = [0, 1].map(|of| {
            text.extend_from_slice(names[of]);
            Numeral::append(text, bytes[of])
        });
        text.extend_from_slice(b",\"gate_us\":");
        *said = Some((at, numerals));
        text
    }
}

/// Why a request was refused, which is why the one before was, nearly always: 350 instructions a refusal.
#[derive(Debug, Default)]
pub(super) struct Because {
    last: Option<(Refusal, &'static str)>,
    /// The limit of the last one; empty where there was none.
    limit: String,
    text: Vec<u8>,
}

impl Because {
    /// The members that say why, after a comma.
    pub(super) fn of(&mut self, refusal: &RefusalLine<'_>) -> &[u8] {
        let limit = refusal.limit.unwrap_or_default();
        // Texts of ours, which stand where they stand: two that stand elsewhere and say the same are written once more.
        let known = self
            .last
            .is_some_and(|(why, detail)| why == refusal.why && ptr::eq(detail, refusal.detail));
        if !known || self.limit != limit {
            self.last = Some((refusal.why, refusal.detail));
            self.limit.clear();
            self.limit.push_str(limit);
            let out = &mut self.text;
            out.clear();
            out.extend_from_slice(b",\"refusal\":\"");
            // Words of ours, which need no escaping.
            out.extend_from_slice(refusal.why.name().as_bytes());
            out.push(b'"');
            for (name, text) in
                [(b",\"limit\":".as_slice(), limit), (b",\"detail\":", refusal.detail)]
            {
                if !text.is_empty() {
                    out.extend_from_slice(name);
                    string(out, text.as_bytes());
                }
            }
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::CLOSING;
    use super::*;
    use crate::telemetry::decision_id::{BootId, DecisionIds};
    use crate::telemetry::json::rfc3339;

    #[test]
    fn a_beginning_is_of_its_own_record_whatever_the_one_before_was() {
        let mut beginning = Beginning::default();
        let mut workers =
            [1, 2].map(|worker| DecisionIds::new(BootId::from_bytes([9; 24]), worker));
        for (at, worker) in
            [(0, 0), (1_709_209_845_007, 0), (1_709_209_845_008, 1), (-1, 1), (5, 0)]
        {
            let (time, id) = (Wall(at), workers[worker].next_id());
            let said = String::from_utf8(beginning.of(time, id).to_vec()).unwrap();
            let stamp = rfc3339(time);
            let stamp = str::from_utf8(&stamp).unwrap();
            let expected = format!("{{\"v\":1,\"time\":\"{stamp}\",\"id\":\"{id}");
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn why_one_request_was_refused_is_not_said_of_the_next() {
        let mut because = Because::default();
        for (why, limit, detail, expected) in [
            (Refusal::Rate, Some("a"), "x", r#","refusal":"rate","limit":"a","detail":"x""#),
            (Refusal::Rate, Some("b"), "x", r#","refusal":"rate","limit":"b","detail":"x""#),
            (Refusal::Rate, None, "x", r#","refusal":"rate","detail":"x""#),
            (Refusal::Rate, None, "", r#","refusal":"rate""#),
            (Refusal::Guessing, None, "", r#","refusal":"guessing""#),
        ] {
            for _ in 0..2 {
                let line = RefusalLine { why, limit, detail };
                assert_eq!(String::from_utf8(because.of(&line).to_vec()).unwrap(), expected);
            }
        }
    }

    #[test]
    fn how_one_exchange_came_out_is_not_said_of_the_next() {
        let mut came_out = CameOut::default();
        for (outcome, status, upstream_status, expected) in [
            (
                Outcome::Admitted,
                200,
                Some(200),
                ",\"outcome\":\"admitted\",\"status\":200,\"upstream_status\":200,",
            ),
            (Outcome::Admitted, 200, None, ",\"outcome\":\"admitted\",\"status\":200,"),
            (Outcome::Refused, 200, None, ",\"outcome\":\"refused\",\"status\":200,"),
            (Outcome::Refused, 429, None, ",\"outcome\":\"refused\",\"status\":429,"),
        ] {
            for (request_bytes, response_bytes) in
                [(0, 58), (0, 58), (0, 59), (9, 59), (10, 60), (10, 123_456_789), (0, 0)]
            {
                let closing = Closing {
                    outcome,
                    status,
                    upstream_status,
                    request_bytes,
                    response_bytes,
                    ..CLOSING
                };
                let text = String::from_utf8(came_out.of(&closing).to_vec()).unwrap();
                let bytes = format!(
                    "\"request_bytes\":{request_bytes},\"response_bytes\":{response_bytes},"
                );
                assert_eq!(text, format!("{expected}{bytes}\"gate_us\":"));
            }
        }
    }
}
