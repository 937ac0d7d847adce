//! What was presented last on a connection, so that the digest of the same secret is not made again: one costs 2 500 to
//! 3 400 instructions where SHA-256 is not in hardware, and 300 where it is. Only the digest and the search
//! are spared: the key at its place is read at every request, with its status, its expiry and its revocation.

use std::fmt;

use zeroize::Zeroize;

use super::head::Mark;
use super::keys::{SecretDigest, SecretIx};
use super::refusal::Refused;

/// The longest text that is remembered, in bytes: longer ones are read and digested every time.
const LONGEST: usize = 128;

/// One secret, or the line that it stood in, with its digest, of one policy: another may have other peppers, and other places
/// for credentials. Never printed, and wiped when it is replaced or dropped.
pub struct Recall {
    text: [u8; LONGEST],
    /// 0: nothing is remembered.
    length: usize,
    /// Of a head in which it stood.
    mark: Option<Mark>,
    known: Recalled,
}

/// What is remembered of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// The digest of its secret.
    pub digest: SecretDigest,
    /// Where the key with this digest was found, if one was: not what the key is worth.
    pub place: Option<SecretIx>,
    /// The word for it where no key has this digest, if it came to that.
    pub stranger: Option<Refused>,
}

/// Nothing.
const BLANK: Recalled = Recalled { digest: SecretDigest([0; 32]), place: None, stranger: None };

impl Default for Recall {
    fn default() -> Recall {
        Recall { text: [0; LONGEST], length: 0, mark: None, known: BLANK }
    }
}

impl fmt::Debug for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recall(…)")
    }
}

impl Recall {
    /// What is remembered of this text, if it is the one.
    ///
    /// Bytes that the same connection has sent before are no secret from it. But a proxy may send many callers' requests
    /// on one connection, so the comparison ends at no difference: how long it takes tells of the length alone.
    pub fn of(&self, given: &[u8]) -> Option<&Recalled> {
        let text = self.text.get(..self.length).filter(|text| text.len() == given.len())?;
        let differences = text.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
        (differences == 0 && !given.is_empty()).then_some(&self.known)
    }

    /// What is remembered of the text that stood in the head with this mark, if it is known to.
    pub fn of_head(&self, mark: Option<Mark>) -> Option<&Recalled> {
        (mark.is_some() && mark == self.mark).then_some(&self.known)
    }

    /// What is remembered of whatever text it is.
    pub fn latest(&self) -> &Recalled {
        &self.known
    }

    /// Whether a text would be remembered.
    pub fn has_room_for(given: &[u8]) -> bool {
        given.len() <= LONGEST
    }

    /// Remembers this text and no other.
    pub fn keep(&mut self, given: &[u8], digest: &SecretDigest) {
        self.forget();
        if let Some(place) = self.text.get_mut(..given.len()) {
            place.copy_from_slice(given);
            (self.length, self.known.digest) = (given.len(), *digest);
        }
    }

    /// The text that is remembered, if one is, stands in the head with this mark.
    pub fn stands_in(&mut self, mark: Option<Mark>) {
        self.mark = mark.filter(|_| self.length > 0);
    }

    /// A key has the digest that is remembered, if one is, and its secret is there.
    pub fn is_at(&mut self, place: SecretIx) {
        self.known.place = Some(place).filter(|_| self.length > 0);
    }

    /// No key has the digest that is remembered, if one is.
    pub fn is_strangers(&mut self, refused: Refused) {
        self.known.stranger = Some(refused).filter(|_| self.length > 0);
    }

    /// Remembers nothing any more.
    pub fn forget(&mut self) {
        if self.length == 0 {
            return;
        }
        // Behind its length there are zeros anyway, and to wipe is to write byte for byte.
        if let Some(known) = self.text.get_mut(..self.length) {
            known.zeroize();
        }
        (self.length, self.mark, self.known) = (0, None, BLANK);
    }
}

impl Drop for Recall {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::Refusal;
    use super::*;

    fn digest(recall: &Recall, text: &str) -> Option<SecretDigest> {
        recall.of(text.as_bytes()).map(|recalled| recalled.digest)
    }

    fn keep(recall: &mut Recall, text: &str) {
        recall.keep(text.as_bytes(), &SecretDigest::sha256(text.as_bytes()));
    }

    #[test]
    fn only_the_latest_text_is_remembered_and_only_whole() {
        let mut recall = Recall::default();
        assert_eq!(digest(&recall, "a"), None);
        keep(&mut recall, "abc");
        assert_eq!(digest(&recall, "abc"), Some(SecretDigest::sha256(b"abc")));
        for other in ["", "ab", "abd", "abcd", "\0bc"] {
            assert_eq!(digest(&recall, other), None, "{other:?}");
        }
        keep(&mut recall, "de");
        assert_eq!(digest(&recall, "abc"), None);
        recall.forget();
        assert_eq!(digest(&recall, "de"), None);
    }

    #[test]
    fn a_text_that_is_too_long_takes_the_place_of_the_last_one_with_nothing() {
        let long = "x".repeat(LONGEST + 1);
        let mut recall = Recall::default();
        keep(&mut recall, "abc");
        keep(&mut recall, &long);
        recall.is_strangers(Refused::because(Refusal::KeyUnknown, ""));
        assert_eq!((recall.of(long.as_bytes()), recall.of(b"abc")), (None, None));
        keep(&mut recall, &long[1..]);
        assert_eq!(recall.of(&long.as_bytes()[1..]).map(|recalled| recalled.stranger), Some(None));
    }

    #[test]
    fn that_nobody_has_a_secret_is_forgotten_with_it() {
        let mut recall = Recall::default();
        keep(&mut recall, "abc");
        let refused = Refused::because(Refusal::KeyUnknown, "");
        recall.is_strangers(refused);
        assert_eq!(recall.of(b"abc").and_then(|recalled| recalled.stranger), Some(refused));
        keep(&mut recall, "abd");
        assert_eq!(recall.of(b"abd").map(|recalled| recalled.stranger), Some(None));
    }

    #[test]
    fn where_a_key_was_found_is_forgotten_with_its_secret() {
        let mut recall = Recall::default();
        recall.is_at(SecretIx(3));
        keep(&mut recall, "abc");
        assert_eq!(recall.of(b"abc").map(|recalled| recalled.place), Some(None));
        recall.is_at(SecretIx(4));
        assert_eq!(recall.of(b"abc").and_then(|recalled| recalled.place), Some(SecretIx(4)));
        keep(&mut recall, "abd");
        assert_eq!(recall.of(b"abd").map(|recalled| recalled.place), Some(None));
    }

    #[test]
    fn a_text_is_known_by_the_head_that_it_stood_in_until_another_one_comes() {
        let mut recall = Recall::default();
        recall.stands_in(Some(Mark(1)));
        assert_eq!((recall.of_head(Some(Mark(1))), recall.of_head(None)), (None, None));
        keep(&mut recall, "abc");
        assert_eq!((recall.of_head(Some(Mark(1))), recall.of_head(None)), (None, None));
        recall.stands_in(Some(Mark(1)));
        let digest = SecretDigest::sha256(b"abc");
        assert_eq!(recall.of_head(Some(Mark(1))).map(|known| known.digest), Some(digest));
        assert_eq!((recall.of_head(Some(Mark(2))), recall.of_head(None)), (None, None));
        keep(&mut recall, "abd");
        assert_eq!(recall.of_head(Some(Mark(1))), None);
    }

    #[test]
    fn what_is_forgotten_is_wiped() {
        let mut recall = Recall::default();
        keep(&mut recall, "abc");
        recall.forget();
        assert_eq!((recall.text, recall.known.digest.0), ([0; LONGEST], [0; 32]));
    }
}
