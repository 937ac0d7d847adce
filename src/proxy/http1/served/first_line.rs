//! The first line of a connection's latest head (RFC 9112 §3), kept as it was received and as it was understood. Who polls asks
//! the same again and again, and so does, mostly, who is refused.

use std::fmt;

use zeroize::Zeroize;

use super::head::RequestLine;
use super::section::written_over;
use super::target;
use crate::policy::head::Target;

/// The longest line that is kept, in bytes.
const MOST: usize = 256;
/// After so many lines in turn that each said something else, a connection keeps no more of them.
const MISSES: u8 = 8;

/// The latest first line of a connection, if it is worth keeping. A credential may stand in its query: it is never printed, and
/// wiped when it is replaced or dropped.
#[derive(Default)]
pub(super) struct FirstLine {
    kept: Option<Box<Kept>>,
    misses: u8,
}

struct Kept {
    received: Vec<u8>,
    line: RequestLine,
    /// In origin form.
    target: String,
    /// Where its path ends.
    path: usize,
}

impl fmt::Debug for FirstLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirstLine(…)")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.received.as_mut_slice().zeroize();
        std::mem::take(&mut self.target).into_bytes().as_mut_slice().zeroize();
    }
}

impl FirstLine {
    /// The line with which `unread` begins, and its length, if it is the one that is kept. 600 instructions fewer than to parse it.
    pub(super) fn again(&self, unread: &[u8]) -> Option<(&RequestLine, usize)> {
        let kept = self.kept.as_ref()?;
        let same = unread.get(..kept.received.len())?;
        // No end at the first difference: how long it takes tells of the length alone.
        let differences = kept.received.iter().zip(same).fold(0, |all, (a, b)| all | (a ^ b));
        (differences == 0).then_some((&kept.line, kept.received.len()))
    }

    /// The line came again, in a head that was found.
    pub(super) fn hit(&mut self) {
        self.misses = 0;
    }

    /// What the line that is kept asks for.
    pub(super) fn target(&self) -> Option<Target<'_>> {
        let Kept { target, path, .. } = self.kept.as_deref()?;
        let (path, query) = target.split_at_checked(*path)?;
        Some(Target { authority: None, path, query: query.get(1..) })
    }

    /// Keeps a line, with its end, if that is worth it.
    pub(super) fn keep(&mut self, received: &[u8], line: &RequestLine) {
        self.misses = self.misses.saturating_add(1);
        let before = self.kept.take();
        if self.misses > MISSES || received.len() > MOST {
            return;
        }
        let Ok(text) = str::from_utf8(&received[line.target.range()]) else { return };
        let Some(Target { authority: None, path, .. }) = target::of(&line.method, text) else {
            return;
        };
        if !text.starts_with('/') {
            return;
        }
        let nothing =
            || Kept { received: Vec::new(), line: line.clone(), target: String::new(), path: 0 };
        let mut memory = before.unwrap_or_else(|| Box::new(nothing()));
        let kept = &mut *memory;
        written_over(&mut kept.received, received);
        let mut bytes = std::mem::take(&mut kept.target).into_bytes();
        written_over(&mut bytes, text.as_bytes());
        // It was a text a moment ago.
        kept.target = String::from_utf8(bytes).unwrap_or_default();
        (kept.path, kept.line) = (path.len(), line.clone());
        self.kept = Some(memory);
    }
}
