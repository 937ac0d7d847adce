//! What is left of a body that is being read (RFC 9112 §6.3): whose bytes the next ones are.

use bytes::BytesMut;

use super::chunked::{BadChunk, Chunks, Piece};
use super::framing::BodyLength;

/// What is left of a body.
#[derive(Debug)]
pub(super) enum Left {
    /// It is over.
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// Chunks, up to the last one. Boxed: all bodies move with their answers, and most have a length.
    Chunks(Box<Chunks>),
    /// Everything that comes.
    UntilClose,
}

impl Left {
    /// The whole of a body of this length.
    pub(super) fn of(length: BodyLength) -> Left {
        match length {
            BodyLength::Nothing | BodyLength::Exactly(0) => Left::Nothing,
            BodyLength::Exactly(bytes) => Left::Bytes(bytes),
            BodyLength::Chunked => Left::Chunks(Box::new(Chunks::new())),
            BodyLength::UntilClose => Left::UntilClose,
        }
    }

    /// Takes the next piece off what is unread.
    pub(super) fn next(&mut self, unread: &mut BytesMut) -> Result<Piece, BadChunk> {
        let here = match self {
            Left::Nothing | Left::Bytes(0) => return Ok(Piece::End),
            Left::Chunks(chunks) => return chunks.next(unread),
            Left::Bytes(_) | Left::UntilClose if unread.is_empty() => return Ok(Piece::Hungry),
            Left::UntilClose => unread.len(),
            Left::Bytes(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(unread.len());
                *left -= here as u64;
                here
            }
        };
        Ok(Piece::Data(unread.split_to(here).freeze()))
    }

    /// Whether more is here than the piece that was taken last: with a length there never is.
    pub(super) fn is_at_hand(&self, unread: &BytesMut) -> bool {
        match self {
            Left::Chunks(chunks) => chunks.is_at_hand(unread),
            Left::Nothing | Left::Bytes(_) | Left::UntilClose => false,
        }
    }

    /// How many bytes are to come, where that is known.
    pub(super) fn bytes(&self) -> Option<u64> {
        match self {
            Left::Nothing => Some(0),
            Left::Bytes(left) => Some(*left),
            Left::Chunks(_) | Left::UntilClose => None,
        }
    }

    /// Whether the body is over although nobody has asked for its end yet: then its last piece is known to be the last.
    pub(super) fn ends_here(&mut self, unread: &mut BytesMut) -> bool {
        match self {
            Left::Bytes(0) | Left::Nothing => true,
            Left::Chunks(chunks) => chunks.is_over(unread),
            Left::Bytes(_) | Left::UntilClose => false,
        }
    }
}
