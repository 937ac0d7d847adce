//! Money as the policy means it: decimal text with at most six places, kept as whole millionths. Never a float, so that
//! what is reserved, charged and given back adds up to the last digit.

use std::fmt;

use super::decimal::{pair, write_count};

/// An amount in millionths of the limit's unit, from 0 to 18 446 744 073 709.551615.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(pub u64);

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoneyProblem {
    /// It is not digits with at most one point between them; signs, exponents and separators are not understood.
    NotDecimal,
    /// It has more than six decimal places.
    TooFine,
    /// It is larger than can be counted.
    TooLarge,
}

impl fmt::Display for MoneyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MoneyProblem::NotDecimal => "an amount is a decimal number such as 0.05",
            MoneyProblem::TooFine => "an amount has at most six decimal places",
            MoneyProblem::TooLarge => "the amount is too large to be counted",
        })
    }
}

impl Money {
    /// Appends the amount as decimal text, with as many places as it needs: `5`, `0.05`.
    pub fn write(self, out: &mut Vec<u8>) {
        write_count(out, self.0 / Money::WHOLE);
        let fraction = self.0 % Money::WHOLE;
        if fraction == 0 {
            return;
        }
        out.push(b'.');
        for two in [fraction / 10_000, fraction / 100 % 100, fraction % 100] {
            out.extend_from_slice(&pair(two));
        }
        while out.pop_if(|last| *last == b'0').is_some() {}
    }

    /// Nothing.
    pub const ZERO: Money = Money(0);
    /// Millionths in one whole unit.
    pub const WHOLE: u64 = 1_000_000;

    /// The amount that a decimal text says: `5`, `0.05`, `12.500000`. Nothing around it, no sign, no exponent.
    pub fn parse(text: &str) -> Result<Money, MoneyProblem> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(MoneyProblem::NotDecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 6 {
            return Err(MoneyProblem::TooFine);
        }
        let number = |part: &str| part.parse::<u64>().map_err(|_| MoneyProblem::TooLarge);
        let millionths = format!("{fraction:0<6}").parse().map_err(|_| MoneyProblem::TooLarge)?;
        number(whole)?
            .checked_mul(Money::WHOLE)
            .and_then(|whole| whole.checked_add(millionths))
            .map(Money)
            .ok_or(MoneyProblem::TooLarge)
    }
}

/// As short as it is exact: `5`, `0.05`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write(&mut text);
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_read_to_the_last_of_six_places_and_printed_back() {
        for (text, millionths, printed) in [
            ("0", 0, "0"),
            ("5", 5_000_000, "5"),
            ("0.05", 50_000, "0.05"),
            ("1.000001", 1_000_001, "1.000001"),
            ("12.500000000", 12_500_000, "12.5"),
            ("18446744073709.551615", u64::MAX, "18446744073709.551615"),
        ] {
            assert_eq!(Money::parse(text), Ok(Money(millionths)), "{text}");
            assert_eq!(Money(millionths).to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_plain_decimal_is_refused_by_its_reason() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", " 1", "NaN", "0x1", "１"] {
            assert_eq!(Money::parse(text), Err(MoneyProblem::NotDecimal), "{text}");
        }
        assert_eq!(Money::parse("0.0000001"), Err(MoneyProblem::TooFine));
        for text in ["18446744073709.551616", "99999999999999999999999"] {
            assert_eq!(Money::parse(text), Err(MoneyProblem::TooLarge), "{text}");
        }
    }
}
