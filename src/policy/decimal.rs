//! Decimal digits straight into a buffer: every answer and every record holds a dozen counts.

use std::ops::Range;

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut tens = 0;
    let mut at = 0;
    while tens < 10 {
        let mut ones = 0;
        while ones < 10 {
            pairs[at] = [b'0' + tens, b'0' + ones];
            ones += 1;
            at += 1;
        }
        tens += 1;
    }
    pairs
};

/// One more than what eight digits can say.
const EIGHT: u64 = 100_000_000;
/// `00000000`.
const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);

/// Appends `value`. Most counts have few digits: a status, a wait, a small body. Of longer ones all digits of eight are found at once, and copied as
/// eight bytes that are cut to their length: 60 instructions, where a loop and a copy of unknown length took 90.
pub fn write_count(out: &mut Vec<u8>, value: u64) {
    match value {
        0..10 => out.push(b'0' + value.to_le_bytes()[0]),
        10..100 => out.extend_from_slice(&pair(value)),
        100..1000 => {
            let [tens, ones] = pair(value % 100);
            out.extend_from_slice(&[b'0' + (value / 100).to_le_bytes()[0], tens, ones]);
        }
        1000..EIGHT => write_eight(out, value),
        EIGHT.. => write_long(out, value),
    }
}

fn write_eight(out: &mut Vec<u8>, value: u64) {
    let digits = eight(value);
    // The first digit is the lowest byte. Not all are 0.
    let leading = digits.trailing_zeros() / 8;
    let text = (digits | ZEROS) >> (leading * 8);
    out.extend_from_slice(&text.to_le_bytes());
    out.truncate(out.len() - leading as usize);
}

fn write_long(out: &mut Vec<u8>, value: u64) {
    write_count(out, value / EIGHT);
    out.extend_from_slice(&(eight(value % EIGHT) | ZEROS).to_le_bytes());
}

/// A number as it stands in a text, to be written over by others of as many digits: most texts that say numbers say them
/// again and again, and little else changes in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numeral {
    value: u64,
    end: usize,
    /// 0: it stands there in another form.
    digits: usize,
}

impl Numeral {
    /// Appends `value`, which stands there from now on.
    pub fn append(out: &mut Vec<u8>, value: u64) -> Numeral {
        let before = out.len();
        write_count(out, value);
        Numeral { value, end: out.len(), digits: out.len() - before }
    }

    /// A number that stands there.
    pub fn at(value: u64, place: Range<usize>) -> Numeral {
        Numeral { value, end: place.end, digits: place.len() }
    }

    /// A number that is said in another form, and can only stay what it is.
    pub fn fixed(value: u64) -> Numeral {
        Numeral { value, end: 0, digits: 0 }
    }

    /// The same, in a text that begins so many bytes before this one's.
    #[must_use]
    pub fn behind(self, bytes: usize) -> Numeral {
        Numeral { end: self.end + bytes, ..self }
    }

    /// Whether `value` stands in the text now: written over the one before, unless it has another number of digits.
    #[inline]
    #[must_use]
    pub fn now_is(&mut self, text: &mut [u8], value: u64) -> bool {
        if self.value == value {
            return true;
        }
        let before = std::mem::replace(&mut self.value, value);
        // What is counted up and down request by request mostly changes in no other digit: 300 instructions less for four
        // limits.
        if self.digits > 2 && value / 100 == before / 100 {
            return put_pair(text, self.end, pair(value % 100));
        }
        // A wait of a day in microseconds changes in its lower digits: 60 instructions less.
        if self.digits > 8 && value / EIGHT == before / EIGHT {
            return put_eight(text, self.end, eight(value % EIGHT) | ZEROS, 8);
        }
        self.digits > 0 && write_over(text, self.end, self.digits, value)
    }
}

/// Writes two digits, so that they end at `end`.
#[inline]
fn put_pair(text: &mut [u8], end: usize, digits: [u8; 2]) -> bool {
    let before = text.get_mut(..end).and_then(<[u8]>::last_chunk_mut);
    before.map(|place| *place = digits).is_some()
}

/// Writes `value` over the number that ends at `end` in `text` and has `digits` digits, if it has as many itself; else nothing
/// is written. 30 instructions up to eight digits. At least eight bytes of text end there, as they do behind any name.
fn write_over(text: &mut [u8], end: usize, digits: usize, value: u64) -> bool {
    let (high, low) = (value / EIGHT, value % EIGHT);
    if high > 0 {
        // The upper ones first, because only they can be of another number.
        return digits > 8
            && end >= 16
            && write_over(text, end - 8, digits - 8, high)
            && put_eight(text, end, eight(low) | ZEROS, 8);
    }
    let bare = eight(low);
    // Of 0 the last digit is left.
    let leading = (bare.trailing_zeros() / 8).min(7) as usize;
    digits == 8 - leading && put_eight(text, end, bare | ZEROS, digits)
}

/// Writes the last `count` of eight digits, at least one, so that they end at `end`.
#[inline]
fn put_eight(text: &mut [u8], end: usize, digits: u64, count: usize) -> bool {
    let before = text.get_mut(..end).and_then(<[u8]>::last_chunk_mut::<8>);
    let Some(place) = before else { return false };
    let kept = (1 << (64 - 8 * count.clamp(1, 8))) - 1;
    *place = ((u64::from_le_bytes(*place) & kept) | (digits & !kept)).to_le_bytes();
    true
}

/// A count in digits, for who appends to something else.
#[derive(Clone, Copy, Debug)]
pub struct Digits {
    text: [u8; 24],
    start: usize,
}

impl Digits {
    /// The digits of `value`.
    pub fn of(value: u64) -> Digits {
        let (high, low) = (value / EIGHT, eight(value % EIGHT));
        let (high, middle) = (eight(high / EIGHT), eight(high % EIGHT));
        let mut text = [0; 24];
        for (place, digits) in text.as_chunks_mut().0.iter_mut().zip([high, middle, low]) {
            *place = (digits | ZEROS).to_le_bytes();
        }
        let leading = |digits: u64| (digits.trailing_zeros() / 8) as usize;
        let start = match (high, middle, low) {
            (0, 0, 0) => text.len() - 1,
            (0, 0, low) => 16 + leading(low),
            (0, middle, _) => 8 + leading(middle),
            (high, ..) => leading(high),
        };
        Digits { text, start }
    }

    /// The digits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// The eight digits of a value below [`EIGHT`], the first in the lowest byte. Divisions by 100 and by 10 are
/// multiplications in lanes of one word, exact for as many digits as a lane holds.
#[inline]
const fn eight(value: u64) -> u64 {
    let fours = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = hundreds + ((fours - 100 * hundreds) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    tens + ((twos - 10 * tens) << 8)
}

/// The two digits of a value below 100.
#[inline]
pub fn pair(value: u64) -> [u8; 2] {
    usize::try_from(value).ok().and_then(|at| PAIRS.get(at)).copied().unwrap_or(*b"00")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: u64) -> String {
        let mut out = b"x".to_vec();
        write_count(&mut out, value);
        assert_eq!(&out[1..], Digits::of(value).as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_count_is_written_as_it_is_printed_at_every_length() {
        let mut value = 1u64;
        for _ in 0..20 {
            for near in [value - 1, value, value + 1] {
                assert_eq!(written(near), format!("x{near}"));
            }
            value = value.saturating_mul(10);
        }
        assert_eq!(written(u64::MAX), format!("x{}", u64::MAX));
    }

    #[test]
    fn four_digits_are_right_in_both_halves_of_eight() {
        for four in 0..10_000 {
            assert_eq!(written(four), format!("x{four}"));
            assert_eq!(
                written(four * 10_000 + 9_999 - four),
                format!("x{}", four * 10_000 + 9_999 - four)
            );
        }
    }

    #[test]
    fn a_number_is_written_over_another_of_as_many_digits_and_over_no_other() {
        for (old, new) in [
            (0, 9),
            (10, 99),
            (12_345_678, 87_654_321),
            (100_000_000, 999_999_999),
            (1_234_567_890_123_456, 6_543_210_987_654_321),
            (10_000_000_000_000_000, 99_999_999_900_000_000),
            (u64::MAX, u64::MAX - 1),
            (10, 12),
            (199, 100),
            (1_200, 1_199),
            (100_000_099, 100_000_000),
            (u64::MAX, 10_000_000_000_000_000_015),
        ] {
            let mut text = b"\"used\":".to_vec();
            let mut numeral = Numeral::append(&mut text, old);
            text.push(b',');
            let said = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
            assert!(numeral.now_is(&mut text, old) && numeral.now_is(&mut text, new), "{new}");
            assert_eq!(said(&text), format!("\"used\":{new},"));
            for other in [new / 10, new.saturating_mul(10)] {
                if other.to_string().len() != new.to_string().len() {
                    assert!(!numeral.clone().now_is(&mut text, other), "{other}");
                }
            }
            assert_eq!(said(&text), format!("\"used\":{new},"));
            let (mut moved, mut longer) = (numeral.behind(2), [b"  ".as_slice(), &text].concat());
            assert!(moved.now_is(&mut longer, old));
            assert_eq!(said(&longer), format!("  \"used\":{old},"));
        }
        let mut fixed = Numeral::fixed(1);
        assert!(fixed.now_is(&mut [], 1) && !fixed.now_is(&mut [], 2));
    }

    proptest! {
        #[test]
        fn any_count_is_written_as_it_is_printed(value in any::<u64>()) {
            prop_assert_eq!(written(value), format!("x{value}"));
        }

        #[test]
        fn a_number_that_moves_in_small_steps_is_written_over_as_it_is_printed(
            from in prop_oneof![0..2_000_u64, any::<u64>()], steps in proptest::collection::vec(-120_i64..120, 1..40)
        ) {
            let (mut value, mut text) = (from, b"\"remaining\":".to_vec());
            let mut numeral = Numeral::append(&mut text, value);
            for step in steps {
                value = value.saturating_add_signed(step);
                if !numeral.now_is(&mut text, value) {
                    text.truncate(12);
                    numeral = Numeral::append(&mut text, value);
                }
                prop_assert_eq!(str::from_utf8(&text[12..]).unwrap(), value.to_string());
            }
        }
    }
}
