//! Names of requests. A decision id is unique to one request of one run of one gate; a request id is what the client
//! and the backend are shown. Neither is a secret, and neither says how many requests there were before the start.

use std::fmt;

use crate::policy::decimal::write_count;

/// Names one run of the gate: 48 random bits, drawn once at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId {
    id: u64,
    /// What request ids are mixed with.
    salt: u128,
}

const BOOT_DIGITS: usize = 12;

impl BootId {
    /// Draws one from the operating system.
    pub fn draw() -> Result<BootId, getrandom::Error> {
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes)?;
        Ok(BootId::from_bytes(bytes))
    }

    /// The boot id made of these bytes; tests give the same ones every time.
    pub fn from_bytes(bytes: [u8; 24]) -> BootId {
        let (mut id, mut salt) = ([0; 8], [0; 16]);
        id.copy_from_slice(&bytes[..8]);
        salt.copy_from_slice(&bytes[8..]);
        BootId { id: u64::from_be_bytes(id) >> 16, salt: u128::from_be_bytes(salt) }
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.id)
    }
}

/// Names one decision: boot id, worker, and the worker's count. Written `9f86d081884c-0-17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecisionId {
    boot: u64,
    worker: u16,
    count: u64,
}

impl DecisionId {
    /// Appends the id's text up to its count, at most 19 bytes: the same for all of one source.
    pub fn write_source(self, out: &mut Vec<u8>) {
        let digits = hex(u128::from(self.boot));
        out.extend_from_slice(&digits[digits.len() - BOOT_DIGITS..]);
        out.push(b'-');
        write_count(out, u64::from(self.worker));
        out.push(b'-');
    }

    /// Whether both are of one worker of one run, so that they differ in their counts alone.
    pub fn same_source(self, other: DecisionId) -> bool {
        self.boot == other.boot && self.worker == other.worker
    }

    /// The last part of the id's text.
    pub fn count(self) -> u64 {
        self.count
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}-{}-{}", self.boot, self.worker, self.count)
    }
}

/// A worker's source of ids. One worker has one.
#[derive(Debug)]
pub struct DecisionIds {
    boot: BootId,
    worker: u16,
    count: u64,
}

impl DecisionIds {
    /// The ids of `worker` in this run, from 1.
    pub fn new(boot: BootId, worker: u16) -> DecisionIds {
        DecisionIds { boot, worker, count: 0 }
    }

    /// The next one.
    pub fn next_id(&mut self) -> DecisionId {
        self.count = self.count.wrapping_add(1);
        DecisionId { boot: self.boot.id, worker: self.worker, count: self.count }
    }

    /// The request id that goes with `id`: 32 hex digits, a fit value for a header. Different ids of one run give
    /// different request ids, and neighbours do not look alike.
    pub fn request_id(&self, id: DecisionId) -> RequestId {
        let plain = (u128::from(id.worker) << 64) | u128::from(id.count);
        RequestId(hex(mixed(plain ^ self.boot.salt)))
    }
}

/// A request id made by the gate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// Its text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A bijection: odd multipliers and xor-shifts undo nothing and lose nothing.
fn mixed(mut x: u128) -> u128 {
    const ODD: u128 = 0xda94_2042_e4dd_58b5_e703_7ed1_a0b4_28db;
    for _ in 0..3 {
        x ^= x >> 67;
        x = x.wrapping_mul(ODD);
    }
    x ^ (x >> 61)
}

fn hex(value: u128) -> [u8; 32] {
    digits_of(&value.to_be_bytes())
}

/// Two hex digits a byte. All at once, in lanes of two digits: 40 instructions. Not inlined, because the lanes are lost where
/// the bytes are known to be parts of a number: 90.
#[inline(never)]
fn digits_of(bytes: &[u8; 16]) -> [u8; 32] {
    let pairs = bytes.map(|byte| {
        let byte = u16::from(byte);
        let nibbles = (byte >> 4) | ((byte & 0xf) << 8);
        let letters = ((nibbles + 0x0606) >> 4) & 0x0101;
        nibbles + u16::from_le_bytes([b'0'; 2]) + letters * u16::from(b'a' - b'9' - 1)
    });
    let mut digits = [0; 32];
    for (place, pair) in digits.as_chunks_mut().0.iter_mut().zip(pairs) {
        *place = pair.to_le_bytes();
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn both_spellings_of_an_id_are_the_same() {
        let mut ids = DecisionIds::new(BootId::from_bytes([7; 24]), 3);
        ids.next_id();
        let id = ids.next_id();
        let mut text = Vec::new();
        id.write_source(&mut text);
        write_count(&mut text, id.count());
        assert_eq!(String::from_utf8(text).unwrap(), id.to_string());
        assert_eq!(id.to_string(), "070707070707-3-2");
    }

    #[test]
    fn hex_digits_are_those_that_are_printed() {
        for value in
            [0, 1, 0x9a_bcde_f012_3456_789f, u128::MAX, u128::MAX / 0xf * 0xa, 0xdead_beef << 77]
        {
            assert_eq!(str::from_utf8(&hex(value)).unwrap(), format!("{value:032x}"));
        }
    }

    #[test]
    fn request_ids_of_a_run_never_meet() {
        let boot = BootId::draw().unwrap();
        let mut seen = HashSet::new();
        for worker in 0..4 {
            let mut ids = DecisionIds::new(boot, worker);
            for _ in 0..5000 {
                let id = ids.next_id();
                let request = ids.request_id(id);
                assert!(request.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
                assert_eq!(request.as_str().len(), 32);
                assert!(seen.insert(request));
            }
        }
    }

    #[test]
    fn two_runs_have_different_names() {
        assert_ne!(BootId::draw().unwrap(), BootId::draw().unwrap());
    }
}
