//! What was presented last on a connection, so that the digest of the same secret is not made again: one costs 2 500 to
//! 3 400 instructions where SHA-256 is not in hardware, and 300 where it is. Only the digest is spared: the key under it is
//! looked up at every request, with its status, its expiry and its revocation.

use std::fmt;

use zeroize::Zeroize;

use super::credential::Presented;
use super::keys::SecretDigest;

/// The longest secret that is remembered, in bytes: longer ones are digested every time.
const LONGEST: usize = 128;

/// One secret and its digest, of one policy: another may have other peppers. Never printed, and wiped when it is replaced
/// or dropped.
pub struct Recall {
    secret: [u8; LONGEST],
    /// 0: nothing is remembered.
    length: usize,
    digest: SecretDigest,
}

impl Default for Recall {
    fn default() -> Recall {
        Recall { secret: [0; LONGEST], length: 0, digest: SecretDigest([0; 32]) }
    }
}

impl fmt::Debug for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recall(…)")
    }
}

impl Recall {
    /// The digest of this secret, if it is the one that is remembered.
    ///
    /// Bytes that the same connection has sent before are no secret from it. But a proxy may send many callers' requests
    /// on one connection, so the comparison ends at no difference: how long it takes tells of the length alone.
    pub fn of(&self, presented: &Presented<'_>) -> Option<SecretDigest> {
        let given = presented.as_bytes();
        let known = self.secret.get(..self.length).filter(|known| known.len() == given.len())?;
        let differences = known.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
        (differences == 0 && !given.is_empty()).then_some(self.digest)
    }

    /// Remembers this secret and no other.
    pub fn keep(&mut self, presented: &Presented<'_>, digest: &SecretDigest) {
        self.forget();
        let given = presented.as_bytes();
        if let Some(place) = self.secret.get_mut(..given.len()) {
            place.copy_from_slice(given);
            (self.length, self.digest) = (given.len(), *digest);
        }
    }

    /// Remembers nothing any more.
    pub fn forget(&mut self) {
        // Behind its length there are zeros anyway, and to wipe is to write byte for byte.
        if let Some(known) = self.secret.get_mut(..self.length) {
            known.zeroize();
        }
        (self.length, self.digest) = (0, SecretDigest([0; 32]));
    }
}

impl Drop for Recall {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(secret: &str) -> Presented<'_> {
        Presented::of(secret.as_bytes())
    }

    #[test]
    fn only_the_latest_secret_is_remembered_and_only_whole() {
        let mut recall = Recall::default();
        assert_eq!(recall.of(&presented("a")), None);
        let digest = SecretDigest::sha256(b"abc");
        recall.keep(&presented("abc"), &digest);
        assert_eq!(recall.of(&presented("abc")), Some(digest));
        for other in ["", "ab", "abd", "abcd", "\0bc"] {
            assert_eq!(recall.of(&presented(other)), None, "{other:?}");
        }
        recall.keep(&presented("de"), &SecretDigest::sha256(b"de"));
        assert_eq!(recall.of(&presented("abc")), None);
        recall.forget();
        assert_eq!(recall.of(&presented("de")), None);
    }

    #[test]
    fn a_secret_that_is_too_long_takes_the_place_of_the_last_one_with_nothing() {
        let long = "x".repeat(LONGEST + 1);
        let mut recall = Recall::default();
        recall.keep(&presented("abc"), &SecretDigest::sha256(b"abc"));
        recall.keep(&presented(&long), &SecretDigest::sha256(long.as_bytes()));
        assert_eq!(recall.of(&presented(&long)), None);
        assert_eq!(recall.of(&presented("abc")), None);
        recall.keep(&presented(&long[1..]), &SecretDigest::sha256(b"y"));
        assert!(recall.of(&presented(&long[1..])).is_some());
    }

    #[test]
    fn what_is_forgotten_is_wiped() {
        let mut recall = Recall::default();
        recall.keep(&presented("abc"), &SecretDigest::sha256(b"abc"));
        recall.forget();
        assert_eq!((recall.secret, recall.digest.0), ([0; LONGEST], [0; 32]));
    }
}
