//! Header fields as they were received: lines that are looked at where they lie, in the order in which they came. A head has
//! some ten of them, so that to look through them costs less than to hash their names first.

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// In lower case: names mean the same in any (RFC 9110 §5.1).
    pub name: &'a str,
    /// Without the blanks around it (RFC 9110 §5.5).
    pub value: &'a [u8],
}

/// The field lines of one head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a>(pub &'a [Field<'a>]);

/// The lines that a head has of one field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lines<'a> {
    /// None.
    #[default]
    None,
    /// One.
    One(&'a [u8]),
    /// More than one, of which this is the first.
    Several(&'a [u8]),
}

impl<'a> Lines<'a> {
    /// The same with one more line.
    pub fn add(&mut self, line: &'a [u8]) {
        *self = match *self {
            Lines::None => Lines::One(line),
            Lines::One(first) | Lines::Several(first) => Lines::Several(first),
        };
    }

    /// The first line, whatever follows it.
    pub fn first(self) -> Option<&'a [u8]> {
        match self {
            Lines::None => None,
            Lines::One(first) | Lines::Several(first) => Some(first),
        }
    }
}

impl<'a> FromIterator<&'a [u8]> for Lines<'a> {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(values: T) -> Lines<'a> {
        let mut lines = Lines::None;
        values.into_iter().for_each(|line| lines.add(line));
        lines
    }
}

/// Whether a value is printable ASCII with blanks: all that RFC 9110 §5.5 still lets a sender write.
pub fn is_printable(value: &[u8]) -> bool {
    // Without an early end, so that it is done many bytes at a time.
    value.iter().fold(true, |all, byte| all & matches!(byte, b'\t' | 0x20..0x7f))
}

/// A value as text, if [`is_printable`].
pub fn printable(value: &[u8]) -> Option<&str> {
    if is_printable(value) { std::str::from_utf8(value).ok() } else { None }
}

/// Whether a list of words, separated by commas, has this one in it, in any case (RFC 9110 §5.6.1).
pub fn lists(value: &[u8], word: &str) -> bool {
    members(value).any(|one| one.eq_ignore_ascii_case(word.as_bytes()))
}

/// The members of a list that is separated by commas (RFC 9110 §5.6.1), without the blanks around them.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

impl<'a> Fields<'a> {
    /// The number of lines.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is no line.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All lines, in their order.
    pub fn iter(self) -> std::slice::Iter<'a, Field<'a>> {
        self.0.iter()
    }

    /// The values of all lines of a field, whose name is given in lower case.
    pub fn all(self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, '_> {
        self.0.iter().filter(move |field| field.name == name).map(|field| field.value)
    }

    /// The first line of a field.
    pub fn first(self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Whether there is a line of a field.
    pub fn has(self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// What there is of a field that may have one line only.
    pub fn lines(self, name: &str) -> Lines<'a> {
        self.all(name).collect()
    }
}

impl<'a> IntoIterator for Fields<'a> {
    type Item = &'a Field<'a>;
    type IntoIter = std::slice::Iter<'a, Field<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_name_and_keep_their_order() {
        let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
        let lines = [field("a", "1"), field("b", "2"), field("a", "3")];
        let fields = Fields(&lines);
        assert_eq!(fields.all("a").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(fields.all("a").next_back(), Some(&b"3"[..]));
        assert_eq!(fields.first("a"), Some(&b"1"[..]));
        assert_eq!(fields.lines("a"), Lines::Several(b"1"));
        assert_eq!(fields.lines("a").first(), Some(&b"1"[..]));
        assert_eq!(fields.lines("b"), Lines::One(b"2"));
        assert_eq!(fields.lines("c"), Lines::None);
        assert!(fields.has("b") && !fields.has("c"));
    }

    #[test]
    fn a_value_is_text_only_as_far_as_it_is_printable() {
        assert_eq!(printable(b"a\tb c"), Some("a\tb c"));
        assert_eq!(printable(b""), Some(""));
        for value in [&b"a\x7f"[..], b"\xc3\xa9", b"a\0"] {
            assert_eq!(printable(value), None);
        }
    }

    #[test]
    fn a_list_has_its_words_in_any_case_and_whole() {
        assert!(lists(b"close,  Upgrade\t", "upgrade") && lists(b"te", "te"));
        assert!(!lists(b"upgraded", "upgrade") && !lists(b"a b", "a") && !lists(b"", "a"));
    }
}
