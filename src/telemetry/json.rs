//! JSON straight into a buffer. Whatever text comes in, one line of valid JSON comes out: no caller can end a string,
//! a record or a line.

use crate::clock::Wall;
use crate::policy::decimal::pair;
pub(super) use crate::policy::decimal::write_count as count;

/// An object under construction. Its members go into the buffer as they come; [`Object::end`] closes it.
pub(super) struct Object<'b> {
    out: &'b mut Vec<u8>,
    empty: bool,
}

impl<'b> Object<'b> {
    /// Opens an object.
    pub(super) fn begin(out: &'b mut Vec<u8>) -> Object<'b> {
        out.push(b'{');
        Object { out, empty: true }
    }

    /// Closes it.
    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    /// Writes a member's name, which is ours and needs no escaping, and hands out the buffer for its value.
    pub(super) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.reserve(name.len() + 3);
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// Writes a member whose name is not ours.
    pub(super) fn foreign_member(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        string(self.out, name.as_bytes());
        self.out.push(b':');
        self.out
    }

    /// A string of anyone's.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        string(self.member(name), value.as_bytes());
    }

    /// A number.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        count(self.member(name), value);
    }

    /// A time, RFC 3339 with milliseconds.
    pub(super) fn time(&mut self, name: &str, value: Wall) {
        let text = rfc3339(value);
        let out = self.member(name);
        out.push(b'"');
        out.extend_from_slice(&text);
        out.push(b'"');
    }
}

/// Writes `text` as a JSON string (RFC 8259 §7). What is no UTF-8 becomes U+FFFD; DEL and the two separators that
/// some readers take for line ends are escaped too.
pub(super) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    inside(out, text);
    out.push(b'"');
}

/// Writes what stands between the quotes of [`string`], for who writes the quotes with what is around them.
#[inline]
pub(super) fn inside(out: &mut Vec<u8>, text: &[u8]) {
    if is_plain(text) {
        // Nearly every string: no look at UTF-8, no look for escapes.
        out.extend_from_slice(text);
    } else {
        made_plain(out, text);
    }
}

#[cold]
fn made_plain(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Whether `text` stands inside a JSON string as it is: printable ASCII without quotes and backslashes. Eight bytes at a
/// look, which costs 20 instructions where a look at each byte cost 100, a dozen times a record.
#[inline]
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let whole = words.iter().all(|word| eight_are_plain(u64::from_le_bytes(*word)));
    let last = match text.last_chunk::<8>() {
        _ if rest.is_empty() => return whole,
        Some(last) => u64::from_le_bytes(*last),
        None => few(rest),
    };
    whole && eight_are_plain(last)
}

/// Fewer than eight bytes in a word, with plain ones or some of them once more in place of those that are missing.
#[inline]
fn few(text: &[u8]) -> u64 {
    match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        // Most names are of this length: 10 instructions for 40.
        (Some(first), Some(last)) => {
            let [first, last] = [first, last].map(|four| u64::from(u32::from_le_bytes(*four)));
            (first << 32) | last
        }
        _ => text.iter().fold(ONES * 0x20, |word, byte| (word << 8) | u64::from(*byte)),
    }
}

const ONES: u64 = u64::from_le_bytes([1; 8]);

#[inline]
fn eight_are_plain(word: u64) -> bool {
    const HIGHS: u64 = ONES * 0x80;
    // Sets the high bit of some byte exactly if one of the bytes is below the bound (of at most 0x80), or is the value.
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word;
    let is = |value: u64| below(word ^ (ONES * value), 1);
    let odd = word | below(word, 0x20) | is(0x22) | is(0x5c) | is(0x7f);
    odd & HIGHS == 0
}

fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut plain_from = 0;
    for (at, byte) in text.iter().enumerate() {
        let needs = match byte {
            0..=0x1f | b'"' | b'\\' | 0x7f => true,
            // U+2028 and U+2029 are E2 80 A8 and E2 80 A9.
            0xe2 => matches!(text.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])),
            _ => false,
        };
        if !needs {
            continue;
        }
        out.extend_from_slice(&text[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => {
                out.extend_from_slice(b"\\u202");
                out.push(if text[at + 2] == 0xa8 { b'8' } else { b'9' });
                plain_from = at + 3;
            }
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 0xf)]);
            }
        }
    }
    out.extend_from_slice(&text[plain_from..]);
}

/// The latest time that was written: the next one nearly always differs in its milliseconds only, so that the calendar is
/// asked once a second (30 instructions for 250).
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    second: i64,
    text: [u8; 24],
}

impl Default for Stamp {
    fn default() -> Self {
        Stamp { second: 0, text: rfc3339(Wall(0)) }
    }
}

impl Stamp {
    /// As [`rfc3339`].
    #[inline]
    pub(super) fn of(&mut self, time: Wall) -> &[u8; 24] {
        let millis = time.0.clamp(FIRST, LAST);
        if millis.div_euclid(1000) == self.second {
            let of_second = millis.rem_euclid(1000).unsigned_abs();
            let [_, hundreds] = pair(of_second / 100);
            let [tens, ones] = pair(of_second % 100);
            self.text[20..23].copy_from_slice(&[hundreds, tens, ones]);
        } else {
            *self = Stamp { second: millis.div_euclid(1000), text: rfc3339(time) };
        }
        &self.text
    }
}

/// Milliseconds of the first and last instant that are written.
const FIRST: i64 = -62_167_219_200_000;
const LAST: i64 = 253_402_300_799_999;

/// `2026-11-20T22:15:52.123Z`. Years beyond 9999 and before 0 are clamped: no clock that works says them.
pub(super) fn rfc3339(time: Wall) -> [u8; 24] {
    let millis = time.0.clamp(FIRST, LAST);
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    put(&mut out[0..4], year);
    put(&mut out[5..7], month);
    put(&mut out[8..10], day);
    put(&mut out[11..13], of_day / 3_600_000);
    put(&mut out[14..16], of_day / 60_000 % 60);
    put(&mut out[17..19], of_day / 1000 % 60);
    put(&mut out[20..23], of_day % 1000);
    out
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years start in March
/// inside, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let from_march = days + 719_468;
    let era = from_march.div_euclid(DAYS_OF_400_YEARS);
    let day_of_era = from_march.rem_euclid(DAYS_OF_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

fn put(out: &mut [u8], mut value: i64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn as_json(text: &[u8]) -> String {
        let mut out = Vec::new();
        string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn control_characters_quotes_and_line_separators_are_escaped() {
        assert_eq!(
            as_json("a\"b\\c\n\r\t\u{1}\u{7f}\u{2028}\u{2029}é€".as_bytes()),
            "\"a\\\"b\\\\c\\n\\r\\t\\u0001\\u007f\\u2028\\u2029é€\""
        );
        assert_eq!(as_json(b"a\xffb\xe2\x80"), "\"a\u{fffd}b\u{fffd}\"");
    }

    #[test]
    fn times_are_written_as_the_calendar_says() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_709_209_845_007, "2024-02-29T12:30:45.007Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(str::from_utf8(&rfc3339(Wall(millis))).unwrap(), text);
        }
    }

    #[test]
    fn one_odd_byte_is_seen_at_every_place_of_every_length() {
        for length in 0..40 {
            let plain = vec![b'~'; length];
            assert!(is_plain(&plain));
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b' '; length];
                    text[at] = byte;
                    let fine = matches!(byte, 0x20..0x7f) && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain(&text), fine, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_stamp_says_what_the_calendar_says_whatever_it_said_before() {
        let mut stamp = Stamp::default();
        let times = [1_709_209_845_007, 1_709_209_845_999, 1_709_209_846_000, -1, -999, 0, 999];
        for millis in times.into_iter().chain([i64::MAX, i64::MAX - 1, i64::MIN, 7]) {
            assert_eq!(stamp.of(Wall(millis)), &rfc3339(Wall(millis)), "{millis}");
        }
    }

    proptest! {
        #[test]
        fn whatever_text_comes_in_reads_back_as_itself_from_one_line(text in any::<String>()) {
            let json = as_json(text.as_bytes());
            prop_assert!(!json.bytes().any(|byte| byte < 0x20));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn whatever_bytes_come_in_read_back_as_their_lossy_text(bytes in any::<Vec<u8>>()) {
            let json = as_json(&bytes);
            prop_assert_eq!(
                serde_json::from_str::<String>(&json).unwrap(),
                String::from_utf8_lossy(&bytes)
            );
        }

        #[test]
        fn times_agree_with_a_calendar_library(millis in -62_135_596_800_000i64..253_402_207_200_000) {
            let expected = jiff::Timestamp::from_millisecond(millis).unwrap();
            let text = rfc3339(Wall(millis));
            let read: jiff::Timestamp = str::from_utf8(&text).unwrap().parse().unwrap();
            prop_assert_eq!(read, expected);
        }
    }
}
