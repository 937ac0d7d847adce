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
    /// More than one.
    Several,
}

impl<'a> Lines<'a> {
    /// The same with one more line.
    pub fn add(&mut self, line: &'a [u8]) {
        *self = match self {
            Lines::None => Lines::One(line),
            Lines::One(_) | Lines::Several => Lines::Several,
        };
    }
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
        let mut lines = Lines::None;
        self.all(name).for_each(|line| lines.add(line));
        lines
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
        assert_eq!(fields.lines("a"), Lines::Several);
        assert_eq!(fields.lines("b"), Lines::One(b"2"));
        assert_eq!(fields.lines("c"), Lines::None);
        assert!(fields.has("b") && !fields.has("c"));
    }
}
