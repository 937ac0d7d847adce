//! A worker's stock of memory for heads and for reading: what one exchange gives back, the next one takes. An idle
//! connection holds none.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;

use super::recent::Recent;
use super::text::Text;
use crate::proxy::splice::Pipes;

/// How much is read at once until an answer proves to be large, in bytes.
pub(super) const ROOM: usize = 8 * 1024;
/// The most pieces of either kind that are kept.
const MOST_KEPT: usize = 64;
/// The largest head buffer that is kept, in bytes.
const MOST_TEXT: usize = 16 * 1024;

/// Empty buffers that wait for their next use.
#[derive(Debug, Default)]
pub struct Stock {
    texts: RefCell<Vec<Text>>,
    rooms: RefCell<Vec<BytesMut>>,
    pipes: Rc<Pipes>,
    recent: Recent,
}

impl Stock {
    /// For the head of a request.
    pub(crate) fn text(&self) -> Text {
        self.texts.borrow_mut().pop().unwrap_or_else(Text::for_a_head)
    }

    /// Takes a head's memory back.
    pub(super) fn put_text(&self, mut text: Text) {
        let mut texts = self.texts.borrow_mut();
        if (1..=MOST_TEXT).contains(&text.size()) && texts.len() < MOST_KEPT {
            text.clear();
            texts.push(text);
        }
    }

    /// The latest heads of answers.
    pub(super) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// For large bodies.
    pub(super) fn pipes(&self) -> &Rc<Pipes> {
        &self.pipes
    }

    /// For reading into.
    pub(super) fn room(&self) -> BytesMut {
        let mut room = self.rooms.borrow_mut().pop().unwrap_or_default();
        // Whole again, if nobody holds a slice of it any more; else another.
        room.reserve(ROOM);
        room
    }

    /// Takes a reading buffer back, whoever still holds slices of it.
    pub(super) fn put_room(&self, room: BytesMut) {
        let mut rooms = self.rooms.borrow_mut();
        if room.is_empty() && rooms.len() < MOST_KEPT {
            rooms.push(room);
        }
    }
}
