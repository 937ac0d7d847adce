//! Field lines that are written once, as text, where they are decided: what goes out on the wire stands there from the
//! beginning, and a small index says where each line is. Their memory goes round inside a thread: a worker's answers
//! follow one another.

use std::cell::RefCell;
use std::mem;
use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use super::http1::Text;
use crate::policy::decimal::{Digits, Numeral};
use crate::policy::fields::{Field, Lines};

/// The most pieces of memory that a thread keeps.
const MOST_KEPT: usize = 64;
/// The largest text whose memory is kept, in bytes.
const MOST_TEXT: usize = 16 * 1024;
/// The lines that a new index has room for: most heads.
const LINES: usize = 24;
/// The most lines whose index is kept.
const MOST_INDEX: usize = 256;

/// The names of the fields that the gate itself writes, as the documents print them.
const PRINTED: &[&str] = &[
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
    "Retry-After",
    "WWW-Authenticate",
    "Idempotent-Replayed",
    "X-Request-Id",
    "Content-Type",
    "Cache-Control",
    "Allow",
];

thread_local! {
    static SPARE: RefCell<Vec<(Text, Vec<Line>)>> = const { RefCell::new(Vec::new()) };
}

/// A legal value of a field (RFC 9110 §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Legal<'a>(&'a [u8]);

impl<'a> Legal<'a> {
    /// These bytes, if they are one: none of them a control but the tab.
    pub fn of(value: &'a [u8]) -> Option<Legal<'a>> {
        // Without an early end, so that it is done many bytes at a time.
        let legal = |all, byte: &u8| all & matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        value.iter().fold(true, legal).then_some(Legal(value))
    }

    /// A value that is known to be one: the gate's own words, or what the parser of a head has let through.
    pub(super) fn known(value: &'a [u8]) -> Legal<'a> {
        Legal(value)
    }

    /// The value's bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> From<&'a HeaderValue> for Legal<'a> {
    fn from(value: &'a HeaderValue) -> Legal<'a> {
        Legal(value.as_bytes())
    }
}

/// Whether this can be the name of a line: a token (RFC 9110 §5.6.2), in lower case.
pub(super) fn is_token(name: &str) -> bool {
    let fits = |byte| {
        matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.')
            | matches!(byte, b'^'..=b'`' | b'|' | b'~')
    };
    !name.is_empty() && name.bytes().fold(true, |all, byte| all & fits(byte))
}

/// Where a line is in its text: its offset, and the lengths of its parts.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: usize,
    name: usize,
    value: usize,
}

impl Line {
    /// The colon and the blank behind a name, and the end of the line.
    const AROUND: usize = 4;

    fn name(self) -> Range<usize> {
        self.start..self.start + self.name
    }

    fn value(self) -> Range<usize> {
        let start = self.start + self.name + 2;
        start..start + self.value
    }

    fn whole(self) -> Range<usize> {
        self.start..self.start + self.name + self.value + Line::AROUND
    }
}

/// Some lengths of names, each below 64 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths(u64);

impl Lengths {
    /// These.
    pub(super) const fn of<const N: usize>(lengths: [usize; N]) -> Lengths {
        let (mut bits, mut at) = (0, 0);
        while at < N {
            bits |= 1 << lengths[at];
            at += 1;
        }
        Lengths(bits)
    }

    fn has(self, length: usize) -> bool {
        length < 64 && (self.0 >> length) & 1 == 1
    }
}

/// Field lines, each `name: value` with its line end, one behind the other. Names are in lower case until [`FieldText::print`].
#[derive(Debug)]
pub struct FieldText {
    text: Text,
    index: Vec<Line>,
}

impl FieldText {
    /// None yet, in memory that was used before.
    pub(super) fn new() -> FieldText {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let (text, index) =
            spare.unwrap_or_else(|| (Text::for_a_head(), Vec::with_capacity(LINES)));
        FieldText { text, index }
    }

    /// The same lines in memory of their own.
    pub(super) fn copied(&self) -> FieldText {
        let mut copy = FieldText::new();
        copy.text.push(self.text.as_bytes());
        copy.index.extend_from_slice(&self.index);
        copy
    }

    /// Puts a status line in front of all lines. Only before the first one.
    pub(super) fn begin_with_status(&mut self, status: u16, reason: &[u8]) {
        let digit = |of: u16| u8::try_from(of % 10).map_or(b'0', |digit| b'0' + digit);
        self.text.status_line([digit(status / 100), digit(status / 10), digit(status)], reason);
    }

    /// The whole text, with what it begins with.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The number of lines.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Adds a line behind the others. `name` is a token (RFC 9110 §5.1) in lower case.
    pub fn add(&mut self, name: &str, value: Legal<'_>) {
        self.write(name.as_bytes(), value.0);
    }

    /// Adds a line as it was received, in lower case. `name` is a token.
    pub(super) fn add_received(&mut self, name: &[u8], value: Legal<'_>) {
        let start = self.text.len();
        self.write(name, value.0);
        self.text.as_mut_bytes()[start..start + name.len()].make_ascii_lowercase();
    }

    /// Adds a line with a number.
    pub(super) fn add_number(&mut self, name: &str, number: u64) {
        self.add(name, Legal(Digits::of(number).as_bytes()));
    }

    /// As [`FieldText::add_number`], to be written over.
    pub(super) fn add_numeral(&mut self, name: &str, number: u64) -> Numeral {
        self.add_number(name, number);
        Numeral::at(number, self.place_of_last())
    }

    /// Where the value of the last line stands in [`FieldText::as_bytes`]; nowhere if there is no line.
    pub(super) fn place_of_last(&self) -> Range<usize> {
        self.index.last().map_or(0..0, |line| line.value())
    }

    /// Whether a number of these lines is this one now: written over the one before, unless it has another number of digits.
    pub(super) fn now_says(&mut self, numeral: &mut Numeral, number: u64) -> bool {
        numeral.now_is(self.text.as_mut_bytes(), number)
    }

    /// Writes these bytes over as many that stand at `place` of a value.
    pub(super) fn write_over(&mut self, place: usize, bytes: &[u8]) {
        if let Some(old) = self.text.as_mut_bytes().get_mut(place..place + bytes.len()) {
            old.copy_from_slice(bytes);
        }
    }

    /// Adds a line whose value is these texts, one behind the other; none where they make no value.
    pub(super) fn add_text(&mut self, name: &str, pieces: &[&str]) {
        if pieces.iter().any(|piece| Legal::of(piece.as_bytes()).is_none()) {
            return;
        }
        let start = self.text.len();
        self.text.field(name.as_bytes(), b"");
        self.text.cut_out(self.text.len() - 2..self.text.len());
        for piece in pieces {
            self.text.push(piece.as_bytes());
        }
        self.text.push(b"\r\n");
        let value = pieces.iter().map(|piece| piece.len()).sum();
        self.index.push(Line { start, name: name.len(), value });
    }

    /// Adds a line instead of all lines of that name.
    pub fn insert(&mut self, name: &str, value: Legal<'_>) {
        self.remove(name);
        self.add(name, value);
    }

    /// Adds all lines of `more` behind these.
    pub(super) fn append(&mut self, more: &FieldText) {
        let Some(first) = more.index.first() else { return };
        let base = self.text.len();
        self.text.push(&more.text.as_bytes()[first.start..]);
        let moved = |line: &Line| Line { start: base + (line.start - first.start), ..*line };
        self.index.extend(more.index.iter().map(moved));
    }

    /// Takes all lines of this name away. Says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let mut removed = false;
        while let Some(at) = self.find(name) {
            self.remove_at(at);
            removed = true;
        }
        removed
    }

    /// Takes all lines away whose name is of those. Says whether there was one. Names are in lower case.
    pub(super) fn remove_all(&mut self, which: impl Fn(&[u8]) -> bool) -> bool {
        let of = |lines: &FieldText, at: usize| {
            let line = lines.index[at];
            which(&lines.text.as_bytes()[line.name()])
        };
        let mut removed = false;
        // From behind: what moves was looked at already.
        for at in (0..self.index.len()).rev() {
            if of(self, at) {
                self.remove_at(at);
                removed = true;
            }
        }
        removed
    }

    /// Where the value of the first line of this name stands in [`FieldText::as_bytes`].
    pub(super) fn place_of(&self, name: &str) -> Option<Range<usize>> {
        self.find(name).map(|at| self.index[at].value())
    }

    fn find(&self, name: &str) -> Option<usize> {
        let text = self.text.as_bytes();
        // The lengths first, which nearly always differ.
        self.index.iter().position(|line| {
            line.name == name.len() && text[line.name()].eq_ignore_ascii_case(name.as_bytes())
        })
    }

    fn remove_at(&mut self, at: usize) {
        let line = self.index.remove(at);
        self.text.cut_out(line.whole());
        for behind in &mut self.index[at..] {
            behind.start -= line.whole().len();
        }
    }

    /// All lines in their order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Field<'_>> {
        let text = self.text.as_bytes();
        self.index.iter().map(|line| Field {
            // A token is ASCII.
            name: str::from_utf8(&text[line.name()]).unwrap_or(""),
            value: &text[line.value()],
        })
    }

    /// The names and values of the lines whose names are of these lengths, as they stand there. The others are passed over
    /// without a look at their text: 50 instructions each.
    pub(super) fn of_lengths(&self, lengths: Lengths) -> impl Iterator<Item = (&[u8], &[u8])> {
        let text = self.text.as_bytes();
        let those = self.index.iter().filter(move |line| lengths.has(line.name));
        those.map(|line| (&text[line.name()], &text[line.value()]))
    }

    /// All names and values, whose memory is one piece.
    pub(super) fn shared(&self) -> impl Iterator<Item = (&[u8], Bytes)> {
        let text = self.text.as_bytes();
        let all = Bytes::copy_from_slice(text);
        self.index.iter().map(move |line| (&text[line.name()], all.slice(line.value())))
    }

    /// The values of all lines of a field.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let text = self.text.as_bytes();
        let of = move |line: &&Line| {
            line.name == name.len() && text[line.name()].eq_ignore_ascii_case(name.as_bytes())
        };
        self.index.iter().filter(of).map(|line| &text[line.value()])
    }

    /// The value of the first line of a field.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// What there is of a field that may have one line only.
    pub(super) fn lines(&self, name: &str) -> Lines<'_> {
        let mut lines = Lines::None;
        self.all(name).for_each(|line| lines.add(line));
        lines
    }

    /// Whether there is a line of a field.
    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// Spells the names that the gate says as documents print them. HTTP does not care about case, but a contract that
    /// prints `X-RateLimit-Limit` has readers who compare it byte for byte.
    pub(super) fn print(&mut self) {
        for line in &self.index {
            let name = &mut self.text.as_mut_bytes()[line.name()];
            let same = |printed: &&&str| printed.as_bytes().eq_ignore_ascii_case(name);
            if let Some(printed) = PRINTED.iter().find(same) {
                name.copy_from_slice(printed.as_bytes());
            }
        }
    }

    #[inline]
    fn write(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.field(name, value);
        self.index.push(Line { start, name: name.len(), value: value.len() });
    }
}

impl Drop for FieldText {
    fn drop(&mut self) {
        if !(1..=MOST_TEXT).contains(&self.text.size()) || self.index.capacity() > MOST_INDEX {
            return;
        }
        let (mut text, mut index) = (mem::take(&mut self.text), mem::take(&mut self.index));
        text.clear();
        index.clear();
        // Not there any more when the thread ends, and of no use.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST_KEPT {
                spare.push((text, index));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &FieldText) -> &str {
        str::from_utf8(lines.as_bytes()).unwrap()
    }

    fn legal(value: &str) -> Legal<'_> {
        Legal::of(value.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_added_stands_there_as_it_goes_out() {
        let mut lines = FieldText::new();
        lines.begin_with_status(200, b"OK");
        lines.add("a", legal("1"));
        lines.add_received(b"B-C", legal(""));
        lines.add_number("d", 40);
        assert_eq!(text(&lines), "HTTP/1.1 200 OK\r\na: 1\r\nb-c: \r\nd: 40\r\n");
        let found: Vec<_> = lines.iter().map(|line| (line.name, line.value)).collect();
        assert_eq!(found, [("a", &b"1"[..]), ("b-c", b""), ("d", b"40")]);
    }

    #[test]
    fn lines_are_removed_and_replaced_wherever_they_stand() {
        let mut lines = FieldText::new();
        lines.begin_with_status(299, b"");
        for (name, value) in [("a", "1"), ("bb", "2"), ("a", "3"), ("c", "4")] {
            lines.add(name, legal(value));
        }
        assert_eq!(lines.all("a").collect::<Vec<_>>(), [b"1", b"3"]);
        lines.insert("a", legal("5"));
        assert_eq!(text(&lines), "HTTP/1.1 299 \r\nbb: 2\r\nc: 4\r\na: 5\r\n");
        assert_eq!((lines.first("c"), lines.first("d")), (Some(&b"4"[..]), None));
        assert!(lines.remove("bb") && !lines.remove("bb"));
        assert_eq!((text(&lines), lines.len()), ("HTTP/1.1 299 \r\nc: 4\r\na: 5\r\n", 2));
        assert!(lines.remove_all(|_| true) && lines.is_empty());
        assert_eq!(text(&lines), "HTTP/1.1 299 \r\n");
    }

    #[test]
    fn lines_behind_others_are_found_as_if_they_had_been_added_one_by_one() {
        let mut block = FieldText::new();
        block.begin_with_status(100, b"not this");
        block.add("b", legal("2"));
        block.add("c", legal("3"));
        let mut lines = FieldText::new();
        lines.append(&block);
        lines.add("a", legal("1"));
        lines.append(&block);
        lines.append(&FieldText::new());
        assert_eq!(text(&lines), "b: 2\r\nc: 3\r\na: 1\r\nb: 2\r\nc: 3\r\n");
        assert_eq!(lines.all("c").collect::<Vec<_>>(), [b"3", b"3"]);
        let copy = block.copied();
        assert_eq!((text(&copy), copy.first("c")), (text(&block), Some(&b"3"[..])));
    }

    #[test]
    fn a_value_of_several_texts_is_said_whole_or_not_at_all() {
        let mut lines = FieldText::new();
        lines.add_text("a", &["1", "", "2"]);
        lines.add_text("b", &["1", "\r\nc: 2"]);
        lines.add("d", legal("3"));
        assert_eq!(text(&lines), "a: 12\r\nd: 3\r\n");
        assert_eq!((lines.first("a"), lines.first("d")), (Some(&b"12"[..]), Some(&b"3"[..])));
    }

    #[test]
    fn only_a_token_in_lower_case_is_a_name() {
        assert!(["a", "x-1", "!#$%&'*+-.^_`|~"].into_iter().all(is_token));
        assert!(
            ["", "A", "a b", "a:", "a\r", "ä", "(", "a\u{7f}"].into_iter().all(|no| !is_token(no))
        );
    }

    #[test]
    fn printed_names_are_still_the_same_names() {
        let mut lines = FieldText::new();
        lines.add("retry-after", legal("1"));
        lines.add("x-other", legal("2"));
        lines.print();
        assert_eq!(text(&lines), "Retry-After: 1\r\nx-other: 2\r\n");
        assert!(lines.remove("retry-after"));
    }

    #[test]
    fn no_control_but_the_tab_is_in_a_value() {
        for value in [&b"a\tb"[..], b"", b"\x80\xff ~"] {
            assert_eq!(Legal::of(value).map(Legal::as_bytes), Some(value));
        }
        for value in [&b"a\rb"[..], b"\n", b"\0", b"\x7f", b"\x1f"] {
            assert_eq!(Legal::of(value), None);
        }
    }

    #[test]
    fn memory_that_was_used_holds_nothing_of_before() {
        for _ in 0..3 {
            let mut lines = FieldText::new();
            assert!(lines.is_empty() && lines.as_bytes().is_empty());
            lines.add("a", legal(&"x".repeat(2000)));
        }
    }
}
