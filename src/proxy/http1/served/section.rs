//! The header section of a connection's latest head (RFC 9112 §5), kept as it was received and as it was understood: most
//! clients say the same lines in every request, and what was understood of some bytes is true of the same bytes.

use std::fmt;

use http::Version;
use zeroize::Zeroize;

use super::head::{BadHead, Hop, Line, lower};

/// The longest section that is kept, in bytes: a connection holds twice as much between its requests.
const MOST: usize = 512;
/// After so many heads in turn that each said something else, a connection keeps no more of them.
const MISSES: u8 = 8;

/// A section, and what it says. A credential may stand in it: it is never printed, and wiped when it is replaced or dropped.
pub(super) struct Section {
    received: Vec<u8>,
    /// The same with its names in lower case.
    pub(super) text: String,
    /// Where the parts of its lines lie in the text.
    pub(super) lines: Vec<Line>,
    /// The version in which it was said.
    pub(super) version: Version,
    /// What it says of the hop.
    pub(super) hop: Hop,
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Section(…)")
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        self.received.as_mut_slice().zeroize();
        std::mem::take(&mut self.text).into_bytes().as_mut_slice().zeroize();
    }
}

impl Section {
    /// Its length in bytes, with the empty line behind it.
    pub(super) fn bytes(&self) -> usize {
        self.received.len()
    }

    /// Whether `unread` begins with it. A proxy may send many callers' requests on one connection, so the comparison ends at
    /// no difference: how long it takes tells of the length alone.
    fn begins(&self, unread: &[u8]) -> bool {
        let Some(same) = unread.get(..self.received.len()) else { return false };
        let differences = self.received.iter().zip(same).fold(0, |all, (a, b)| all | (a ^ b));
        differences == 0
    }
}

/// The latest section of a connection, if it is worth keeping.
#[derive(Debug, Default)]
pub(super) struct Latest {
    kept: Option<Box<Section>>,
    misses: u8,
}

impl Latest {
    /// The one that is kept.
    pub(super) fn kept(&self) -> Option<&Section> {
        self.kept.as_deref()
    }

    /// The one that is kept, if these bytes begin with it.
    pub(super) fn again(&mut self, unread: &[u8]) -> Option<&Section> {
        let kept = self.kept.as_deref().filter(|kept| kept.begins(unread))?;
        self.misses = 0;
        Some(kept)
    }

    /// Keeps a section, whose `lines` are places in bytes among which it begins at `start`, and tells what it says of the hop;
    /// `None` if it is not kept. An error as of [`Hop::of`].
    pub(super) fn keep(
        &mut self,
        received: &[u8],
        start: usize,
        lines: &[Line],
        version: Version,
    ) -> Result<Option<Hop>, BadHead> {
        self.misses = self.misses.saturating_add(1);
        let mut memory = match self.kept.take() {
            _ if self.misses > MISSES || received.len() > MOST => return Ok(None),
            Some(before) => before,
            None => Box::new(Section {
                received: Vec::new(),
                text: String::new(),
                lines: Vec::new(),
                version,
                hop: Hop::of(&[], &[], version)?,
            }),
        };
        let section = &mut *memory;
        written_over(&mut section.received, received);
        section.lines.clear();
        section.lines.extend(lines.iter().map(|line| line.ahead(start)));
        let mut text = std::mem::take(&mut section.text).into_bytes();
        written_over(&mut text, received);
        lower(&mut text, &section.lines);
        match String::from_utf8(text) {
            Ok(text) => section.text = text,
            // Rare: a value that is no text.
            Err(text) => {
                text.into_bytes().as_mut_slice().zeroize();
                return Ok(None);
            }
        }
        let hop = Hop::of(section.text.as_bytes(), &section.lines, version)?;
        (section.version, section.hop) = (version, hop);
        self.kept = Some(memory);
        Ok(Some(hop))
    }
}

/// Puts other bytes in the place of these, of which none stays.
pub(super) fn written_over(old: &mut Vec<u8>, new: &[u8]) {
    let covered = if old.capacity() < new.len() { 0 } else { new.len() };
    if let Some(rest) = old.get_mut(covered..) {
        rest.zeroize();
    }
    old.clear();
    old.extend_from_slice(new);
}
