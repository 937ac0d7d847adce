//! What records say of limits, kept as it was last said: from one request to the next only numbers change, and those are
//! written over. 700 instructions fewer a record of four limits than to put it together again.

use crate::policy::decimal::Numeral;
use crate::policy::limit::{LimitKind, Mode};
use crate::policy::money::Money;
use crate::policy::order::Reading;
use crate::telemetry::json::string;

/// What a record says of one limit beside what a request finds used and left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPhrase {
    before_used: Box<[u8]>,
    before_remaining: Box<[u8]>,
    unit: Unit,
}

/// The member `limits` of records of the same limits under the same ceilings.
#[derive(Clone, Debug, Default)]
pub struct LimitsMember {
    phrases: Box<[LimitPhrase]>,
    /// One a phrase, as soon as they were said.
    said: Vec<Said>,
    text: Vec<u8>,
}

/// What the latest record says of one limit.
#[derive(Clone, Copy, Debug)]
struct Said {
    used: Numeral,
    remaining: Numeral,
    admits: bool,
    wait: Option<Numeral>,
}

/// How units of a limit are told, as usage and costs are told everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// As a number.
    Count,
    /// Millionths, as decimal text.
    Money,
}

impl LimitPhrase {
    /// Of a limit of this name, kind and mode. `ceiling` is the caller's, in units; of a bucket its size.
    pub fn new(name: &str, kind: LimitKind, mode: Mode, ceiling: u64) -> LimitPhrase {
        let unit = if kind.is_money() { Unit::Money } else { Unit::Count };
        let mut before_used = b"{\"name\":".to_vec();
        string(&mut before_used, name.as_bytes());
        before_used.extend_from_slice(match mode {
            Mode::Enforce => b",\"mode\":\"enforce\",\"used\":".as_slice(),
            Mode::Shadow => b",\"mode\":\"shadow\",\"used\":",
        });
        let mut before_remaining = b",\"ceiling\":".to_vec();
        unit.write(&mut before_remaining, ceiling);
        before_remaining.extend_from_slice(b",\"remaining\":");
        LimitPhrase {
            before_used: before_used.into(),
            before_remaining: before_remaining.into(),
            unit,
        }
    }

    /// Appends the limit, with a comma behind it.
    fn write(&self, out: &mut Vec<u8>, reading: &Reading) -> Said {
        out.extend_from_slice(&self.before_used);
        let used = self.unit.write(out, reading.used);
        out.extend_from_slice(&self.before_remaining);
        let remaining = self.unit.write(out, reading.remaining);
        let admits: &[u8] = if reading.admits { b",\"admits\":true" } else { b",\"admits\":false" };
        out.extend_from_slice(admits);
        let wait = wait_micros(reading).map(|micros| {
            out.extend_from_slice(b",\"wait_us\":");
            Numeral::append(out, micros)
        });
        out.extend_from_slice(b"},");
        Said { used, remaining, admits: reading.admits, wait }
    }
}

/// Microseconds until the request would be admitted; `None` where it is, or time does not help. Rounded up: a wait that is
/// written as 0 would say that time does not matter.
#[inline]
fn wait_micros(reading: &Reading) -> Option<u64> {
    if reading.admits { None } else { reading.wait.map(|nanos| nanos.div_ceil(1000)) }
}

impl LimitsMember {
    /// The member for these limits, in their order.
    pub fn new(phrases: impl IntoIterator<Item = LimitPhrase>) -> LimitsMember {
        LimitsMember { phrases: phrases.into_iter().collect(), ..LimitsMember::default() }
    }

    /// What a record says of what the limits said, after a comma; nothing where there are none.
    #[inline]
    pub fn of(&mut self, readings: &[Reading]) -> &[u8] {
        if self.phrases.is_empty() {
            return b"";
        }
        let LimitsMember { said, text, .. } = self;
        let is_new = said.is_empty();
        let mut each = said.iter_mut().zip(readings);
        if is_new || !each.all(|(said, reading)| said.now_is(text, reading)) {
            self.put_together(readings);
        }
        &self.text
    }

    #[cold]
    fn put_together(&mut self, readings: &[Reading]) {
        let out = &mut self.text;
        out.clear();
        out.extend_from_slice(b",\"limits\":[");
        let each = self.phrases.iter().zip(readings);
        self.said.clear();
        self.said.extend(each.map(|(phrase, reading)| phrase.write(out, reading)));
        if let Some(comma) = out.last_mut() {
            *comma = b']';
        }
    }
}

impl Said {
    /// Whether the text says this of the limit now.
    #[inline]
    fn now_is(&mut self, text: &mut [u8], reading: &Reading) -> bool {
        let wait = match (&mut self.wait, wait_micros(reading)) {
            (Some(wait), Some(micros)) => wait.now_is(text, micros),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        wait && self.admits == reading.admits
            && self.used.now_is(text, reading.used)
            && self.remaining.now_is(text, reading.remaining)
    }
}

impl Unit {
    fn write(self, out: &mut Vec<u8>, units: u64) -> Numeral {
        match self {
            Unit::Count => Numeral::append(out, units),
            Unit::Money => {
                out.push(b'"');
                Money(units).write(out);
                out.push(b'"');
                Numeral::fixed(units)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases() -> [LimitPhrase; 2] {
        [
            LimitPhrase::new("throttle", LimitKind::Rate, Mode::Enforce, 60),
            LimitPhrase::new("wallet", LimitKind::Credit, Mode::Shadow, 50_000_000),
        ]
    }

    #[test]
    fn what_was_said_before_changes_nothing_of_what_is_said_now() {
        let mut member = LimitsMember::new(phrases());
        for (used, left, admits, wait) in [
            (57, 3, true, None),
            (57, 3, true, None),
            (58, 2, true, None),
            (58, 2, false, Some(1_000_000)),
            (58, 2, false, Some(999_001)),
            (58, 2, false, Some(1_001)),
            (58, 2, false, Some(2_001)),
            (58, 2, false, None),
            (158, 0, true, None),
            (9, 51_000_000_000, true, None),
            (9, 51_999_999_999, true, None),
        ] {
            let (whole, more_in) = (60, Some(7));
            let first = Reading { whole, used, remaining: left, admits, wait, more_in };
            let readings = [first, Reading { used: left, remaining: used, ..first }];
            let anew = LimitsMember::new(phrases()).of(&readings).to_vec();
            let said = String::from_utf8(member.of(&readings).to_vec()).unwrap();
            assert_eq!(said, String::from_utf8(anew).unwrap());
            assert!(said.contains(&format!("\"used\":{used},")), "{said}");
        }
    }

    #[test]
    fn where_no_limit_was_asked_nothing_is_said() {
        assert_eq!(LimitsMember::default().of(&[]), b"");
    }
}
