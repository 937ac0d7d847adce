//! What records say again and again, rendered once: of a connection, of a caller on a route, of a limit under a ceiling.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use crate::policy::address::write_address;
use crate::policy::decimal::write_over;
use crate::policy::limit::{LimitKind, Mode};
use crate::policy::money::Money;
use crate::telemetry::json::{count, string};

/// Where a request comes from, and the policy that decides it: the same from request to request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Digest of the policy; its first twelve digits are written.
    pub policy: &'a str,
    /// The listener's place in the policy.
    pub listener: usize,
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The client's address, as decided.
    pub client: IpAddr,
    /// `http/1.1` or `http/2`.
    pub protocol: &'a str,
}

impl Origin<'_> {
    /// Appends it as a record has it between the digits of its id and the text of its method.
    pub fn write(&self, out: &mut Vec<u8>) {
        let digest = self.policy.as_bytes();
        out.extend_from_slice(b"\",\"policy\":\"");
        out.extend_from_slice(digest.get(..12).unwrap_or(digest));
        out.extend_from_slice(b"\",\"listener\":");
        count(out, self.listener as u64);
        out.extend_from_slice(b",\"peer\":\"");
        let (before, after) = if self.peer.is_ipv6() { ("[", "]:") } else { ("", ":") };
        out.extend_from_slice(before.as_bytes());
        write_address(out, self.peer.ip());
        out.extend_from_slice(after.as_bytes());
        count(out, u64::from(self.peer.port()));
        out.extend_from_slice(b"\",\"client\":\"");
        write_address(out, self.client);
        out.extend_from_slice(b"\",\"protocol\":");
        string(out, self.protocol.as_bytes());
        out.extend_from_slice(b",\"method\":\"");
    }
}

/// Who asks for what, as far as that became known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The route's name.
    pub route: Option<&'a str>,
    /// The key's public id.
    pub key: Option<&'a str>,
    /// The caller's tenant.
    pub tenant: Option<&'a str>,
    /// The caller's plan.
    pub plan: Option<&'a str>,
    /// The scope that the route demands.
    pub scope: Option<&'a str>,
}

impl Caller<'_> {
    /// Appends it as a record has it between the text of its host and its limits.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        let members: [(&[u8], Option<&str>); 5] = [
            (b",\"route\":", self.route),
            (b",\"key\":", self.key),
            (b",\"tenant\":", self.tenant),
            (b",\"plan\":", self.plan),
            (b",\"scope\":", self.scope),
        ];
        for (name, text) in members {
            if let Some(text) = text {
                out.extend_from_slice(name);
                string(out, text.as_bytes());
            }
        }
    }
}

/// What a record says of one limit beside what a request finds used and left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPhrase {
    before_used: Box<[u8]>,
    before_remaining: Box<[u8]>,
    unit: Unit,
    latest: RefCell<LatestLine>,
}

/// What a request found of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) used: u64,
    pub(super) remaining: u64,
    pub(super) admits: bool,
    /// Whole microseconds.
    pub(super) wait: Option<u64>,
}

/// What the latest request said of a limit. Of the next one it is nearly always the same line, or one with other digits in
/// the same places: a copy instead of seven, and 100 instructions a limit fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LatestLine {
    of: Option<Found>,
    line: Vec<u8>,
    used: Number,
    remaining: Number,
}

/// Where a number lies in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Number {
    end: usize,
    digits: usize,
}

impl LatestLine {
    /// Puts other numbers into the line, where it stays as it is but for them. A line in which that fails is not whole.
    fn takes(&mut self, found: Found) -> bool {
        let Some(before) = self.of else { return false };
        let LatestLine { line, used, remaining, .. } = self;
        (before.admits, before.wait) == (found.admits, found.wait)
            && write_over(line, used.end, used.digits, found.used)
            && write_over(line, remaining.end, remaining.digits, found.remaining)
    }

    fn render(&mut self, phrase: &LimitPhrase, found: Found) {
        let line = &mut self.line;
        line.clear();
        line.extend_from_slice(&phrase.before_used);
        let start = line.len();
        phrase.unit.write(line, found.used);
        self.used = Number { end: line.len(), digits: line.len() - start };
        line.extend_from_slice(&phrase.before_remaining);
        let start = line.len();
        phrase.unit.write(line, found.remaining);
        self.remaining = Number { end: line.len(), digits: line.len() - start };
        let admits: &[u8] = if found.admits { b",\"admits\":true" } else { b",\"admits\":false" };
        line.extend_from_slice(admits);
        if let Some(micros) = found.wait {
            line.extend_from_slice(b",\"wait_us\":");
            count(line, micros);
        }
        line.extend_from_slice(b"},");
    }
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
            latest: RefCell::default(),
        }
    }

    /// Appends what a request found of the limit, with a comma behind it.
    pub(super) fn write(&self, out: &mut Vec<u8>, found: Found) {
        let mut latest = self.latest.borrow_mut();
        if latest.of != Some(found) {
            // Money is written with a point, whose place is not known.
            if self.unit == Unit::Money || !latest.takes(found) {
                latest.render(self, found);
            }
            latest.of = Some(found);
        }
        out.extend_from_slice(&latest.line);
    }
}

/// How units of a limit are told, as usage and costs are told everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// As a number.
    Count,
    /// Millionths, as decimal text.
    Money,
}

impl Unit {
    #[inline]
    pub(super) fn write(self, out: &mut Vec<u8>, units: u64) {
        match self {
            Unit::Count => count(out, units),
            Unit::Money => {
                out.push(b'"');
                Money(units).write(out);
                out.push(b'"');
            }
        }
    }
}
