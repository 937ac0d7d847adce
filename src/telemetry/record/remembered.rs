//! What one worker's records say again and again at their beginnings and in their ends, kept as text: what changes from
//! record to record is put into it.

use super::RefusalLine;
use crate::clock::Wall;
use crate::policy::refusal::Refusal;
use crate::telemetry::decision_id::DecisionId;
use crate::telemetry::json::{Stamp, count, string};
use crate::telemetry::metrics::Outcome;

/// The members before an [`Origin`](super::Origin): version, time, and the id up to its count. 150 instructions a record
/// fewer than from their parts.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    stamp: Stamp,
    id: Option<DecisionId>,
    text: Vec<u8>,
}

const BEFORE_TIME: &[u8] = b"{\"v\":1,\"time\":\"";

impl Beginning {
    pub(super) fn write(&mut self, out: &mut Vec<u8>, time: Wall, id: DecisionId) {
        let stamp = self.stamp.of(time);
        let end = BEFORE_TIME.len() + stamp.len();
        let known = self.id.is_some_and(|known| known.same_source(id));
        match self.text.get_mut(BEFORE_TIME.len()..end) {
            Some(place) if known => place.copy_from_slice(stamp),
            Some(_) | None => {
                self.id = Some(id);
                self.text.clear();
                self.text.extend_from_slice(BEFORE_TIME);
                self.text.extend_from_slice(stamp);
                self.text.extend_from_slice(b"\",\"id\":\"");
                id.write_source(&mut self.text);
            }
        }
        out.extend_from_slice(&self.text);
        count(out, id.count());
    }
}

/// How an exchange came out, which is how the one before did, nearly always.
#[derive(Debug, Default)]
pub(super) struct CameOut {
    last: Option<(Outcome, u16, Option<u16>)>,
    text: Vec<u8>,
}

impl CameOut {
    /// The members from the outcome to the name of the bytes of the request, after a comma.
    pub(super) fn of(&mut self, outcome: Outcome, status: u16, upstream: Option<u16>) -> &[u8] {
        if self.last != Some((outcome, status, upstream)) {
            self.last = Some((outcome, status, upstream));
            let out = &mut self.text;
            out.clear();
            out.extend_from_slice(b",\"outcome\":\"");
            out.extend_from_slice(outcome.name().as_bytes());
            out.extend_from_slice(b"\",\"status\":");
            count(out, u64::from(status));
            if let Some(status) = upstream {
                out.extend_from_slice(b",\"upstream_status\":");
                count(out, u64::from(status));
            }
            out.extend_from_slice(b",\"request_bytes\":");
        }
        &self.text
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
        if self.last != Some((refusal.why, refusal.detail)) || self.limit != limit {
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
            let mut out = Vec::new();
            beginning.write(&mut out, time, id);
            let stamp = rfc3339(time);
            let stamp = str::from_utf8(&stamp).unwrap();
            let expected = format!("{{\"v\":1,\"time\":\"{stamp}\",\"id\":\"{id}");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
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
        for (outcome, status, upstream, expected) in [
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
            let text = String::from_utf8(came_out.of(outcome, status, upstream).to_vec()).unwrap();
            assert_eq!(text, format!("{expected}\"request_bytes\":"));
        }
    }
}
