//! Heads of answers that a worker has read lately, as they were received and as they were understood: many backends give
//! the same head again and again, but for the second in its date, and what was understood of some bytes is true of the
//! same bytes.

use std::cell::RefCell;

use super::framing::Asked;
use super::head_in::AnswerHead;

/// How many are kept at most. Each has the place that the length of what was read gives it: answers of several kinds
/// seldom take one another's.
const PLACES: usize = 8;
/// The longest head that is kept, in bytes.
const MOST: usize = 1024;
/// After so many heads in turn that were kept in vain, only one in as many is.
const IN_VAIN: u32 = 16;

/// A head, and what it says.
#[derive(Debug)]
struct Kept {
    received: Vec<u8>,
    asked: Asked,
    head: AnswerHead,
}

/// The latest head of one place, if it was worth keeping.
#[derive(Debug, Default)]
struct Place {
    kept: Option<Box<Kept>>,
    /// Heads since one came again.
    others: u32,
}

/// The latest heads.
#[derive(Debug, Default)]
pub(super) struct Recent(RefCell<[Place; PLACES]>);

impl Recent {
    /// The head at the start of `unread` and its length in bytes, if it was the answer to such a request before.
    pub(super) fn again(&self, asked: Asked, unread: &[u8]) -> Option<(AnswerHead, usize)> {
        let place = &mut self.0.borrow_mut()[unread.len() % PLACES];
        let kept = place.kept.as_ref()?;
        if kept.asked != asked || !unread.starts_with(&kept.received) {
            return None;
        }
        place.others = 0;
        Some((kept.head.copied(), kept.received.len()))
    }

    /// Keeps a head that was found in the first `bytes` bytes of `unread`, unless such heads hardly ever come again.
    pub(super) fn keep(&self, asked: Asked, unread: &[u8], bytes: usize, head: &AnswerHead) {
        let place = &mut self.0.borrow_mut()[unread.len() % PLACES];
        place.others = place.others.wrapping_add(1);
        if bytes > MOST || place.others > IN_VAIN && !place.others.is_multiple_of(IN_VAIN) {
            return;
        }
        let kept = place.kept.take().map(|kept| *kept);
        let mut received = kept.map_or_else(Vec::new, |kept| kept.received);
        received.clear();
        received.extend_from_slice(&unread[..bytes]);
        place.kept = Some(Box::new(Kept { received, asked, head: head.copied() }));
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::head_in::HeadReader;
    use super::*;

    const ONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nok";

    /// What a reader that has these heads behind it understands of one, and what is unread then.
    fn read(recent: &Recent, asked: Asked, bytes: &[u8]) -> String {
        let mut unread = BytesMut::from(bytes);
        let head = HeadReader::new(asked, None).read(&mut unread, recent);
        format!("{head:?} {unread:?}")
    }

    #[test]
    fn a_head_says_the_same_whatever_the_heads_before_it_said() {
        let recent = Recent::default();
        let heads: [&[u8]; 9] = [
            ONE,
            ONE,
            // As long, with another end or another body.
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: z\r\n\r\nno",
            ONE,
            b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nk",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\nY: z\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            ONE,
        ];
        for _ in 0..2 {
            for bytes in heads {
                for asked in [Asked::Whole, Asked::FieldsAlone] {
                    let fresh = read(&Recent::default(), asked, bytes);
                    assert_eq!(read(&recent, asked, bytes), fresh);
                }
            }
        }
    }

    #[test]
    fn heads_that_hardly_ever_come_again_are_seldom_kept() {
        let recent = Recent::default();
        let head =
            |other: u32| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {other:04}\r\n\r\n");
        let comes_again = |other: u32| {
            let head = head(other);
            read(&recent, Asked::Whole, head.as_bytes());
            recent.again(Asked::Whole, head.as_bytes()).is_some()
        };
        let kept = (0..1000).filter(|other| comes_again(*other)).count();
        assert_eq!(kept, 1000, "whoever comes again at once is one that comes again");
        let mut seldom = 0;
        for other in 0..1000 {
            read(&recent, Asked::Whole, head(other).as_bytes());
            let place = &recent.0.borrow()[head(other).len() % PLACES];
            let received = place.kept.as_ref().map(|kept| kept.received.clone());
            seldom += u32::from(received.as_deref() == Some(head(other).as_bytes()));
        }
        assert!((60..100).contains(&seldom), "{seldom}");
        // A head that stays the same is found again, after all.
        for _ in 0..2 * IN_VAIN {
            read(&recent, Asked::Whole, ONE);
        }
        assert!(recent.again(Asked::Whole, ONE).is_some());
    }

    #[test]
    fn a_long_head_is_not_kept() {
        let recent = Recent::default();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "x".repeat(MOST));
        read(&recent, Asked::Whole, head.as_bytes());
        assert!(recent.again(Asked::Whole, head.as_bytes()).is_none());
    }
}
