//! How long a message's body is (RFC 9112 §6): the one question on which two readers of a connection must agree.

use crate::policy::fields::members;

/// The length of a message's body, as its head says it (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is no body, whatever the fields say.
    Nothing,
    /// `Content-Length`, in bytes.
    Exactly(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// It ends with the connection. Answers only.
    UntilClose,
}

/// What is asked for decides how long the answer is (RFC 9112 §6.3, rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The answer with its body.
    Whole,
    /// HEAD: its fields alone, which speak of a body that does not come.
    FieldsAlone,
}

/// The number in a `Content-Length` (RFC 9110 §8.6): digits and nothing else. A list is one number if all its members
/// are the same; `None` is what no recipient may guess about.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    // Nearly always it is one number, which needs no look for commas: 100 instructions.
    if let Some(length) = number(value) {
        return Some(length);
    }
    let mut length = None;
    for member in members(value) {
        let member = number(member)?;
        if length.is_some_and(|length| length != member) {
            return None;
        }
        length = Some(member);
    }
    length
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Which transfer codings an answer wears (RFC 9112 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codings {
    /// None.
    Absent,
    /// `chunked` is the last, and is there once.
    Chunked,
    /// Others alone: only the end of the connection ends the body.
    Others,
}

impl Codings {
    /// The same with one more line of `Transfer-Encoding`; `None` where something follows `chunked`, which no sender may
    /// write and two readers would read two ways.
    pub(crate) fn and(self, line: &[u8]) -> Option<Codings> {
        members(line).filter(|member| !member.is_empty()).try_fold(self, |codings, member| {
            match codings {
                Codings::Chunked => None,
                Codings::Absent | Codings::Others => {
                    let chunked = member.eq_ignore_ascii_case(b"chunked");
                    Some(if chunked { Codings::Chunked } else { Codings::Others })
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_and_a_list_of_it_is_the_same_number() {
        for (value, length) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("007", Some(7)),
            ("5, 5", Some(5)),
            ("5,5 ,5", Some(5)),
            ("18446744073709551616", None),
            ("", None),
            ("5,", None),
            (",5", None),
            ("5, 6", None),
            ("+5", None),
            ("-5", None),
            ("0x5", None),
            ("5 5", None),
            ("5;", None),
            ("5.0", None),
        ] {
            assert_eq!(content_length(value.as_bytes()), length, "{value:?}");
        }
    }

    #[test]
    fn chunked_is_the_last_coding_or_no_framing_at_all() {
        let of = |lines: &[&str]| {
            lines.iter().try_fold(Codings::Absent, |codings, line| codings.and(line.as_bytes()))
        };
        assert_eq!(of(&[]), Some(Codings::Absent));
        assert_eq!(of(&["chunked"]), Some(Codings::Chunked));
        assert_eq!(of(&["gzip, Chunked"]), Some(Codings::Chunked));
        assert_eq!(of(&["gzip", "chunked"]), Some(Codings::Chunked));
        assert_eq!(of(&["gzip"]), Some(Codings::Others));
        assert_eq!(of(&["identity"]), Some(Codings::Others));
        assert_eq!(of(&["xchunked"]), Some(Codings::Others));
        for lines in [&["chunked, gzip"][..], &["chunked", "chunked"], &["chunked, identity"]] {
            assert_eq!(of(lines), None, "{lines:?}");
        }
    }
}
